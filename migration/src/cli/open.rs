//! Opens databases by URL.

use sea_orm::{DatabaseConnection, DbBackend};
use seabed_core::Error;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use seabed_core::sql::ConnectOptions;
use seabed_migration::{SessionTables, Tables};

/// What to do if the file of an SQLite database does not exist.
#[derive(Clone, Copy)]
pub(crate) enum MissingFile {
    /// Fail.
    Refuse,
    /// Create it: tables follow.
    Create,
    /// Use an empty in-memory database instead.
    StandIn,
}

/// An open database, and the tables to use there.
pub(crate) struct Opened {
    connection: DatabaseConnection,
    tables: Tables,
}

impl Opened {
    pub(crate) fn tables(&self) -> SessionTables<'_> {
        SessionTables::new(&self.connection).with_tables(self.tables.clone())
    }

    /// Closes the database of a command that `ended`. Until it is closed, new rows of an SQLite database may be in its
    /// `-wal` file only. A server notices the end of the process, and is not waited for.
    pub(crate) async fn close<T>(self, ended: anyhow::Result<T>) -> anyhow::Result<T> {
        if self.connection.get_database_backend() != DbBackend::Sqlite {
            return ended;
        }
        let closed = self.connection.close().await;
        let outcome = ended?;
        closed?;
        Ok(outcome)
    }
}

/// Opens the database at `url`.
pub(crate) async fn open(url: &str, tables: Tables, missing_file: MissingFile) -> anyhow::Result<Opened> {
    Ok(Opened { connection: connect(url, missing_file).await?, tables })
}

async fn connect(url: &str, missing_file: MissingFile) -> anyhow::Result<DatabaseConnection> {
    #[cfg(feature = "postgres")]
    if seabed_postgres::PostgresOptions::is_url(url) {
        return Ok(url.parse::<seabed_postgres::PostgresOptions>()?.open().await?);
    }
    #[cfg(feature = "mysql")]
    if seabed_mysql::MySqlOptions::is_url(url) {
        return Ok(url.parse::<seabed_mysql::MySqlOptions>()?.open().await?);
    }
    #[cfg(feature = "sqlite")]
    if seabed_sqlite::SqliteOptions::is_url(url) {
        let options: ConnectOptions<seabed_sqlite::Sqlite> = url.parse()?;
        let options = match missing_file {
            MissingFile::Create => options.with_driver(|driver| driver.create_if_missing(true)),
            MissingFile::StandIn if !options.driver.get_filename().exists() => "sqlite::memory:".parse()?,
            _ => options,
        };
        return Ok(options.open().await?);
    }
    let reason = "this build of seabed-migrate does not support its scheme".to_owned();
    Err(Error::Invalid { field: "url", reason }.into())
}
