//! A session service on a database: construction, and the traits, an operation a line.

mod delete;
mod directory;
mod history;
mod retention;
mod transactional;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::DatabaseConnection;
use tracing::Instrument;

use super::connections::Connections;
use super::database::Database;
use super::dialect::Dialect;
use super::driver::{Driver, in_runtime};
use super::error::{StatementError, statement_error};
use super::executor::Executor;
use super::identity::DatabaseIdentity;
use super::op::Sql;
use super::op::annotate::AnnotateOp;
use super::op::append::AppendOp;
use super::op::context::{Context, Settings};
use super::op::create::CreateOp;
use super::op::delete::DeleteOp;
use super::op::list;
use super::op::update_state::UpdateSharedStateOp;
use super::options::{ConnectOptions, ServiceOptions};
use super::schema::check::{check_schema, check_version, version_query};
use super::schema::dialect::SchemaRisk;
use super::tables::Tables;
use super::timeout::StatementTimeout;
use super::write::{LockMode, QueuePolicy, SharedKey, WriteOp, Writer, retry};
use crate::state::DEFAULT_MAX_STATE_BYTES;
use crate::validate::{NewAnnotations, NewEvent, NewSession, NewStateUpdate};
use crate::{
    AnnotateSession, AppName, AppendEvent, Appended, BackendError, BackendErrorKind, Clock, CreateSession,
    DeleteSession, Error, Event, EventCursor, GetSession, IdSource, ListEvents, ListSessions, Page, Result, Session,
    SessionCursor, SessionService, State, StateService, StateUpdated, SystemClock, UpdateState, UserKey, UuidV7,
};

/// How long a health check may take, the wait for a connection included.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many writes a batch holds at most: enough that the commit hardly counts, few enough that no caller waits for
/// long.
const BATCH_SIZE: usize = 64;

/// The default limit on the events that `get_session` reads: far more than a model takes in, and not more than a server
/// can spare for a call.
const DEFAULT_MAX_SESSION_BYTES: usize = 256 << 20;

/// A session service on a database of dialect `D`, reached through a sea-orm connection pool.
///
/// Clones share the pool. The backend crates name it `PostgresSessionService`, `MySqlSessionService` and
/// `SqliteSessionService`.
///
/// Write operations run in tokio tasks of their own, which continue when a caller's future is dropped. Writes of this
/// service and its clones that have to wait for each other are committed together. A service that
/// [`with_fast_paths`](Self::with_fast_paths) or [`with_statement_timeout`](Self::with_statement_timeout) returns
/// shares the pool, but not the queue of writes; [`close`](SessionService::close) closes the pool for all of them.
///
/// Calls need a tokio runtime with I/O and time enabled. Several runtimes may share a service. When one of them ends,
/// its calls and its connections end with it, and the calls of the others go on.
pub struct SqlSessionService<D: Dialect> {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    sql: Arc<Sql<D>>,
    context: Arc<Context<D>>,
    writer: Arc<Writer<Context<D>>>,
    identity: Arc<DatabaseIdentity>,
    /// The limit on a call; `None` for the statement timeout.
    timeout: Option<Duration>,
}

impl<D: Dialect> Clone for SqlSessionService<D> {
    fn clone(&self) -> Self {
        Self {
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            sql: self.sql.clone(),
            context: self.context.clone(),
            writer: self.writer.clone(),
            identity: self.identity.clone(),
            timeout: self.timeout,
        }
    }
}

impl<D: Dialect> fmt::Debug for SqlSessionService<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlSessionService")
            .field("backend", &D::BACKEND)
            .field("tables", &self.context.tables)
            .finish_non_exhaustive()
    }
}

impl<D: Dialect> SqlSessionService<D> {
    /// Opens a pool on `url` and checks that this crate supports the schema. Creates nothing.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a URL that cannot be parsed; backend errors of kind
    /// [`Unavailable`](crate::BackendErrorKind::Unavailable) for a server that does not answer, and of kind
    /// [`Schema`](crate::BackendErrorKind::Schema) for missing tables, an unknown version, tables of other programs, and
    /// whatever cannot keep the guarantees ([`SchemaRisk`]), by name. None of them holds the URL.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url.parse()?).await
    }

    /// Like [`connect`](Self::connect), with the backend's own options.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), and [`Invalid`](Error::Invalid) for a schema or a table prefix that is not
    /// a plain word.
    pub async fn connect_with(mut options: ConnectOptions<D>) -> Result<Self> {
        let service = options.service.clone();
        service.tables.check()?;
        if !D::Driver::CANCEL_SAFE {
            // The pool is for others. The service opens its own connections when it needs them.
            options.pool.min_connections(0);
        }
        let (pool, servers) = options.open_at().await?;
        let connections = Connections::to_servers(pool, servers);
        let is_lone = connections.limits().max_connections == 1;
        Self::on(connections, service, is_lone).await
    }

    /// Opens a pool like yours: to the same database, with the same options and hooks, and up to as many connections
    /// again. Nothing that your program does on its own connections reaches those of the service. [`close`] closes only
    /// the service's. A database in memory exists only inside its pool, so there the service shares yours, as it does
    /// after [`ServiceOptions::with_shared_pool`], and `close` closes it.
    ///
    /// The guarantees hold at READ COMMITTED and REPEATABLE READ. At SERIALIZABLE, writers of one row make each other
    /// fail, and may end in [`Contention`](crate::BackendErrorKind::Contention) after their retries. On MySQL, use
    /// strict mode and leave `autocommit` on (a service refuses other pools), and do not use `binlog_format = STATEMENT` at
    /// REPEATABLE READ.
    ///
    /// Statements run on the driver's connections, so sea-orm's metrics and its own spans do not see them.
    ///
    /// [`close`]: SessionService::close
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a pool of another database; backend errors of kind
    /// [`Schema`](crate::BackendErrorKind::Schema) as in [`connect`](Self::connect).
    pub async fn from_connection(connection: DatabaseConnection) -> Result<Self> {
        Self::from_connection_with(connection, ServiceOptions::new()).await
    }

    /// Like [`from_connection`](Self::from_connection), with options.
    ///
    /// # Errors
    /// Those of [`from_connection`](Self::from_connection), and [`Invalid`](Error::Invalid) for a schema or a table
    /// prefix that is not a plain word.
    pub async fn from_connection_with(connection: DatabaseConnection, options: ServiceOptions) -> Result<Self> {
        in_runtime()?;
        options.tables.check()?;
        if !D::Driver::owns(&connection) {
            return Err(Error::invalid("connection", format!("is not a pool of this driver for {:?}", D::BACKEND)));
        }
        let sibling = if options.shares_pool { None } else { D::Driver::sibling_pool(&connection) };
        let Some(sibling) = sibling else {
            let is_lone = D::Driver::pool_limits(&connection).max_connections == 1;
            return Self::on(Connections::out_of_shared(connection), options, is_lone).await;
        };
        let service = Self::on(Connections::out_of_sibling(sibling.clone()), options, false).await;
        if service.is_err() {
            // Nobody will use it, and its connections may keep others from the database's file.
            let _: Result<_, StatementError> =
                StatementTimeout::CLEANUP.limit(async { Ok(sibling.close_by_ref().await?) }).await;
        }
        service
    }

    /// `is_lone` says that no other connection of this process uses the database.
    async fn on(connections: Connections<D>, options: ServiceOptions, is_lone: bool) -> Result<Self> {
        let ServiceOptions { tables, accepted_risks, max_state_bytes, max_session_bytes, adk_check, .. } = options;
        let timeout = StatementTimeout(options.statement_timeout.unwrap_or(D::Driver::STATEMENT_TIMEOUT));
        // Before the first connection, so that a file that is replaced meanwhile is noticed.
        let files = D::Driver::files(connections.driver_pool());
        let database = Database::new(connections, files, timeout);
        let checked = check_schema(&database, &tables, &accepted_risks, is_lone).await?;
        let max_state_bytes = max_state_bytes.unwrap_or(DEFAULT_MAX_STATE_BYTES);
        let deletes_own_rows = checked.has_own_tables && !D::ENFORCES_FOREIGN_KEYS;
        let fast_paths = !checked.risks.contains(&SchemaRisk::OtherServer);
        // The settings of a session may make it read-only as well.
        let may_be_read_only = [SchemaRisk::ReadOnlyServer, SchemaRisk::SessionSettings];
        let settings = Settings {
            fast_paths,
            max_state_bytes,
            max_session_bytes: max_session_bytes.unwrap_or(DEFAULT_MAX_SESSION_BYTES),
            adk_check,
            deletes_own_rows,
            failover_patience: options.failover_patience,
            may_be_read_only: may_be_read_only.iter().any(|risk| checked.risks.contains(risk)),
        };
        database.check_files()?;
        let identity = Arc::new(DatabaseIdentity::of(&database, &tables).await?);
        let service = Self::assemble(Arc::new(SystemClock), Arc::new(UuidV7), identity, database, tables, settings);
        Ok(Self { timeout: options.timeout, ..service })
    }

    fn assemble(
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        identity: Arc<DatabaseIdentity>,
        database: Database<D>,
        tables: Tables,
        settings: Settings,
    ) -> Self {
        let Settings { fast_paths, .. } = settings;
        let sql = Arc::new(Sql::new(&tables, settings));
        let policy = QueuePolicy {
            max_concurrent_batches: database.max_concurrent_batches(),
            batch_size: if fast_paths { BATCH_SIZE } else { 1 },
            homogeneous: sql.has_bulk_statements(),
            // A batch that is the only one has no other to spare the wait.
            lock: if D::MAX_CONCURRENT_BATCHES > 1 { LockMode::SkipLocked } else { LockMode::Wait },
            batching: fast_paths,
        };
        let context = Arc::new(Context::new(database, tables, settings));
        Self { clock, ids, sql, writer: Writer::new(context.clone(), policy), context, identity, timeout: None }
    }

    fn reassemble(self, timeout: StatementTimeout, settings: Settings) -> Self {
        let database = self.context.database.with_statement_timeout(timeout);
        let service =
            Self::assemble(self.clock, self.ids, self.identity, database, self.context.tables.clone(), settings);
        Self { timeout: self.timeout, ..service }
    }

    /// Returns the same service with or without its fast paths; with them by default.
    ///
    /// Without, every write is a transaction of its own and runs the portable algorithm, the same on every database,
    /// statement by statement. The guarantees and the outcomes are the same. Use it to find out whether a fast path is
    /// to blame for something.
    pub fn with_fast_paths(self, fast_paths: bool) -> Self {
        let timeout = self.context.database.statement_timeout();
        let settings = Settings { fast_paths, ..self.context.settings };
        self.reassemble(timeout, settings)
    }

    /// Returns the same service with another limit on a statement, or on all statements of one transaction; see
    /// [`ServiceOptions::with_statement_timeout`].
    pub fn with_statement_timeout(self, timeout: Duration) -> Self {
        let settings = self.context.settings;
        self.reassemble(StatementTimeout(timeout), settings)
    }

    /// Returns the same service with another limit on a call; see [`ServiceOptions::with_timeout`]. A clone with another
    /// limit shares the pool and the queue of writes, so that a single call may have a limit of its own:
    /// `service.clone().with_timeout(limit).append_event(request)`.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns the same service with another clock.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the same service with another source of session ids.
    pub fn with_id_source(mut self, ids: impl IdSource) -> Self {
        self.ids = Arc::new(ids);
        self
    }

    /// The pool of the service. Connections go back to it as you leave them, so run your own statements on a pool of
    /// your own.
    pub fn pool(&self) -> &DatabaseConnection {
        self.context.database.pool()
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.context.tables
    }

    fn create_op(&self, request: &CreateSession) -> Result<CreateOp<D>> {
        let new = NewSession::try_prepare(request, &*self.clock, &*self.ids)?;
        Ok(CreateOp { sql: self.sql.create.clone(), new })
    }

    /// `None` for a partial event.
    fn append_op(&self, request: AppendEvent) -> Result<Option<AppendOp<D>>> {
        let new = NewEvent::try_prepare(request, &*self.clock, self.context.settings.adk_check)?;
        Ok(new.map(|new| self.append_new(new)))
    }

    fn append_new(&self, new: NewEvent) -> AppendOp<D> {
        AppendOp { sql: self.sql.append.clone(), new }
    }

    fn annotate_op(&self, request: AnnotateSession) -> Result<AnnotateOp<D>> {
        let new = NewAnnotations::try_prepare(request, &*self.clock)?;
        Ok(AnnotateOp { sql: self.sql.annotate.clone(), new })
    }

    fn delete_op(&self, request: DeleteSession) -> DeleteOp<D> {
        DeleteOp { sql: self.sql.delete.clone(), request, is_next_step: false }
    }

    /// The limit on a call.
    fn timeout(&self) -> Duration {
        let patience = self.context.settings.failover_patience.unwrap_or_default();
        self.timeout.unwrap_or(self.context.database.statement_timeout().0.max(patience))
    }

    async fn submit<O: WriteOp<Context<D>>>(&self, op: O) -> Result<O::Outcome> {
        self.context.check_writable(O::NAME).await?;
        self.writer.submit(op, self.timeout()).await
    }

    /// Repeats a read while another attempt may end differently, and ends it at the limit on a call.
    async fn read<T, F: Future<Output = Result<T>>>(&self, operation: &'static str, read: impl Fn() -> F) -> Result<T> {
        let read = tokio::time::timeout(self.timeout(), retry(self.context.settings.failover_patience, read)).await;
        read.unwrap_or_else(|_| {
            let message = format!("{operation} got no answer within the time limit of the call");
            Err(BackendError::new(BackendErrorKind::Unavailable, message).into())
        })
    }

    async fn read_session(&self, on: &mut dyn Executor, request: &GetSession) -> Result<Option<Session>> {
        self.sql.get.get_session(on, request, self.context.settings.max_session_bytes).await
    }

    async fn read_state(&self, on: &mut dyn Executor, row: SharedKey, operation: &str) -> Result<State> {
        Ok(self.context.read_shared(on, &row, operation).await?.unwrap_or_default())
    }
}

/// Runs an operation in a span that records what it was, where, and how it ended; never what it was about.
async fn traced<D: Dialect, T>(operation: &'static str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let (outcome, retries) = (tracing::field::Empty, tracing::field::Empty);
    let span =
        tracing::info_span!(target: "seabed", "session_service", operation, backend = ?D::BACKEND, outcome, retries);
    let ended = match in_runtime() {
        Ok(()) => work.instrument(span.clone()).await,
        Err(refused) => Err(refused),
    };
    span.record("outcome", ended.as_ref().map_or_else(Error::outcome, |_| "ok"));
    ended
}

#[async_trait]
impl<D: Dialect> SessionService for SqlSessionService<D> {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        traced::<D, _>("create_session", async { self.submit(self.create_op(&request)?).await }).await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        let read = async || self.read_session(&mut self.context.database.autocommit(), &request).await;
        traced::<D, _>("get_session", self.read("get_session", read)).await
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        traced::<D, _>("list_sessions", async {
            request.check()?;
            let Context { database, tables, .. } = &*self.context;
            let read = async || list::list_sessions::<D>(tables, &mut database.autocommit(), &request).await;
            self.read("list_sessions", read).await
        })
        .await
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        traced::<D, _>("list_events", async {
            request.check()?;
            let Context { database, tables, .. } = &*self.context;
            let read = async || list::list_events::<D>(tables, &mut database.autocommit(), &request).await;
            self.read("list_events", read).await
        })
        .await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        traced::<D, _>("append_event", async {
            match self.append_op(request)? {
                Some(op) => self.submit(op).await,
                None => Ok(Appended::Partial),
            }
        })
        .await
    }

    async fn delete_session(&self, request: DeleteSession) -> Result<()> {
        traced::<D, _>("delete_session", self.delete(request)).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        const OPERATION: &str = "get_user_state";
        let on = || self.context.database.autocommit();
        let read = async || self.read_state(&mut on(), SharedKey::User(key.clone()), OPERATION).await;
        traced::<D, _>(OPERATION, self.read(OPERATION, read)).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        const OPERATION: &str = "get_app_state";
        let on = || self.context.database.autocommit();
        let read = async || self.read_state(&mut on(), SharedKey::App(app_name.clone()), OPERATION).await;
        traced::<D, _>(OPERATION, self.read(OPERATION, read)).await
    }

    async fn check_health(&self) -> Result<()> {
        traced::<D, _>("check_health", async {
            let Context { database, tables, .. } = &*self.context;
            let row = database.query_one_checked(version_query::<D>(tables));
            let within = HEALTH_CHECK_TIMEOUT.min(self.timeout());
            let row: Result<_, StatementError> = StatementTimeout(within).limit(row).await;
            check_version::<D>(tables, row)?;
            let role = tokio::time::timeout(within, self.context.check_role("check_health")).await;
            role.unwrap_or_else(|_| Err(statement_error::<D>("check_health", StatementError::Timeout)))
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        traced::<D, _>("close", async {
            self.writer.close().await;
            self.context.database.close().await
        })
        .await
    }
}

#[async_trait]
impl<D: Dialect> StateService for SqlSessionService<D> {
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated> {
        traced::<D, _>("update_state", async {
            Ok(match NewStateUpdate::try_prepare(request, &*self.clock, self.context.settings.adk_check)? {
                NewStateUpdate::Session(new) => StateUpdated::Session(self.submit(self.append_new(*new)).await?),
                NewStateUpdate::Shared(update) => {
                    StateUpdated::Shared(self.submit(UpdateSharedStateOp::new(update)).await?)
                }
            })
        })
        .await
    }
}
