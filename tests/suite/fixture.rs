//! The database of one case.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use seabed::DynSessionService;
use seabed::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
use seabed_tests::{Database, Family, Kind};
use tempfile::TempDir;

use crate::targets::sqlite_url;

/// A new database, and an administrator's pool.
pub(crate) struct Fixture {
    pub(crate) admin: DatabaseConnection,
    /// For the service; on servers, the URL of an account that may only read and write rows.
    pub(crate) service_url: String,
    /// For migrations.
    pub(crate) admin_url: String,
    /// The kind of the server; `None` for SQLite.
    pub(crate) kind: Option<Kind>,
    store: Store,
}

enum Store {
    Server(Database),
    File(TempDir),
}

impl Fixture {
    pub(crate) async fn on_server(kind: Kind, database: Database) -> anyhow::Result<Self> {
        Ok(Self {
            admin: database.admin().await?,
            service_url: database.service_url()?,
            admin_url: database.admin_url()?,
            kind: Some(kind),
            store: Store::Server(database),
        })
    }

    pub(crate) async fn in_file() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = sqlite_url(&folder);
        Ok(Self {
            admin: seabed::open(&url).await?,
            service_url: url.clone(),
            admin_url: url,
            kind: None,
            store: Store::File(folder),
        })
    }

    /// Returns the server database; `None` for a file.
    pub(crate) fn database(&self) -> Option<&Database> {
        match &self.store {
            Store::Server(database) => Some(database),
            Store::File(_) => None,
        }
    }

    /// Creates the tables, grants the privileges, and connects a service.
    pub(crate) async fn migrated(&self) -> anyhow::Result<DynSessionService> {
        seabed::migrate(&self.admin).await?;
        self.service().await
    }

    /// Connects a service to the existing tables.
    pub(crate) async fn service(&self) -> anyhow::Result<DynSessionService> {
        if let Store::Server(database) = &self.store {
            database.grant(&self.admin).await?;
        }
        Ok(seabed::connect(&self.service_url).await?)
    }

    /// Runs statements separated by semicolons at line ends.
    pub(crate) async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        for statement in statements.split(";\n") {
            self.admin.execute_unprepared(statement).await?;
        }
        Ok(())
    }

    /// Returns the column `text` of a query's only row.
    pub(crate) async fn query_text(&self, query: &str) -> anyhow::Result<String> {
        query_text(&self.admin, query).await
    }

    /// Begins another user's write transaction; on SQLite, it keeps all other writers out.
    pub(crate) async fn begin_write(&self) -> Result<DatabaseTransaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.admin.begin_with_options(options).await
    }

    /// Fails if another connection to this database is idle in a transaction, or blocks writers.
    pub(crate) async fn no_open_transaction(&self) -> anyhow::Result<()> {
        let open = match self.kind.map(Kind::family) {
            Some(Family::Postgres) => {
                "SELECT CAST(COUNT(*) AS text) AS text FROM pg_stat_activity \
                 WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            }
            Some(Family::MySql) => {
                "SELECT CAST(COUNT(*) AS CHAR) AS text FROM information_schema.innodb_trx \
                 JOIN information_schema.processlist ON id = trx_mysql_thread_id \
                 WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command = 'Sleep'"
            }
            None => {
                let write = tokio::time::timeout(Duration::from_secs(10), self.begin_write()).await;
                write.context("a transaction keeps writers out")??.rollback().await?;
                return Ok(());
            }
        };
        let open = self.query_text(open).await?;
        ensure!(open == "0", "{open} transactions are open");
        Ok(())
    }

    /// Like [`no_open_transaction`](Self::no_open_transaction), but first gives work that continues in the background
    /// time to end.
    pub(crate) async fn no_transaction_stays_open(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            match self.no_open_transaction().await {
                Err(_) if started.elapsed() < Duration::from_secs(10) => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                ended => return ended,
            }
        }
    }

    /// Returns the statements with which google-adk creates its tables in an empty database of this kind.
    pub(crate) fn adk_schema_v1(&self) -> &'static str {
        match self.kind.map(Kind::family) {
            Some(Family::Postgres) => include_str!("../adk/postgres_v1.sql"),
            Some(Family::MySql) => include_str!("../adk/mysql_v1.sql"),
            None => include_str!("../adk/sqlite_v1.sql"),
        }
    }

    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        self.admin.close().await?;
        match self.store {
            Store::Server(database) => database.remove().await,
            Store::File(folder) => Ok(folder.close()?),
        }
    }
}

/// Returns the column `text` of a query's only row, on a pool.
pub(crate) async fn query_text(pool: &DatabaseConnection, query: &str) -> anyhow::Result<String> {
    let row = pool.query_one_raw(Statement::from_string(pool.get_database_backend(), query)).await?;
    Ok(row.context("no row")?.try_get("", "text")?)
}

/// Calls a function that is generic over the dialect with the fixture's dialect.
macro_rules! with_dialect {
    ($fixture:expr, $function:ident) => {
        $crate::fixture::with_dialect!($fixture, $function, $fixture)
    };
    ($fixture:expr, $function:ident, $argument:expr) => {{
        let pool = $fixture.admin.clone();
        match $fixture.kind.map(seabed_tests::Kind::family) {
            Some(seabed_tests::Family::Postgres) => {
                $function(seabed::PostgresSessionService::from_connection(pool).await?, $argument).await
            }
            Some(seabed_tests::Family::MySql) => {
                $function(seabed::MySqlSessionService::from_connection(pool).await?, $argument).await
            }
            None => $function(seabed::SqliteSessionService::from_connection(pool).await?, $argument).await,
        }
    }};
}

pub(crate) use with_dialect;
