//! How to reach a database, and which tables to use there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr};

use super::dialect::Dialect;
use super::driver::{Driver, in_runtime};
use super::error::classify;
use super::schema::dialect::SchemaRisk;
use super::tables::Tables;
use crate::event::adk_check::AdkCheck;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How long an operation waits for a connection, pooled or new. A server that restarts is back sooner; callers learn
/// within seconds that a server is down.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a connection is tried again while others are in the way.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Twice the cores of a small server, and a tenth of what PostgreSQL admits by default.
const MAX_CONNECTIONS: u32 = 10;
/// A connection that was idle for longer is tested before its next use. Testing each time would cost every operation a
/// round trip.
const TEST_IF_IDLE_FOR: Duration = Duration::from_secs(1);

/// How a service uses its database: which tables, which risks of their schema it accepts, how long a statement may
/// take, how large a state may be, and whether google-adk must be able to read the events.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ServiceOptions {
    pub(super) tables: Tables,
    pub(super) accepted_risks: Vec<SchemaRisk>,
    /// `None` for the driver's default.
    pub(super) statement_timeout: Option<Duration>,
    /// `None` for the statement timeout.
    pub(super) timeout: Option<Duration>,
    pub(super) shares_pool: bool,
    /// `None` for the default.
    pub(super) max_state_bytes: Option<usize>,
    /// `None` for the default.
    pub(super) max_session_bytes: Option<usize>,
    pub(super) adk_check: AdkCheck,
}

impl ServiceOptions {
    /// The options for google-adk's own tables and readers, with no risks accepted and the driver's statement timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the schema of the tables; see [`Tables::with_schema`]. By default the database looks them up, as any
    /// unqualified name.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.tables = self.tables.with_schema(schema);
        self
    }

    /// Sets the prefix of the tables' names, as `bot_` in `bot_sessions`: at most 30 lower-case ASCII letters, digits
    /// and underscores.
    pub fn with_table_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tables = self.tables.with_prefix(prefix);
        self
    }

    /// Sets the schema and the prefix at once.
    pub fn with_tables(mut self, tables: Tables) -> Self {
        self.tables = tables;
        self
    }

    /// Accepts tables with `risk`, which a service otherwise refuses. [`SchemaRisk`] says what the risk is.
    pub fn accept_risk(mut self, risk: SchemaRisk) -> Self {
        self.accepted_risks.push(risk);
        self
    }

    /// Sets the limit on a statement, or on all statements of one transaction; 30 seconds by default, a minute on
    /// SQLite. An operation that exceeds the limit ends in [`Unavailable`](BackendErrorKind::Unavailable) or
    /// [`CommitUnknown`](BackendErrorKind::CommitUnknown). On the connections of `connect` and `open`, a wait for a
    /// lock that another connection holds ends after at most 10 seconds on a server, and after at most 30 seconds on
    /// SQLite.
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// Sets the limit on a call, as long as the statement timeout by default. All that a caller waits for counts: its
    /// turn, a connection, locks, attempts that fail. A call that exceeds the limit ends less than a second later: in
    /// [`Unavailable`](BackendErrorKind::Unavailable) if nothing of it is stored, or will be, and otherwise in
    /// [`CommitUnknown`](BackendErrorKind::CommitUnknown). Operations in a transaction of your own have no such limit.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the limit on the state of a session, an app or a user: bytes of JSON text, 4 MiB by default, which every
    /// database can read back with its default settings. A write after which a state would be larger is refused with
    /// [`TooLarge`](BackendErrorKind::TooLarge), and stores nothing. (In your own transaction part of it may be there: roll
    /// back.) States that other programs made larger are read all the same.
    pub fn with_max_state_bytes(mut self, bytes: usize) -> Self {
        self.max_state_bytes = Some(bytes);
        self
    }

    /// Sets the limit on the events that one [`get_session`](crate::SessionService::get_session) reads: bytes of JSON
    /// text, 256 MiB by default. A session with more is refused with [`TooLarge`](BackendErrorKind::TooLarge).
    /// [`list_events`](crate::SessionService::list_events) reads it page by page, and `get_session` reads part of it,
    /// if asked for recent events only.
    pub fn with_max_session_bytes(mut self, bytes: usize) -> Self {
        self.max_session_bytes = Some(bytes);
        self
    }

    /// Makes [`from_connection_with`](super::SqlSessionService::from_connection_with) run its statements on the
    /// connections of your pool, instead of opening others with the same options. Use it where the server admits few
    /// connections, where what the service needs is set on each connection by a statement (an attached database of SQLite,
    /// for example), or where the pool's credentials change.
    ///
    /// A connection then comes as your program left it. What runs in a transaction that is still open is acknowledged,
    /// and lost when that transaction rolls back. After `SET search_path`, `SET ROLE`, `USE`, or next to a temporary
    /// table, statements find other tables. So leave nothing behind on a connection, and run each `begin` in a task
    /// instead of dropping its future: sqlx 0.9 does not notice such a transaction.
    pub fn with_shared_pool(mut self) -> Self {
        self.shares_pool = true;
        self
    }

    /// Lets the service store events that google-adk cannot read, for a database that no Python agent reads.
    ///
    /// By default, an append is refused with [`Invalid`](Error::Invalid) if google-adk 2.13 could not read its event:
    /// content that is a plain string, a key that google-adk does not know in a part or in `actions`, a value of
    /// another type. google-adk could not read the session from then on. Events that are in the store already are not
    /// checked.
    pub fn without_adk_check(mut self) -> Self {
        self.adk_check = AdkCheck::Off;
        self
    }
}

/// How to connect to a database of dialect `D`: what the driver needs, the size and times of the pool, and how the
/// service uses it.
///
/// Parsed from a URL: `url.parse::<ConnectOptions<_>>()`.
#[derive(Clone)]
pub struct ConnectOptions<D: Dialect> {
    /// The driver's options: host, credentials, TLS, and what the dialect sets.
    pub driver: <D::Driver as Driver>::Options,
    /// The pool's options: number of connections and timeouts. Its URL is not used.
    pub pool: sea_orm::ConnectOptions,
    /// How the service uses the database.
    pub service: ServiceOptions,
}

impl<D: Dialect> FromStr for ConnectOptions<D> {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] without the URL, which may hold a password.
    fn from_str(url: &str) -> Result<Self> {
        if !D::Driver::is_url(url) {
            let schemes = D::Driver::URL_SCHEMES.join(": or ");
            return Err(Error::invalid("url", format!("does not begin with {schemes}:")));
        }
        let mut pool = sea_orm::ConnectOptions::new("");
        pool.max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        pool.test_before_acquire_if_idle_for(TEST_IF_IDLE_FOR);
        Ok(Self { driver: D::Driver::options(url.trim())?, pool, service: ServiceOptions::new() })
    }
}

impl<D: Dialect> fmt::Debug for ConnectOptions<D> {
    /// Without the driver's options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("pool", &self.pool)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl<D: Dialect> ConnectOptions<D> {
    /// Whether `url` is one of such a database, by its scheme.
    pub fn is_url(url: &str) -> bool {
        D::Driver::is_url(url)
    }

    /// Sets the driver's options to those that `change` returns.
    pub fn with_driver(
        mut self,
        change: impl FnOnce(<D::Driver as Driver>::Options) -> <D::Driver as Driver>::Options,
    ) -> Self {
        self.driver = change(self.driver);
        self
    }

    /// Sets the largest number of connections; 10 by default.
    pub fn with_max_connections(mut self, count: u32) -> Self {
        self.pool.max_connections(count);
        self
    }

    /// Sets the limit on the wait for a connection, pooled or new; 5 seconds by default.
    pub fn with_acquire_timeout(mut self, timeout: Duration) -> Self {
        self.pool.acquire_timeout(timeout);
        self
    }

    /// Sets the service's options to those that `change` returns.
    pub fn with_service(mut self, change: impl FnOnce(ServiceOptions) -> ServiceOptions) -> Self {
        self.service = change(self.service);
        self
    }

    /// See [`ServiceOptions::with_schema`].
    pub fn with_schema(self, schema: impl Into<String>) -> Self {
        self.with_service(|service| service.with_schema(schema))
    }

    /// See [`ServiceOptions::with_table_prefix`].
    pub fn with_table_prefix(self, prefix: impl Into<String>) -> Self {
        self.with_service(|service| service.with_table_prefix(prefix))
    }

    /// See [`ServiceOptions::with_statement_timeout`].
    pub fn with_statement_timeout(self, timeout: Duration) -> Self {
        self.with_service(|service| service.with_statement_timeout(timeout))
    }

    /// See [`ServiceOptions::with_timeout`].
    pub fn with_timeout(self, timeout: Duration) -> Self {
        self.with_service(|service| service.with_timeout(timeout))
    }

    /// See [`ServiceOptions::with_max_state_bytes`].
    pub fn with_max_state_bytes(self, bytes: usize) -> Self {
        self.with_service(|service| service.with_max_state_bytes(bytes))
    }

    /// See [`ServiceOptions::with_max_session_bytes`].
    pub fn with_max_session_bytes(self, bytes: usize) -> Self {
        self.with_service(|service| service.with_max_session_bytes(bytes))
    }

    /// See [`ServiceOptions::without_adk_check`].
    pub fn without_adk_check(self) -> Self {
        self.with_service(ServiceOptions::without_adk_check)
    }

    /// See [`ServiceOptions::accept_risk`].
    pub fn accept_risk(self, risk: SchemaRisk) -> Self {
        self.with_service(|service| service.accept_risk(risk))
    }

    /// Opens a pool whose connections suit the algorithms. It does not check the tables. It first tries one connection,
    /// so that a wrong address or password is reported by its cause and not as a timeout of the pool.
    ///
    /// # Errors
    /// Backend errors of kind [`Unavailable`](BackendErrorKind::Unavailable) for a server that does not answer within
    /// the acquire timeout, [`Unexpected`](BackendErrorKind::Unexpected) for one that refuses, and
    /// [`Schema`](BackendErrorKind::Schema) for a file that does not exist.
    pub async fn open(self) -> Result<DatabaseConnection> {
        in_runtime()?;
        let timeout = self.pool.get_acquire_timeout().unwrap_or(ACQUIRE_TIMEOUT);
        let address = D::Driver::address(&self.driver);
        let cannot = |kind, advice: &str| BackendError::new(kind, format!("cannot connect to {address}: {advice}"));
        match tokio::time::timeout(timeout, connect_once::<D>(&self.driver)).await {
            Ok(Ok(())) => Ok(D::Driver::open_pool(self.driver, self.pool)),
            Ok(Err(error)) => {
                let (kind, advice) = connect_problem::<D>(&self.driver, &error);
                Err(cannot(kind, &advice).with_source(error).into())
            }
            Err(_) => Err(cannot(BackendErrorKind::Unavailable, "no answer in time").into()),
        }
    }
}

/// Connects once, as soon as nobody is in the way. Of several that open a new SQLite file, one sets its journal mode,
/// and SQLite tells the others at once that it is locked.
async fn connect_once<D: Dialect>(options: &<D::Driver as Driver>::Options) -> Result<(), DbErr> {
    loop {
        match D::Driver::try_connect(options).await {
            Err(error) if classify::<D>(&error.clone().into()) == BackendErrorKind::Contention => {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            ended => return ended,
        }
    }
}

/// What the failure of a connection means, and what to do about it.
fn connect_problem<D: Dialect>(options: &<D::Driver as Driver>::Options, error: &DbErr) -> (BackendErrorKind, String) {
    if let Some(problem) = D::Driver::connect_problem(options, error) {
        return problem;
    }
    let (kind, advice) = if classify::<D>(&error.clone().into()) == BackendErrorKind::Unavailable {
        let advice = "is the server up (for SQLite: may the file and its folder be written), and the address right?";
        (BackendErrorKind::Unavailable, advice)
    } else {
        (BackendErrorKind::Unexpected, "check user, password, database name and TLS settings")
    };
    (kind, advice.to_owned())
}
