//! Connections that are used again without a way through the pool.
//!
//! The pool tests each connection that comes back, which costs the server a round trip, and hands out the one that was idle
//! for longest, whose caches are the coldest. So a connection that has served a single statement well is kept for a
//! moment, and the next statement takes the one that was used last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::{ConnAcquireErr, DatabaseConnection, DbErr, QueryResult, Statement};
use tokio::sync::Semaphore;

use super::Dialect;
use super::patience::Patience;

/// How long an idle connection is kept: a caller who makes one call after the other is sooner.
const KEEP_IDLE: Duration = Duration::from_millis(2);
/// How long a connection is kept in all, so that others who wait for the pool have their turn however busy this is.
const KEEP_IN_ALL: Duration = Duration::from_millis(20);

/// A connection of the driver's own, out of a pool, to which it goes back when it is dropped.
#[async_trait]
pub trait DriverConnection: Send {
    /// Runs a statement, and hands on its rows as they come.
    ///
    /// # Errors
    /// The driver's own.
    async fn query(&mut self, statement: Statement, each: &mut (dyn FnMut(QueryResult) + Send)) -> Result<(), DbErr>;
}

/// Takes a connection out of a pool of the driver's, as a [`DriverConnection`]: the body of
/// [`Dialect::take_connection`](crate::sql::Dialect::take_connection). The text is the same for every driver, and the types
/// are theirs.
#[macro_export]
macro_rules! take_driver_connection {
    ($driver:ty, $pool:expr) => {{
        use sea_orm::sqlx;

        struct Connection {
            pooled: sqlx::pool::PoolConnection<$driver>,
            /// Whether a statement was sent whose answer has not been read to its end.
            is_busy: bool,
        }

        impl Drop for Connection {
            fn drop(&mut self) {
                // The driver may have lost count of the answers, and the pool's test waits for one as long as it takes.
                if self.is_busy {
                    self.pooled.close_on_drop();
                }
            }
        }

        #[async_trait::async_trait]
        impl $crate::sql::DriverConnection for Connection {
            async fn query(
                &mut self,
                statement: sea_orm::Statement,
                each: &mut (dyn FnMut(sea_orm::QueryResult) + Send),
            ) -> Result<(), sea_orm::DbErr> {
                let values = statement.values.unwrap_or_else(|| sea_orm::Values(Vec::new()));
                let query = sqlx::query_with(sqlx::AssertSqlSafe(statement.sql), sea_query_sqlx::SqlxValues(values));
                self.is_busy = true;
                let mut rows = query.fetch(&mut *self.pooled);
                loop {
                    match futures_util::TryStreamExt::try_next(&mut rows).await {
                        Ok(Some(row)) => each(sea_orm::QueryResult::from(row)),
                        Ok(None) => break,
                        Err(error) => {
                            let error = std::sync::Arc::new(error);
                            return Err(sea_orm::DbErr::Query(sea_orm::RuntimeErr::SqlxError(error)));
                        }
                    }
                }
                drop(rows);
                self.is_busy = false;
                Ok(())
            }
        }

        match $pool.acquire().await {
            Ok(pooled) => Ok(Box::new(Connection { pooled, is_busy: false }) as Box<dyn $crate::sql::DriverConnection>),
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
        let pool = pool.after_release(|_, _| Box::pin(async { Ok(!$crate::sql::is_suspicious()) }));
        pool.connect_lazy_with(options.driver).into()
    }};
}

/// The connections of one service that are kept.
pub(super) struct Connections {
    kept: Arc<Mutex<Vec<Kept>>>,
    /// As many places as the pool has connections, so that one that comes free here is waited for here.
    places: Semaphore,
    /// How long a place is waited for: as long as for a connection of the pool's.
    patience: Duration,
    /// The only connection of a pool is not kept: whoever else uses the pool would wait for it.
    keeps: bool,
    /// How long a statement may take.
    statement: Patience,
}

struct Kept {
    connection: Box<dyn DriverConnection>,
    taken: Instant,
    idle_since: Instant,
}

/// No change can panic halfway, so a poisoned list is whole.
fn lock(kept: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(super) fn new<D: Dialect>(pool: &DatabaseConnection, statement: Patience) -> Self {
        let limits = D::pool_limits(pool);
        let most = usize::try_from(limits.max_connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let patience = limits.acquire_timeout;
        Self { kept: Arc::default(), places: Semaphore::new(most), patience, keeps: most > 1, statement }
    }

    /// Runs a single statement, and hands on its rows as they come.
    ///
    /// When the future is dropped, or fails, the connection is closed.
    pub(super) async fn query<D: Dialect>(
        &self,
        pool: &DatabaseConnection,
        statement: Statement,
        each: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<(), DbErr> {
        let place = tokio::time::timeout(self.patience, self.places.acquire()).await;
        let _place = place.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?;
        // The one that was used last is the last.
        let kept = lock(&self.kept).pop();
        let mut kept = if let Some(kept) = kept {
            kept
        } else {
            let connection = D::take_connection(pool).await?;
            let now = Instant::now();
            Kept { connection, taken: now, idle_since: now }
        };
        self.statement.wait(kept.connection.query(statement, each)).await.flatten()?;
        if self.keeps && kept.taken.elapsed() < KEEP_IN_ALL {
            self.keep(kept);
        }
        Ok(())
    }

    fn keep(&self, mut kept: Kept) {
        kept.idle_since = Instant::now();
        let mut all = lock(&self.kept);
        all.push(kept);
        if all.len() == 1 {
            tokio::spawn(give_back(self.kept.clone()));
        }
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
