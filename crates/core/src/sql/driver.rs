//! The seam to a database driver: connecting, classifying errors, reading rows.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::prelude::DateTime;
use sea_orm::{ColIdx, ConnAcquireErr, DatabaseConnection, DbErr, QueryResult, RuntimeErr, Statement};
use tokio::runtime::Handle;

use super::target::{Address, UrlOptions};
use crate::{BackendErrorKind, Error, Result, Timestamp};

/// The size of a pool, and its times.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// The largest number of connections.
    pub max_connections: u32,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a connection is kept that nobody uses; `None` for any time.
    pub idle_timeout: Option<Duration>,
    /// How long a connection is kept in all; `None` for any time.
    pub max_lifetime: Option<Duration>,
}

/// The files of a database in this process, as they were when a service connected.
pub trait DatabaseFiles: fmt::Debug + Send + Sync {
    /// Says what happened to the database file, if it was deleted or replaced, so that the writes of open connections
    /// are lost. A problem, once found, stays: the pool may hold connections to both files.
    fn problem(&self) -> Option<String>;

    /// Like [`problem`](Self::problem), but also checks the files that exist only while a connection is open. Call it
    /// while a connection that has read or written is open.
    fn problem_while_open(&self) -> Option<String>;
}

/// How to find a pooler that gives one connection of the server's to several clients in turn, and does not keep their
/// prepared statements apart.
#[derive(Debug, Clone, Copy)]
pub struct PoolerProbe {
    /// A query for a text that names the connection of the server's; no row where a pooler keeps statements apart. The
    /// same text on two connections at once gives such a pooler away.
    pub query: &'static str,
    /// What to say of it.
    pub advice: &'static str,
}

/// A database driver, and a pool of its connections. `seabed-sqlx` implements it for every database of sqlx.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The driver's connect options.
    type Options: Clone + Send + Sync;

    /// The URL schemes of such a database.
    const URL_SCHEMES: &'static [&'static str];

    /// The default limit on a statement, or on the statements of one transaction.
    const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Whether a connection stays in order when a statement on it is dropped midway. Seabed rolls such a connection
    /// back and keeps it. It closes the connections of other drivers.
    const CANCEL_SAFE: bool = false;

    /// How to find a pooler that mixes up prepared statements, where there are such.
    const POOLER_PROBE: Option<PoolerProbe> = None;

    /// Whether `url` has one of [`URL_SCHEMES`](Self::URL_SCHEMES), also with the name of a driver of Python's behind it,
    /// as in `postgresql+asyncpg`.
    fn is_url(url: &str) -> bool {
        let scheme = url.trim_start().split_once(':').map_or("", |(scheme, _)| scheme);
        Self::URL_SCHEMES.contains(&scheme.split_once('+').map_or(scheme, |(scheme, _)| scheme))
    }

    /// What a driver's error means; [`BackendErrorKind::Unexpected`] for everything that needs no handling of its own.
    /// sea-orm detects unique violations.
    fn classify(error: &RuntimeErr) -> BackendErrorKind;

    /// What to do about an error, where more is known than its kind says.
    fn advice(_error: &RuntimeErr) -> Option<&'static str> {
        None
    }

    /// Whether the server answered that it did not carry out the statement. Not so when the server is shutting down,
    /// when somebody ended the connection, or when it broke: the statement may have run.
    fn was_rejected(error: &RuntimeErr) -> bool;

    /// Whether the database refused what the statement would store: by a constraint, a trigger, the type of a column, or
    /// a missing privilege. Neither the connection nor its prepared statements are to blame.
    fn refuses_content(_error: &RuntimeErr) -> bool {
        false
    }

    /// Whether the server refused a connection because it has too many.
    fn has_too_many_clients(_error: &RuntimeErr) -> bool {
        false
    }

    /// The driver's options for `url`, with the settings that the algorithms need.
    ///
    /// # Errors
    /// [`Error::Invalid`] without the URL, which may hold a password.
    fn options(url: &str) -> Result<UrlOptions<Self::Options>>;

    /// The same options, for another server.
    fn at(options: Self::Options, _address: &Address) -> Self::Options {
        options
    }

    /// Where `options` connect to, in words and without a password.
    fn address(options: &Self::Options) -> String;

    /// Why a connection to `options` failed and what to do about it, where more is known than the driver's `error` says.
    fn connect_problem(_options: &Self::Options, _error: &DbErr) -> Option<(BackendErrorKind, String)> {
        None
    }

    /// Opens a connection that is in no pool, and runs `settings` on it: statements, perhaps none.
    ///
    /// # Errors
    /// The driver's own: [`DbErr::Exec`] if the server rejects the settings, else [`DbErr::Conn`].
    async fn connect(options: &Self::Options, settings: &str) -> Result<Box<dyn DriverConnection>, DbErr>;

    /// A pool that connects on first use, and runs `settings` on each connection: statements, perhaps none.
    fn open_pool(options: Self::Options, pool: sea_orm::ConnectOptions, settings: String) -> DatabaseConnection;

    /// Lets a pool open its next connections with other options.
    fn redirect(pool: &DatabaseConnection, options: Self::Options);

    /// The options that a pool opens its connections with.
    fn pool_options(pool: &DatabaseConnection) -> Self::Options;

    /// Whether `pool` is one of this driver's, on such a database. The other functions panic for any other.
    fn owns(pool: &DatabaseConnection) -> bool;

    /// Another pool of the same database, with the same options and hooks. It connects on first use. `None` for a
    /// database that exists only inside its pool.
    fn sibling_pool(pool: &DatabaseConnection) -> Option<DatabaseConnection>;

    /// The limits of a pool.
    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits;

    /// The files of the pool's database, if it is one that can lose them under a running service.
    fn files(_pool: &DatabaseConnection) -> Option<Arc<dyn DatabaseFiles>> {
        None
    }

    /// Takes a connection out of a pool.
    ///
    /// # Errors
    /// The pool's.
    async fn acquire(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr>;

    /// The text at `index` of a row, borrowed from the row; `None` for null.
    ///
    /// # Errors
    /// The driver's own, when there is no such column, or when it does not hold text.
    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr>;

    /// The moment at `index` of a row, in a `timestamp` column.
    ///
    /// # Errors
    /// The driver's own, also for null; and for a time that is not in the range of [`Timestamp`].
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        row.try_get_by::<DateTime, _>(index).and_then(in_range)
    }
}

/// The time of a row.
///
/// # Errors
/// [`DbErr::Type`] if it is not in the range of [`Timestamp`].
pub fn in_range(time: DateTime) -> Result<Timestamp, DbErr> {
    Timestamp::try_from(time).map_err(|error| DbErr::Type(error.to_string()))
}

/// A connection of the driver's. Dropping one that is out of a pool returns it to the pool.
#[async_trait]
pub trait DriverConnection: Send {
    /// Runs a statement, calls `on_row` with each row as it arrives, and returns the number of rows it changed.
    ///
    /// # Errors
    /// The driver's own.
    async fn run(&mut self, statement: Statement, on_row: &mut (dyn FnMut(QueryResult) + Send)) -> Result<u64, DbErr>;

    /// Runs a statement without parameters and rows, such as BEGIN.
    ///
    /// # Errors
    /// The driver's own.
    async fn simple_query(&mut self, sql: &'static str) -> Result<(), DbErr>;

    /// Waits for the server to answer.
    ///
    /// # Errors
    /// The driver's own.
    async fn ping(&mut self) -> Result<(), DbErr>;

    /// Takes the connection out of its pool for good, and frees its place there.
    fn detach(self: Box<Self>) -> Box<dyn DriverConnection>;

    /// Notifies the server, and closes the connection.
    ///
    /// # Errors
    /// The driver's own.
    async fn end(self: Box<Self>) -> Result<(), DbErr>;

    /// Closes the connection without notifying the server, and frees its place in the pool. A graceful close could
    /// block on a server that no longer answers.
    fn close(self: Box<Self>);
}

/// Refuses a call outside a tokio runtime. It would panic as soon as it waits, perhaps after its write was accepted.
pub(crate) fn in_runtime() -> Result<()> {
    let runtime = Handle::try_current();
    runtime.map(drop).map_err(|_| Error::invalid("runtime", "there is none: call a service inside a tokio runtime"))
}

/// Runs `work` in a task of its own, which continues when the future is dropped. A pool closes a connection when it is
/// dropped while it tests that connection, and an in-memory database ends with its only connection.
///
/// # Errors
/// Those of `work`, and [`ConnectionClosed`](ConnAcquireErr::ConnectionClosed) when the runtime shuts down.
///
/// # Panics
/// When `work` does.
pub async fn in_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, DbErr>> + Send + 'static,
) -> Result<T, DbErr> {
    tokio::spawn(work).await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)),
    })
}
