//! The seam between the portable algorithms and a database.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{DynIden, Expr, InsertStatement, SelectStatement, WithQuery};
use sea_orm::{ColIdx, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, TransactionOptions, Value};

use super::{ConnectOptions, DriverConnection};
use crate::{BackendErrorKind, Result, Timestamp};

/// What a pool was set up with.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// How many connections it may have.
    pub max_connections: u32,
    /// How long it lets callers wait for one.
    pub acquire_timeout: Duration,
}

/// Statements that do a whole operation, for any number of writes to different sessions at once. The database must run
/// each as one atomic statement.
///
/// Every parameter but the last is an array with an element for each write; the last is the number of writes. A write that
/// the statement leaves out, because its session is locked, missing or at another revision, or because the event is there,
/// is then settled by the portable algorithm; it must be left out as a whole. (Triggers that leave out single rows of a statement
/// are therefore not for these tables.)
#[derive(Debug, Clone)]
pub struct SingleStatements {
    /// `append_event`.
    ///
    /// Parameters: number of the write (int), app, user, session, event id, invocation id, the event's own time (timestamp),
    /// event JSON, expected revision (text of a timestamp, empty for any), session delta, app delta, user delta (JSON
    /// objects as text), time of the service's clock (timestamp). Rows: number of the write, stored timestamp.
    pub append: WithQuery,
    /// `create_session`.
    ///
    /// Parameters: number of the write (int), app, user, session, session state, app state, user state (JSON objects as
    /// text), time of the service's clock (timestamp). Rows: number of the write, and app and user state after it as text,
    /// null where the statement could not see them.
    pub create: WithQuery,
}

/// What one database does differently. A dialect constructs and classifies; it runs no statement of an operation.
#[async_trait]
pub trait Dialect: Send + Sync + 'static {
    /// The driver's connect options.
    type Driver: Clone + Send + Sync;

    /// The schemes of URLs to such a database.
    const URL_SCHEMES: &'static [&'static str];

    /// Whether `url` has such a scheme.
    fn is_url(url: &str) -> bool {
        url.split_once(':').is_some_and(|(scheme, _)| Self::URL_SCHEMES.contains(&scheme))
    }

    /// sea-orm's name of the database.
    const BACKEND: DbBackend;

    /// How many groups of one service's writes may be under way at once. A write that finds fewer goes at once; more writes
    /// wait, and those that have gathered when a group ends share the next commit.
    const GROUPS: usize;

    /// How long a statement, or the statements of one transaction, may take by default.
    const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Whether the driver keeps a connection in order when a statement on it is dropped midway: it is rolled back then, where a
    /// transaction is open, and goes on. One of other drivers is closed.
    const DROPS_STATEMENTS_SAFELY: bool = false;

    /// Makes `insert` leave a row alone that has the same `key` already, and lose no other error by it.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>);

    /// Whether rows that were there are told by the unique violation of a plain insert, because the database cannot count what an
    /// insert-or-ignore has inserted.
    const FAILS_WHEN_PRESENT: bool = false;

    /// Makes `insert` leave a row alone that has the same `key` already, and tell so: no row is affected, or it fails with a unique
    /// violation where [`FAILS_WHEN_PRESENT`](Self::FAILS_WHEN_PRESENT).
    fn insert_if_absent(insert: &mut InsertStatement, key: Vec<DynIden>) {
        if !Self::FAILS_WHEN_PRESENT {
            Self::insert_or_ignore(insert, key);
        }
    }

    /// Creates and appends in one statement each, where the database can change several tables at once.
    fn single_statements() -> Option<SingleStatements> {
        None
    }

    /// The condition that the statement before this one changed a row, where the driver runs several statements as one: joined by
    /// semicolons, with their parameters one after the other. `None` where each statement is sent for itself.
    fn previous_changed_a_row() -> Option<Expr> {
        None
    }

    /// Completes `select` with the rows of `table` whose `key` columns are one of many keys, where a transaction locks the whole
    /// database, and so may read many rows that it is going to write. The one parameter is a JSON array of keys, which are arrays
    /// of text. `None` where each row is locked.
    fn select_many(_select: SelectStatement, _table: DynIden, _key: [DynIden; 3]) -> Option<SelectStatement> {
        None
    }

    /// A JSON column as text.
    fn read_json(column: Expr) -> Expr {
        column
    }

    /// JSON text as what a JSON column stores.
    fn write_json(text: Expr) -> Expr {
        text
    }

    /// A moment as a `timestamp` column is written and compared.
    fn timestamp(timestamp: Timestamp) -> Value {
        timestamp.to_naive_utc().into()
    }

    /// The text at a place of a row, which stays the row's: most of what is read is text that is only looked at. `None` for null.
    ///
    /// # Errors
    /// The driver's own, when there is no such place, or when what is there is not UTF-8. The type is only sure to be looked at when a
    /// service is made.
    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr>;

    /// The moment at a place of a row, which is of a `timestamp` column.
    ///
    /// # Errors
    /// The driver's own, also for null.
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        row.try_get_by::<DateTime, _>(index).map(Timestamp::from_naive_utc)
    }

    /// The command that begins a write transaction.
    const BEGIN: &'static str = "BEGIN";

    /// How a transaction of the caller's begins that [`append_event_in`](super::SqlSessionService::append_event_in) is to write in.
    fn transaction_options() -> TransactionOptions {
        TransactionOptions::default()
    }

    /// What a driver's error means. [`BackendErrorKind::Unexpected`] for all that needs no handling of its own; unique
    /// violations are told by sea-orm.
    fn classify(error: &RuntimeErr) -> BackendErrorKind;

    /// Whether an error is the server's answer that it did not carry out a statement; not that it is shutting down or that somebody
    /// ended the connection, for then it may have, or that the connection broke.
    fn is_refusal(error: &RuntimeErr) -> bool;

    /// The driver's options for `url`, with what the algorithms want of a connection.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) without the URL, which may hold a password.
    fn driver_options(url: &str) -> Result<Self::Driver>;

    /// Where `driver` connects to, in words and without a password.
    fn address(driver: &Self::Driver) -> String;

    /// Connects once, and closes the connection.
    ///
    /// # Errors
    /// The driver's own.
    async fn try_connection(driver: &Self::Driver) -> Result<(), DbErr>;

    /// How many connections a pool may have, and how long it lets callers wait for one.
    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits;

    /// Takes a connection out of a pool; [`take_driver_connection`](crate::take_driver_connection) writes it.
    ///
    /// # Errors
    /// The pool's.
    async fn take_connection(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr>;

    /// A pool that connects when it is used.
    fn open_pool(options: ConnectOptions<Self>) -> DatabaseConnection
    where
        Self: Sized;
}
