//! The limit: the statements that Seabed sends, run without Seabed.
//!
//! The statements are captured on the wire while Seabed makes one call, so they are identical. On PostgreSQL, pgbench
//! runs them if it is installed. Otherwise the bare driver does, on connections that it keeps.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sea_query_sqlx::SqlxValues;
use seabed::sea_orm::sea_query::{ArrayType, Value, Values};
use seabed::sea_orm::sqlx::{
    AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection, query_with, raw_sql,
};
use seabed::{Clock, GetSession, MySqlOptions, PostgresOptions, SqliteOptions, SystemClock, Timestamp};
use seabed_tests::{Family, Proxy};
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::measure::{Client, Load, Rate};
use crate::tables::{APP, Store, USER, event_json, new_id, own_session};
use crate::work::{Caller, LISTED, Work, filled, own_app};

/// Session state with two keys, and app state with two keys.
const STATE: &str = r#"{"k1": "value one", "k2": 2}"#;

/// By default, a server accepts 100 connections.
const MAX_CONNECTIONS: usize = 80;

/// How much longer pgbench runs for each client: it opens all connections first, and the time that takes is part of the
/// time that it is given, though not of its rate. (80 of them take a second and more on two cores.)
const OPENING: Duration = Duration::from_millis(50);

/// Returns the path of pgbench, if it is installed.
pub(crate) fn pgbench() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.into_iter().map(|folder| folder.join("pgbench")).find(|program| program.is_file())
}

/// Runs the statements of a work without Seabed.
pub(crate) struct Limit {
    work: Work,
    statements: Arc<Vec<String>>,
}

impl Limit {
    pub(crate) async fn new(store: &Store, work: &Work) -> anyhow::Result<Self> {
        work.prepare(store).await?;
        let mut statements = match store.family() {
            Some(family) => capture(store, work, family).await?,
            None => sqlite_statements(work).iter().map(|statement| (*statement).to_owned()).collect(),
        };
        if *work == Work::AppendHotSession {
            // Seabed appends later what it skipped; without that, a writer has to wait.
            statements = statements.iter().map(|statement| statement.replace(" SKIP LOCKED", "")).collect();
        }
        Ok(Self { work: work.clone(), statements: Arc::new(statements) })
    }

    pub(crate) async fn run(&self, store: &Store, load: Load) -> anyhow::Result<Rate> {
        if let (Some(Family::Postgres), Some(program)) = (store.family(), &store.pgbench) {
            let ran = self.run_pgbench(program, store, load).await;
            // Clients may block each other for so long that none has finished.
            let longer = Load { length: load.length * 5, ..load };
            return if ran.is_err() { self.run_pgbench(program, store, longer).await } else { ran };
        }
        // SQLite serves one writer at a time, so its limit is one connection that does nothing else.
        let clients = if store.family().is_none() { 1 } else { load.clients };
        let mut connections = Vec::new();
        for client in 0..clients {
            let connection = Bare::connect(store).await?;
            let (work, statements) = (self.work.clone(), self.statements.clone());
            // The first append finds the session at another revision, and moves it to this one.
            let revision = SystemClock.now();
            let own = GetSession::new(own_session(client)?).with_num_recent_events(0);
            let created = store.service.get_session(own).await?.map_or(revision, |session| session.create_time);
            let family = store.family();
            connections.push(BareClient { connection, work, statements, client, family, created, revision });
        }
        Load { clients, ..load }.run(connections).await
    }

    async fn run_pgbench(&self, program: &Path, store: &Store, load: Load) -> anyhow::Result<Rate> {
        let mut script = self.statements.join(";\n");
        let values = pgbench_values(&self.work);
        for (index, value) in values.iter().enumerate().rev() {
            script = script.replace(&format!("${}", index + 1), value);
        }
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), script + ";\n")?;
        let url = url::Url::parse(&store.url)?;
        let options: PostgresOptions = store.url.parse()?;
        let password = percent_decoded(url.password().unwrap_or_default());
        let clients = load.clients.min(MAX_CONNECTIONS);
        let length = load.length + OPENING * u32::try_from(clients)?;
        let output = Command::new(program)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={clients}"))
            .arg(format!("--time={}", length.as_secs_f64().ceil()))
            .arg(format!("--define=data={}", event_json(&self.work.event())))
            .arg(format!("--define=state={STATE}"))
            .arg("--file")
            .arg(file.path())
            .args(["--host", options.driver.get_host()])
            .args(["--port", &options.driver.get_port().to_string()])
            .args(["--username", options.driver.get_username()])
            .arg(options.driver.get_database().unwrap_or_default())
            .env("PGPASSWORD", password)
            .stdin(Stdio::null())
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout);
        let after =
            |label: &str| told.lines().find_map(|line| line.strip_prefix(label)?.split(' ').next()?.parse().ok());
        // The line ends in "(without initial connection time)".
        let (rate, opening): (Option<f64>, Option<f64>) = (after("tps = "), after("initial connection time = "));
        let (each_second, opening) = rate
            .zip(opening)
            .with_context(|| format!("pgbench told no rate: {told} {}", String::from_utf8_lossy(&output.stderr)))?;
        let working = length.as_secs_f64() - opening / 1000.0;
        ensure!(working >= load.length.as_secs_f64() * 0.9, "pgbench took {opening} ms to open its connections");
        Ok(Rate { each_second, ..Rate::default() })
    }
}

fn percent_decoded(text: &str) -> String {
    // The form decoder would also treat a plus sign as a blank.
    let form = format!("password={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, password)| password.into_owned()).unwrap_or_default()
}

/// Captures the statements that one call of Seabed sends.
async fn capture(store: &Store, work: &Work, family: Family) -> anyhow::Result<Vec<String>> {
    let (proxy, url) = Proxy::start(family, &store.url).await?;
    let service = family.connect(&url, 1, Duration::from_secs(5)).await?;
    // Creates the rows that exist by the second call.
    Caller::new(store.service.clone(), work.clone(), 0).await?.call().await?;
    let mut caller = Caller::new(service, work.clone(), 0).await?;
    proxy.take();
    caller.call().await?;
    let mut statements = proxy.take().statements;
    // Seabed asks for the time every few seconds, not in every call.
    statements.retain(|statement| {
        !statement.starts_with("SELECT pg_catalog.timezone(") && statement != "SELECT UTC_TIMESTAMP(6)"
    });
    ensure!(!statements.is_empty(), "no statement of {} was seen", work.name());
    Ok(statements)
}

/// Returns the parameter values in a pgbench script. The server generates the values that must differ.
fn pgbench_values(work: &Work) -> Vec<String> {
    let quoted = |text: &str| format!("'{text}'");
    let array = |value: &str| format!("ARRAY[{value}]");
    let (now, new_id) = (array("localtimestamp"), array("gen_random_uuid()::text"));
    let (empty, state) = (array("'{}'"), array(":state"));
    let app = array(&quoted(APP));
    let user = array(&quoted(USER));
    let number = array("0");
    let [deadline, count] = ["'9999-01-01'", "1"].map(str::to_owned);
    let session_key = |session: &str| [quoted(APP), quoted(USER), quoted(session)];
    match work {
        Work::CreateInOneApp | Work::CreateInManyApps => {
            let app = if *work == Work::CreateInOneApp { app } else { array("'app-' || :client_id") };
            vec![number, app, user, new_id, empty.clone(), empty.clone(), empty, now, deadline, count]
        }
        Work::AppendToOwn | Work::AppendStateless | Work::AppendHotApp | Work::AppendHotSession => {
            let session = if *work == Work::AppendHotSession { "'hot'" } else { "'own-' || :client_id" };
            let (delta, app_delta) = match work {
                Work::AppendStateless => (empty.clone(), empty.clone()),
                Work::AppendHotApp => (empty.clone(), state),
                _ => (state, empty.clone()),
            };
            let event = [new_id, array("'invocation'"), now.clone(), array(":data"), array("''"), array("''")];
            [number, app, user, array(session)]
                .into_iter()
                .chain(event)
                .chain([delta, app_delta, empty, now, deadline, count])
                .collect()
        }
        Work::Get { events, recent } => {
            let key = session_key(&filled(*events));
            let shared = [quoted(APP), quoted(APP), quoted(USER)];
            let recent = recent.map(|recent| recent.to_string());
            key.clone().into_iter().chain(shared).chain(key).chain(recent).collect()
        }
        Work::List => vec![quoted(APP), quoted(LISTED), "1001".to_owned(), quoted(APP), quoted(APP)],
    }
}

/// The statements that Seabed sends to SQLite, which has no wire to capture them from.
fn sqlite_statements(work: &Work) -> &'static [&'static str] {
    match work {
        Work::CreateInOneApp | Work::CreateInManyApps => &[
            "SELECT state, 'app_states' FROM app_states WHERE app_name = ? UNION ALL \
             SELECT state, 'user_states' FROM user_states WHERE app_name = ? AND user_id = ?",
            "INSERT INTO sessions (app_name, user_id, id, state, create_time, update_time) \
             SELECT ?, ?, ?, ?, ?, ? WHERE strftime('%Y-%m-%d %H:%M:%f000', 'now') < ? \
             ON CONFLICT (app_name, user_id, id) DO NOTHING",
        ],
        Work::AppendToOwn | Work::AppendHotSession => &[
            "BEGIN IMMEDIATE",
            LOCK,
            INSERT_EVENT,
            "UPDATE sessions SET update_time = ?, state = ? WHERE app_name = ? AND user_id = ? AND id = ?",
            "COMMIT",
        ],
        Work::AppendStateless => &["BEGIN IMMEDIATE", INSERT_AT_REVISION, WRITE_TIME, "COMMIT"],
        Work::AppendHotApp => &[
            "BEGIN IMMEDIATE",
            INSERT_AT_REVISION,
            WRITE_TIME,
            "SELECT state FROM app_states WHERE app_name = ?",
            "UPDATE app_states SET state = ?, update_time = ? WHERE app_name = ?",
            "COMMIT",
        ],
        Work::Get { recent: None, .. } => &[GET],
        Work::Get { recent: Some(_), .. } => &[GET_RECENT],
        Work::List => {
            &["SELECT s.user_id, s.id, s.create_time, s.update_time, s.state, u.state, a.state FROM (SELECT *, \
             ROW_NUMBER() OVER (ORDER BY update_time DESC, user_id DESC, id DESC) AS of_app, \
             ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY update_time DESC, user_id DESC, id DESC) AS of_user \
             FROM (SELECT user_id, id, create_time, update_time, state FROM sessions WHERE app_name = ? AND user_id = ? \
             ORDER BY update_time DESC, user_id DESC, id DESC LIMIT ?)) s \
             LEFT JOIN user_states u ON s.of_user = 1 AND u.app_name = ? AND u.user_id = s.user_id \
             LEFT JOIN app_states a ON s.of_app = 1 AND a.app_name = ? \
             ORDER BY s.update_time DESC, s.user_id DESC, s.id DESC"]
        }
    }
}

const LOCK: &str = "SELECT create_time, update_time, state FROM sessions WHERE app_name = ? AND user_id = ? AND id = ?";
const INSERT_EVENT: &str = "INSERT INTO events (app_name, user_id, session_id, id, invocation_id, timestamp, event_data) \
                            VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, app_name, user_id, session_id) DO NOTHING";
const INSERT_AT_REVISION: &str = "INSERT INTO events (app_name, user_id, session_id, id, invocation_id, timestamp, \
                                  event_data) SELECT ?, ?, ?, ?, ?, ?, ? FROM sessions WHERE app_name = ? AND user_id = ? \
                                  AND id = ? AND update_time = ? AND create_time = ? \
                                  ON CONFLICT (id, app_name, user_id, session_id) DO NOTHING";
const WRITE_TIME: &str = "UPDATE sessions SET update_time = ? WHERE app_name = ? AND user_id = ? AND id = ?";
const GET: &str = "SELECT 'sessions', id, create_time, update_time, state FROM sessions WHERE app_name = ? AND user_id = ? \
                   AND id = ? UNION ALL SELECT 'app_states', app_name, update_time, update_time, state FROM app_states \
                   WHERE app_name = ? UNION ALL SELECT 'user_states', user_id, update_time, update_time, state FROM \
                   user_states WHERE app_name = ? AND user_id = ? UNION ALL SELECT 'events', id, timestamp, timestamp, \
                   event_data FROM events WHERE app_name = ? AND user_id = ? AND session_id = ?";
const GET_RECENT: &str = "SELECT 'sessions', id, create_time, update_time, state FROM sessions WHERE app_name = ? AND user_id \
                          = ? AND id = ? UNION ALL SELECT 'app_states', app_name, update_time, update_time, state FROM \
                          app_states WHERE app_name = ? UNION ALL SELECT 'user_states', user_id, update_time, update_time, \
                          state FROM user_states WHERE app_name = ? AND user_id = ? UNION ALL SELECT * FROM (SELECT \
                          'events', id, timestamp, timestamp, event_data FROM events WHERE app_name = ? AND user_id = ? AND \
                          session_id = ? ORDER BY timestamp DESC, id DESC LIMIT ?)";

/// A connection of the bare driver.
enum Bare {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// Evaluates the same expression on a connection of any kind.
macro_rules! on_connection {
    ($bare:expr, $connection:ident => $value:expr) => {
        match $bare {
            Bare::Postgres($connection) => $value,
            Bare::MySql($connection) => $value,
            Bare::Sqlite($connection) => $value,
        }
    };
}

impl Bare {
    async fn connect(store: &Store) -> anyhow::Result<Self> {
        Ok(match store.family() {
            Some(Family::Postgres) => {
                Self::Postgres(PgConnection::connect_with(&store.url.parse::<PostgresOptions>()?.driver).await?)
            }
            Some(Family::MySql) => {
                let mut connection = MySqlConnection::connect_with(&store.url.parse::<MySqlOptions>()?.driver).await?;
                let level = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                raw_sql(AssertSqlSafe(level)).execute(&mut connection).await?;
                Self::MySql(connection)
            }
            None => Self::Sqlite(SqliteConnection::connect_with(&store.url.parse::<SqliteOptions>()?.driver).await?),
        })
    }

    /// Runs a statement, prepared if it has values, and reads all its rows.
    async fn execute(&mut self, statement: &str, values: Vec<Value>) -> anyhow::Result<()> {
        let sql = AssertSqlSafe(statement.to_owned());
        on_connection!(self, connection => if values.is_empty() {
            raw_sql(sql).execute(connection).await?;
        } else {
            query_with(sql, SqlxValues(Values(values))).fetch_all(connection).await?;
        });
        Ok(())
    }
}

struct BareClient {
    connection: Bare,
    work: Work,
    statements: Arc<Vec<String>>,
    client: usize,
    family: Option<Family>,
    /// When its own session was created.
    created: Timestamp,
    /// The revision of its own session.
    revision: Timestamp,
}

impl Client for BareClient {
    async fn call(&mut self) -> anyhow::Result<()> {
        let mut values = self.values().into_iter();
        for statement in self.statements.clone().iter() {
            let has_parameters = statement.contains(['?', '$']);
            let values = if has_parameters { values.next().context("a statement too many")? } else { Vec::new() };
            self.connection.execute(statement, values).await?;
        }
        Ok(())
    }
}

impl BareClient {
    /// Returns the values of each statement that has parameters, in the order in which Seabed binds them.
    #[allow(clippy::too_many_lines, reason = "one arm a work")]
    fn values(&mut self) -> Vec<Vec<Value>> {
        let text = |text: &str| Value::from(text);
        let time = |time: Timestamp| match self.family {
            None => Value::from(time.to_naive_utc().format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            Some(_) => Value::from(time.to_naive_utc()),
        };
        let called = SystemClock.now();
        let (now, revision) = (time(called), time(std::mem::replace(&mut self.revision, called)));
        let a_minute_later = Timestamp::try_from_micros(called.as_micros() + 60_000_000);
        let deadline = time(a_minute_later.unwrap_or(called));
        let key = |session: &str| [text(APP), text(USER), text(session)];
        let own = format!("own-{}", self.client);
        match &self.work {
            Work::CreateInOneApp | Work::CreateInManyApps => {
                let app = if self.work == Work::CreateInOneApp { APP.to_owned() } else { own_app(self.client) };
                let (app, id) = (text(&app), text(new_id().as_str()));
                if self.family == Some(Family::Postgres) {
                    let none = text("{}");
                    let values = [0.into(), app, text(USER), id, none.clone(), none.clone(), none, now];
                    return vec![bulk(values, deadline)];
                }
                vec![
                    vec![app.clone(), app.clone(), text(USER)],
                    vec![app, text(USER), id, text("{}"), now.clone(), now, deadline],
                ]
            }
            Work::AppendToOwn | Work::AppendStateless | Work::AppendHotApp | Work::AppendHotSession => {
                let session = if self.work == Work::AppendHotSession { "hot" } else { &own };
                let [app, user, session] = key(session);
                let event =
                    [text(new_id().as_str()), text("invocation"), now.clone(), text(&event_json(&self.work.event()))];
                let (is_app, is_stateless) = (self.work == Work::AppendHotApp, self.work == Work::AppendStateless);
                if self.family == Some(Family::Postgres) {
                    let (state, none) = (text(STATE), text("{}"));
                    let app_delta = if is_app { state.clone() } else { none.clone() };
                    let delta = if is_app || is_stateless { none.clone() } else { state };
                    let [id, invocation, own_time, data] = event;
                    let revision = [text(""), text("")];
                    let key = [0.into(), app, user, session];
                    let event = [id, invocation, own_time, data].into_iter().chain(revision);
                    let values = key.into_iter().chain(event).chain([delta, app_delta, none, now]);
                    return vec![bulk(values, deadline)];
                }
                let lock = vec![app.clone(), user.clone(), session.clone()];
                let insert: Vec<Value> = lock.iter().cloned().chain(event).collect();
                if is_app || is_stateless {
                    let insert = insert.into_iter().chain(lock).chain([revision, time(self.created)]).collect();
                    let write_time = vec![now.clone(), app.clone(), user, session];
                    let shared = [vec![app.clone()], vec![text(STATE), now, app]];
                    return [insert, write_time].into_iter().chain(shared.into_iter().filter(|_| is_app)).collect();
                }
                vec![lock, insert, vec![now, text(STATE), app, user, session]]
            }
            Work::Get { events, recent } => {
                let key = key(&filled(*events));
                let shared = [text(APP), text(APP), text(USER)];
                let recent = recent.map(|recent| Value::from(i64::from(recent)));
                vec![key.clone().into_iter().chain(shared).chain(key).chain(recent).collect()]
            }
            Work::List => vec![vec![text(APP), text(LISTED), Value::from(1001_i64), text(APP), text(APP)]],
        }
    }
}

/// Returns each value as an array of one, followed by the deadline and the number of writes.
fn bulk(values: impl IntoIterator<Item = Value>, deadline: Value) -> Vec<Value> {
    let array = |value: Value| {
        let of = match value {
            Value::Int(_) => ArrayType::Int,
            Value::ChronoDateTime(_) => ArrayType::ChronoDateTime,
            _ => ArrayType::String,
        };
        Value::Array(of, Some(Box::new(vec![value])))
    };
    values.into_iter().map(array).chain([deadline, Value::from(1_i64)]).collect()
}
