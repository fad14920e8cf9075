//! Connections that are reused without a trip through the driver's pool, and the state in which they return to it.
//!
//! The driver's pool tests each connection that comes back, which costs a round trip, and hands out the connection that
//! was idle for longest, whose caches are the coldest. So a connection in good order is kept for a moment, and the next
//! statement or transaction takes the one that was used last.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ConnAcquireErr, DatabaseConnection, DbErr, QueryResult, Statement};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::dialect::Dialect;
use super::driver::{DatabaseFiles, Driver, DriverConnection};
use super::error::{StatementError, leaves_connection_usable};
use super::executor::{Executor, check_size};
use super::timeout::{StatementTimeout, answers};

/// How long an idle connection is kept: long enough for a caller who makes one call after the other.
const KEEP_IDLE: Duration = Duration::from_millis(2);
/// How long a connection is kept in all, so that other users of the driver's pool get their turn under any load.
const KEEP_IN_ALL: Duration = Duration::from_millis(20);

/// The connections of one service.
pub(crate) struct Pool<D: Dialect> {
    connections: DatabaseConnection,
    cache: Arc<Mutex<Cache<D>>>,
    /// As many permits as the driver's pool has connections, so that a caller who waits gets a connection that comes
    /// back here.
    permits: Semaphore,
    /// How long a caller waits for a connection: as long as the driver's pool lets its callers wait.
    acquire_timeout: Duration,
    /// False for a pool of one connection, for which all other users of the pool would have to wait.
    caches: bool,
    statement_timeout: StatementTimeout,
    files: Option<Arc<dyn DatabaseFiles>>,
}

/// The connections that are kept and not in use.
struct Cache<D: Dialect> {
    /// The one used last is the last.
    connections: Vec<CachedConnection<D>>,
    /// Whether a task is returning idle ones to the driver's pool.
    has_reaper: bool,
}

/// A connection between two uses.
struct CachedConnection<D: Dialect> {
    /// `None` only while it is dropped.
    connection: Option<Box<dyn DriverConnection>>,
    /// Whether the server has answered every request, and no transaction is open.
    is_clean: bool,
    acquired: Instant,
    idle_since: Instant,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> Drop for CachedConnection<D> {
    /// Returns the connection to the driver's pool in good order, or closes it. A server that has not answered may
    /// never answer, a driver may lose count of the answers when a statement is dropped midway, the pool does not
    /// notice an open transaction, and its own test waits for as long as the operating system does.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match (Handle::try_current(), D::Driver::CANCEL_SAFE, self.is_clean) {
            // The driver's pool needs a runtime as well.
            (Err(_), ..) | (Ok(_), false, false) => connection.close(),
            (Ok(_), true, true) => {}
            (Ok(runtime), true, false) => drop(runtime.spawn(async move {
                // An error means that no transaction is open.
                let _: Result<(), DbErr> = connection.simple_query("ROLLBACK").await;
            })),
            (Ok(runtime), false, true) => drop(runtime.spawn(async move {
                if !answers(connection.ping()).await.unwrap_or(false) {
                    connection.close();
                }
            })),
        }
    }
}

/// A connection in use, and its permit.
pub(crate) struct ConnectionGuard<'a, D: Dialect> {
    cached: CachedConnection<D>,
    /// Whether the connection may be reused: no statement failed, or only with a conflict or a duplicate key.
    is_reusable: bool,
    pool: &'a Pool<D>,
    _permit: SemaphorePermit<'a>,
}

/// No change can panic halfway, so the cache behind a poisoned lock is consistent.
fn lock<D: Dialect>(cache: &Mutex<Cache<D>>) -> MutexGuard<'_, Cache<D>> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Dialect> Pool<D> {
    pub(crate) fn new(
        connections: DatabaseConnection,
        files: Option<Arc<dyn DatabaseFiles>>,
        statement_timeout: StatementTimeout,
    ) -> Self {
        let limits = D::Driver::pool_limits(&connections);
        let most = usize::try_from(limits.max_connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            connections,
            cache: Arc::new(Mutex::new(Cache { connections: Vec::new(), has_reaper: false })),
            permits: Semaphore::new(most),
            acquire_timeout: limits.acquire_timeout,
            caches: most > 1,
            statement_timeout,
            files,
        }
    }

    pub(crate) fn files(&self) -> Option<&Arc<dyn DatabaseFiles>> {
        self.files.as_ref()
    }

    /// Rejects what would be written to a file that nobody opens again.
    pub(crate) fn check_files(&self) -> Result<(), StatementError> {
        lost(self.files.as_ref().and_then(|files| files.problem()))
    }

    /// The same, while a connection is open that has read or written.
    pub(crate) fn check_open_files(&self) -> Result<(), StatementError> {
        lost(self.files.as_ref().and_then(|files| files.problem_while_open()))
    }

    /// Begins a transaction on a connection.
    ///
    /// Dropping the future, or the guard, rolls the transaction back.
    pub(crate) async fn begin(&self) -> Result<ConnectionGuard<'_, D>, StatementError> {
        let mut guard = self.acquire().await?;
        match self.statement_timeout.limit(guard.simple_query(D::BEGIN)).await {
            Ok(()) => Ok(guard),
            Err(error) => {
                if leaves_connection_usable::<D>(&error) {
                    guard.release();
                }
                Err(error)
            }
        }
    }

    /// Runs a statement outside a transaction, so that it commits by itself. `statement` makes it when there is a
    /// connection for it; without one, nothing is run, and no row changed.
    ///
    /// Dropping the future closes the connection, unless the driver is cancel safe.
    pub(crate) async fn run(
        &self,
        statement: impl FnOnce() -> Option<Statement> + Send,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        self.run_then(statement, on_row, |_| Ok(())).await
    }

    /// Like [`run`](Self::run), but an error where the database's files were lost meanwhile.
    pub(crate) async fn run_checked(
        &self,
        statement: impl FnOnce() -> Option<Statement> + Send,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        self.run_then(statement, on_row, Self::check_open_files).await
    }

    /// `check` runs after the statement, while the connection is open.
    async fn run_then(
        &self,
        statement: impl FnOnce() -> Option<Statement> + Send,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
        check: impl FnOnce(&Self) -> Result<(), StatementError> + Send,
    ) -> Result<u64, StatementError> {
        let mut guard = self.acquire().await?;
        let Some(statement) = statement() else {
            guard.release();
            return Ok(0);
        };
        guard.cached.is_clean = D::Driver::CANCEL_SAFE;
        let ran = self.statement_timeout.limit(guard.run(statement, on_row)).await;
        let ran = ran.and_then(|changed| check(self).map(|()| changed));
        guard.release();
        ran
    }

    async fn acquire(&self) -> Result<ConnectionGuard<'_, D>, StatementError> {
        let guard = async {
            let permit = self.permits.acquire().await;
            let permit = permit.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))?;
            let cached = lock(&self.cache).connections.pop();
            let cached = match cached {
                Some(cached) => cached,
                None => CachedConnection::new(D::Driver::acquire(&self.connections).await?),
            };
            Ok(ConnectionGuard { cached, is_reusable: true, pool: self, _permit: permit })
        };
        let guard = tokio::time::timeout(self.acquire_timeout, guard).await;
        guard.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout).into()).flatten()
    }
}

fn lost(problem: Option<String>) -> Result<(), StatementError> {
    problem.map_or(Ok(()), |problem| Err(StatementError::LostFiles(problem)))
}

impl<D: Dialect> CachedConnection<D> {
    fn new(connection: Box<dyn DriverConnection>) -> Self {
        let now = Instant::now();
        Self { connection: Some(connection), is_clean: true, acquired: now, idle_since: now, dialect: PhantomData }
    }

    fn connection(&mut self) -> Result<&mut (dyn DriverConnection + 'static), DbErr> {
        self.connection.as_deref_mut().ok_or(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))
    }
}

impl<D: Dialect> ConnectionGuard<'_, D> {
    /// Runs a statement that begins or ends a transaction. From then on one may be open.
    async fn simple_query(&mut self, sql: &'static str) -> Result<(), StatementError> {
        self.cached.is_clean = false;
        Ok(self.cached.connection()?.simple_query(sql).await?)
    }

    /// Ends the transaction with `sql`, and lets others use the connection. Returns an error if the database's files
    /// were lost meanwhile.
    pub(crate) async fn end(mut self, sql: &'static str) -> Result<(), StatementError> {
        self.simple_query(sql).await?;
        let checked = self.pool.check_open_files();
        self.release();
        checked
    }

    /// Lets others use the connection: no transaction is open on it.
    fn release(self) {
        let Self { mut cached, is_reusable, pool, _permit } = self;
        cached.is_clean = is_reusable || D::Driver::CANCEL_SAFE;
        if !(pool.caches && cached.is_clean && cached.acquired.elapsed() < KEEP_IN_ALL) {
            return;
        }
        cached.idle_since = Instant::now();
        let mut cache = lock(&pool.cache);
        cache.connections.push(cached);
        let has_reaper = std::mem::replace(&mut cache.has_reaper, true);
        // A runtime that is shutting down drops the task at once, which takes this lock.
        drop(cache);
        if !has_reaper {
            tokio::spawn(reap(Reaper(pool.cache.clone())));
        }
    }
}

/// Runs each statement as [`Pool::run`] does.
#[async_trait]
impl<D: Dialect> Executor for &Pool<D> {
    async fn run(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        Pool::run(self, || Some(statement), on_row).await
    }
}

#[async_trait]
impl<D: Dialect> Executor for ConnectionGuard<'_, D> {
    async fn run(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        check_size::<D>(self, &statement).await?;
        let was_reusable = std::mem::replace(&mut self.is_reusable, false);
        let ran = self.cached.connection()?.run(statement, on_row).await.map_err(StatementError::from);
        self.is_reusable = was_reusable && ran.as_ref().err().is_none_or(leaves_connection_usable::<D>);
        ran
    }
}

/// Returns idle connections to the driver's pool, until none is left.
async fn reap<D: Dialect>(reaper: Reaper<D>) {
    let Reaper(cache) = &reaper;
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let is_idle = |cached: &mut CachedConnection<D>| cached.idle_since.elapsed() >= KEEP_IDLE;
        let idle: Vec<CachedConnection<D>> = lock(cache).connections.extract_if(.., is_idle).collect();
        drop(idle);
        let mut cache = lock(cache);
        if cache.connections.is_empty() {
            cache.has_reaper = false;
            return;
        }
    }
}

/// What [`reap`] works with. Its runtime may end before it begins.
struct Reaper<D: Dialect>(Arc<Mutex<Cache<D>>>);

impl<D: Dialect> Drop for Reaper<D> {
    /// Another reaper may run by now. Two of them do no harm.
    fn drop(&mut self) {
        lock(&self.0).has_reaper = false;
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
