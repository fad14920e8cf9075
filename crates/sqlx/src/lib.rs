//! The driver seam of Seabed's SQL backends, for any database of sqlx.
//!
//! A backend implements [`SqlxBackend`] and gets a [`Driver`] from it: [`Sqlx`]. Applications need neither: they depend
//! on the crate `seabed`.

mod url;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sea_orm::prelude::DateTime;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::pool::{PoolConnection, PoolOptions};
use sea_orm::sqlx::{
    self, ColumnIndex, Connection, Database, Decode, Either, Error as SqlxError, Executor, IntoArguments, Pool, Row,
    Type,
};
use sea_orm::{ColIdx, ConnAcquireErr, DatabaseConnection, DbErr, QueryResult, RuntimeErr, Statement, Values};
use sea_query_sqlx::SqlxValues;
use seabed_core::sql::{
    Address, DatabaseFiles, Driver, DriverConnection, PoolLimits, PoolerProbe, UrlOptions, answers, in_range, in_task,
    is_broken_connection,
};
use seabed_core::{BackendErrorKind, Result, Timestamp};

pub use self::url::{bare_host, parse_server_url, parse_url};

/// The connect options of a database.
pub type ConnectOptionsOf<DB> = <<DB as Database>::Connection as Connection>::Options;

/// What to do about a database that a server does not have.
pub const CREATE_DATABASE: &str =
    "the database does not exist; create it with CREATE DATABASE, and its tables with `seabed-migrate up`";

/// What one database of sqlx does differently from the others. The items without a comment are those of [`Driver`].
pub trait SqlxBackend: fmt::Debug + Send + Sync + 'static {
    /// sqlx's name of the database.
    type Database: Database;

    #[allow(missing_docs, reason = "documented in Driver")]
    const URL_SCHEMES: &'static [&'static str];

    #[allow(missing_docs, reason = "documented in Driver")]
    const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

    #[allow(missing_docs, reason = "documented in Driver")]
    const CANCEL_SAFE: bool = false;

    #[allow(missing_docs, reason = "documented in Driver")]
    const POOLER_PROBE: Option<PoolerProbe> = None;

    /// The statements that set up each connection of a server. `None` for a database in this process, whose connections
    /// need no set-up and no test.
    const SESSION_SETTINGS: Option<&'static str>;

    #[allow(missing_docs, reason = "documented in Driver")]
    fn owns(pool: &DatabaseConnection) -> bool;

    /// sqlx's pool inside sea-orm's.
    fn pool(connection: &DatabaseConnection) -> &Pool<Self::Database>;

    /// Whether a database exists only inside its pool.
    fn ends_with_pool(_options: &ConnectOptionsOf<Self::Database>) -> bool {
        false
    }

    /// sqlx's row inside sea-orm's; `None` for a row of another driver.
    fn row(row: &QueryResult) -> Option<&<Self::Database as Database>::Row>;

    /// How many rows a statement changed.
    fn rows_affected(done: &<Self::Database as Database>::QueryResult) -> u64;

    #[allow(missing_docs, clippy::missing_errors_doc, reason = "documented in Driver")]
    fn options(url: &str) -> Result<ConnectOptionsOf<Self::Database>>;

    /// The server's place on the network; `None` for a socket, and for a database in this process.
    fn place(_options: &ConnectOptionsOf<Self::Database>) -> Option<Address> {
        None
    }

    #[allow(missing_docs, reason = "documented in Driver")]
    fn at(options: ConnectOptionsOf<Self::Database>, _address: &Address) -> ConnectOptionsOf<Self::Database> {
        options
    }

    #[allow(missing_docs, reason = "documented in Driver")]
    fn address(options: &ConnectOptionsOf<Self::Database>) -> String;

    #[allow(missing_docs, reason = "documented in Driver")]
    fn connect_problem(
        _options: &ConnectOptionsOf<Self::Database>,
        _error: Option<&dyn DatabaseError>,
    ) -> Option<(BackendErrorKind, String)> {
        None
    }

    /// The pool options that a database needs, whatever the user asked for.
    fn pool_options(
        pool: PoolOptions<Self::Database>,
        _options: &ConnectOptionsOf<Self::Database>,
    ) -> PoolOptions<Self::Database> {
        pool
    }

    #[allow(missing_docs, reason = "documented in Driver")]
    fn files(_options: &ConnectOptionsOf<Self::Database>) -> Option<Arc<dyn DatabaseFiles>> {
        None
    }

    /// What to do about an error that the database reported, where more is known than its kind says.
    fn advice(_error: &dyn DatabaseError) -> Option<&'static str> {
        None
    }

    /// Whether an error that the database reported means that it has too many connections.
    fn has_too_many_clients(_error: &dyn DatabaseError) -> bool {
        false
    }

    /// What an error that the database reported means.
    fn classify(error: &dyn DatabaseError) -> BackendErrorKind;

    /// Whether an error that the database reported means that it did not carry out the statement.
    fn was_rejected(error: &dyn DatabaseError) -> bool;

    /// Whether an error that the database reported is about what the statement would store; see
    /// [`Driver::refuses_content`].
    fn refuses_content(_error: &dyn DatabaseError) -> bool {
        false
    }

    #[allow(missing_docs, clippy::missing_errors_doc, reason = "documented in Driver")]
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        row.try_get_by::<DateTime, _>(index).and_then(in_range)
    }
}

/// The [`Driver`] of a backend.
#[derive(Debug, Clone, Copy)]
pub struct Sqlx<B>(PhantomData<fn() -> B>);

#[async_trait]
impl<B: SqlxBackend> Driver for Sqlx<B>
where
    SqlxValues: IntoArguments<B::Database>,
    for<'c> &'c mut <B::Database as Database>::Connection: Executor<'c, Database = B::Database>,
    for<'r> Option<&'r str>: Decode<'r, B::Database> + Type<B::Database>,
    for<'i> &'i str: ColumnIndex<<B::Database as Database>::Row>,
    usize: ColumnIndex<<B::Database as Database>::Row>,
    QueryResult: From<<B::Database as Database>::Row>,
    DatabaseConnection: From<Pool<B::Database>>,
{
    type Options = ConnectOptionsOf<B::Database>;

    const URL_SCHEMES: &'static [&'static str] = B::URL_SCHEMES;
    const STATEMENT_TIMEOUT: Duration = B::STATEMENT_TIMEOUT;
    const CANCEL_SAFE: bool = B::CANCEL_SAFE;
    const POOLER_PROBE: Option<PoolerProbe> = B::POOLER_PROBE;

    fn classify(error: &RuntimeErr) -> BackendErrorKind {
        let RuntimeErr::SqlxError(error) = error else { return BackendErrorKind::Unexpected };
        match &**error {
            SqlxError::Database(error) => B::classify(&**error),
            SqlxError::Io(error) if is_broken_connection(error) => BackendErrorKind::Unavailable,
            // An answer that was cut off.
            SqlxError::Protocol(_) => BackendErrorKind::Unavailable,
            _ => BackendErrorKind::Unexpected,
        }
    }

    fn was_rejected(error: &RuntimeErr) -> bool {
        let RuntimeErr::SqlxError(error) = error else { return false };
        error.as_database_error().is_some_and(B::was_rejected)
    }

    fn refuses_content(error: &RuntimeErr) -> bool {
        let RuntimeErr::SqlxError(error) = error else { return false };
        error.as_database_error().is_some_and(B::refuses_content)
    }

    fn advice(error: &RuntimeErr) -> Option<&'static str> {
        let RuntimeErr::SqlxError(error) = error else { return None };
        error.as_database_error().and_then(B::advice)
    }

    fn has_too_many_clients(error: &RuntimeErr) -> bool {
        let RuntimeErr::SqlxError(error) = error else { return false };
        error.as_database_error().is_some_and(B::has_too_many_clients)
    }

    fn options(url: &str) -> Result<UrlOptions<Self::Options>> {
        match B::SESSION_SETTINGS {
            Some(_) => url::server_options::<B>(url),
            None => B::options(url).map(UrlOptions::single),
        }
    }

    fn at(options: Self::Options, address: &Address) -> Self::Options {
        B::at(options, address)
    }

    fn address(options: &Self::Options) -> String {
        B::address(options)
    }

    fn connect_problem(options: &Self::Options, error: &DbErr) -> Option<(BackendErrorKind, String)> {
        let of_driver = match error {
            DbErr::Conn(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
            _ => None,
        };
        B::connect_problem(options, of_driver.and_then(|error| error.as_database_error()))
    }

    async fn connect(options: &Self::Options, settings: &str) -> Result<Box<dyn DriverConnection>, DbErr> {
        let failed = |error: SqlxError| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)));
        let mut connection = <B::Database as Database>::Connection::connect_with(options).await.map_err(failed)?;
        let rejected = |error: SqlxError| match error {
            SqlxError::Database(_) => DbErr::Exec(RuntimeErr::SqlxError(Arc::new(error))),
            error => failed(error),
        };
        run_settings::<B>(&mut connection, settings).await.map_err(rejected)?;
        run_settings::<B>(&mut connection, B::SESSION_SETTINGS.unwrap_or_default()).await.map_err(failed)?;
        Ok(Box::new(SqlxConnection::<B>::Own(connection)))
    }

    fn open_pool(options: Self::Options, pool: sea_orm::ConnectOptions, settings: String) -> DatabaseConnection {
        let test_if_idle_for = pool.get_test_before_acquire_if_idle_for();
        let mut pool = B::pool_options(pool.sqlx_pool_options::<B::Database>(), &options);
        if let Some(own) = B::SESSION_SETTINGS {
            let settings: Arc<str> = settings.into();
            pool = pool.after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move {
                    run_settings::<B>(connection, &settings).await?;
                    run_settings::<B>(connection, own).await
                })
            });
            // sqlx's own test of a connection waits for as long as the operating system does.
            pool = pool.before_acquire(move |connection, is| {
                let test = test_if_idle_for.is_some_and(|limit| is.idle_for >= limit);
                Box::pin(async move { if test { answers(connection.ping()).await } else { Ok(true) } })
            });
        }
        pool.connect_lazy_with(options).into()
    }

    fn redirect(pool: &DatabaseConnection, options: Self::Options) {
        B::pool(pool).set_connect_options(options);
    }

    fn pool_options(pool: &DatabaseConnection) -> Self::Options {
        (*B::pool(pool).connect_options()).clone()
    }

    fn owns(pool: &DatabaseConnection) -> bool {
        B::owns(pool)
    }

    fn sibling_pool(pool: &DatabaseConnection) -> Option<DatabaseConnection> {
        let pool = B::pool(pool);
        let options = pool.connect_options();
        // It makes the connections that a service needs, and no others.
        let opened = pool.options().clone().min_connections(0);
        (!B::ends_with_pool(&options)).then(|| opened.connect_lazy_with((*options).clone()).into())
    }

    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits {
        let options = B::pool(pool).options();
        PoolLimits {
            max_connections: options.get_max_connections(),
            acquire_timeout: options.get_acquire_timeout(),
            idle_timeout: options.get_idle_timeout(),
            max_lifetime: options.get_max_lifetime(),
        }
    }

    fn files(pool: &DatabaseConnection) -> Option<Arc<dyn DatabaseFiles>> {
        B::files(&B::pool(pool).connect_options())
    }

    async fn acquire(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr> {
        let pool = B::pool(pool).clone();
        let acquired = async move {
            let connection = pool.acquire().await.map_err(acquire_error)?;
            Ok(Box::new(SqlxConnection::<B>::Pooled(connection)) as Box<dyn DriverConnection>)
        };
        // The pool closes a connection when the future is dropped during its test. A connection that can be kept must
        // not be lost that way.
        if B::CANCEL_SAFE { in_task(acquired).await } else { acquired.await }
    }

    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr> {
        let row = B::row(row).ok_or_else(|| DbErr::Type("the row comes from another driver".to_owned()))?;
        let text = match (index.as_usize(), index.as_str()) {
            (Some(&place), _) => row.try_get(place),
            (None, name) => row.try_get(name.unwrap_or_default()),
        };
        text.map_err(query_error)
    }

    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        B::moment(row, index)
    }
}

/// Runs statements, if there are any, on a new connection.
async fn run_settings<B: SqlxBackend>(
    connection: &mut <B::Database as Database>::Connection,
    settings: &str,
) -> Result<(), SqlxError>
where
    for<'c> &'c mut <B::Database as Database>::Connection: Executor<'c, Database = B::Database>,
{
    if settings.is_empty() {
        return Ok(());
    }
    connection.execute(sqlx::AssertSqlSafe(settings)).await.map(drop)
}

/// A connection of sqlx's.
enum SqlxConnection<B: SqlxBackend> {
    /// Out of a pool.
    Pooled(PoolConnection<B::Database>),
    /// In no pool.
    Own(<B::Database as Database>::Connection),
}

impl<B: SqlxBackend> SqlxConnection<B> {
    fn get(&mut self) -> &mut <B::Database as Database>::Connection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

#[async_trait]
impl<B: SqlxBackend> DriverConnection for SqlxConnection<B>
where
    SqlxValues: IntoArguments<B::Database>,
    for<'c> &'c mut <B::Database as Database>::Connection: Executor<'c, Database = B::Database>,
    QueryResult: From<<B::Database as Database>::Row>,
{
    async fn run(&mut self, statement: Statement, on_row: &mut (dyn FnMut(QueryResult) + Send)) -> Result<u64, DbErr> {
        let values = statement.values.unwrap_or_else(|| Values(Vec::new()));
        let query = sqlx::query_with(sqlx::AssertSqlSafe(statement.sql), SqlxValues(values));
        let mut answers = self.get().fetch_many(query);
        let mut changed = 0;
        while let Some(answer) = answers.try_next().await.map_err(query_error)? {
            match answer {
                Either::Left(done) => changed += B::rows_affected(&done),
                Either::Right(row) => on_row(QueryResult::from(row)),
            }
        }
        Ok(changed)
    }

    async fn simple_query(&mut self, sql: &'static str) -> Result<(), DbErr> {
        sqlx::raw_sql(sql).execute(self.get()).await.map(drop).map_err(query_error)
    }

    async fn ping(&mut self) -> Result<(), DbErr> {
        self.get().ping().await.map_err(query_error)
    }

    fn detach(self: Box<Self>) -> Box<dyn DriverConnection> {
        Box::new(match *self {
            Self::Pooled(connection) => Self::Own(connection.detach()),
            own @ Self::Own(_) => own,
        })
    }

    async fn end(self: Box<Self>) -> Result<(), DbErr> {
        let ended = match *self {
            Self::Pooled(connection) => connection.close().await,
            Self::Own(connection) => connection.close().await,
        };
        ended.map_err(query_error)
    }

    fn close(self: Box<Self>) {
        drop(self.detach());
    }
}

fn query_error(error: SqlxError) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

fn acquire_error(error: SqlxError) -> DbErr {
    match error {
        SqlxError::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        SqlxError::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
        error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
    }
}
