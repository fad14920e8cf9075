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
//! `sqlite://agents.db` is a path in the current folder, and `sqlite:///var/lib/agents.db` begins at the root. In URLs
//! with the name of Python's driver, as `sqlite+aiosqlite:///agents.db`, a path has one slash more, as in Python.
//!
//! The file must exist: `seabed-migrate up` creates it, and so does a program that opens a URL with `?mode=rwc`. An
//! in-memory database (`sqlite::memory:`) lives as long as its pool, so open it with [`ConnectOptions::open`], create
//! its tables, and go on with [`from_connection`](SqlSessionService::from_connection).

mod connect;
mod files;
mod prefetch;
mod schema;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::format::{Item, Parsed, StrftimeItems, parse};
use sea_orm::prelude::DateTimeUtc;
use sea_orm::sea_query::{DynIden, Expr, InsertStatement, OnConflict, SelectStatement, TableRef};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::pool::PoolOptions;
pub use sea_orm::sqlx::sqlite::SqliteSynchronous;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteQueryResult, SqliteRow};
use sea_orm::sqlx::{self, Pool};
use sea_orm::{
    ColIdx, DatabaseConnection, DatabaseConnectionType, DbBackend, DbErr, EntityName as _, QueryResult,
    SqliteTransactionMode, TransactionOptions,
};
use seabed_core::entity::sessions;
use seabed_core::sql::{
    ConnectOptions, DatabaseFiles, Dialect, Driver, SchemaDialect, SqlSessionService, Tables, in_range,
};
use seabed_core::{BackendErrorKind, Result, Timestamp};
use seabed_sqlx::{Sqlx, SqlxBackend};

/// A session service on SQLite.
pub type SqliteSessionService = SqlSessionService<Sqlite>;
/// How to connect to SQLite.
pub type SqliteOptions = ConnectOptions<Sqlite>;

/// What SQLite does differently.
#[derive(Debug, Clone, Copy)]
pub struct Sqlite;

/// `SQLITE_BUSY`, `SQLITE_LOCKED`, `SQLITE_PROTOCOL` (a race for the WAL's locks), `SQLITE_CANTOPEN`, `SQLITE_TOOBIG`:
/// primary result codes, the low byte of what SQLite reports.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const PROTOCOL: u32 = 15;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;

/// The format of a timestamp.
static TIMESTAMP: LazyLock<Vec<Item<'static>>> =
    LazyLock::new(|| StrftimeItems::new("%Y-%m-%d %H:%M:%S%.6f").collect());

impl Dialect for Sqlite {
    type Driver = Sqlx<Self>;

    const BACKEND: DbBackend = DbBackend::Sqlite;
    const SCHEMA: &'static dyn SchemaDialect = &Self;
    /// SQLite lets one writer in at a time. Writers of one service wait in this process, where waiting is fair and
    /// costs nothing, and share the next commit.
    const MAX_CONCURRENT_BATCHES: usize = 1;
    /// A transaction that reads first and then writes fails as busy at once when another wrote in between, whatever the
    /// busy timeout. So it takes the write lock when it begins.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    /// There is one file.
    const MAY_LAG: bool = false;

    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::columns(key).do_nothing().to_owned());
    }

    /// A trip to the driver's thread and back costs more than a statement.
    fn if_previous_changed() -> Option<Expr> {
        Some(Expr::cust("changes() > 0"))
    }

    fn select_by_keys(
        select: SelectStatement,
        table: TableRef,
        key: [(DynIden, DynIden); 3],
    ) -> Option<SelectStatement> {
        Some(prefetch::select_by_keys(select, table, key))
    }

    /// The file that holds the table: empty for a database in memory.
    fn database_query(tables: &Tables) -> Option<String> {
        let table = tables.name(sessions::Entity.table_name());
        Some(format!(
            "SELECT file FROM ({}) AS tables JOIN pragma_database_list AS databases ON databases.name = tables.schema \
             WHERE tables.place = 1",
            schema::looked_up(tables.schema(), &[table])
        ))
    }

    fn transaction_options() -> TransactionOptions {
        TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        }
    }
}

impl SqlxBackend for Sqlite {
    type Database = sqlx::Sqlite;

    const URL_SCHEMES: &'static [&'static str] = &["sqlite"];
    /// Longer than a statement waits for writers of other processes.
    const STATEMENT_TIMEOUT: Duration = Duration::from_mins(1);
    /// Statements run on a thread of the driver's.
    const CANCEL_SAFE: bool = true;
    const SESSION_SETTINGS: Option<&'static str> = None;

    fn owns(pool: &DatabaseConnection) -> bool {
        matches!(pool.inner, DatabaseConnectionType::SqlxSqlitePoolConnection(_))
    }

    fn pool(connection: &DatabaseConnection) -> &Pool<sqlx::Sqlite> {
        connection.get_sqlite_connection_pool()
    }

    fn ends_with_pool(options: &SqliteConnectOptions) -> bool {
        connect::ends_with_pool(options)
    }

    fn row(row: &QueryResult) -> Option<&SqliteRow> {
        row.try_as_sqlite_row()
    }

    fn rows_affected(done: &SqliteQueryResult) -> u64 {
        done.rows_affected()
    }

    fn options(url: &str) -> Result<SqliteConnectOptions> {
        connect::options(url)
    }

    fn address(options: &SqliteConnectOptions) -> String {
        format!("the SQLite database {}", options.get_filename().display())
    }

    fn connect_problem(
        options: &SqliteConnectOptions,
        error: Option<&dyn DatabaseError>,
    ) -> Option<(BackendErrorKind, String)> {
        connect::file_problem(options, error)
    }

    fn files(options: &SqliteConnectOptions) -> Option<Arc<dyn DatabaseFiles>> {
        let is_file = !connect::ends_with_pool(options);
        let files = is_file.then(|| files::Files::of(options.get_filename())).flatten();
        files.map(|files| Arc::new(files) as _)
    }

    /// An in-memory database is gone when its last connection closes, and connections to it block each other.
    fn pool_options(pool: PoolOptions<sqlx::Sqlite>, options: &SqliteConnectOptions) -> PoolOptions<sqlx::Sqlite> {
        if connect::in_memory(options) {
            return pool.max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None);
        }
        pool
    }

    fn classify(error: &dyn DatabaseError) -> BackendErrorKind {
        let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        match code & 0xff {
            BUSY | LOCKED | PROTOCOL => BackendErrorKind::Contention,
            CANTOPEN => BackendErrorKind::Unavailable,
            TOOBIG => BackendErrorKind::TooLarge,
            // SQLite has no code of its own for these.
            _ if error.message().starts_with("no such table") || error.message().starts_with("no such column") => {
                BackendErrorKind::Schema
            }
            _ => BackendErrorKind::Unexpected,
        }
    }

    /// SQLite runs in this process: what fails has not happened.
    fn was_rejected(_: &dyn DatabaseError) -> bool {
        true
    }

    /// The driver tries two other formats before this one. All others of a text are left to it. A number is no time: the
    /// driver would take it for seconds, and others write milliseconds.
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        let text = <Self as Dialect>::Driver::text(row, index)?;
        let text = text.ok_or_else(|| DbErr::Type("null".to_owned()))?;
        let mut parsed = Parsed::new();
        let moment = parse(&mut parsed, text, TIMESTAMP.iter()).and_then(|()| parsed.to_naive_datetime_with_offset(0));
        let moment = moment.or_else(|_| row.try_get_by::<DateTimeUtc, _>(index).map(|moment| moment.naive_utc()));
        moment.and_then(in_range)
    }
}
