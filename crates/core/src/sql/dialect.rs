//! The seam between the portable algorithms and a database.

use async_trait::async_trait;
use sea_orm::sea_query::{DynIden, Expr, InsertStatement};
use sea_orm::{DatabaseConnection, DbBackend, DbErr, RuntimeErr, TransactionOptions, Value};

use super::ConnectOptions;
use crate::{BackendErrorKind, Result, Timestamp};

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

    /// Whether the database lets one writer in at a time. Writers of one service then queue in this process, where
    /// waiting is fair and costs nothing, rather than in the database.
    const SINGLE_WRITER: bool = false;

    /// Makes `insert` leave a row alone that has the same `key` already, and lose no other error by it.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>);

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

    /// How a write transaction begins.
    fn transaction_options() -> TransactionOptions {
        TransactionOptions::default()
    }

    /// What a driver's error means. [`BackendErrorKind::Unexpected`] for all that needs no handling of its own; unique
    /// violations are told by sea-orm.
    fn classify(error: &RuntimeErr) -> BackendErrorKind;

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

    /// A pool that connects when it is used.
    fn open_pool(options: ConnectOptions<Self>) -> DatabaseConnection
    where
        Self: Sized;
}
