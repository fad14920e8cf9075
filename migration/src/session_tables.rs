//! The tables that a command works on.

use sea_orm::DatabaseConnection;
use seabed_core::sql::Tables;
use seabed_core::{Error, Result};

use crate::location::attached;
use crate::migration_error;
use crate::spec::SchemaSpec;

/// The prefix of the tables that an upgrade in place keeps.
pub(crate) const KEPT: &str = "seabed_v0_";

/// The tables of one store, and the connection that reaches them.
///
/// Every function of this crate takes one. A `&DatabaseConnection` is enough for google-adk's own tables.
///
/// ```no_run
/// use seabed_migration::{SessionTables, Tables, UpOptions, up};
///
/// # async fn example(connection: sea_orm::DatabaseConnection) -> seabed_core::Result<()> {
/// up(&connection, UpOptions::default()).await?;
///
/// let bots = Tables::new().with_schema("agents").with_prefix("bot_");
/// up(SessionTables::new(&connection).with_tables(bots), UpOptions::default()).await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SessionTables<'a> {
    pub(crate) connection: &'a DatabaseConnection,
    pub(crate) tables: Tables,
}

impl<'a> SessionTables<'a> {
    /// google-adk's own tables, in the schema that the connection looks in.
    pub fn new(connection: &'a DatabaseConnection) -> Self {
        Self { connection, tables: Tables::new() }
    }

    /// Sets the tables.
    pub fn with_tables(mut self, tables: Tables) -> Self {
        self.tables = tables;
        self
    }

    /// The connection.
    pub fn connection(&self) -> &'a DatabaseConnection {
        self.connection
    }

    /// Which tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Checks the names. Needs no connection.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `schema` or `table_prefix`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.tables.prefix().ends_with(KEPT) {
            let reason = format!("{KEPT} is reserved for tables that an upgrade keeps");
            return Err(Error::Invalid { field: "table_prefix", reason });
        }
        self.tables.check()
    }

    /// Checks the names, then asks the server what their SQL depends on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the names. Backend errors, of kind [`Schema`](seabed_core::BackendErrorKind::Schema) for
    /// a schema that does not exist.
    pub(crate) async fn spec(&self) -> Result<SchemaSpec> {
        self.check()?;
        let spec = SchemaSpec::of(self.connection, &self.tables).await.map_err(migration_error)?;
        Ok(attached(self.connection, spec).await)
    }
}

impl<'a> From<&'a DatabaseConnection> for SessionTables<'a> {
    fn from(connection: &'a DatabaseConnection) -> Self {
        Self::new(connection)
    }
}
