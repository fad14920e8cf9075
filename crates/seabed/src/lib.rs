//! Seabed: the durable, race-free session store for AI agents.
//!
//! Sessions, their events and their state live in the same tables that google-adk's `DatabaseSessionService` uses
//! (schema v1), so Rust and Python agents share one database: PostgreSQL, MySQL, MariaDB or SQLite. Concurrent callers
//! lose nothing: no session, no event, no state key.
//!
//! # A first conversation
//!
//! Enable the feature of your backend, `postgres`, `mysql` or `sqlite`:
//!
//! ```toml
//! seabed = { version = "0.1", features = ["sqlite"] }
//! ```
//!
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "migrate")), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> seabed::Result<()> {
//! use seabed::{CreateSession, Event, SessionService, SessionServiceExt, State, UserKey};
//!
//! // Open a pool, create the tables, start the service. In production `seabed-migrate up` creates
//! // the tables, and `seabed::connect(url)` is all that the program needs.
//! let database = seabed::open("sqlite::memory:").await?;
//! seabed::migrate(&database).await?;
//! let sessions = seabed::from_connection(database).await?;
//!
//! // Keys with `user:` belong to the user, keys with `app:` to the app, all others to the session.
//! let request = CreateSession::new(UserKey::try_new("travel", "alice")?)
//!     .with_state(State::new().with("user:home", "Bergen").with("destination", "Rome"));
//! let mut session = sessions.create_session(request).await?;
//!
//! let event = Event::new("user")
//!     .with_content(serde_json::json!({"role": "user", "parts": [{"text": "Make it Naples."}]}))
//!     .with_state_delta(State::new().with("destination", "Naples"));
//! sessions.append(&mut session, event).await?;
//!
//! assert_eq!(session.state.decode::<String>("destination").unwrap().as_deref(), Some("Naples"));
//! assert_eq!(session.events.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # When two agents write to one session
//!
//! [`append`](SessionServiceExt::append) succeeds only if nothing was appended since the session was read. Otherwise it
//! fails with [`Error::RevisionConflict`] and stores nothing. [`refresh`](SessionServiceExt::refresh) the session, let
//! the agent decide again, and append again. A writer whose event does not depend on what it has read, such as the
//! message of a user, calls [`append_latest`](SessionServiceExt::append_latest), which stores it at any revision and
//! never conflicts.
//!
//! # State without a message
//!
//! [`update_state`](StateService::update_state) sets keys of an app, a user or a session. You can set the state of an
//! app or a user that has no session yet; in this call, their keys are written without the `app:` or `user:` prefix. In
//! a session it appends an event, so that the session's history explains its state.
//!
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "migrate")), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use seabed::{AppName, SessionService, State, StateService, UpdateState};
//!
//! # let database = seabed::open("sqlite::memory:").await?;
//! # seabed::migrate(&database).await?;
//! # let sessions = seabed::from_connection(database).await?;
//! let travel = AppName::try_new("travel")?;
//! sessions.update_state(UpdateState::new(travel.clone(), State::new().with("currency", "EUR"))).await?;
//!
//! let state = sessions.get_app_state(&travel).await?;
//! assert_eq!(state.decode::<String>("currency")?.as_deref(), Some("EUR"));
//! # Ok(())
//! # }
//! ```
//!
//! # Back to an earlier point
//!
//! [`rewind`](SessionServiceExt::rewind) takes back an invocation and everything after it, as google-adk's runner
//! does. Keys that the session was created with keep their values, as far as these are known. [`history`] says which
//! events are live, what google-adk sends to a model after rewinds and compactions, and what the state was as of any
//! event.
//!
//! # Titles, labels and finding sessions
//!
//! [`DirectoryService`] gives sessions titles and labels, and finds sessions by them, by their times, their ids or
//! their state.
//!
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "migrate")), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use seabed::{
//!     CreateSession, DirectoryService, DirectoryServiceExt, FindSessions, SessionFilter, SessionScope, SessionService,
//!     UserKey,
//! };
//!
//! # let database = seabed::open("sqlite::memory:").await?;
//! # seabed::migrate(&database).await?;
//! # let sessions = seabed::from_connection(database).await?;
//! let alice = UserKey::try_new("travel", "alice")?;
//! let session = sessions.create_session(CreateSession::new(alice.clone())).await?;
//! sessions.set_title(&session.key, Some("A week in Rome")).await?;
//! sessions.set_labels(&session.key, &[("stage", Some("booked"))]).await?;
//!
//! let booked = SessionFilter::new().with_label("stage", "booked");
//! let found = sessions.find_sessions(FindSessions::new(SessionScope::User(alice)).with_filter(booked)).await?;
//! assert_eq!(found.try_into_items()?[0].annotations.title.as_deref(), Some("A week in Rome"));
//! # Ok(())
//! # }
//! ```
//!
//! # In your own transaction
//!
//! [`TransactionalService`] has a variant, with the suffix `_in`, of each operation of [`SessionService`],
//! [`StateService`] and [`DirectoryService`]. It runs in a transaction that you
//! began on the service's database, and commits together with your own writes, or not at all. The service neither
//! commits nor retries.
//!
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "```")]
#![cfg_attr(not(all(feature = "sqlite", feature = "migrate")), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use seabed::sea_orm::{ConnectionTrait, TransactionTrait};
//! use seabed::{CreateSession, GetSession, SessionService, TransactionalService, UserKey};
//!
//! # let database = seabed::open("sqlite::memory:").await?;
//! # seabed::migrate(&database).await?;
//! # database.execute_unprepared("CREATE TABLE bookings (customer text)").await?;
//! let sessions = seabed::from_connection(database.clone()).await?;
//!
//! let transaction = database.begin_with_options(sessions.transaction_options()).await?;
//! transaction.execute_unprepared("INSERT INTO bookings (customer) VALUES ('alice')").await?;
//! let create = CreateSession::new(UserKey::try_new("travel", "alice")?);
//! let session = sessions.create_session_in(&transaction, create).await?;
//! transaction.commit().await?;
//!
//! assert!(sessions.get_session(GetSession::new(session.key)).await?.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # Custom table names
//!
//! By default a service uses google-adk's table names, in the schema that its connections look in.
//! [`ServiceOptions::with_schema`] and [`ServiceOptions::with_table_prefix`] name others, for [`from_connection_with`];
//! the backends' options have both methods too. Services whose tables have different names (another schema or prefix)
//! can share a database and are invisible to each other.
//!
//! # When an operation fails
//!
//! [`Error::is_retryable`] says whether repeating the identical call may succeed. An append is idempotent by its
//! event's id, so repeating it is safe even when it is unknown whether the first attempt was committed. For creates
//! without an id, deletes, and updates of app or user state, read its warnings first.
//!
//! If a commit gets no answer, the service itself looks up the outcome. If a connection breaks before the outcome is
//! decided, the service replaces it and sends the statements again. The caller gets an error if no connection can be
//! obtained in time, or if the outcome stays unknown ([`CommitUnknown`](BackendErrorKind::CommitUnknown)). For a
//! delete, and for an update of app or user state, it may stay unknown on a healthy connection too: these are not
//! repeated, because others may have written in between.
//!
//! # In production
//!
//! Use [`check_health`](SessionService::check_health) for readiness probes, and [`close`](SessionService::close) for a
//! graceful shutdown. A call waits up to 5 seconds for a connection. On a server, it waits up to 30 seconds for a
//! statement and up to 10 seconds for a lock; on SQLite, up to 60 and 30 seconds. The backend's options
//! (`PostgresOptions`, …) change the limits for connections and statements, and the size of the pool. Each operation is
//! a `tracing` span with the target `seabed` and the fields `operation`, `backend`, `outcome` and `retries`. Spans
//! never contain content.
//!
//! # Guarantees
//!
//! The traits [`SessionService`], [`SessionServiceExt`], [`StateService`], [`DirectoryService`], [`HistoryService`],
//! [`RetentionService`] and [`TransactionalService`] state the guarantees of each operation. The crate
//! `seabed-conformance` checks them on every backend, and on your own if you write one.

use std::sync::Arc;

/// The tables as sea-orm entities, for your own queries.
pub use seabed_core::entity;
/// What events mean after rewinds and compactions, and the state as of any event.
pub use seabed_core::history;
pub use seabed_core::sql::{SchemaRisk, ServiceOptions, SqlSessionService, Tables};
pub use seabed_core::{
    AnnotateSession, Annotations, AppName, AppendEvent, Appended, BackendError, BackendErrorKind, Clock, CreateSession,
    DeleteSession, DirectoryService, DirectoryServiceExt, Error, Event, EventActions, EventCursor, ExpectedRevision,
    ExpireSessions, Expired, ExpiryServiceExt, FindCursor, FindSessions, Forget, Forgotten, FoundSession, GetOrCreated,
    GetSession, HistoryService, HistoryServiceExt, IdSource, Json, ListEvents, ListSessions, MemorySessionService,
    NulPolicy, Order, Page, Receipt, Result, RetentionService, RetentionServiceExt, Revision, Scope, Session,
    SessionCursor, SessionFilter, SessionId, SessionKey, SessionScope, SessionService, SessionServiceExt,
    SessionSummary, State, StateService, StateTarget, StateUpdated, SystemClock, Timestamp, TransactionalService,
    UpdateState, UserId, UserKey, UuidV7,
};

/// The migrations, with more options than [`migrate`].
#[cfg(feature = "migrate")]
pub use seabed_migration as migration;
#[cfg(feature = "migrate")]
pub use seabed_migration::migrate;

#[cfg(feature = "mysql")]
pub use seabed_mysql::{MySqlOptions, MySqlSessionService};
#[cfg(feature = "postgres")]
pub use seabed_postgres::{PostgresOptions, PostgresSessionService};
#[cfg(feature = "sqlite")]
pub use seabed_sqlite::{SqliteOptions, SqliteSessionService, SqliteSynchronous};

/// The version of sea-orm whose types appear in this crate's API.
pub use sea_orm;
use sea_orm::{DatabaseConnection, DatabaseConnectionType, DbBackend};

/// A session service with any backend.
pub type DynSessionService = Arc<dyn DatabaseSessionService>;

/// Every trait that the session services on databases implement.
pub trait DatabaseSessionService:
    StateService + DirectoryService + HistoryService + RetentionService + TransactionalService
{
}

impl<S> DatabaseSessionService for S where
    S: StateService + DirectoryService + HistoryService + RetentionService + TransactionalService + ?Sized
{
}

/// Connects to the database at `url`, and checks its schema. URLs are `postgres://…`, `mysql://…`, `mariadb://…` or
/// `sqlite://path`.
///
/// A URL may name several servers of one database, as in `postgres://user:password@one:5432,two:5432/agents`. They are
/// tried in turn, also when a connection is lost. The parameter `target_session_attrs` says which of them is wanted,
/// also on MySQL and MariaDB: `read-write` (the default for several), `any` (the default for one), `primary`,
/// `read-only`, `standby` or `prefer-standby`.
///
/// # Errors
/// [`Invalid`](Error::Invalid) for a URL that cannot be parsed, or whose backend's feature is not enabled. Backend
/// errors of kind [`Unavailable`](BackendErrorKind::Unavailable) for a server that does not answer, and of kind
/// [`Schema`](BackendErrorKind::Schema) for tables that are missing, unknown, or unable to keep the guarantees. No
/// error contains the URL.
pub async fn connect(url: &str) -> Result<DynSessionService> {
    #[cfg(feature = "postgres")]
    if PostgresOptions::is_url(url) {
        return Ok(Arc::new(PostgresSessionService::connect(url).await?));
    }
    #[cfg(feature = "mysql")]
    if MySqlOptions::is_url(url) {
        return Ok(Arc::new(MySqlSessionService::connect(url).await?));
    }
    #[cfg(feature = "sqlite")]
    if SqliteOptions::is_url(url) {
        return Ok(Arc::new(SqliteSessionService::connect(url).await?));
    }
    Err(unknown_scheme(url))
}

/// Opens a pool for the database that [`connect`] connects to, without checking the schema: for [`migrate`], and for
/// the rest of your program. Of several servers, it stays with the one that it finds first.
///
/// # Errors
/// Those of [`connect`], except for the schema.
pub async fn open(url: &str) -> Result<DatabaseConnection> {
    #[cfg(feature = "postgres")]
    if PostgresOptions::is_url(url) {
        return url.parse::<PostgresOptions>()?.open().await;
    }
    #[cfg(feature = "mysql")]
    if MySqlOptions::is_url(url) {
        return url.parse::<MySqlOptions>()?.open().await;
    }
    #[cfg(feature = "sqlite")]
    if SqliteOptions::is_url(url) {
        return url.parse::<SqliteOptions>()?.open().await;
    }
    Err(unknown_scheme(url))
}

/// Why there is no backend for a URL.
fn unknown_scheme(url: &str) -> Error {
    let scheme = url.trim_start().split([':', '+']).next().unwrap_or_default();
    let reason = match scheme {
        "postgres" | "postgresql" => "enable the feature `postgres` of the crate seabed for this URL",
        "mysql" | "mariadb" => "enable the feature `mysql` of the crate seabed for this URL",
        "sqlite" => "enable the feature `sqlite` of the crate seabed for this URL",
        _ => "begins with none of postgres:, mysql:, mariadb:, sqlite:",
    };
    Error::Invalid { field: "url", reason: reason.to_owned() }
}

/// Creates a service on the database of an existing pool; see [`SqlSessionService::from_connection`].
///
/// # Errors
/// [`Invalid`](Error::Invalid) for a database whose feature is not enabled; [`Schema`](BackendErrorKind::Schema) for
/// tables that are missing, unknown, or unable to keep the guarantees.
pub async fn from_connection(connection: DatabaseConnection) -> Result<DynSessionService> {
    from_connection_with(connection, ServiceOptions::new()).await
}

/// Like [`from_connection`], with options: other tables, risks of their schema that you accept, another statement
/// timeout, no check of events for google-adk.
///
/// # Errors
/// Those of [`from_connection`], and [`Invalid`](Error::Invalid) for a schema or a table prefix that is not a plain
/// word.
pub async fn from_connection_with(
    connection: DatabaseConnection,
    options: ServiceOptions,
) -> Result<DynSessionService> {
    if let DatabaseConnectionType::Disconnected = connection.inner {
        return Err(Error::Invalid { field: "connection", reason: "is not connected".to_owned() });
    }
    match connection.get_database_backend() {
        #[cfg(feature = "postgres")]
        DbBackend::Postgres => Ok(Arc::new(PostgresSessionService::from_connection_with(connection, options).await?)),
        #[cfg(feature = "mysql")]
        DbBackend::MySql => Ok(Arc::new(MySqlSessionService::from_connection_with(connection, options).await?)),
        #[cfg(feature = "sqlite")]
        DbBackend::Sqlite => Ok(Arc::new(SqliteSessionService::from_connection_with(connection, options).await?)),
        other => Err(Error::Invalid {
            field: "connection",
            reason: format!("is to {other:?}; enable its feature of the crate seabed"),
        }),
    }
}

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
