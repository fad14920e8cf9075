//! Connections that are used again without a way through the pool, and in what state they go back to it.
//!
//! The pool tests each connection that comes back, which costs the server a round trip, and hands out the one that was idle
//! for longest, whose caches are the coldest. So a connection that has served well is held for a moment, and the next
//! statement or transaction takes the one that was used last.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{ConnAcquireErr, DatabaseConnection, DbErr, QueryResult, Statement};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::failure::is_everyday;
use super::patience::{Patience, answers};
use super::{Dialect, DriverConnection};

/// How long an idle connection is held: a caller who makes one call after the other is sooner.
const KEEP_IDLE: Duration = Duration::from_millis(2);
/// How long a connection is held in all, so that others who wait for the pool have their turn however busy this is.
const KEEP_IN_ALL: Duration = Duration::from_millis(20);

/// The connections of one service.
pub(super) struct Connections<D: Dialect> {
    pool: DatabaseConnection,
    idle: Arc<Mutex<Idle<D>>>,
    /// As many places as the pool has connections, so that one that comes free here is waited for here.
    places: Semaphore,
    /// How long a connection is waited for: as long as the pool lets its callers wait.
    acquire_timeout: Duration,
    /// The only connection of a pool is not held: whoever else uses the pool would wait for it.
    holds: bool,
    /// How long a statement may take.
    statement: Patience,
}

/// Connections that are held and not used.
struct Idle<D: Dialect> {
    /// The one that was used last is the last.
    held: Vec<Held<D>>,
    /// Whether a task looks after them.
    is_watched: bool,
}

/// A connection on its way from use to use.
struct Held<D: Dialect> {
    /// `None` only while it is dropped.
    connection: Option<Box<dyn DriverConnection>>,
    /// Whether the server has answered all that it was asked, and no transaction is open.
    is_settled: bool,
    taken: Instant,
    idle_since: Instant,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> Drop for Held<D> {
    /// Gives it back to the pool in order, or closes it: a server that has not answered may never do so, the driver loses count of the
    /// answers when it is dropped midway, the pool takes an open transaction for none, and its own test waits for as long as the
    /// operating system does.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match (Handle::try_current(), D::DROPS_STATEMENTS_SAFELY, self.is_settled) {
            // The pool, too, would want a runtime.
            (Err(_), ..) | (Ok(_), false, false) => connection.close(),
            (Ok(_), true, true) => {}
            (Ok(runtime), true, false) => drop(runtime.spawn(async move {
                // An error says that no transaction is open.
                let _: Result<(), DbErr> = connection.command("ROLLBACK").await;
            })),
            (Ok(runtime), false, true) => drop(runtime.spawn(async move {
                if !answers(connection.ping()).await.unwrap_or(false) {
                    connection.close();
                }
            })),
        }
    }
}

/// A connection in use, and its place.
pub(super) struct Lease<'a, D: Dialect> {
    held: Held<D>,
    /// Whether nothing has happened on it that the next user might meet again.
    is_sound: bool,
    home: &'a Connections<D>,
    _place: SemaphorePermit<'a>,
}

/// No change can panic halfway, so a poisoned list is whole.
fn lock<D: Dialect>(idle: &Mutex<Idle<D>>) -> MutexGuard<'_, Idle<D>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Dialect> Connections<D> {
    pub(super) fn new(pool: DatabaseConnection, statement: Patience) -> Self {
        let limits = D::pool_limits(&pool);
        let most = usize::try_from(limits.max_connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            pool,
            idle: Arc::new(Mutex::new(Idle { held: Vec::new(), is_watched: false })),
            places: Semaphore::new(most),
            acquire_timeout: limits.acquire_timeout,
            holds: most > 1,
            statement,
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
        lease.held.is_settled = D::DROPS_STATEMENTS_SAFELY;
        let ran = self.statement.wait(lease.run(statement, each)).await.flatten();
        lease.end();
        ran
    }

    /// A connection on which a command has begun a transaction.
    ///
    /// When the future is dropped, or the lease, the transaction is rolled back.
    pub(super) async fn begin(&self) -> Result<Lease<'_, D>, DbErr> {
        let mut lease = self.lease().await?;
        match self.statement.wait(lease.command(D::BEGIN)).await.flatten() {
            Ok(()) => Ok(lease),
            Err(error) => {
                if is_everyday::<D>(&error) {
                    lease.end();
                }
                Err(error)
            }
        }
    }

    async fn lease(&self) -> Result<Lease<'_, D>, DbErr> {
        let lease = async {
            let place = self.places.acquire().await;
            let place = place.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))?;
            let held = lock(&self.idle).held.pop();
            let held = if let Some(held) = held { held } else { Held::new(D::take_connection(&self.pool).await?) };
            Ok(Lease { held, is_sound: true, home: self, _place: place })
        };
        let lease = tokio::time::timeout(self.acquire_timeout, lease).await;
        lease.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)).flatten()
    }
}

impl<D: Dialect> Held<D> {
    fn new(connection: Box<dyn DriverConnection>) -> Self {
        let now = Instant::now();
        Self { connection: Some(connection), is_settled: true, taken: now, idle_since: now, dialect: PhantomData }
    }

    fn connection(&mut self) -> Result<&mut (dyn DriverConnection + 'static), DbErr> {
        self.connection.as_deref_mut().ok_or(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))
    }
}

impl<D: Dialect> Lease<'_, D> {
    /// Runs a statement, hands on its rows as they come, and returns how many rows it changed.
    pub(super) async fn run(
        &mut self,
        statement: Statement,
        each: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, DbErr> {
        let was_sound = std::mem::replace(&mut self.is_sound, false);
        let ran = self.held.connection()?.run(statement, each).await;
        self.is_sound = was_sound && ran.as_ref().err().is_none_or(is_everyday::<D>);
        ran
    }

    /// Runs a command that begins or ends a transaction. From then on one may be open.
    pub(super) async fn command(&mut self, command: &'static str) -> Result<(), DbErr> {
        self.held.is_settled = false;
        self.held.connection()?.command(command).await
    }

    /// No transaction is open: the connection may serve others.
    pub(super) fn end(self) {
        let Self { mut held, is_sound, home, _place } = self;
        held.is_settled = is_sound || D::DROPS_STATEMENTS_SAFELY;
        if !(home.holds && held.is_settled && held.taken.elapsed() < KEEP_IN_ALL) {
            return;
        }
        held.idle_since = Instant::now();
        let mut idle = lock(&home.idle);
        idle.held.push(held);
        if !idle.is_watched {
            idle.is_watched = true;
            tokio::spawn(give_back(home.idle.clone()));
        }
    }
}

/// Gives connections back to the pool once they were idle for long enough, until none is left.
async fn give_back<D: Dialect>(idle: Arc<Mutex<Idle<D>>>) {
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let is_long_idle = |held: &mut Held<D>| held.idle_since.elapsed() >= KEEP_IDLE;
        let long_idle: Vec<Held<D>> = lock(&idle).held.extract_if(.., is_long_idle).collect();
        drop(long_idle);
        let mut idle = lock(&idle);
        if idle.held.is_empty() {
            idle.is_watched = false;
            return;
        }
    }
}
