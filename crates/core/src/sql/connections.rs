//! Where the connections of a service come from, and for how long it keeps them.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use sea_orm::{DatabaseConnection, DbErr};
use tokio::time::{Instant, sleep};

use super::dialect::Dialect;
use super::driver::{Driver, DriverConnection, PoolLimits};
use super::error::StatementError;
use super::servers::{Connected, Servers, end};
use super::target::TargetServer;

/// How long a connection of a shared pool is kept that nobody uses: long enough for a caller who makes one call after
/// the other.
const KEEP_IDLE: Duration = Duration::from_millis(2);
/// How long it is kept in all, so that other users of the pool get their turn under any load.
const KEEP_IN_ALL: Duration = Duration::from_millis(20);
/// A driver's pool that gives no connection for so long may be hiding why.
const ASK_WHY_AFTER: Duration = Duration::from_millis(250);

/// The source of a service's connections.
pub(crate) struct Connections<D: Dialect> {
    /// sea-orm's pool: of others, who share it, or of nobody.
    driver_pool: DatabaseConnection,
    source: Source<D>,
}

enum Source<D: Dialect> {
    /// The servers themselves.
    Servers(Servers<D>),
    /// A pool that nobody else uses, and whose connections have options and hooks of the user's. It makes connections,
    /// and does not get them back. Its servers are asked for what it hides.
    Sibling(Servers<D>),
    /// A pool whose other users want their turn, or one of a driver in this process: a connection keeps its place there
    /// until its statement has ended.
    Shared,
}

/// For how long connections are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// While nobody uses them; `None` for any time.
    pub(crate) idle: Option<Duration>,
    /// In all; `None` for any time.
    in_all: Option<Duration>,
}

impl Keep {
    /// Whether a connection is kept no longer that was opened, or taken out of a shared pool, at `acquired`.
    pub(crate) fn is_over(self, acquired: Instant) -> bool {
        self.in_all.is_some_and(|in_all| acquired.elapsed() >= in_all)
    }
}

impl<D: Dialect> Connections<D> {
    /// Connections of the service's own; `driver_pool` is for other uses, except in this process.
    pub(crate) fn to_servers(driver_pool: DatabaseConnection, servers: Servers<D>) -> Self {
        if D::Driver::CANCEL_SAFE {
            return Self::out_of_shared(driver_pool);
        }
        Self { driver_pool, source: Source::Servers(servers) }
    }

    /// Connections as those of `driver_pool`, which nobody else uses.
    pub(crate) fn out_of_sibling(driver_pool: DatabaseConnection) -> Self {
        if D::Driver::CANCEL_SAFE {
            return Self::out_of_shared(driver_pool);
        }
        let options = D::Driver::pool_options(&driver_pool);
        let servers = Servers::new(options, &[], TargetServer::Any, String::new());
        Self { driver_pool, source: Source::Sibling(servers) }
    }

    /// Connections that go back to `driver_pool` soon.
    pub(crate) fn out_of_shared(driver_pool: DatabaseConnection) -> Self {
        Self { driver_pool, source: Source::Shared }
    }

    pub(crate) fn driver_pool(&self) -> &DatabaseConnection {
        &self.driver_pool
    }

    pub(crate) fn limits(&self) -> PoolLimits {
        D::Driver::pool_limits(&self.driver_pool)
    }

    /// Whether others wait for the connections.
    pub(crate) fn are_shared(&self) -> bool {
        matches!(self.source, Source::Shared)
    }

    pub(crate) fn keep(&self) -> Keep {
        let limits = self.limits();
        match self.source {
            Source::Servers(_) | Source::Sibling(_) => Keep { idle: limits.idle_timeout, in_all: limits.max_lifetime },
            // All other users of the pool would have to wait for its only connection.
            Source::Shared if limits.max_connections == 1 => Keep { idle: None, in_all: Some(Duration::ZERO) },
            Source::Shared => Keep { idle: Some(KEEP_IDLE), in_all: Some(KEEP_IN_ALL) },
        }
    }

    /// Opens a connection, or takes one out of the shared pool.
    pub(crate) async fn connect(&self, within: Duration) -> Connected {
        match &self.source {
            Source::Servers(servers) => {
                let before = servers.place();
                let connection = servers.connect(within).await?;
                if servers.place() != before {
                    D::Driver::redirect(&self.driver_pool, servers.current().clone());
                }
                Ok(connection)
            }
            Source::Sibling(servers) => {
                let acquired = pin!(D::Driver::acquire(&self.driver_pool));
                match select(acquired, pin!(refusal(servers, within))).await {
                    Either::Left((acquired, _)) => Ok(acquired?.detach()),
                    Either::Right((error, _)) => Err(error),
                }
            }
            Source::Shared => Ok(D::Driver::acquire(&self.driver_pool).await?),
        }
    }

    /// Whether an open connection answers, and is one to a server that is wanted.
    pub(crate) async fn is_usable(&self, connection: &mut dyn DriverConnection) -> Result<bool, DbErr> {
        match &self.source {
            Source::Servers(servers) | Source::Sibling(servers) => servers.is_usable(connection).await,
            Source::Shared => connection.ping().await.map(|()| true),
        }
    }
}

/// Why the driver's pool gives no connection, if the server refuses one. The pool repeats what may pass, and tells its
/// callers nothing but that it took too long.
async fn refusal<D: Dialect>(servers: &Servers<D>, within: Duration) -> StatementError {
    sleep(ASK_WHY_AFTER).await;
    match servers.connect(within.saturating_sub(ASK_WHY_AFTER)).await {
        Err(error) => error,
        Ok(connection) => {
            end(connection).await;
            pending().await
        }
    }
}
