//! Connections of the drivers' own, and pools of them.

use std::panic::resume_unwind;

use async_trait::async_trait;
use sea_orm::{ConnAcquireErr, DbErr, QueryResult, Statement};

/// A connection of the driver's own, out of a pool, to which it goes back when it is dropped.
#[async_trait]
pub trait DriverConnection: Send {
    /// Runs a statement, hands on its rows as they come, and returns how many rows it changed.
    ///
    /// # Errors
    /// The driver's own.
    async fn run(&mut self, statement: Statement, each: &mut (dyn FnMut(QueryResult) + Send)) -> Result<u64, DbErr>;

    /// Runs a command that has no parameters and no rows, such as BEGIN.
    ///
    /// # Errors
    /// The driver's own.
    async fn command(&mut self, command: &'static str) -> Result<(), DbErr>;

    /// Waits for an answer of the server's.
    ///
    /// # Errors
    /// The driver's own.
    async fn ping(&mut self) -> Result<(), DbErr>;

    /// Ends the connection, and makes room for another in its pool; without a farewell, which one that does not answer would
    /// hold up.
    fn close(self: Box<Self>);
}

/// Runs `work` in a task of its own, which goes on when the future is dropped. A pool closes a connection when it is dropped while it
/// tests that one, and a database in memory ends with its only connection.
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

/// Takes a connection out of a pool of the driver's, as a [`DriverConnection`]: the body of
/// [`Dialect::take_connection`](crate::sql::Dialect::take_connection). The text is the same for every driver, and the types
/// are theirs.
#[macro_export]
macro_rules! take_driver_connection {
    ($driver:ty, $pool:expr) => {{
        use sea_orm::sqlx;

        struct Connection(sqlx::pool::PoolConnection<$driver>);

        fn failed(error: sqlx::Error) -> sea_orm::DbErr {
            sea_orm::DbErr::Query(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error)))
        }

        #[async_trait::async_trait]
        impl $crate::sql::DriverConnection for Connection {
            async fn run(
                &mut self,
                statement: sea_orm::Statement,
                each: &mut (dyn FnMut(sea_orm::QueryResult) + Send),
            ) -> Result<u64, sea_orm::DbErr> {
                let values = statement.values.unwrap_or_else(|| sea_orm::Values(Vec::new()));
                let query = sqlx::query_with(sqlx::AssertSqlSafe(statement.sql), sea_query_sqlx::SqlxValues(values));
                let mut answers = sqlx::Executor::fetch_many(&mut *self.0, query);
                let mut changed = 0;
                while let Some(answer) = futures_util::TryStreamExt::try_next(&mut answers).await.map_err(failed)? {
                    match answer {
                        sqlx::Either::Left(done) => changed += done.rows_affected(),
                        sqlx::Either::Right(row) => each(sea_orm::QueryResult::from(row)),
                    }
                }
                Ok(changed)
            }

            async fn command(&mut self, command: &'static str) -> Result<(), sea_orm::DbErr> {
                sqlx::raw_sql(command).execute(&mut *self.0).await.map(drop).map_err(failed)
            }

            async fn ping(&mut self) -> Result<(), sea_orm::DbErr> {
                sqlx::Connection::ping(&mut *self.0).await.map_err(failed)
            }

            fn close(self: Box<Self>) {
                drop(self.0.detach());
            }
        }

        match $pool.acquire().await {
            Ok(pooled) => Ok(Box::new(Connection(pooled)) as Box<dyn $crate::sql::DriverConnection>),
            Err(sqlx::Error::PoolTimedOut) => Err(sea_orm::DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout)),
            Err(sqlx::Error::PoolClosed) => {
                Err(sea_orm::DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::ConnectionClosed))
            }
            Err(error) => Err(sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error)))),
        }
    }};
}

/// Reads text out of a row of the driver's, by its function `$read`: the body of [`Dialect::text`](crate::sql::Dialect::text).
#[macro_export]
macro_rules! driver_text {
    ($row:expr, $read:ident, $index:expr) => {
        match $row {
            Some(row) => sea_orm::sqlx::Row::$read(row, $index)
                .map_err(|error| sea_orm::DbErr::Query(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error)))),
            None => Err(sea_orm::DbErr::Type("the row comes from another driver".to_owned())),
        }
    };
}

/// Opens a pool of the driver's whose connections are set up by the statement `$settings`: the body of
/// [`Dialect::open_pool`](crate::sql::Dialect::open_pool) for servers. The driver's own test of a connection waits for as long
/// as the operating system does.
#[macro_export]
macro_rules! open_driver_pool {
    ($driver:ty, $options:expr, $settings:expr) => {{
        use sea_orm::sqlx::{Connection, Executor};

        let options = $options;
        let test_if_idle_for = options.pool.get_test_before_acquire_if_idle_for();
        let pool = options.pool.sqlx_pool_options::<$driver>();
        let pool =
            pool.after_connect(|connection, _| Box::pin(async move { connection.execute($settings).await.map(drop) }));
        let pool = pool.before_acquire(move |connection, is| {
            let test = test_if_idle_for.is_some_and(|limit| is.idle_for >= limit);
            Box::pin(async move { if test { $crate::sql::answers(connection.ping()).await } else { Ok(true) } })
        });
        pool.connect_lazy_with(options.driver).into()
    }};
}
