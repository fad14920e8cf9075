//! Which tables a store uses.

use std::fmt;

use sea_orm::EntityName;
use sea_orm::sea_query::{Alias, IntoIden, SchemaName, TableName, TableRef};

use crate::entity::{adk_internal_metadata, app_states, events, seabed_labels, seabed_sessions, sessions, user_states};
use crate::{Error, Result};

/// The longest name of an index that the migrator creates, in bytes, and PostgreSQL's limit on an identifier.
const LONGEST_NAME: usize = "idx_events_app_user_session_ts_id".len();
const MAX_IDENTIFIER: usize = 63;

/// Which tables a store uses: by default google-adk's own names, in the schema that the connection looks in.
///
/// Stores with different schemas or prefixes share a database and are invisible to each other. Every statement names
/// its tables in full.
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

    /// Sets the schema: a schema of PostgreSQL, a database of MySQL, or a database that every connection of the pool
    /// has attached to SQLite. SQLite commits to several files atomically only where none of them is in WAL mode: a
    /// power cut may tear your own transaction if it also writes to another file.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Sets the prefix of each name, in lower case.
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
    /// The prefix must be in lower case, because not every database keeps the case of names.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `schema` or `table_prefix`.
    pub fn check(&self) -> Result<()> {
        let check = |field, name: &str, max: usize| {
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(Error::invalid(field, "may hold ASCII letters, digits and underscores only"));
            }
            if name.len() > max {
                return Err(Error::invalid(
                    field,
                    format!("{} characters long; at most {max} are allowed", name.len()),
                ));
            }
            Ok(())
        };
        match self.schema() {
            Some("") => return Err(Error::invalid("schema", "empty")),
            Some(schema) => check("schema", schema, MAX_IDENTIFIER)?,
            None => {}
        }
        if self.prefix.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::invalid("table_prefix", "has capitals, whose case not every database keeps"));
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
    /// In words, for messages: `the session tables bot_… in the schema agents`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session tables")?;
        if !self.prefix.is_empty() {
            write!(f, " {}…", self.prefix)?;
        }
        self.schema().map_or(Ok(()), |schema| write!(f, " in the schema {schema}"))
    }
}

/// The base names of the tables. Those that others refer to come before them.
pub(crate) fn table_names() -> [&'static str; 7] {
    [
        adk_internal_metadata::Entity.table_name(),
        app_states::Entity.table_name(),
        user_states::Entity.table_name(),
        sessions::Entity.table_name(),
        events::Entity.table_name(),
        seabed_sessions::Entity.table_name(),
        seabed_labels::Entity.table_name(),
    ]
}

/// The base names of Seabed's own tables, which a store may lack.
pub fn own_table_names() -> [&'static str; 2] {
    [seabed_sessions::Entity.table_name(), seabed_labels::Entity.table_name()]
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
        assert!(check(Tables::new().with_schema("Agents")) && !check(Tables::new().with_prefix("Bot_")));
    }
}
