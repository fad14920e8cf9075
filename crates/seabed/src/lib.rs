//! Seabed: the durable, race-free session store for AI agents.
//!
//! Sessions, their events and their state live in the very tables that google-adk's `DatabaseSessionService` uses
//! (schema v1), so Rust and Python agents share one database: PostgreSQL, MySQL, MariaDB or SQLite. Concurrent callers
//! lose nothing: no session, no event, no state key.
//!
//! # A first conversation
//!
//! Pick a backend by its feature, `postgres`, `mysql` or `sqlite`:
//!
//! ```toml
//! seabed = { version = "0.1", features = ["sqlite"] }
//! ```
//!
//! ```
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "# #[tokio::main(flavor = \"current_thread\")]")]
#![cfg_attr(all(feature = "sqlite", feature = "migrate"), doc = "# async fn main() -> seabed::Result<()> {")]
#![cfg_attr(not(all(feature = "sqlite", feature = "migrate")), doc = "# async fn not_run() -> seabed::Result<()> {")]
//! use seabed::{CreateSession, Event, SessionService, SessionServiceExt, State, UserKey};
//!
//! # #[cfg(all(feature = "sqlite", feature = "migrate"))] {
//! // A pool, the tables, the service. In production `seabed-migrate up` makes the tables, and
//! // `seabed::connect(url)` is all the program needs.
//! let database = seabed::open("sqlite::memory:").await?;
//! seabed::migrate(&database).await?;
//! let sessions = seabed::from_connection(database).await?;
//!
//! // Keys with `user:` belong to the user, keys with `app:` to the app, others to the session.
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
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # When two agents write to one session
//!
//! [`append`](SessionServiceExt::append) succeeds only if nothing was appended since the session was read. Otherwise it
//! fails with [`Error::RevisionConflict`] and stores nothing; [`refresh`](SessionServiceExt::refresh) the session, let
//! the agent decide again, and append again. A writer that adds something independent of what it has seen says
//! [`ExpectedRevision::Any`] to [`append_event`](SessionService::append_event).
//!
//! # When an error comes back
//!
//! [`Error::is_retryable`] says whether to repeat the identical call. An append is idempotent by its event's id, so
//! repeating it is safe even when nobody knows whether the first one was committed.
//!
//! A commit that got no answer is looked up by the service itself, and a connection that broke before anything was decided is
//! replaced; only when no connection can be had does the caller learn of it.
//!
//! # In production
//!
//! [`check_health`](SessionService::check_health) is for readiness probes, [`close`](SessionService::close) for a shutdown in good
//! order. Connections are waited for 5 seconds, statements 30, locks of others 10; the backend's options
//! (`PostgresOptions`, …) change the first two, and the size of the pool. Each operation is a `tracing` span of the target
//! `seabed` with the fields `operation`, `backend`, `outcome` and `retries`, and never content.
//!
//! # What is guaranteed
//!
//! The traits [`SessionService`] and [`SessionServiceExt`] state it operation by operation; the crate
//! `seabed-conformance` checks it on every backend, and on yours if you write one.

use std::sync::Arc;

pub use seabed_core::*;

/// The migrations, with more choice than [`migrate`] gives.
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

/// The version of sea-orm whose types appear in this crate's interface.
pub use sea_orm;
use sea_orm::{DatabaseConnection, DbBackend};

/// A session service of whatever backend.
pub type DynSessionService = Arc<dyn SessionService>;

/// Connects to the database that `url` is of, and checks its schema: `postgres://…`, `mysql://…`, `mariadb://…` or
/// `sqlite://path`.
///
/// # Errors
/// [`Invalid`](Error::Invalid) for a URL that cannot be understood, or of a backend whose feature is not enabled;
/// backend errors of kind [`Unavailable`](BackendErrorKind::Unavailable) for a server that does not answer, and
/// [`Schema`](BackendErrorKind::Schema) for tables that are missing or unknown. None of them holds the URL.
pub async fn connect(url: &str) -> Result<DynSessionService> {
    from_connection(open(url).await?).await
}

/// Opens a pool as [`connect`] does it, without a look at the schema: for [`migrate`], and to share with the rest of
/// your program.
///
/// # Errors
/// Those of [`connect`], except for the schema.
pub async fn open(url: &str) -> Result<DatabaseConnection> {
    #[cfg(feature = "postgres")]
    if <seabed_postgres::Postgres as sql::Dialect>::is_url(url) {
        return url.parse::<PostgresOptions>()?.open().await;
    }
    #[cfg(feature = "mysql")]
    if <seabed_mysql::MySql as sql::Dialect>::is_url(url) {
        return url.parse::<MySqlOptions>()?.open().await;
    }
    #[cfg(feature = "sqlite")]
    if <seabed_sqlite::Sqlite as sql::Dialect>::is_url(url) {
        return url.parse::<SqliteOptions>()?.open().await;
    }
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let reason = match scheme {
        "postgres" | "postgresql" => "enable the feature `postgres` of the crate seabed for this URL",
        "mysql" | "mariadb" => "enable the feature `mysql` of the crate seabed for this URL",
        "sqlite" => "enable the feature `sqlite` of the crate seabed for this URL",
        _ => "begins with none of postgres:, mysql:, mariadb:, sqlite:",
    };
    Err(Error::Invalid { field: "url", reason: reason.to_owned() })
}

/// Uses a pool that you have; see [`SqlSessionService::from_connection`](sql::SqlSessionService::from_connection).
///
/// # Errors
/// [`Invalid`](Error::Invalid) for a database whose feature is not enabled;
/// [`Schema`](BackendErrorKind::Schema) for tables that are missing or unknown, or that cannot keep the laws.
pub async fn from_connection(connection: DatabaseConnection) -> Result<DynSessionService> {
    from_connection_accepting(connection, &[]).await
}

/// Like [`from_connection`], for tables that are refused otherwise, because they cannot keep a law.
///
/// # Errors
/// Those of [`from_connection`].
pub async fn from_connection_accepting(
    connection: DatabaseConnection,
    accepted: &[sql::Weakness],
) -> Result<DynSessionService> {
    match connection.get_database_backend() {
        #[cfg(feature = "postgres")]
        DbBackend::Postgres => {
            Ok(Arc::new(PostgresSessionService::from_connection_accepting(connection, accepted).await?))
        }
        #[cfg(feature = "mysql")]
        DbBackend::MySql => Ok(Arc::new(MySqlSessionService::from_connection_accepting(connection, accepted).await?)),
        #[cfg(feature = "sqlite")]
        DbBackend::Sqlite => Ok(Arc::new(SqliteSessionService::from_connection_accepting(connection, accepted).await?)),
        other => Err(Error::Invalid {
            field: "connection",
            reason: format!("is one to {other:?}, whose feature of the crate seabed is not enabled"),
        }),
    }
}

/// The program in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
