//! Connecting to one of several servers.
//!
//! The driver's pool knows one address, repeats a refused connection for as long as its callers wait, and hides what
//! the server said. So a service opens its connections itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sea_orm::{ConnAcquireErr, DbErr, QueryResult, Statement};
use tokio::time::{Instant, sleep, timeout};

use super::dialect::Dialect;
use super::driver::{Driver, DriverConnection};
use super::error::{StatementError, classify};
use super::target::{Address, TargetServer};
use super::timeout::StatementTimeout;
use crate::BackendErrorKind;

/// For how long a server is asked again that has too many clients. A caller wants to know that, and every attempt costs
/// such a server a process or a thread.
const FULL_SERVER_PATIENCE: Duration = Duration::from_secs(1);
/// The wait before the second attempt. It doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// What an open connection of the driver's is.
pub(crate) type Connected = Result<Box<dyn DriverConnection>, StatementError>;

/// The servers of one database.
pub(crate) struct Servers<D: Dialect> {
    /// How to reach each, in the order in which they are tried.
    options: Vec<<D::Driver as Driver>::Options>,
    target: TargetServer,
    /// Statements that each connection begins with; see [`Driver::connect`].
    settings: String,
    /// The place of the one that was found last, which is tried first.
    current: AtomicUsize,
}

impl<D: Dialect> Servers<D> {
    pub(crate) fn new(
        first: <D::Driver as Driver>::Options,
        others: &[Address],
        target: TargetServer,
        settings: String,
    ) -> Self {
        let others: Vec<_> = others.iter().map(|address| D::Driver::at(first.clone(), address)).collect();
        let options = [vec![first], others].concat();
        Self { options, target, settings, current: AtomicUsize::new(0) }
    }

    /// The options of the server that was found last.
    pub(crate) fn current(&self) -> &<D::Driver as Driver>::Options {
        &self.options[self.place()]
    }

    /// The place of that server.
    pub(crate) fn place(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Where these servers are, in words and without a password.
    pub(crate) fn addresses(&self) -> String {
        self.options.iter().map(D::Driver::address).collect::<Vec<_>>().join(" or ")
    }

    /// Connects to the server that is wanted. As long as there is time, waits for one that cannot be reached, such as
    /// one that restarts.
    pub(crate) async fn connect(&self, within: Duration) -> Connected {
        self.connect_while(within, |kind| kind == BackendErrorKind::Unavailable).await
    }

    /// Connects to the server that is wanted, and reports at once that it cannot be reached.
    pub(crate) async fn connect_at_once(&self, within: Duration) -> Connected {
        self.connect_while(within, |_| false).await
    }

    /// Connects, and tries again while `passes` says that the failure may pass. Contention always may: of several that
    /// open a new SQLite file, one sets its journal mode, and SQLite tells the others at once that it is locked.
    async fn connect_while(&self, within: Duration, passes: impl Fn(BackendErrorKind) -> bool) -> Connected {
        let (started, mut wait) = (Instant::now(), FIRST_WAIT);
        loop {
            let error = match self.connect_once(within.saturating_sub(started.elapsed())).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let kind = classify::<D>(&error);
            let patience = match &error {
                StatementError::Database(DbErr::Conn(error)) if D::Driver::has_too_many_clients(error) => {
                    within.min(FULL_SERVER_PATIENCE)
                }
                _ if kind == BackendErrorKind::Contention || passes(kind) => within,
                _ => return Err(error),
            };
            if started.elapsed() + wait >= patience {
                return Err(error);
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Tries each server once. An address that does not answer leaves time for the others.
    async fn connect_once(&self, within: Duration) -> Connected {
        let targets = self.target.in_order();
        let attempts = self.options.len() * targets.len();
        let within = within / u32::try_from(attempts).unwrap_or(u32::MAX);
        let first = self.place();
        let mut failed = DbErr::ConnectionAcquire(ConnAcquireErr::Timeout).into();
        for attempt in 0..attempts {
            let (pass, place) = (attempt / self.options.len(), (first + attempt) % self.options.len());
            match timeout(within, self.connect_to(place, targets[pass])).await {
                Ok(Ok(connection)) => {
                    self.current.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) if says_more::<D>(&error, &failed) => failed = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(failed)
    }

    async fn connect_to(&self, place: usize, target: TargetServer) -> Connected {
        let connected = D::Driver::connect(&self.options[place], &self.settings).await;
        let mut connection = connected.map_err(|error| match error {
            DbErr::Exec(reason) if D::Driver::classify(&reason) == BackendErrorKind::Unavailable => DbErr::Conn(reason),
            other => other,
        })?;
        if is_target::<D>(&mut *connection, target).await.map_err(of_connecting)? {
            return Ok(connection);
        }
        end(connection).await;
        Err(StatementError::OtherServer { wanted: self.target.name() })
    }

    /// Whether an open connection answers, and is still one to a server that is wanted: a primary may have become a
    /// standby.
    pub(crate) async fn is_usable(&self, connection: &mut dyn DriverConnection) -> Result<bool, DbErr> {
        if self.target.is_any() {
            connection.ping().await?;
            return Ok(true);
        }
        is_target::<D>(connection, self.target).await
    }
}

async fn is_target<D: Dialect>(connection: &mut dyn DriverConnection, target: TargetServer) -> Result<bool, DbErr> {
    if target.is_any() {
        return Ok(true);
    }
    Ok(role::<D>(connection).await?.is_none_or(|role| target.accepts(&role)))
}

/// No statement of a caller's was sent yet, so none may have run.
fn of_connecting(error: DbErr) -> DbErr {
    match error {
        DbErr::Exec(error) | DbErr::Query(error) => DbErr::Conn(error),
        other => other,
    }
}

/// What the server of a connection says that it is; `None` where there is no such question.
async fn role<D: Dialect>(connection: &mut dyn DriverConnection) -> Result<Option<String>, DbErr> {
    let Some(query) = D::ROLE_QUERY else { return Ok(None) };
    let mut role = None;
    let mut read = |row: QueryResult| role = D::Driver::text(&row, 0).ok().flatten().map(str::to_owned);
    connection.run(Statement::from_string(D::BACKEND, query), &mut read).await?;
    Ok(role)
}

/// Ends a connection that is in good order, and does not wait long for the server.
pub(crate) async fn end(connection: Box<dyn DriverConnection>) {
    // It is gone either way.
    let _: Result<(), StatementError> = StatementTimeout::CLEANUP.limit(async { Ok(connection.end().await?) }).await;
}

/// Whether the reason that one server gave tells the caller more than that of another: what a server answered says more
/// than that there was none, and that it refused more than that it was the wrong one.
fn says_more<D: Dialect>(error: &StatementError, than: &StatementError) -> bool {
    let rank = |error: &StatementError| match error {
        StatementError::Database(DbErr::ConnectionAcquire(_)) => 0,
        StatementError::Database(DbErr::Conn(error)) if D::Driver::was_rejected(error) => 3,
        StatementError::OtherServer { .. } => 2,
        _ => 1,
    };
    rank(error) > rank(than)
}
