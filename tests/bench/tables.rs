//! A database to measure on, filled with sessions.

use std::path::PathBuf;

use anyhow::Context as _;
use seabed::sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use seabed::{CreateSession, DynSessionService, Event, SessionId, SessionKey, SessionService, State, UserKey};
use seabed_tests::{Family, Kind, Servers};
use tempfile::TempDir;

/// The app and the user of all measurements.
pub(crate) const APP: &str = "bench";
pub(crate) const USER: &str = "user";
/// The maximum number of clients of any work.
pub(crate) const MAX_CLIENTS: usize = 128;

/// A migrated database, the service on it, and an administrator's pool.
pub(crate) struct Store {
    pub(crate) kind: Option<Kind>,
    pub(crate) version: String,
    pub(crate) url: String,
    pub(crate) service: DynSessionService,
    pub(crate) admin: DatabaseConnection,
    /// The program that runs the limit, if it is installed and enabled.
    pub(crate) pgbench: Option<PathBuf>,
    place: Place,
}

enum Place {
    Server,
    File(TempDir),
}

impl Store {
    pub(crate) async fn make(kind: Option<Kind>, servers: &Servers, bare: bool) -> anyhow::Result<Self> {
        let (admin_url, url, place) = if let Some(kind) = kind {
            let database = servers.database(kind).await.map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
            database.migrate().await?;
            (database.admin_url()?, database.service_url()?, Place::Server)
        } else {
            // Next to the build, because the default folder may be in memory.
            let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
            let url = format!("sqlite://{}?mode=rwc", folder.path().join("bench.db").display());
            (url.clone(), url, Place::File(folder))
        };
        let admin = seabed::open(&admin_url).await?;
        if kind.is_none() {
            seabed::migrate(&admin).await?;
        }
        let version = if kind.is_some() { "SELECT VERSION() AS version" } else { "SELECT sqlite_version() AS version" };
        let row = admin.query_one_raw(Statement::from_string(admin.get_database_backend(), version)).await?;
        let version: String = row.context("no version")?.try_get("", "version")?;
        let numbered = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = numbered.unwrap_or_default().to_owned();
        let service = seabed::connect(&url).await?;
        let pgbench = crate::limit::pgbench().filter(|_| !bare);
        let store = Self { kind, version, url, service, admin, pgbench, place };
        for client in 0..MAX_CLIENTS {
            store.create(&own_session(client)?).await?;
        }
        store.create(&key("hot")?).await?;
        Ok(store)
    }

    async fn create(&self, key: &SessionKey) -> anyhow::Result<()> {
        let request = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
        self.service.create_session(request).await?;
        Ok(())
    }

    pub(crate) fn family(&self) -> Option<Family> {
        self.kind.map(Kind::family)
    }

    pub(crate) fn limit_name(&self) -> &'static str {
        match self.family() {
            Some(Family::Postgres) if self.pgbench.is_some() => "pgbench",
            Some(_) => "the bare driver, a connection for each client",
            None => "the bare driver on one connection",
        }
    }

    /// Creates a session with `count` events (a power of ten), bypassing the service.
    pub(crate) async fn fill(&self, session: &str, count: usize) -> anyhow::Result<SessionKey> {
        let key = key(session)?;
        self.create(&key).await?;
        let (id, time, data) = match self.family() {
            Some(Family::Postgres) => (
                "'e' || n",
                "timestamp '2026-01-01' + n * interval '1 second'",
                format!("CAST('{}' AS jsonb)", event_json(&event())),
            ),
            Some(Family::MySql) => {
                ("CONCAT('e', n)", "TIMESTAMPADD(SECOND, n, '2026-01-01')", format!("'{}'", event_json(&event())))
            }
            None => (
                "'e' || n",
                "strftime('%Y-%m-%d %H:%M:%S', '2026-01-01', '+' || n || ' seconds') || '.000000'",
                format!("'{}'", event_json(&event())),
            ),
        };
        let insert = format!(
            "INSERT INTO events (app_name, user_id, session_id, id, invocation_id, timestamp, event_data) \
             SELECT '{APP}', '{USER}', '{session}', {id}, 'invocation', {time}, {data} FROM ({}) AS numbers",
            numbers(count)
        );
        self.admin.execute_unprepared(&insert).await?;
        let update = format!(
            "UPDATE sessions SET update_time = (SELECT MAX(timestamp) FROM events WHERE session_id = '{session}') \
             WHERE id = '{session}'"
        );
        self.admin.execute_unprepared(&update).await?;
        self.analyze().await?;
        Ok(key)
    }

    /// Creates a new user's `count` sessions (a power of ten).
    pub(crate) async fn fill_sessions(&self, user: &str, count: usize) -> anyhow::Result<UserKey> {
        let user_key = UserKey::try_new(APP, user)?;
        self.service.create_session(CreateSession::new(user_key.clone())).await?;
        let (id, time) = match self.family() {
            Some(Family::Postgres) => ("'s' || n", "timestamp '2026-01-01' + n * interval '1 second'"),
            Some(Family::MySql) => ("CONCAT('s', n)", "TIMESTAMPADD(SECOND, n, '2026-01-01')"),
            None => ("'s' || n", "strftime('%Y-%m-%d %H:%M:%S', '2026-01-01', '+' || n || ' seconds') || '.000000'"),
        };
        let insert = format!(
            "INSERT INTO sessions (app_name, user_id, id, state, create_time, update_time) \
             SELECT '{APP}', '{user}', {id}, '{{\"k1\": \"value one\", \"k2\": 2}}', {time}, {time} FROM ({}) AS numbers",
            numbers(count)
        );
        self.admin.execute_unprepared(&insert).await?;
        self.analyze().await?;
        Ok(user_key)
    }

    async fn analyze(&self) -> anyhow::Result<()> {
        let analyze = match self.family() {
            Some(Family::Postgres) => "VACUUM ANALYZE",
            Some(Family::MySql) => "ANALYZE TABLE events, sessions",
            None => "ANALYZE",
        };
        self.admin.execute_unprepared(analyze).await?;
        Ok(())
    }

    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        self.admin.close().await?;
        match self.place {
            // The servers remove the database.
            Place::Server => Ok(()),
            Place::File(folder) => Ok(folder.close()?),
        }
    }
}

/// Returns a query for the numbers below `count` (a power of ten) that every database understands.
fn numbers(count: usize) -> String {
    let digits = count.ilog10();
    let ten = (0..10).map(|n| format!("SELECT {n} AS d")).collect::<Vec<_>>().join(" UNION ALL ");
    let tables: Vec<String> = (0..digits).map(|digit| format!("({ten}) AS t{digit}")).collect();
    let sum: Vec<String> = (0..digits).map(|digit| format!("t{digit}.d * {}", 10_u32.pow(digit))).collect();
    format!("SELECT {} AS n FROM {}", sum.join(" + "), tables.join(" CROSS JOIN "))
}

pub(crate) fn key(session: &str) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::try_new(APP, USER, session)?)
}

/// Returns the key of a client's own session.
pub(crate) fn own_session(client: usize) -> anyhow::Result<SessionKey> {
    key(&format!("own-{client}"))
}

/// Returns an event of about 500 bytes that changes two keys.
pub(crate) fn event() -> Event {
    let text = "It has twenty more words than this. ".repeat(9);
    Event::new("user")
        .with_invocation_id("invocation")
        .with_content(serde_json::json!({"role": "user", "parts": [{"text": text}]}))
        .with_state_delta(State::new().with("k1", "value one").with("k2", 2))
}

pub(crate) fn event_json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

/// Returns a new, unique session id.
pub(crate) fn new_id() -> SessionId {
    SessionId::try_new(format!("{:032x}", fastrand::u128(..))).expect("32 digits are an id")
}
