//! A session service on a database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, QueryResult, Statement};
use tracing::Instrument;

use super::connections::Connections;
use super::failure::statement_error;
use super::group::run;
use super::patience::Patience;
use super::queue::{Policy, Queue};
use super::retry::retry;
use super::write::Write;
use super::{
    ConnectOptions, Dialect, Weakness, append, columns, create, delete, get, in_task, list, schema, shared_state,
    single,
};
use crate::prepare::{NewEvent, NewSession};
use crate::{
    AppName, AppendEvent, Appended, Clock, CreateSession, Error, Event, EventCursor, GetSession, IdSource, ListEvents,
    ListSessions, Page, Result, Session, SessionCursor, SessionKey, SessionService, State, SystemClock, UserKey,
    UuidV7,
};

/// A session service on a database of dialect `D`, reached through a sea-orm connection pool.
///
/// Clones share the pool. The backend crates give it its everyday names: `PostgresSessionService`,
/// `MySqlSessionService`, `SqliteSessionService`.
///
/// Write operations run in tokio tasks of their own, which go on when a caller's future is dropped. Writes that have to wait
/// for others, of this service and its clones, are committed together. Services made of one by `with_…` share its pool, but not
/// its writes; [`close`](SessionService::close) closes the pool for all of them. A service belongs to the tokio runtime that it is first
/// used on, as its pool does.
pub struct SqlSessionService<D: Dialect> {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    inner: Arc<Inner<D>>,
}

/// What the operations work with.
pub(super) struct Inner<D: Dialect> {
    pub(super) connection: DatabaseConnection,
    pub(super) connections: Connections<D>,
    /// How long a statement, or the statements of one transaction, may take.
    pub(super) patience: Patience,
    /// Whether operations may take a shorter way than the portable algorithm.
    pub(super) fast: bool,
    pub(super) queue: Queue,
    pub(super) single: Option<single::Statements<D>>,
    pub(super) append: append::Statements<D>,
    pub(super) create: create::Statements<D>,
    pub(super) delete: delete::Statements<D>,
    pub(super) get: get::Statements<D>,
    pub(super) shared_state: shared_state::Statements<D>,
}

/// How long a health check may take, the wait for a connection included.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many writes a group holds at most: enough that a commit hardly counts, few enough that nobody waits for long.
const GROUP_SIZE: usize = 64;

impl<D: Dialect> Inner<D> {
    fn new(connection: DatabaseConnection, fast: bool, patience: Patience) -> Self {
        let single = single::Statements::new().filter(|_| fast);
        // One connection is left to others, if there are several.
        let connections = usize::try_from(D::pool_limits(&connection).max_connections).unwrap_or(usize::MAX);
        let others = connections.saturating_sub(1).max(1);
        let policy = Policy {
            groups: D::GROUPS.min(others),
            size: if fast { GROUP_SIZE } else { 1 },
            uniform: single.is_some(),
            claims: fast,
        };
        Self {
            connections: Connections::new(connection.clone(), patience),
            connection,
            patience,
            fast,
            queue: Queue::new(policy),
            single,
            append: append::Statements::new(),
            create: create::Statements::new(),
            delete: delete::Statements::new(),
            get: get::Statements::new(),
            shared_state: shared_state::Statements::new(),
        }
    }

    /// Runs a single statement, and hands on its rows as they come.
    pub(super) async fn query(
        &self,
        statement: Statement,
        mut each: impl FnMut(QueryResult) + Send,
    ) -> Result<(), DbErr> {
        self.connections.run(statement, &mut each).await.map(drop)
    }

    /// Runs a single statement that has no rows, and returns how many it changed.
    pub(super) async fn execute(&self, statement: Statement) -> Result<u64, DbErr> {
        self.connections.run(statement, &mut |_| {}).await
    }

    /// Runs a single statement and reads all its rows.
    pub(super) async fn query_all(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut rows = Vec::new();
        self.query(statement, |row| rows.push(row)).await?;
        Ok(rows)
    }
}

impl<D: Dialect> Clone for SqlSessionService<D> {
    fn clone(&self) -> Self {
        Self { clock: self.clock.clone(), ids: self.ids.clone(), inner: self.inner.clone() }
    }
}

impl<D: Dialect> fmt::Debug for SqlSessionService<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlSessionService").field("backend", &D::BACKEND).finish_non_exhaustive()
    }
}

impl<D: Dialect> SqlSessionService<D> {
    /// Opens a pool on `url` and checks that its schema is one that this crate knows. Creates nothing.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a URL that cannot be understood; backend errors of kind
    /// [`Unavailable`](crate::BackendErrorKind::Unavailable) for a server that does not answer, and of kind
    /// [`Schema`](crate::BackendErrorKind::Schema) for missing tables, an unknown version, and columns that cannot keep the
    /// laws, by name. None of them holds the URL.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url.parse()?).await
    }

    /// Like [`connect`](Self::connect), with options of the backend's own.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn connect_with(options: ConnectOptions<D>) -> Result<Self> {
        let (patience, accepted) = (Patience(options.statement_timeout), options.accepted.clone());
        Self::from_pool(options.open().await?, patience, &accepted).await
    }

    /// Uses a pool that you have, set up as you did it. The laws hold on it at READ COMMITTED and REPEATABLE READ. At
    /// SERIALIZABLE, writers that meet on one row fail each other, and may end in
    /// [`Contention`](crate::BackendErrorKind::Contention) after their retries. MySQL should be strict, and must commit
    /// each statement by itself (`autocommit`), as it does by default, and must not log statements as they are
    /// (`binlog_format = STATEMENT`) at REPEATABLE READ. [`close`](SessionService::close) closes this pool.
    ///
    /// Statements run on connections of the driver's out of this pool, so sea-orm's metrics and its own spans tell nothing of
    /// them. If you begin transactions on it as well, do not drop the future of a `begin`: run it in a task. sqlx 0.9 takes a
    /// transaction that was begun so for none, and what runs on that connection next becomes part of it.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a pool of another database; backend errors of kind
    /// [`Schema`](crate::BackendErrorKind::Schema) as in [`connect`](Self::connect).
    pub async fn from_connection(connection: DatabaseConnection) -> Result<Self> {
        Self::from_connection_accepting(connection, &[]).await
    }

    /// Like [`from_connection`](Self::from_connection), for tables with weaknesses that are refused otherwise.
    ///
    /// # Errors
    /// Those of [`from_connection`](Self::from_connection).
    pub async fn from_connection_accepting(connection: DatabaseConnection, accepted: &[Weakness]) -> Result<Self> {
        Self::from_pool(connection, Patience(D::STATEMENT_TIMEOUT), accepted).await
    }

    async fn from_pool(connection: DatabaseConnection, patience: Patience, accepted: &[Weakness]) -> Result<Self> {
        let backend = connection.get_database_backend();
        if backend != D::BACKEND {
            return Err(Error::invalid("connection", format!("is one to {backend:?}, not to {:?}", D::BACKEND)));
        }
        let pool = connection.clone();
        let version = in_task(async move { pool.query_one_raw(schema::version_query::<D>()).await });
        schema::check_version::<D>(patience.wait(version).await.flatten())?;
        let pool = connection.clone();
        let columns = in_task(async move { columns(&pool).await });
        schema::check_columns::<D>(patience.wait(columns).await.flatten(), accepted)?;
        let inner = Arc::new(Inner::new(connection, true, patience));
        Ok(Self { clock: Arc::new(SystemClock), ids: Arc::new(UuidV7), inner })
    }

    /// The same service with or without its fast paths; with them by default.
    ///
    /// Without, every write is a transaction of its own and runs the portable algorithm, the same on every database,
    /// statement by statement. The laws and the outcomes are the same; it is there to find out whether a fast path is to
    /// blame for something.
    pub fn with_fast_paths(mut self, fast: bool) -> Self {
        self.inner = Arc::new(Inner::new(self.inner.connection.clone(), fast, self.inner.patience));
        self
    }

    /// The same service with another limit on what the server may take for a statement, or for the statements of one
    /// transaction; see [`ConnectOptions::with_statement_timeout`].
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.inner = Arc::new(Inner::new(self.inner.connection.clone(), self.inner.fast, Patience(timeout)));
        self
    }

    /// The same service on another clock.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The same service with session ids from another source.
    pub fn with_id_source(mut self, ids: impl IdSource) -> Self {
        self.ids = Arc::new(ids);
        self
    }

    /// The pool.
    pub fn connection(&self) -> &DatabaseConnection {
        &self.inner.connection
    }

    /// Appends an event inside a transaction of yours, together with what else the transaction writes: the same
    /// algorithm, without a commit, a retry, or a task of its own.
    ///
    /// The event is durable once you commit. On SQLite, begin the transaction with `BEGIN IMMEDIATE`
    /// ([`Dialect::transaction_options`]), or it may fail as busy whatever the timeout.
    ///
    /// # Errors
    /// Those of [`append_event`](SessionService::append_event). After a refusal nothing of the event is in the
    /// transaction, which may go on. After a backend error part of it may be: roll back, and if the error
    /// [is retryable](Error::is_retryable) do all of it again.
    ///
    /// # Cancel safety
    /// When the future is dropped, part of the event may be in the transaction: roll it back. On MySQL and MariaDB do not drop it
    /// (run it in a task): sqlx 0.9 loses count of the server's answers when a statement is dropped while it is being prepared,
    /// and may then wait for ever for one.
    pub async fn append_event_in(&self, transaction: &DatabaseTransaction, request: AppendEvent) -> Result<Appended> {
        match NewEvent::try_prepare(request, &*self.clock)? {
            Some(event) => append::append_event(&self.inner, &mut { transaction }, &event).await,
            None => Ok(Appended::Partial),
        }
    }
}

/// Runs an operation in a span that tells what it was, where, and how it ended; never what it was about.
async fn traced<D: Dialect, T>(operation: &'static str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let (outcome, retries) = (tracing::field::Empty, tracing::field::Empty);
    let span =
        tracing::info_span!(target: "seabed", "session_service", operation, backend = ?D::BACKEND, outcome, retries);
    let ended = work.instrument(span.clone()).await;
    span.record("outcome", ended.as_ref().map_or_else(Error::outcome, |_| "ok"));
    ended
}

#[async_trait]
impl<D: Dialect> SessionService for SqlSessionService<D> {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        traced::<D, _>("create_session", async {
            let new = NewSession::try_prepare(&request, &*self.clock, &*self.ids)?;
            run(&self.inner, new, Write::Create).await
        })
        .await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        traced::<D, _>("get_session", retry(|| get::get_session(&self.inner, &request))).await
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        traced::<D, _>("list_sessions", async {
            request.check()?;
            retry(|| list::list_sessions(&self.inner, &request)).await
        })
        .await
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        traced::<D, _>("list_events", async {
            request.check()?;
            retry(|| list::list_events(&self.inner, &request)).await
        })
        .await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        traced::<D, _>("append_event", async {
            match NewEvent::try_prepare(request, &*self.clock)? {
                Some(new) => run(&self.inner, new, Write::Append).await,
                None => Ok(Appended::Partial),
            }
        })
        .await
    }

    async fn delete_session(&self, key: &SessionKey) -> Result<()> {
        traced::<D, _>("delete_session", run(&self.inner, key.clone(), Write::Delete)).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        traced::<D, _>("get_user_state", retry(|| shared_state::get_user_state(&self.inner, key))).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        traced::<D, _>("get_app_state", retry(|| shared_state::get_app_state(&self.inner, app_name))).await
    }

    async fn check_health(&self) -> Result<()> {
        traced::<D, _>("check_health", async {
            let rows = self.inner.query_all(schema::version_query::<D>());
            let rows = Patience(HEALTH_CHECK_TIMEOUT).wait(rows).await.flatten();
            schema::check_version::<D>(rows.map(|rows| rows.into_iter().next()))
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        traced::<D, _>("close", async {
            self.inner.queue.close().await;
            let closed = self.inner.patience.wait(self.inner.connection.close_by_ref()).await;
            closed.flatten().map_err(|error| statement_error::<D>("close", error))
        })
        .await
    }
}
