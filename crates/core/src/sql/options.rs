//! How to reach a database, and which tables to use there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr};

use super::dialect::Dialect;
use super::driver::{Driver, in_runtime};
use super::error::{StatementError, classify};
use super::schema::dialect::SchemaRisk;
use super::servers::{Servers, end};
use super::tables::Tables;
use super::target::{Address, TargetServer, UrlOptions};
use crate::event::adk_check::AdkCheck;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How long an operation waits for a connection, pooled or new. A server that restarts is back sooner; callers learn
/// within seconds that a server is down.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// `None` for the usual.
    pub(super) failover_patience: Option<Duration>,
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
    /// [`CommitUnknown`](BackendErrorKind::CommitUnknown). Operations in a transaction of your own have no such limit. A
    /// delete of a session with more than 1,000 events has the limit for each 1,000 of them, unless you set one: then that
    /// is for all of it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets operations wait for a server that is gone for as long as a failover takes: each is tried again until
    /// `patience` is over, where it would otherwise end in [`Unavailable`](BackendErrorKind::Unavailable) after a few
    /// seconds. The limit on a call is as long at least, unless [`with_timeout`](Self::with_timeout) sets it; a call
    /// never exceeds that one. While a write waits, others that queue up behind it wait too.
    pub fn with_failover_patience(mut self, patience: Duration) -> Self {
        self.failover_patience = Some(patience);
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
pub struct ConnectOptions<D: Dialect> {
    /// The driver's options: host, credentials, TLS, and what the dialect sets. They are for all servers that a URL
    /// names; the host and the port are those of the first.
    pub driver: <D::Driver as Driver>::Options,
    others: Vec<Address>,
    target: TargetServer,
    session_settings: Vec<(String, String)>,
    /// The pool's options: number of connections and timeouts. Its URL is not used.
    pub pool: sea_orm::ConnectOptions,
    /// How the service uses the database.
    pub service: ServiceOptions,
}

impl<D: Dialect> Clone for ConnectOptions<D> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver.clone(),
            others: self.others.clone(),
            target: self.target,
            session_settings: self.session_settings.clone(),
            pool: self.pool.clone(),
            service: self.service.clone(),
        }
    }
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
        let UrlOptions { options: driver, others, target } = D::Driver::options(url.trim())?;
        Ok(Self { driver, others, target, session_settings: Vec::new(), pool, service: ServiceOptions::new() })
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

    /// Sets settings of the server on each new connection, as `("wsrep_sync_wait", "1")` on a Galera cluster, in the
    /// order given. Seabed's own settings come after them. A pooler that gives connections of the server's to several
    /// clients in turn must not stand in between.
    ///
    /// A name consists of ASCII letters, digits, underscores and dots, and a value holds no backslash and no control
    /// character; [`open`](Self::open) refuses others with [`Invalid`](Error::Invalid), and all of them for SQLite, whose
    /// pragmas [`with_driver`](Self::with_driver) sets. It fails with
    /// [`Unexpected`](BackendErrorKind::Unexpected) if the server rejects a setting.
    pub fn with_session_settings<N: Into<String>, V: Into<String>>(
        mut self,
        settings: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.session_settings.extend(settings.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets the largest number of connections; 10 by default. Connections are opened when they are needed: a service
    /// with one writer at a time has one.
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

    /// See [`ServiceOptions::with_failover_patience`].
    pub fn with_failover_patience(self, patience: Duration) -> Self {
        self.with_service(|service| service.with_failover_patience(patience))
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
    /// so that a wrong address or password is reported by its cause and not as a timeout of the pool. Of several
    /// servers, the pool stays with the one that was found; only a service that
    /// [`connect_with`](super::SqlSessionService::connect_with) returns moves on to another one.
    ///
    /// # Errors
    /// Backend errors of kind [`Unavailable`](BackendErrorKind::Unavailable) for a server that does not answer within
    /// the acquire timeout, or has too many clients, [`Unexpected`](BackendErrorKind::Unexpected) for one that refuses,
    /// and [`Schema`](BackendErrorKind::Schema) for a file that does not exist.
    pub async fn open(self) -> Result<DatabaseConnection> {
        Ok(self.open_at().await?.0)
    }

    /// Opens a pool, and returns the servers as well.
    pub(super) async fn open_at(self) -> Result<(DatabaseConnection, Servers<D>)> {
        in_runtime()?;
        let timeout = self.pool.get_acquire_timeout().unwrap_or(ACQUIRE_TIMEOUT);
        let settings = statements::<D>(&self.session_settings)?;
        let servers = Servers::<D>::new(self.driver, &self.others, self.target, settings.clone());
        match servers.connect_at_once(timeout).await {
            Ok(connection) => {
                end(connection).await;
                let pool = D::Driver::open_pool(servers.current().clone(), self.pool, settings);
                Ok((pool, servers))
            }
            Err(error) => {
                let (kind, advice) = connect_problem::<D>(servers.current(), &error);
                let message = format!("cannot connect to {}: {advice}", servers.addresses());
                Err(BackendError::new(kind, message).with_source(error.into_source()).into())
            }
        }
    }
}

/// The statements that set settings of a connection.
fn statements<D: Dialect>(settings: &[(String, String)]) -> Result<String> {
    let statement = |(name, value): &(String, String)| {
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '.';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(Error::invalid(
                "session_settings",
                "a name is not ASCII letters, digits, underscores and dots",
            ));
        }
        if value.contains(|char: char| char == '\\' || char.is_control()) {
            return Err(Error::invalid("session_settings", format!("{name} has a backslash or a control character")));
        }
        D::session_setting(name, value)
            .ok_or_else(|| Error::invalid("session_settings", "are for servers; SQLite has pragmas (with_driver)"))
    };
    settings.iter().map(statement).collect::<Result<Vec<_>>>().map(|statements| statements.join("; "))
}

/// What the failure of a connection means, and what to do about it.
fn connect_problem<D: Dialect>(
    options: &<D::Driver as Driver>::Options,
    error: &StatementError,
) -> (BackendErrorKind, String) {
    let of_driver = match error {
        StatementError::Database(DbErr::Conn(error)) => D::Driver::advice(error),
        _ => None,
    };
    if let StatementError::Database(error) = error
        && let Some(problem) = D::Driver::connect_problem(options, error)
    {
        return problem;
    }
    let kind = classify::<D>(error);
    let advice = match (error, kind) {
        (StatementError::OtherServer { .. }, _) => error.to_string(),
        (StatementError::Database(DbErr::ConnectionAcquire(_)), _) => "no answer in time".to_owned(),
        (StatementError::Database(DbErr::Exec(_)), _) => {
            "the server rejects a setting of with_session_settings, or it is none of the session".to_owned()
        }
        _ if of_driver.is_some() => of_driver.unwrap_or_default().to_owned(),
        (_, BackendErrorKind::Contention) => "others keep the database locked".to_owned(),
        (_, BackendErrorKind::Unavailable) => {
            "is the server up (for SQLite: may the file and its folder be written), and the address right?".to_owned()
        }
        _ => "check user, password, database name and TLS settings".to_owned(),
    };
    // Contention is that of a SQLite file which others kept locked for as long as a connection is waited for.
    let may_pass = matches!(kind, BackendErrorKind::Unavailable | BackendErrorKind::Contention);
    (if may_pass { BackendErrorKind::Unavailable } else { BackendErrorKind::Unexpected }, advice)
}
