//! SQL text: where the tables are, key predicates, placeholders, and statements that are built once.

use std::fmt;
use std::marker::PhantomData;

use sea_orm::sea_query::{Alias, DynIden, Expr, ExprTrait, IntoIden, Query, SchemaName, TableName, TableRef};
use sea_orm::{EntityName, Statement, StatementBuilder, Value};

use super::dialect::Dialect;
use super::error::StatementError;
use crate::entity::{events, sessions};
use crate::{Error, Result, SessionKey};

/// The longest name of an index that the migrator makes, in bytes, and PostgreSQL's limit on an identifier.
const LONGEST_NAME: usize = "idx_events_app_user_session_ts_id".len();
const MAX_IDENTIFIER: usize = 63;

/// Which tables a store uses: by default google-adk's own names, in the schema that the connection looks in.
///
/// Stores with different schemas or prefixes share a database and see nothing of each other. Every statement names its
/// tables in full.
///
/// ```
/// use seabed_core::sql::Tables;
///
/// let tables = Tables::new().with_schema("agents").with_prefix("bot_");
/// assert_eq!(tables.name("sessions"), "bot_sessions");
/// assert!(tables.check().is_ok());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tables {
    schema: Option<String>,
    prefix: String,
}

impl Tables {
    /// google-adk's own tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same tables in a schema: a schema of PostgreSQL, a database of MySQL, an attached database of SQLite.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// The same tables with `prefix` before each name.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The schema, if one is named.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The prefix; empty by default.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Checks the schema and the prefix: ASCII letters, digits and underscores, at most as long as PostgreSQL allows.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `schema` or `table_prefix`.
    pub fn check(&self) -> Result<()> {
        let is_word = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let check = |field, name: &str, max: usize| {
            if !is_word(name) {
                return Err(Error::invalid(field, "may hold ASCII letters, digits and underscores only"));
            }
            if name.len() > max {
                return Err(Error::invalid(field, format!("{} characters long; at most {max} fit", name.len())));
            }
            Ok(())
        };
        match self.schema() {
            Some("") => return Err(Error::invalid("schema", "empty")),
            Some(schema) => check("schema", schema, MAX_IDENTIFIER)?,
            None => {}
        }
        check("table_prefix", &self.prefix, MAX_IDENTIFIER - LONGEST_NAME)
    }

    /// The name of a table (or of an index) of google-adk's in this store, without the schema.
    pub fn name(&self, base: &str) -> String {
        format!("{}{base}", self.prefix)
    }

    /// A table as the target of a statement.
    pub fn table(&self, table: impl EntityName) -> TableRef {
        let schema = self.schema().map(|schema| SchemaName(None, Alias::new(schema).into_iden()));
        TableRef::Table(TableName(schema, Alias::new(self.name(table.table_name())).into_iden()), None)
    }

    /// A table whose columns the statement names with the table, as in `sessions.state`.
    pub fn aliased(&self, table: impl EntityName) -> TableRef {
        let name = table.table_name();
        if self.prefix.is_empty() { self.table(table) } else { self.table(table).alias(name) }
    }
}

impl fmt::Display for Tables {
    /// In words, for messages: `the tables bot_… in the schema agents`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tables")?;
        if !self.prefix.is_empty() {
            write!(f, " {}…", self.prefix)?;
        }
        self.schema().map_or(Ok(()), |schema| write!(f, " in the schema {schema}"))
    }
}

/// A statement whose text is built once. A call binds values to its [`placeholder`]s in the order in which they stand
/// in the text.
pub(crate) struct SqlText<D> {
    sql: String,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> SqlText<D> {
    pub(crate) fn new(statement: &impl StatementBuilder) -> Self {
        Self { sql: D::BACKEND.build(statement).sql, dialect: PhantomData }
    }

    /// `first`, followed by `second`.
    pub(crate) fn joined(first: &Self, second: &Self) -> Self {
        Self { sql: format!("{}; {}", first.sql, second.sql), dialect: PhantomData }
    }

    pub(crate) fn bind(&self, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(D::BACKEND, &self.sql, values)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.sql
    }
}

/// A place in a statement to which [`SqlText::bind`] binds a value.
pub(crate) fn placeholder() -> Expr {
    Expr::value("")
}

/// Whether an insert made by [`Dialect::insert_if_absent`] inserted its row; false when the row was there already.
pub(crate) fn inserted<D: Dialect>(result: Result<u64, StatementError>) -> Result<bool, StatementError> {
    match result {
        Ok(changed) => Ok(changed > 0),
        // On other databases the violated key is another one: a trigger's, or one that somebody added to the table.
        Err(error) if D::DUPLICATE_IS_ERROR && error.is_duplicate_key() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The predicate on a row of `sessions` whose placeholders take [`session_key_values`].
pub(crate) fn session_key_predicate() -> Expr {
    key_predicate(session_key_columns())
}

/// The predicate on rows of `events` whose placeholders take [`session_key_values`].
pub(crate) fn event_session_predicate() -> Expr {
    use events::Column;
    key_predicate([Column::AppName, Column::UserId, Column::SessionId])
}

/// The columns of the key of `sessions`, in the order of [`session_key_values`].
pub(crate) fn session_key_columns() -> [sessions::Column; 3] {
    use sessions::Column;
    [Column::AppName, Column::UserId, Column::Id]
}

/// The columns of the key of `events`.
pub fn event_key_columns() -> Vec<DynIden> {
    use events::Column;
    [Column::Id, Column::AppName, Column::UserId, Column::SessionId].map(IntoIden::into_iden).into()
}

/// The columns of `events`, in the order in which every insert of an event gives their values.
pub fn event_columns() -> [events::Column; 7] {
    use events::Column;
    [
        Column::AppName,
        Column::UserId,
        Column::SessionId,
        Column::Id,
        Column::InvocationId,
        Column::Timestamp,
        Column::EventData,
    ]
}

/// The predicate that each column of a key equals a placeholder.
pub(crate) fn key_predicate<C: IntoIden, const N: usize>(columns: [C; N]) -> Expr {
    let equals = |column: C| Expr::col(column).eq(placeholder());
    columns.into_iter().map(equals).reduce(ExprTrait::and).unwrap_or_else(|| Expr::cust("1 = 1"))
}

pub(crate) fn session_key_values(key: &SessionKey) -> std::array::IntoIter<Value, 3> {
    [Value::from(key.app_name.as_str()), key.user_id.as_str().into(), key.session_id.as_str().into()].into_iter()
}

/// Reads when a session was created.
pub(crate) fn select_create_time<D: Dialect>(tables: &Tables) -> SqlText<D> {
    let mut select = Query::select();
    select.column(sessions::Column::CreateTime).from(tables.table(sessions::Entity));
    SqlText::new(select.and_where(session_key_predicate()))
}

#[cfg(test)]
mod tests {
    use super::Tables;

    #[test]
    fn a_schema_and_a_prefix_are_plain_words_that_fit() {
        let check = |tables: Tables| tables.check().is_ok();
        assert!(check(Tables::new()) && check(Tables::new().with_schema("agents_2").with_prefix("bot_")));
        assert!(check(Tables::new().with_prefix("p".repeat(30))) && !check(Tables::new().with_prefix("p".repeat(31))));
        for bad in ["", "a b", "a\"b", "a`b", "a.b", "ä", "a\0b", "a'b", "a;b"] {
            assert!(!check(Tables::new().with_schema(bad)), "{bad:?}");
            assert!(bad.is_empty() || !check(Tables::new().with_prefix(bad)), "{bad:?}");
        }
    }
}
