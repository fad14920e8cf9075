//! How a store connects, and when it does so again.

use std::mem;
use std::path::{self, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use pyo3::FromPyObject;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use seabed::migration::{SessionTables, UpOptions, up};
use seabed::sea_orm::{DatabaseConnection, DbErr};
use seabed::{
    BackendErrorKind, DynSessionService, Error, MySqlOptions, PostgresOptions, Result, SchemaRisk, ServiceOptions,
    SqlSessionService, SqliteOptions, Tables,
};
use seabed_core::sql::{ConnectOptions, Dialect};
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, RwLock};

use crate::url::to_seabed_url;

/// The options of the Python class. Times are in seconds.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    create_tables: bool,
    schema: Option<String>,
    table_prefix: Option<String>,
    accept_risks: Vec<String>,
    max_connections: Option<u32>,
    acquire_timeout: Option<f64>,
    max_lifetime: Option<f64>,
    statement_timeout: Option<f64>,
}

/// What a URL names, with the options for it.
#[derive(Clone)]
enum Target {
    Postgres(PostgresOptions),
    MySql(MySqlOptions),
    Sqlite(SqliteOptions),
}

/// Connects to a database: once in a process, and again after a close.
pub(crate) struct Connector {
    target: Target,
    tables: Tables,
    create_tables: bool,
    /// A database in memory exists only in the process that created it.
    in_memory: bool,
    /// The file of a SQLite database.
    file: Option<PathBuf>,
    /// Locked only by threads that hold the GIL; see `runtime`.
    opened: Mutex<Arc<Opened>>,
}

/// A file that a process has open, or has inherited as open.
struct OpenFile {
    process: u32,
    file: PathBuf,
    by: Weak<Opened>,
}

/// The SQLite files that are open. Locked only by threads that hold the GIL; see `runtime`.
static OPEN_FILES: Mutex<Vec<OpenFile>> = Mutex::new(Vec::new());

/// The service of one process, until it is closed.
pub(crate) struct Opened {
    process: u32,
    service: OnceCell<DynSessionService>,
    /// Shared by the calls that have not ended.
    calls: Arc<RwLock<()>>,
}

impl Opened {
    fn new() -> Arc<Self> {
        Arc::new(Self { process: process::id(), service: OnceCell::new(), calls: Arc::default() })
    }

    /// A call of the service, which keeps it open until this is dropped.
    pub(crate) fn call(&self) -> Option<OwnedRwLockReadGuard<()>> {
        // Only a close takes the lock for itself. Calls that come after it find another `Opened`.
        self.calls.clone().try_read_owned().ok()
    }

    /// Closes the connections, once all calls have ended.
    pub(crate) async fn close(&self) -> Result<()> {
        let _ended = self.calls.write().await;
        match self.service.get() {
            Some(service) => service.close().await,
            None => Ok(()),
        }
    }
}

impl Connector {
    pub(crate) fn try_new(url: &str, options: &Options) -> Result<Self> {
        let url = to_seabed_url(url);
        let tables = tables(options)?;
        let service = service_options(options, tables.clone())?;
        let target = if PostgresOptions::is_url(&url) {
            Target::Postgres(configured(url.parse()?, options, service)?)
        } else if MySqlOptions::is_url(&url) {
            Target::MySql(configured(url.parse()?, options, service)?)
        } else if SqliteOptions::is_url(&url) {
            let sqlite: SqliteOptions = configured(url.parse()?, options, service)?;
            let creates_file = options.create_tables;
            Target::Sqlite(sqlite.with_driver(|driver| driver.create_if_missing(creates_file)))
        } else {
            let schemes = "postgresql, mysql, mariadb or sqlite, with or without a driver such as +asyncpg";
            return Err(Error::Invalid { field: "url", reason: format!("its scheme is none of {schemes}") });
        };
        let in_memory = matches!(&target, Target::Sqlite(_)) && is_in_memory(&url);
        let file = match &target {
            Target::Sqlite(sqlite) if !in_memory => path::absolute(sqlite.driver.get_filename()).ok(),
            _ => None,
        };
        let create_tables = options.create_tables;
        Ok(Self { target, tables, create_tables, in_memory, file, opened: Mutex::new(Opened::new()) })
    }

    /// The connections of this process.
    ///
    /// # Errors
    /// `RuntimeError` for a database in memory that belongs to another process, and for a file that was open when this
    /// process was forked.
    pub(crate) fn opened(&self) -> PyResult<Arc<Opened>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.process != process::id() {
            if self.in_memory {
                let message = "a database in memory belongs to the process that created it, and this is a fork of it";
                return Err(PyRuntimeError::new_err(message));
            }
            // The parent uses these connections; ending them here would disturb it.
            mem::forget(mem::replace(&mut *opened, Opened::new()));
        }
        if let Some(file) = &self.file {
            open_file(file, &opened)?;
        }
        Ok(opened.clone())
    }

    /// Takes the connections of this process, so that the next call opens others.
    ///
    /// # Errors
    /// Those of [`opened`](Self::opened).
    pub(crate) fn replace_opened(&self) -> PyResult<Arc<Opened>> {
        self.opened()?;
        Ok(mem::replace(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner), Opened::new()))
    }

    /// The service on these connections, connected by the first caller.
    pub(crate) async fn service(&self, opened: &Opened) -> Result<DynSessionService> {
        opened.service.get_or_try_init(|| self.connect().boxed()).await.cloned()
    }

    async fn connect(&self) -> Result<DynSessionService> {
        match self.target.clone() {
            Target::Postgres(options) => self.connect_to(options).await,
            Target::MySql(options) => self.connect_to(options).await,
            Target::Sqlite(options) if self.in_memory => {
                let service = options.service.clone();
                let pool = options.open().await?;
                if self.create_tables {
                    self.create_tables(&pool).await?;
                }
                seabed::from_connection_with(pool, service).await
            }
            Target::Sqlite(options) => self.connect_to(options).await,
        }
    }

    async fn connect_to<D: Dialect>(&self, options: ConnectOptions<D>) -> Result<DynSessionService> {
        match SqlSessionService::connect_with(options.clone()).await {
            // Complete tables need no right to create any.
            Err(error) if self.create_tables && error.backend_kind() == Some(BackendErrorKind::Schema) => {
                let pool = options.clone().open().await?;
                let created = self.create_tables(&pool).await;
                // The tables are there, or the first error counts.
                let _: Result<_, DbErr> = pool.close().await;
                created?;
                Ok(Arc::new(SqlSessionService::connect_with(options).await?))
            }
            connected => Ok(Arc::new(connected?)),
        }
    }

    async fn create_tables(&self, pool: &DatabaseConnection) -> Result<()> {
        up(SessionTables::new(pool).with_tables(self.tables.clone()), UpOptions::default()).await
    }
}

/// Takes note that this process opens a file.
///
/// # Errors
/// `RuntimeError` for a file that the process has inherited as open. SQLite keeps track of its locks in memory, and a
/// fork copies the memory without the locks: a child that opens the file again has none, and what it writes is lost
/// when its parent closes the file.
fn open_file(file: &PathBuf, by: &Arc<Opened>) -> PyResult<()> {
    let mut open = OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|open| open.by.strong_count() > 0);
    let mut of_file = open.iter().filter(|open| open.file == *file);
    if of_file.clone().any(|open| open.process != process::id()) {
        let message = "this process was forked while the SQLite database was open, and would lose what it writes; \
                       close the service before the fork, or start the process by spawning";
        return Err(PyRuntimeError::new_err(message));
    }
    if !of_file.any(|open| open.by.as_ptr() == Arc::as_ptr(by)) {
        open.push(OpenFile { process: process::id(), file: file.clone(), by: Arc::downgrade(by) });
    }
    Ok(())
}

/// Whether a URL of Seabed's names a database in memory, as Python or Seabed writes it.
fn is_in_memory(url: &str) -> bool {
    let path = url.split_once(':').map_or("", |(_, path)| path);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    matches!(path.trim_start_matches('/'), "" | ":memory:")
}

fn tables(options: &Options) -> Result<Tables> {
    let mut tables = Tables::new();
    if let Some(schema) = &options.schema {
        tables = tables.with_schema(schema);
    }
    if let Some(prefix) = &options.table_prefix {
        tables = tables.with_prefix(prefix);
    }
    tables.check()?;
    Ok(tables)
}

fn service_options(options: &Options, tables: Tables) -> Result<ServiceOptions> {
    // What writes an event is the installed google-adk, which may be newer than the one that Seabed knows.
    let mut service = ServiceOptions::new().with_tables(tables).without_adk_check();
    if let Some(timeout) = seconds("statement_timeout", options.statement_timeout)? {
        service = service.with_statement_timeout(timeout);
    }
    for risk in &options.accept_risks {
        service = service.accept_risk(schema_risk(risk)?);
    }
    Ok(service)
}

fn configured<D: Dialect>(
    mut connect: ConnectOptions<D>,
    options: &Options,
    service: ServiceOptions,
) -> Result<ConnectOptions<D>> {
    if let Some(count) = options.max_connections {
        connect = connect.with_max_connections(count);
    }
    if let Some(timeout) = seconds("pool_timeout", options.acquire_timeout)? {
        connect = connect.with_acquire_timeout(timeout);
    }
    if let Some(lifetime) = seconds("pool_recycle", options.max_lifetime)? {
        connect.pool.max_lifetime(lifetime);
    }
    Ok(connect.with_service(|_| service))
}

fn seconds(field: &'static str, seconds: Option<f64>) -> Result<Option<Duration>> {
    let duration = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).ok().filter(|time| is_sensible(*time)));
    match duration {
        Some(None) => {
            Err(Error::Invalid { field, reason: "is not a number of seconds above 0 and up to a year".to_owned() })
        }
        Some(duration) => Ok(duration),
        None => Ok(None),
    }
}

fn is_sensible(time: Duration) -> bool {
    time > Duration::ZERO && time <= Duration::from_hours(365 * 24)
}

fn schema_risk(name: &str) -> Result<SchemaRisk> {
    Ok(match name {
        "inexact_ids" => SchemaRisk::InexactIds,
        "coarse_times" => SchemaRisk::CoarseTimes,
        "short_text" => SchemaRisk::ShortText,
        "lossy_text" => SchemaRisk::LossyText,
        "no_transactions" => SchemaRisk::NoTransactions,
        "unlogged" => SchemaRisk::Unlogged,
        "row_security" => SchemaRisk::RowSecurity,
        "session_settings" => SchemaRisk::SessionSettings,
        "open_schema" => SchemaRisk::OpenSchema,
        "unsafe_commits" => SchemaRisk::UnsafeCommits,
        "reduced_durability" => SchemaRisk::ReducedDurability,
        "read_only_server" => SchemaRisk::ReadOnlyServer,
        "multi_primary" => SchemaRisk::MultiPrimary,
        "other_server" => SchemaRisk::OtherServer,
        "wal_reset_bug" => SchemaRisk::WalResetBug,
        _ => {
            return Err(Error::Invalid {
                field: "accept_risks",
                reason: "names a risk that does not exist".to_owned(),
            });
        }
    })
}
