//! How to reach a database.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::DatabaseConnection;

use super::failure::classify;
use super::{Dialect, Weakness};
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How long an operation waits for a connection, pooled or new. A server that restarts is back sooner, one that is down is told
/// of within seconds.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Twice the cores of a small server, and a tenth of what PostgreSQL admits by default.
const MAX_CONNECTIONS: u32 = 10;
/// A connection that was idle for longer is tested before its next use. Testing each time would cost every operation a
/// round trip.
const TEST_IF_IDLE_FOR: Duration = Duration::from_secs(1);

/// How to connect to a database of dialect `D`: what the driver needs, and the size and times of the pool.
///
/// Parsed from a URL: `url.parse::<ConnectOptions<_>>()`.
#[derive(Clone)]
pub struct ConnectOptions<D: Dialect> {
    /// The driver's options: host, credentials, TLS, and what the dialect sets.
    pub driver: D::Driver,
    /// The pool's options: number of connections and timeouts. Its URL is not used.
    pub pool: sea_orm::ConnectOptions,
    /// How long a statement, or the statements of one transaction, may take.
    pub(super) statement_timeout: Duration,
    /// What tables may have that cannot keep the laws.
    pub(super) accepted: Vec<Weakness>,
}

impl<D: Dialect> FromStr for ConnectOptions<D> {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] without the URL, which may hold a password.
    fn from_str(url: &str) -> Result<Self> {
        if !D::is_url(url) {
            return Err(Error::invalid("url", format!("does not begin with {}:", D::URL_SCHEMES.join(": or "))));
        }
        let mut pool = sea_orm::ConnectOptions::new("");
        pool.max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        pool.test_before_acquire_if_idle_for(TEST_IF_IDLE_FOR);
        Ok(Self {
            driver: D::driver_options(url)?,
            pool,
            statement_timeout: D::STATEMENT_TIMEOUT,
            accepted: Vec::new(),
        })
    }
}

impl<D: Dialect> fmt::Debug for ConnectOptions<D> {
    /// Without the driver's options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("pool", &self.pool)
            .field("statement_timeout", &self.statement_timeout)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

impl<D: Dialect> ConnectOptions<D> {
    /// The same with other driver options.
    pub fn with_driver(mut self, change: impl FnOnce(D::Driver) -> D::Driver) -> Self {
        self.driver = change(self.driver);
        self
    }

    /// The same with at most `count` connections; 10 by default.
    pub fn with_max_connections(mut self, count: u32) -> Self {
        self.pool.max_connections(count);
        self
    }

    /// The same with another limit on the wait for a connection, a pooled or a new one; 5 seconds by default.
    pub fn with_acquire_timeout(mut self, timeout: Duration) -> Self {
        self.pool.acquire_timeout(timeout);
        self
    }

    /// The same with another limit on what the server may take for a statement, or for the statements of one transaction; 30
    /// seconds by default, a minute on SQLite. An operation that meets the limit ends in
    /// [`Unavailable`](BackendErrorKind::Unavailable) or [`CommitUnknown`](BackendErrorKind::CommitUnknown). Locks that others
    /// hold are waited for for 10 seconds at most, each time.
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// The same for tables with `weakness`, which a service refuses otherwise. What it breaks then, [`Weakness`] says.
    pub fn with_accepted(mut self, weakness: Weakness) -> Self {
        self.accepted.push(weakness);
        self
    }

    /// Opens a pool whose connections suit the algorithms, without a look at the schema. One connection is tried at
    /// once, so that a wrong address or password is told by its cause and not as a timeout of the pool.
    ///
    /// # Errors
    /// Backend errors of kind [`Unavailable`](BackendErrorKind::Unavailable) for a server that does not answer within
    /// the acquire timeout, and [`Unexpected`](BackendErrorKind::Unexpected) for one that refuses.
    pub async fn open(self) -> Result<DatabaseConnection> {
        let timeout = self.pool.get_acquire_timeout().unwrap_or(ACQUIRE_TIMEOUT);
        let address = D::address(&self.driver);
        let cannot = |kind, advice| BackendError::new(kind, format!("cannot connect to {address}: {advice}"));
        match tokio::time::timeout(timeout, D::try_connection(&self.driver)).await {
            Ok(Ok(())) => Ok(D::open_pool(self)),
            Ok(Err(error)) => {
                let (kind, advice) = match classify::<D>(&error) {
                    BackendErrorKind::Unavailable => (
                        BackendErrorKind::Unavailable,
                        "is the server up (for SQLite: does the file exist), and the address right?",
                    ),
                    _ => (BackendErrorKind::Unexpected, "check user, password, database name and TLS settings"),
                };
                Err(cannot(kind, advice).with_source(error).into())
            }
            Err(_) => Err(cannot(BackendErrorKind::Unavailable, "no answer in time").into()),
        }
    }
}
