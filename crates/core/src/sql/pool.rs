//! Connections that are reused without a trip through the driver's pool, and the state in which they are given back.
//!
//! The driver's pool tests each connection that comes back, which costs a round trip, and hands out the connection that
//! was idle for longest, whose caches are the coldest. So a service keeps its connections itself, and the next
//! statement or transaction takes the one that was used last: a caller who makes one call after the other needs one.
//! Out of a pool that it shares with others, it keeps them for a moment only.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use sea_orm::{ConnAcquireErr, DbErr, QueryResult, Statement};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connections::{Connections, Keep};
use super::dialect::Dialect;
use super::driver::{DatabaseFiles, Driver, DriverConnection};
use super::error::{StatementError, classify, leaves_connection_usable};
use super::executor::{Executor, check_size};
use super::servers::end;
use super::timeout::{StatementTimeout, answers};
use crate::BackendErrorKind;

/// A connection that was idle for longer is tested before its next use. Testing each time would cost every operation a
/// round trip.
const TEST_IF_IDLE_FOR: Duration = Duration::from_secs(1);

/// The connections of one service.
pub(crate) struct Pool<D: Dialect> {
    shared: Arc<Shared<D>>,
    statement_timeout: StatementTimeout,
    files: Option<Arc<dyn DatabaseFiles>>,
}

/// What a service shares with those that were made from it.
struct Shared<D: Dialect> {
    connections: Connections<D>,
    cache: Arc<Mutex<Cache<D>>>,
    /// As many permits as the pool may have connections, so that a caller who waits gets a connection that comes back
    /// here.
    permits: Semaphore,
    most: u32,
    /// How long a caller waits for a connection.
    acquire_timeout: Duration,
    keep: Keep,
}

/// The connections that are kept and not in use.
struct Cache<D: Dialect> {
    /// The one used last is the last.
    connections: Vec<CachedConnection<D>>,
    /// Whether a task is giving back idle ones.
    has_reaper: bool,
    /// When a connection was last found broken. Those that were idle by then may be broken as well.
    suspect_since: Option<Instant>,
}

/// A connection between two uses.
struct CachedConnection<D: Dialect> {
    /// `None` only while it is dropped.
    connection: Option<Box<dyn DriverConnection>>,
    /// Whether the server has answered every request, and no transaction is open.
    is_clean: bool,
    /// Whether others wait for it in the driver's pool.
    is_shared: bool,
    acquired: Instant,
    idle_since: Instant,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> Drop for CachedConnection<D> {
    /// Gives the connection back in good order, or closes it. A server that has not answered may never answer, a driver
    /// may lose count of the answers when a statement is dropped midway, the driver's pool does not notice an open
    /// transaction, and its own test waits for as long as the operating system does.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let is_shared = self.is_shared;
        match (Handle::try_current(), D::Driver::CANCEL_SAFE, self.is_clean) {
            // The driver's pool needs a runtime as well.
            (Err(_), ..) | (Ok(_), false, false) => connection.close(),
            (Ok(_), true, true) if is_shared => {}
            (Ok(runtime), true, false) => drop(runtime.spawn(async move {
                // An error means that no transaction is open.
                let _: Result<(), DbErr> = connection.simple_query("ROLLBACK").await;
            })),
            (Ok(runtime), false, true) if is_shared => drop(runtime.spawn(async move {
                if !answers(connection.ping()).await.unwrap_or(false) {
                    connection.close();
                }
            })),
            (Ok(runtime), _, true) => drop(runtime.spawn(end(connection))),
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
        connections: Connections<D>,
        files: Option<Arc<dyn DatabaseFiles>>,
        statement_timeout: StatementTimeout,
    ) -> Self {
        let (limits, keep) = (connections.limits(), connections.keep());
        let most = limits.max_connections.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let shared = Shared {
            connections,
            cache: Arc::new(Mutex::new(Cache { connections: Vec::new(), has_reaper: false, suspect_since: None })),
            permits: Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)),
            most,
            acquire_timeout: limits.acquire_timeout,
            keep,
        };
        Self { shared: Arc::new(shared), statement_timeout, files }
    }

    /// The same connections, with another timeout.
    pub(crate) fn with_statement_timeout(&self, statement_timeout: StatementTimeout) -> Self {
        Self { shared: self.shared.clone(), statement_timeout, files: self.files.clone() }
    }

    pub(crate) fn connections(&self) -> &Connections<D> {
        &self.shared.connections
    }

    /// Lets nobody use a connection from now on, waits for those in use, and closes all.
    pub(crate) async fn close(&self) {
        // An error means that it is closed.
        let all = self.shared.permits.acquire_many(self.shared.most).await.ok();
        self.shared.permits.close();
        drop(all);
        let mut cached = std::mem::take(&mut lock(&self.shared.cache).connections);
        let ended = cached.iter_mut().filter(|cached| !cached.is_shared).filter_map(|cached| cached.connection.take());
        join_all(ended.map(end)).await;
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
        let ran = guard.autocommit(statement, on_row).await;
        // A file that is lost explains whatever else failed.
        let ran = check(self).and(ran);
        guard.release();
        ran
    }

    /// Takes a connection, one that is kept or a new one.
    pub(crate) async fn acquire(&self) -> Result<ConnectionGuard<'_, D>, StatementError> {
        let (shared, started) = (&*self.shared, Instant::now());
        let guard = async {
            let permit = shared.permits.acquire().await;
            let permit = permit.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))?;
            let cached = match shared.cached().await {
                Some(cached) => cached,
                None => shared.connect(shared.acquire_timeout.saturating_sub(started.elapsed())).await?,
            };
            Ok(ConnectionGuard { cached, is_reusable: true, pool: self, _permit: permit })
        };
        let guard = tokio::time::timeout(shared.acquire_timeout, guard).await;
        guard.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout).into()).flatten()
    }
}

impl<D: Dialect> Shared<D> {
    /// A connection that is kept and usable, the last used first.
    async fn cached(&self) -> Option<CachedConnection<D>> {
        loop {
            let (mut cached, suspect_since) = {
                let mut cache = lock(&self.cache);
                (cache.connections.pop()?, cache.suspect_since)
            };
            let is_suspect = suspect_since.is_some_and(|since| cached.idle_since <= since)
                || cached.idle_since.elapsed() >= TEST_IF_IDLE_FOR;
            if D::Driver::CANCEL_SAFE || !is_suspect || self.passes_test(&mut cached).await {
                return Some(cached);
            }
        }
    }

    /// Whether a connection may still be used. One that may not is closed without ado.
    async fn passes_test(&self, cached: &mut CachedConnection<D>) -> bool {
        cached.is_clean = false;
        let Ok(connection) = cached.connection() else { return false };
        let passes: Result<bool, StatementError> =
            StatementTimeout::CLEANUP.limit(async { Ok(self.connections.is_usable(connection).await?) }).await;
        cached.is_clean = passes.unwrap_or(false);
        cached.is_clean
    }

    async fn connect(&self, within: Duration) -> Result<CachedConnection<D>, StatementError> {
        let now = Instant::now();
        let connection = Some(self.connections.connect(within).await?);
        let is_shared = self.connections.are_shared();
        Ok(CachedConnection {
            connection,
            is_clean: true,
            is_shared,
            acquired: now,
            idle_since: now,
            dialect: PhantomData,
        })
    }
}

fn lost(problem: Option<String>) -> Result<(), StatementError> {
    problem.map_or(Ok(()), |problem| Err(StatementError::LostFiles(problem)))
}

impl<D: Dialect> CachedConnection<D> {
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

    /// Runs a statement in no transaction, within the statement timeout.
    pub(crate) async fn autocommit(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        self.cached.is_clean = D::Driver::CANCEL_SAFE;
        let ran = self.pool.statement_timeout.limit(self.run(statement, on_row)).await;
        self.cached.is_clean |= ran.is_ok();
        ran
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
    pub(crate) fn release(self) {
        let Self { mut cached, is_reusable, pool, _permit } = self;
        let shared = &*pool.shared;
        cached.is_clean = is_reusable || D::Driver::CANCEL_SAFE;
        let is_over = shared.keep.is_over(cached.acquired) || shared.permits.is_closed();
        if !cached.is_clean || is_over {
            return;
        }
        cached.idle_since = Instant::now();
        let mut cache = lock(&shared.cache);
        cache.connections.push(cached);
        let has_reaper = std::mem::replace(&mut cache.has_reaper, true);
        // A runtime that is shutting down drops the task at once, which takes this lock.
        drop(cache);
        if let Some(idle) = shared.keep.idle.filter(|_| !has_reaper) {
            tokio::spawn(reap(Reaper(Arc::downgrade(&shared.cache)), idle));
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
        if ran.as_ref().is_err_and(|error| classify::<D>(error) == BackendErrorKind::Unavailable) {
            lock(&self.pool.shared.cache).suspect_since = Some(Instant::now());
        }
        ran
    }
}

/// Gives back connections that were idle for so long, until none is left.
async fn reap<D: Dialect>(reaper: Reaper<D>, idle: Duration) {
    loop {
        tokio::time::sleep(idle).await;
        let Some(cache) = reaper.0.upgrade() else { return };
        let is_idle = |cached: &mut CachedConnection<D>| cached.idle_since.elapsed() >= idle;
        let connections: Vec<CachedConnection<D>> = lock(&cache).connections.extract_if(.., is_idle).collect();
        drop(connections);
        let mut cache = lock(&cache);
        if cache.connections.is_empty() {
            cache.has_reaper = false;
            return;
        }
    }
}

/// What [`reap`] works with. Its runtime may end before it begins.
struct Reaper<D: Dialect>(Weak<Mutex<Cache<D>>>);

impl<D: Dialect> Drop for Reaper<D> {
    /// Another reaper may run by now. Two of them do no harm.
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            lock(&cache).has_reaper = false;
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
