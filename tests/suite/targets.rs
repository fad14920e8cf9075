//! The targets.

use std::sync::Arc;

use anyhow::Context as _;
use seabed::{
    DirectoryService, HistoryService, MemorySessionService, MySqlSessionService, PostgresSessionService,
    RetentionService, SqliteSessionService, StateService,
};
use seabed_conformance::{Opened, Services, Target};
use seabed_tests::{Database, Family, Kind, Report, Servers, Unavailable};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::fixture::Fixture;

/// Where sessions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    SqliteMemory,
    SqliteFile,
    Server(Kind),
}

impl Store {
    pub(crate) const ALL: [Self; 7] = [
        Self::Memory,
        Self::SqliteMemory,
        Self::SqliteFile,
        Self::Server(Kind::ALL[0]),
        Self::Server(Kind::ALL[1]),
        Self::Server(Kind::ALL[2]),
        Self::Server(Kind::ALL[3]),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::SqliteMemory => "sqlite_memory",
            Self::SqliteFile => "sqlite_file",
            Self::Server(kind) => kind.name(),
        }
    }
}

/// The traits that the conformance suite tests.
trait Tested: StateService + DirectoryService + HistoryService + RetentionService {}

impl<S: StateService + DirectoryService + HistoryService + RetentionService> Tested for S {}

/// The stores of this process, each created on first use.
#[derive(Default)]
pub(crate) struct Stores {
    memory: MemorySessionService,
    sqlite_memory: OnceCell<SqliteSessionService>,
    sqlite_file: OnceCell<(TempDir, String)>,
    servers: Servers,
    migrated: [OnceCell<Arc<Database>>; Kind::ALL.len()],
}

impl Stores {
    /// Returns the target of the conformance suite for `store`, with or without its backend's fast paths.
    pub(crate) fn target(self: &Arc<Self>, store: Store, fast: bool) -> Target {
        let stores = Arc::downgrade(self);
        Target::new(store.name(), move || {
            let stores = stores.upgrade();
            async move {
                let stores = stores.context("the run is over")?;
                match stores.open(store, fast).await {
                    Ok(services) => Ok(Opened::Service(services)),
                    Err(error) => match error.downcast::<Ignored>() {
                        Ok(Ignored(reason)) => Ok(Opened::Ignored(reason)),
                        Err(error) => Err(error),
                    },
                }
            }
        })
    }

    async fn open(&self, store: Store, fast: bool) -> anyhow::Result<Services> {
        let service: Arc<dyn Tested> = match store {
            Store::Memory => Arc::new(self.memory.clone()),
            Store::SqliteMemory => {
                let service = self.sqlite_memory.get_or_try_init(|| async {
                    let database = seabed::open("sqlite::memory:").await?;
                    seabed::migrate(&database).await?;
                    anyhow::Ok(SqliteSessionService::from_connection(database).await?)
                });
                Arc::new(service.await?.clone().with_fast_paths(fast))
            }
            Store::SqliteFile => {
                let file = self.sqlite_file.get_or_try_init(|| async {
                    let folder = tempfile::tempdir()?;
                    let url = sqlite_url(&folder);
                    let database = seabed::open(&url).await?;
                    seabed::migrate(&database).await?;
                    database.close().await?;
                    anyhow::Ok((folder, url))
                });
                let service = SqliteSessionService::connect(&file.await?.1).await?;
                Arc::new(service.with_fast_paths(fast))
            }
            Store::Server(kind) => {
                let index = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
                let database = self.migrated[index].get_or_try_init(|| async {
                    let database = self.servers.database(kind).await.map_err(not_available)?;
                    database.migrate().await?;
                    anyhow::Ok(database)
                });
                // The account that may only read and write rows, and that needs TLS on MySQL.
                let url = database.await?.service_url()?;
                match kind.family() {
                    Family::Postgres => Arc::new(PostgresSessionService::connect(&url).await?.with_fast_paths(fast)),
                    Family::MySql => Arc::new(MySqlSessionService::connect(&url).await?.with_fast_paths(fast)),
                }
            }
        };
        Ok(Services::with_state(service.clone())
            .and_directory(service.clone())
            .and_history(service.clone())
            .and_retention(service))
    }

    /// Creates a new database on `store`, without tables.
    pub(crate) async fn fixture(&self, store: Store) -> Result<Fixture, Unavailable> {
        let failed = |error: anyhow::Error| Unavailable { reason: format!("{error:#}"), required: true };
        if let Store::Server(kind) = store {
            let database = self.servers.database(kind).await?;
            let database = database.another().await.map_err(failed)?;
            return Fixture::on_server(kind, database).await.map_err(failed);
        }
        Fixture::in_file().await.map_err(failed)
    }

    /// Returns the table of outcomes, and also writes it to the file that `SEABED_TEST_REPORT` names.
    pub(crate) fn finish(&self, report: &Report) -> String {
        let table = report.table(&self.servers);
        if let Ok(path) = std::env::var("SEABED_TEST_REPORT")
            && let Err(error) = std::fs::write(&path, &table)
        {
            eprintln!("the report could not be written to {path}: {error}");
        }
        table
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.servers.stop().await
    }
}

/// A target that is not available, and not required.
#[derive(Debug)]
struct Ignored(String);

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ignored {}

fn not_available(unavailable: Unavailable) -> anyhow::Error {
    if unavailable.required { anyhow::anyhow!(unavailable.reason) } else { Ignored(unavailable.reason).into() }
}

/// Returns the URL of a database file in `folder`, which is created if it does not exist.
pub(crate) fn sqlite_url(folder: &TempDir) -> String {
    format!("sqlite://{}?mode=rwc", folder.path().join("seabed.db").display())
}
