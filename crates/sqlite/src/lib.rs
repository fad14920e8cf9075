//! Seabed's session service on SQLite.
//!
//! ```no_run
//! # async fn example() -> seabed_core::Result<()> {
//! use seabed_sqlite::{SqliteOptions, SqliteSessionService, SqliteSynchronous};
//!
//! let sessions = SqliteSessionService::connect("sqlite://agents.db").await?;
//!
//! // Faster, at the price that a power cut may take the last commits with it (never part of one):
//! let options: SqliteOptions = "sqlite://agents.db".parse()?;
//! let options = options.with_driver(|driver| driver.synchronous(SqliteSynchronous::Normal));
//! let sessions = SqliteSessionService::connect_with(options).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The file must exist unless the URL ends in `?mode=rwc`. A database in memory (`sqlite::memory:`) lives as long as its
//! pool, so open it with [`ConnectOptions::open`], make its tables, and go on with
//! [`from_connection`](SqlSessionService::from_connection).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::format::{Item, Parsed, StrftimeItems, parse};
use sea_orm::prelude::DateTimeUtc;
use sea_orm::sea_query::{
    Condition, DynIden, Expr, ExprTrait, Func, InsertStatement, JoinType, OnConflict, SelectStatement,
};
pub use sea_orm::sqlx::sqlite::SqliteSynchronous;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sea_orm::sqlx::{Connection, Error as SqlxError, Sqlite as Driver};
use sea_orm::{
    ColIdx, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, SqliteTransactionMode, TransactionOptions,
    Value,
};
use seabed_core::sql::{ConnectOptions, Dialect, DriverConnection, PoolLimits, SqlSessionService, in_task};
use seabed_core::{BackendErrorKind, Error, Result, Timestamp, driver_text, take_driver_connection};

/// A session service on SQLite.
pub type SqliteSessionService = SqlSessionService<Sqlite>;
/// How to connect to SQLite.
pub type SqliteOptions = ConnectOptions<Sqlite>;

/// What SQLite does differently.
#[derive(Debug, Clone, Copy)]
pub struct Sqlite;

/// How long a statement waits for writers of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// `SQLITE_BUSY`, `SQLITE_LOCKED`, `SQLITE_PROTOCOL` (a race for the WAL's locks), `SQLITE_CANTOPEN`: primary result codes, the low byte of what SQLite reports.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const PROTOCOL: u32 = 15;
const CANTOPEN: u32 = 14;

/// The format of a timestamp.
static TIMESTAMP: LazyLock<Vec<Item<'static>>> =
    LazyLock::new(|| StrftimeItems::new("%Y-%m-%d %H:%M:%S%.6f").collect());

/// Whether the database is one in memory, told by the name that the driver gives to each `sqlite::memory:`.
fn in_memory(driver: &SqliteConnectOptions) -> bool {
    driver.get_filename().to_string_lossy().starts_with("file:sqlx-in-memory-")
}

#[async_trait]
impl Dialect for Sqlite {
    type Driver = SqliteConnectOptions;

    const URL_SCHEMES: &'static [&'static str] = &["sqlite"];
    const BACKEND: DbBackend = DbBackend::Sqlite;
    /// SQLite lets one writer in at a time. Writers of one service wait in this process, where waiting is fair and costs
    /// nothing, and share the next commit.
    const GROUPS: usize = 1;

    /// Longer than a statement waits for writers of other processes.
    const STATEMENT_TIMEOUT: Duration = Duration::from_mins(1);

    /// Statements run on a thread of the driver's. A database in memory ends with its only connection.
    const DROPS_STATEMENTS_SAFELY: bool = true;

    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::columns(key).do_nothing().to_owned());
    }

    /// The way to the driver's thread and back costs more than a statement.
    fn previous_changed_a_row() -> Option<Expr> {
        Some(Expr::cust("changes() > 0"))
    }

    /// CROSS JOIN keeps the keys outside, and so looks each row up by its whole key. Left the choice, the planner may read the table
    /// where ANALYZE saw a small one.
    fn select_many(mut select: SelectStatement, table: DynIden, key: [DynIden; 3]) -> Option<SelectStatement> {
        let is_key = |index: usize| {
            Expr::col((table.clone(), key[index].clone())).eq(Expr::cust(format!("keys.value ->> {index}")))
        };
        let keys = Func::cust("json_each").arg("");
        let is_key = is_key(0).and(is_key(1)).and(is_key(2));
        let select = select.from_function(keys, "keys").join(JoinType::CrossJoin, table.clone(), Condition::all());
        Some(select.and_where(is_key).take())
    }

    /// The text that google-adk (SQLAlchemy) writes, always with six digits: it reads a shorter fraction as that many
    /// microseconds, and texts of one width compare as the times do.
    fn timestamp(timestamp: Timestamp) -> Value {
        timestamp.to_naive_utc().format_with_items(TIMESTAMP.iter()).to_string().into()
    }

    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr> {
        driver_text!(row.try_as_sqlite_row(), try_get, index.as_sqlx_sqlite_index())
    }

    /// The driver tries two other formats before this one, which it is left all others to.
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        let text = Self::text(row, index).ok().flatten().unwrap_or_default();
        let mut parsed = Parsed::new();
        let moment = parse(&mut parsed, text, TIMESTAMP.iter()).and_then(|()| parsed.to_naive_datetime_with_offset(0));
        let moment = moment.or_else(|_| row.try_get_by::<DateTimeUtc, _>(index).map(|moment| moment.naive_utc()));
        moment.map(Timestamp::from_naive_utc)
    }

    /// A transaction that reads first and writes then fails as busy at once when another wrote in between, whatever
    /// the busy timeout; so it takes the write lock at its beginning.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn transaction_options() -> TransactionOptions {
        TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        }
    }

    fn classify(error: &RuntimeErr) -> BackendErrorKind {
        let RuntimeErr::SqlxError(error) = error else { return BackendErrorKind::Unexpected };
        let SqlxError::Database(error) = &**error else { return BackendErrorKind::Unexpected };
        let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        match code & 0xff {
            BUSY | LOCKED | PROTOCOL => BackendErrorKind::Contention,
            CANTOPEN => BackendErrorKind::Unavailable,
            // SQLite has no code of its own for these.
            _ if error.message().starts_with("no such table") || error.message().starts_with("no such column") => {
                BackendErrorKind::Schema
            }
            _ => BackendErrorKind::Unexpected,
        }
    }

    /// SQLite is in this process: what fails has not happened.
    fn is_refusal(error: &RuntimeErr) -> bool {
        matches!(error, RuntimeErr::SqlxError(error) if error.as_database_error().is_some())
    }

    fn driver_options(url: &str) -> Result<SqliteConnectOptions> {
        let invalid = |reason: String| Error::Invalid { field: "url", reason };
        if url.contains("mode=memory") {
            return Err(invalid("names a database in memory; use sqlite::memory:".to_owned()));
        }
        let options: SqliteConnectOptions = url.parse().map_err(|error: SqlxError| invalid(error.to_string()))?;
        let name = options.get_filename().to_string_lossy();
        if name.is_empty() || name.starts_with("file:") && !in_memory(&options) {
            // Each connection would get a database of its own.
            return Err(invalid("names no file; use sqlite://path or sqlite::memory:".to_owned()));
        }
        let options = options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT).synchronous(SqliteSynchronous::Full);
        Ok(if in_memory(&options) { options } else { options.journal_mode(SqliteJournalMode::Wal) })
    }

    fn address(driver: &SqliteConnectOptions) -> String {
        format!("the SQLite database {}", driver.get_filename().display())
    }

    async fn try_connection(driver: &SqliteConnectOptions) -> Result<(), DbErr> {
        let connected = async { SqliteConnection::connect_with(driver).await?.close().await }.await;
        connected.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))
    }

    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits {
        let options = pool.get_sqlite_connection_pool().options();
        PoolLimits { max_connections: options.get_max_connections(), acquire_timeout: options.get_acquire_timeout() }
    }

    async fn take_connection(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr> {
        let pool = pool.get_sqlite_connection_pool().clone();
        in_task(async move { take_driver_connection!(Driver, pool) }).await
    }

    fn open_pool(options: SqliteOptions) -> DatabaseConnection {
        let mut pool = options.pool.sqlx_pool_options::<Driver>();
        if in_memory(&options.driver) {
            // The database is gone when its last connection is; and connections to one in memory block each other.
            pool = pool.max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None);
        }
        pool.connect_lazy_with(options.driver).into()
    }
}
