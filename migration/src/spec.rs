//! The database and the tables in it: what every statement of the migrator depends on.

use sea_orm::sea_query::{
    Alias, Expr, IntoColumnRef, IntoIden as _, IntoTableRef as _, SchemaName, TableName, TableRef,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, SqlErr, Statement, StatementBuilder};
#[cfg(feature = "transfer")]
use seabed_core::BackendErrorKind;
use seabed_core::sql::{self, Column, FoundRisk, SchemaDialect, Tables};

/// The databases that Seabed supports. sea-orm's own enum may grow; with this one, a `match` covers every database, and
/// a new one fails to compile wherever its SQL is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    /// And MariaDB.
    MySql,
    Sqlite,
}

impl Database {
    /// # Errors
    /// For a database that Seabed does not support.
    fn of(backend: DbBackend) -> Result<Self, DbErr> {
        match backend {
            DbBackend::Postgres => Ok(Self::Postgres),
            DbBackend::MySql => Ok(Self::MySql),
            DbBackend::Sqlite => Ok(Self::Sqlite),
            other => Err(DbErr::Migration(format!("Seabed does not support {other:?}"))),
        }
    }

    /// Whether a transaction that failed so may succeed when it is repeated: it met other writers, or a row that another
    /// writer created in between, or its connection broke.
    #[cfg(feature = "transfer")]
    pub(crate) fn may_repeat(self, error: &DbErr) -> bool {
        matches!(self.error_kind(error), BackendErrorKind::Contention | BackendErrorKind::Unavailable)
    }

    /// What an error means on this database.
    #[cfg(feature = "transfer")]
    pub(crate) fn error_kind(self, error: &DbErr) -> BackendErrorKind {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => sql::error_kind::<seabed_postgres::Postgres>(error),
            #[cfg(feature = "mysql")]
            Self::MySql => sql::error_kind::<seabed_mysql::MySql>(error),
            #[cfg(feature = "sqlite")]
            Self::Sqlite => sql::error_kind::<seabed_sqlite::Sqlite>(error),
            #[cfg(not(all(feature = "postgres", feature = "mysql", feature = "sqlite")))]
            _ => BackendErrorKind::Unexpected,
        }
    }
}

/// Whether a row with the same key exists.
pub(crate) fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether a statement failed because another program was creating the same table, index or row. Either the statement
/// waited for the other program's commit and then found a duplicate, or the two waited for each other, or another node
/// of a Galera cluster was first.
pub(crate) fn is_race(error: &DbErr) -> bool {
    let is_duplicate_key = is_duplicate(error);
    // PostgreSQL: a duplicate table, a duplicate object, a deadlock. MySQL: a duplicate table, a deadlock, and a statement
    // that another node of a Galera cluster ended (as an administrator may, so that it is repeated once too often).
    let of_race = ["42P07", "42710", "40P01", "42S01", "40001", "70100"];
    is_duplicate_key || sqlstate(error).is_some_and(|state| of_race.contains(&state.as_str()))
}

/// Whether a statement gave up waiting for a lock.
pub(crate) fn is_lock_timeout(error: &DbErr) -> bool {
    is_lock_not_available(error) || mysql_number(error) == Some(1205)
}

/// The same on PostgreSQL, where the transaction has then changed nothing.
pub(crate) fn is_lock_not_available(error: &DbErr) -> bool {
    sqlstate(error).as_deref() == Some("55P03")
}

/// Whether MySQL or MariaDB says that a table does not exist.
#[cfg(feature = "transfer")]
pub(crate) fn is_unknown_table(error: &DbErr) -> bool {
    mysql_number(error) == Some(1146)
}

/// Whether MySQL or MariaDB says that an account may not read a table.
#[cfg(feature = "transfer")]
pub(crate) fn is_denied(error: &DbErr) -> bool {
    mysql_number(error) == Some(1142)
}

#[cfg(feature = "mysql")]
fn mysql_number(error: &DbErr) -> Option<u16> {
    use sea_orm::RuntimeErr;
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return None;
    };
    Some(error.as_database_error()?.try_downcast_ref::<sea_orm::SqlxMySqlError>()?.number())
}

/// There is no driver.
#[cfg(not(feature = "mysql"))]
fn mysql_number(_: &DbErr) -> Option<u16> {
    None
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
fn sqlstate(error: &DbErr) -> Option<String> {
    use sea_orm::RuntimeErr;
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return None;
    };
    Some(error.as_database_error()?.code()?.into_owned())
}

/// There is no driver.
#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")))]
fn sqlstate(_: &DbErr) -> Option<String> {
    None
}

/// How a database describes and spells its schema.
///
/// # Errors
/// For a database whose feature is not enabled.
fn dialect_of(backend: DbBackend) -> Result<&'static dyn SchemaDialect, DbErr> {
    match backend {
        #[cfg(feature = "postgres")]
        DbBackend::Postgres => Ok(<seabed_postgres::Postgres as sql::Dialect>::SCHEMA),
        #[cfg(feature = "mysql")]
        DbBackend::MySql => Ok(<seabed_mysql::MySql as sql::Dialect>::SCHEMA),
        #[cfg(feature = "sqlite")]
        DbBackend::Sqlite => Ok(<seabed_sqlite::Sqlite as sql::Dialect>::SCHEMA),
        other => Err(DbErr::Migration(format!("this build of seabed-migration does not support {other:?}"))),
    }
}

/// How to spell the SQL for the tables of one store. Each command makes it once.
#[derive(Debug, Clone)]
pub(crate) struct SchemaSpec {
    pub(crate) database: Database,
    pub(crate) dialect: &'static dyn SchemaDialect,
    /// `None` where ids are compared byte for byte anyway.
    pub(crate) id_collation: Option<&'static str>,
    pub(crate) tables: Tables,
}

impl SchemaSpec {
    /// Asks the server what the SQL depends on.
    ///
    /// # Errors
    /// Those of the database; for a database that Seabed does not support; for a schema that does not exist.
    pub(crate) async fn of(connection: &impl ConnectionTrait, tables: &Tables) -> Result<Self, DbErr> {
        let backend = connection.get_database_backend();
        let version = match dialect_of(backend)?.version_query() {
            Some(query) => {
                let row = connection.query_one_raw(Statement::from_string(backend, query)).await?;
                row.map(|row| row.try_get::<String>("", "version")).transpose()?.unwrap_or_default()
            }
            None => String::new(),
        };
        let spec = Self::new(backend, &version, tables)?;
        spec.check_schema(connection).await?;
        Ok(spec)
    }

    /// The SQL for a server of `version`.
    ///
    /// # Errors
    /// For a database that Seabed, or this build of it, does not support.
    pub(crate) fn new(backend: DbBackend, version: &str, tables: &Tables) -> Result<Self, DbErr> {
        let (database, dialect) = (Database::of(backend)?, dialect_of(backend)?);
        Ok(Self { database, dialect, id_collation: dialect.id_collation(version), tables: tables.clone() })
    }

    /// Refuses a schema that does not exist. The migrator creates none: who may read it and where it is stored is an
    /// administrator's decision.
    async fn check_schema(&self, connection: &impl ConnectionTrait) -> Result<(), DbErr> {
        let Some(schema) = self.tables.schema() else { return Ok(()) };
        let quoted = self.dialect.quote(schema);
        let (catalog, create) = match self.database {
            Database::Postgres => {
                (format!("pg_catalog.pg_namespace WHERE nspname = '{schema}'"), format!("CREATE SCHEMA {quoted}"))
            }
            Database::MySql => (
                format!("information_schema.schemata WHERE schema_name = '{schema}'"),
                format!("CREATE DATABASE {quoted}"),
            ),
            Database::Sqlite => (
                format!("pragma_database_list WHERE name = '{schema}' COLLATE NOCASE"),
                format!("ATTACH DATABASE 'FILE' AS {quoted} (on each connection)"),
            ),
        };
        let query = self.query(format!("SELECT 1 FROM {catalog}"));
        if connection.query_one_raw(query).await?.is_some() {
            return Ok(());
        }
        Err(DbErr::Migration(format!("the schema {schema} does not exist; create it first: {create}")))
    }

    /// An identifier as SQL spells it.
    pub(crate) fn quote(&self, name: &str) -> String {
        self.dialect.quote(name)
    }

    /// The name of a table or index of the store, without its schema.
    pub(crate) fn name(&self, base: &str) -> String {
        self.tables.name(base)
    }

    /// The name without the prefix; empty for a table of another store.
    pub(crate) fn base_name<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.tables.prefix()).unwrap_or_default()
    }

    /// A table or index of the store as SQL spells it, with its schema.
    pub(crate) fn full_name(&self, base: &str) -> String {
        let name = self.quote(&self.name(base));
        self.tables.schema().map_or(name.clone(), |schema| format!("{}.{name}", self.quote(schema)))
    }

    /// A table of the store in a statement of sea-query's.
    pub(crate) fn table_ref(&self, base: &str) -> TableRef {
        let schema = self.tables.schema().map(|schema| SchemaName(None, Alias::new(schema).into_iden()));
        TableRef::Table(TableName(schema, Alias::new(self.name(base)).into_iden()), None)
    }

    /// A table in the foreign key of another one. PostgreSQL searches for a table without a schema. MySQL and SQLite
    /// look beside the table that has the key; SQLite takes no schema there, and sea-query spells none for MySQL.
    pub(crate) fn sibling_ref(&self, base: &str) -> TableRef {
        match self.database {
            Database::Postgres => self.table_ref(base),
            Database::MySql | Database::Sqlite => Alias::new(self.name(base)).into_table_ref(),
        }
    }

    /// The schema in a query on the catalog of MySQL or SQLite. PostgreSQL's `to_regclass` looks up full names.
    pub(crate) fn catalog_schema(&self) -> String {
        match (self.tables.schema(), self.database) {
            (Some(schema), _) => format!("'{schema}'"),
            (None, Database::Postgres) => "current_schema()".to_owned(),
            (None, Database::MySql) => "DATABASE()".to_owned(),
            (None, Database::Sqlite) => "'main'".to_owned(),
        }
    }

    /// A column of names in a comparison; see [`SchemaDialect::read_name`].
    pub(crate) fn compared(&self, column: impl IntoColumnRef) -> Expr {
        self.dialect.read_name(Expr::col(column))
    }

    /// The comparison of two columns of names, as SQL spells it.
    pub(crate) fn same(&self, left: (&str, &str), right: (&str, &str)) -> String {
        let side = |(table, column): (&str, &str)| match self.database {
            Database::Postgres => format!("CAST({table}.{column} AS text)"),
            Database::MySql | Database::Sqlite => format!("{table}.{column}"),
        };
        format!("{} = {}", side(left), side(right))
    }

    /// The text of a statement, with its values.
    pub(crate) fn build(&self, statement: &impl StatementBuilder) -> String {
        self.dialect.backend().build(statement).to_string()
    }

    /// A query whose text is at hand.
    pub(crate) fn query(&self, sql: impl Into<String>) -> Statement {
        Statement::from_string(self.dialect.backend(), sql)
    }

    /// The limit on the size of a statement on this connection, in bytes; `None` where there is none.
    ///
    /// # Errors
    /// Those of the database.
    #[cfg(feature = "transfer")]
    pub(crate) async fn statement_limit(&self, connection: &impl ConnectionTrait) -> Result<Option<u64>, DbErr> {
        match self.database {
            Database::Postgres | Database::Sqlite => Ok(None),
            Database::MySql => {
                let row = connection.query_one_raw(self.query("SELECT @@max_allowed_packet AS bytes")).await?;
                row.map(|row| row.try_get("", "bytes")).transpose()
            }
        }
    }

    /// The columns of those of the tables that exist.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn columns(&self, connection: &impl ConnectionTrait) -> Result<Vec<Column>, DbErr> {
        sql::columns(connection, self.dialect, &self.tables).await
    }

    /// The risks of the tables and the session that no column shows.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn risks(&self, connection: &impl ConnectionTrait) -> Result<Vec<FoundRisk>, DbErr> {
        sql::risks(connection, self.dialect, &self.tables).await
    }

    /// Like [`columns`](Self::columns), for tables of other names.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn columns_of_tables(
        &self,
        connection: &impl ConnectionTrait,
        names: &[&str],
    ) -> Result<Vec<Column>, DbErr> {
        sql::columns_of_tables(connection, self.dialect, &self.tables, names).await
    }
}

#[cfg(all(test, feature = "transfer"))]
mod tests {
    use sea_orm::{ConnAcquireErr, RuntimeErr};

    use super::*;

    #[test]
    fn only_what_can_succeed_is_repeated() {
        assert!(Database::Sqlite.may_repeat(&DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)));
        assert!(!Database::Sqlite.may_repeat(&DbErr::Exec(RuntimeErr::Internal("no such right".to_owned()))));
    }
}
