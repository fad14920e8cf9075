//! Connections that are used again without a way through the pool, and transactions on them.
//!
//! The pool tests each connection that comes back, which costs the server a round trip, and hands out the one that was idle
//! for longest, whose caches are the coldest. So a connection that has served well is kept for a moment, and the next
//! statement or transaction takes the one that was used last.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, QueryResult,
    SqliteTransactionMode, Statement,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Dialect;
use super::failure::is_refused;
use super::patience::Patience;

/// How long an idle connection is kept: a caller who makes one call after the other is sooner.
const KEEP_IDLE: Duration = Duration::from_millis(2);
/// How long a connection is kept in all, so that others who wait for the pool have their turn however busy this is.
const KEEP_IN_ALL: Duration = Duration::from_millis(20);

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

    /// Ends the connection, and makes room for another in its pool; without a farewell, which one that does not answer would
    /// hold up.
    fn close(&mut self);
}

/// Takes a connection out of a pool of the driver's, as a [`DriverConnection`]: the body of
/// [`Dialect::take_connection`](crate::sql::Dialect::take_connection). The text is the same for every driver, and the types
/// are theirs.
#[macro_export]
macro_rules! take_driver_connection {
    ($driver:ty, $pool:expr) => {{
        use sea_orm::sqlx;

        /// `None` once it is closed.
        struct Connection(Option<sqlx::pool::PoolConnection<$driver>>);

        impl Connection {
            fn open(&mut self) -> Result<&mut <$driver as sqlx::Database>::Connection, sea_orm::DbErr> {
                self.0
                    .as_deref_mut()
                    .ok_or(sea_orm::DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::ConnectionClosed))
            }
        }

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
                let mut answers = sqlx::Executor::fetch_many(self.open()?, query);
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
                sqlx::raw_sql(command).execute(self.open()?).await.map(drop).map_err(failed)
            }

            fn close(&mut self) {
                drop(self.0.take().map(sqlx::pool::PoolConnection::detach));
            }
        }

        match $pool.acquire().await {
            Ok(pooled) => Ok(Box::new(Connection(Some(pooled))) as Box<dyn $crate::sql::DriverConnection>),
            Err(sqlx::Error::PoolTimedOut) => Err(sea_orm::DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout)),
            Err(sqlx::Error::PoolClosed) => {
                Err(sea_orm::DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::ConnectionClosed))
            }
            Err(error) => Err(sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error)))),
        }
    }};
}

/// Opens a pool of the driver's whose connections are set up by the statement `$settings`: the body of
/// [`Dialect::open_pool`](crate::sql::Dialect::open_pool) for servers. The driver's own tests of a connection wait for as long
/// as the operating system does, so each is preceded by one that does not.
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
        let pool = pool.after_release(|connection, _| Box::pin($crate::sql::answers(connection.ping())));
        pool.connect_lazy_with(options.driver).into()
    }};
}

/// The connections of one service.
pub(super) struct Connections<D> {
    pool: DatabaseConnection,
    kept: Arc<Mutex<Vec<Kept>>>,
    /// As many places as the pool has connections, so that one that comes free here is waited for here.
    places: Semaphore,
    /// How long a place is waited for: as long as for a connection of the pool's.
    acquire_timeout: Duration,
    /// The only connection of a pool is not kept: whoever else uses the pool would wait for it.
    keeps: bool,
    /// How long a statement may take.
    statement: Patience,
    dialect: PhantomData<fn() -> D>,
}

/// A connection on its way from use to use. It goes back to the pool only when the server has answered all that it was asked:
/// the driver loses count of the answers when it is dropped midway, and the pool takes an open transaction for none.
struct Kept {
    connection: Box<dyn DriverConnection>,
    is_settled: bool,
    taken: Instant,
    idle_since: Instant,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.is_settled {
            self.connection.close();
        }
    }
}

/// A connection in use, and its place.
struct Lease<'a> {
    kept: Kept,
    _place: SemaphorePermit<'a>,
}

/// No change can panic halfway, so a poisoned list is whole.
fn lock(kept: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Dialect> Connections<D> {
    pub(super) fn new(pool: DatabaseConnection, statement: Patience) -> Self {
        let limits = D::pool_limits(&pool);
        let most = usize::try_from(limits.max_connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            pool,
            kept: Arc::default(),
            places: Semaphore::new(most),
            acquire_timeout: limits.acquire_timeout,
            keeps: most > 1,
            statement,
            dialect: PhantomData,
        }
    }

    /// Runs a single statement, hands on its rows as they come, and returns how many rows it changed.
    ///
    /// When the future is dropped, the connection is closed, unless the driver can do without.
    pub(super) async fn run(
        &self,
        statement: Statement,
        each: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, DbErr> {
        let mut lease = self.lease().await?;
        lease.kept.is_settled = D::DROPS_STATEMENTS_SAFELY;
        let ran = self.statement.wait(lease.kept.connection.run(statement, each)).await.flatten();
        lease.kept.is_settled |= ran.as_ref().err().is_none_or(is_refused::<D>);
        self.keep(lease);
        ran
    }

    /// Begins a transaction.
    ///
    /// When the future is dropped, the connection is closed.
    pub(super) async fn begin(&self) -> Result<Transaction<'_, D>, DbErr> {
        let begin = match D::transaction_options().sqlite_transaction_mode {
            Some(SqliteTransactionMode::Immediate) => "BEGIN IMMEDIATE",
            _ => "BEGIN",
        };
        let mut lease = self.lease().await?;
        lease.kept.is_settled = false;
        if let Err(error) = self.statement.wait(lease.kept.connection.command(begin)).await.flatten() {
            lease.kept.is_settled = is_refused::<D>(&error);
            self.keep(lease);
            return Err(error);
        }
        Ok(Transaction { lease, connections: self })
    }

    async fn lease(&self) -> Result<Lease<'_>, DbErr> {
        let place = tokio::time::timeout(self.acquire_timeout, self.places.acquire()).await;
        let place = place.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?;
        let place = place.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))?;
        // The one that was used last is the last.
        let kept = lock(&self.kept).pop();
        let kept = if let Some(kept) = kept {
            kept
        } else {
            let connection = D::take_connection(&self.pool).await?;
            let now = Instant::now();
            Kept { connection, is_settled: true, taken: now, idle_since: now }
        };
        Ok(Lease { kept, _place: place })
    }

    fn keep(&self, lease: Lease<'_>) {
        let Lease { mut kept, _place } = lease;
        if !(self.keeps && kept.is_settled && kept.taken.elapsed() < KEEP_IN_ALL) {
            return;
        }
        kept.idle_since = Instant::now();
        let mut all = lock(&self.kept);
        all.push(kept);
        if all.len() == 1 {
            tokio::spawn(give_back(self.kept.clone()));
        }
    }
}

/// Runs statements one after the other in one transaction: ours, or one of the caller's.
pub(super) trait InTransaction: Send {
    /// How many rows a statement changed.
    fn execute(&mut self, statement: Statement) -> impl Future<Output = Result<u64, DbErr>> + Send;

    /// The first row of a statement, if it has one.
    fn query_one(&mut self, statement: Statement) -> impl Future<Output = Result<Option<QueryResult>, DbErr>> + Send;
}

/// A transaction of ours. When it is dropped before its end, its connection is closed, which rolls it back.
pub(super) struct Transaction<'a, D> {
    lease: Lease<'a>,
    connections: &'a Connections<D>,
}

impl<D: Dialect> Transaction<'_, D> {
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.end("ROLLBACK").await
    }

    async fn end(self, command: &'static str) -> Result<(), DbErr> {
        let Self { mut lease, connections } = self;
        lease.kept.connection.command(command).await?;
        lease.kept.is_settled = true;
        connections.keep(lease);
        Ok(())
    }
}

impl<D: Dialect> InTransaction for Transaction<'_, D> {
    async fn execute(&mut self, statement: Statement) -> Result<u64, DbErr> {
        self.lease.kept.connection.run(statement, &mut |_| {}).await
    }

    async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut first = None;
        self.lease.kept.connection.run(statement, &mut |row| _ = first.get_or_insert(row)).await?;
        Ok(first)
    }
}

impl InTransaction for &DatabaseTransaction {
    async fn execute(&mut self, statement: Statement) -> Result<u64, DbErr> {
        self.execute_raw(statement).await.map(|executed| executed.rows_affected())
    }

    async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.query_one_raw(statement).await
    }
}

/// Gives connections back to the pool once they were idle for long enough, until none is left.
async fn give_back(kept: Arc<Mutex<Vec<Kept>>>) {
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let long_idle: Vec<Kept> = lock(&kept).extract_if(.., |kept| kept.idle_since.elapsed() >= KEEP_IDLE).collect();
        drop(long_idle);
        if lock(&kept).is_empty() {
            return;
        }
    }
}
