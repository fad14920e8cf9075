//! google-adk itself, run for the tests by `interop/peer.py` in a separate process.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use seabed::{Json, SessionKey, State};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

use crate::Unavailable;
use crate::python::{environment, interop};
use crate::server::is_required;

/// The newest google-adk, whose schema Seabed uses.
pub static ADK_2_13: Adk = Adk::new("2.13");
/// An older version that writes the same tables.
pub static ADK_1_26: Adk = Adk::new("1.26");

/// A version of google-adk, in a Python environment that is created on first use.
#[derive(Debug)]
pub struct Adk {
    version: &'static str,
    python: OnceCell<Result<PathBuf, Unavailable>>,
}

impl Adk {
    const fn new(version: &'static str) -> Self {
        Self { version, python: OnceCell::const_new() }
    }

    /// Returns the Python interpreter that has google-adk installed.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no Python, or the packages cannot be installed.
    pub async fn python(&'static self) -> Result<PathBuf, Unavailable> {
        let python = self.python.get_or_init(|| async {
            // Runs on a blocking thread, since it waits for other processes, and finishes the installation even if the
            // caller is dropped.
            let (name, requirements) =
                (format!("google-adk-{}", self.version), format!("requirements-{}.txt", self.version));
            let install = move || environment(&name, &[&requirements]);
            let installed = tokio::task::spawn_blocking(install).await.map_err(Into::into).flatten();
            installed.map_err(|error| Unavailable {
                reason: format!("no google-adk {} (install python3-venv?): {error:#}", self.version),
                required: is_required("google-adk"),
            })
        });
        python.await.clone()
    }

    /// Starts google-adk on the database at a Seabed URL.
    ///
    /// # Errors
    /// If google-adk cannot be installed or started.
    pub async fn start(&'static self, url: &str) -> anyhow::Result<Peer> {
        let python = self.python().await.map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
        Peer::start(&python, url, None)
    }
}

/// Converts a Seabed URL to the URL with which google-adk connects to the same database.
pub fn sqlalchemy_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    match scheme {
        "sqlite" => format!("sqlite+aiosqlite:///{}", rest.split('?').next().unwrap_or_default()),
        "mysql" => format!("mysql+aiomysql://{rest}"),
        _ => format!("postgresql+asyncpg://{rest}"),
    }
}

/// A running google-adk process.
#[derive(Debug)]
pub struct Peer {
    requests: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    number: AtomicU64,
    complaints: JoinHandle<String>,
    child: Child,
}

/// The calls that wait for replies; `Err` with the process's output once it has ended.
type Calls = Result<HashMap<u64, oneshot::Sender<Result<Json, AdkError>>>, String>;

#[derive(Debug, Clone)]
struct Waiting(Arc<Mutex<Calls>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Ok(HashMap::new()))))
    }
}

impl Waiting {
    fn with<T>(&self, act: impl FnOnce(&mut Calls) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a call of google-adk failed.
#[derive(Debug)]
pub enum AdkError {
    /// It raised an exception.
    Raised {
        /// The name of its class.
        class: String,
        /// Its text.
        message: String,
    },
    /// The process has ended, or its reply cannot be parsed.
    Gone(String),
}

impl AdkError {
    /// Whether google-adk rejected an append because the session had changed. google-adk 1 has no exception class for
    /// that.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Raised { class, message } => {
                class == "StaleSessionError" || class == "ValueError" && message.contains("stale")
            }
            Self::Gone(_) => false,
        }
    }
}

impl fmt::Display for AdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised { class, message } => write!(f, "google-adk raised {class}: {message}"),
            Self::Gone(reason) => write!(f, "google-adk is gone: {reason}"),
        }
    }
}

impl Error for AdkError {}

/// A session as google-adk returns it.
#[derive(Debug, Clone, Deserialize)]
pub struct AdkSession {
    /// Its id.
    pub id: String,
    /// Session, user and app state merged.
    pub state: State,
    /// The last update, in seconds since the epoch.
    pub last_update_time: f64,
    /// The events, as google-adk writes them.
    pub events: Vec<Json>,
}

/// What google-adk makes of a history; see [`Peer::effective_events`].
#[derive(Debug, Clone, Deserialize)]
pub struct AdkEffective {
    /// The ids of the events that no rewind has taken back.
    pub live: Vec<String>,
    /// The events that a request is built from.
    pub used: Vec<AdkUsed>,
    /// The state delta of a rewind; `None` if the history does not have its invocation.
    pub delta: Option<State>,
}

/// An event that a request is built from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AdkUsed {
    /// The id of an event of the history; `None` for a summary.
    pub id: Option<String>,
    /// Some fields of a summary.
    pub summary: Option<Json>,
}

/// The outcomes of the appends of [`Peer::hammer`].
#[derive(Debug, Clone, Deserialize)]
pub struct Hammered {
    /// Those that succeeded.
    pub acknowledged: Vec<Acknowledged>,
    /// How often each error occurred, except staleness.
    pub errors: BTreeMap<String, u64>,
    /// How often google-adk rejected an append because the session had changed.
    pub stale: u64,
}

/// An append that succeeded.
#[derive(Debug, Clone, Deserialize)]
pub struct Acknowledged {
    /// The id of the session.
    pub session: String,
    /// The state keys that it set, with their prefixes.
    pub keys: Vec<String>,
    /// The id of the event.
    pub event_id: String,
}

impl Peer {
    /// Starts google-adk in the environment of `python`: with `service`, the name of a Python class, or with its own.
    pub(crate) fn start(python: &Path, url: &str, service: Option<&str>) -> anyhow::Result<Self> {
        let mut child = Command::new(python)
            .arg(interop("peer.py"))
            .arg(sqlalchemy_url(url))
            .args(service)
            // google-adk 1 writes local times.
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(requests), Some(answers), Some(complaints)) = streams else { anyhow::bail!("no pipes") };
        let waiting = Waiting::default();
        Ok(Self {
            requests: tokio::sync::Mutex::new(requests),
            complaints: tokio::spawn(listen(answers, complaints, waiting.clone())),
            waiting,
            number: AtomicU64::new(0),
            child,
        })
    }

    /// Creates a session, and keeps its Python object for appends.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn create(&self, key: &SessionKey, state: &State) -> Result<AdkSession, AdkError> {
        let arguments = [("session", key.session_id.as_str().into()), ("state", json(state)?)];
        self.call("create", user(key), arguments).await
    }

    /// Reads a session, and keeps its Python object for appends.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn get(&self, key: &SessionKey) -> Result<Option<AdkSession>, AdkError> {
        self.call("get", user(key), [("session", key.session_id.as_str().into())]).await
    }

    /// Appends through the object kept by [`create`](Self::create) or [`get`](Self::get), however old it is.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn append(&self, key: &SessionKey, event: &Json) -> Result<(), AdkError> {
        self.append_to(key, event, false).await
    }

    /// Reads the session, then appends.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn reload_and_append(&self, key: &SessionKey, event: &Json) -> Result<(), AdkError> {
        self.append_to(key, event, true).await
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn delete(&self, key: &SessionKey) -> Result<(), AdkError> {
        self.call::<Json>("delete", user(key), [("session", key.session_id.as_str().into())]).await.map(drop)
    }

    async fn append_to(&self, key: &SessionKey, event: &Json, reload: bool) -> Result<(), AdkError> {
        let session = ("session", key.session_id.as_str().into());
        let arguments = [session, ("event", event.clone()), ("reload", reload.into())];
        self.call::<Json>("append", user(key), arguments).await.map(drop)
    }

    /// Returns events that together use every field that this google-adk knows.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn sample_events(&self) -> Result<Vec<Json>, AdkError> {
        self.call("sample_events", [], []).await
    }

    /// Returns variants of the sample events, with another value, a key more or a key less in one place each.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn misshapen_events(&self) -> Result<Vec<Json>, AdkError> {
        self.call("misshapen_events", [], []).await
    }

    /// Returns for each event the types of the errors with which google-adk refuses to read it; none if it reads it.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn objections(&self, events: &[Json]) -> Result<Vec<Vec<String>>, AdkError> {
        self.call("objections", [], [("events", json(events)?)]).await
    }

    /// Returns what google-adk makes of each history.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn effective_events(&self, histories: &[Json]) -> Result<Vec<AdkEffective>, AdkError> {
        self.call("effective_events", [], [("histories", json(histories)?)]).await
    }

    /// Rewinds a session as google-adk's runner does.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn rewind(&self, key: &SessionKey, before_invocation_id: &str) -> Result<(), AdkError> {
        let arguments = [("session", key.session_id.as_str().into()), ("before", before_invocation_id.into())];
        self.call("rewind", user(key), arguments).await
    }

    /// Appends to several sessions of one user concurrently for a while. Each event's id, and the keys it sets, consist
    /// of `writer` and a number.
    ///
    /// # Errors
    /// Those of google-adk.
    pub async fn hammer(&self, keys: &[&SessionKey], length: Duration, writer: &str) -> Result<Hammered, AdkError> {
        let sessions: Vec<&str> = keys.iter().map(|key| key.session_id.as_str()).collect();
        let arguments =
            [("sessions", json(&sessions)?), ("seconds", length.as_secs_f64().into()), ("writer", writer.into())];
        self.call("hammer", keys.first().into_iter().flat_map(|key| user(key)), arguments).await
    }

    /// Ends the process once all calls are answered.
    ///
    /// # Errors
    /// If the process fails.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { requests, complaints, mut child, .. } = self;
        drop(requests);
        let status = child.wait().await?;
        ensure!(status.success(), "google-adk ended with {status}: {}", complaints.await?);
        Ok(())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        user: impl IntoIterator<Item = (&'static str, Json)>,
        arguments: impl IntoIterator<Item = (&'static str, Json)>,
    ) -> Result<T, AdkError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let request = [("id", number.into()), ("call", call.into())];
        let request: BTreeMap<&str, Json> = request.into_iter().chain(user).chain(arguments).collect();
        let (answer, answered) = oneshot::channel();
        self.waiting.with(|calls| match calls {
            Ok(calls) => {
                calls.insert(number, answer);
                Ok(())
            }
            Err(complaints) => Err(AdkError::Gone(complaints.clone())),
        })?;
        let line = format!("{}\n", json(&request)?);
        // If the process has ended in the meantime, the reply reports it.
        let _ = self.requests.lock().await.write_all(line.as_bytes()).await;
        let answer = answered.await.map_err(|_| AdkError::Gone(format!("no answer to {call}")))??;
        answer.decode().map_err(|error| AdkError::Gone(format!("its answer to {call}: {error}")))
    }
}

/// Returns the app and the user of a session as arguments.
fn user(key: &SessionKey) -> [(&'static str, Json); 2] {
    [("app", key.app_name.as_str().into()), ("user", key.user_id.as_str().into())]
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Json, AdkError> {
    Json::from_serialize(value).map_err(|error| AdkError::Gone(error.to_string()))
}

/// One line of the peer's output.
#[derive(Deserialize)]
struct Answer {
    id: u64,
    ok: Option<Box<RawValue>>,
    error: Option<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    r#type: String,
    message: String,
}

/// Delivers replies until there are no more, and returns what else was printed.
async fn listen(answers: ChildStdout, mut complaints: ChildStderr, waiting: Waiting) -> String {
    let complaints = tokio::spawn(async move {
        let mut printed = Vec::new();
        let read = complaints.read_to_end(&mut printed).await;
        let end = read.err().map(|error| error.to_string()).unwrap_or_default();
        format!("{}{end}", String::from_utf8_lossy(&printed))
    });
    let mut lines = BufReader::new(answers).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Answer { id, ok, error }) = serde_json::from_str(&line) else { break };
        let outcome = match error {
            Some(Exception { r#type: class, message }) => Err(AdkError::Raised { class, message }),
            None => Json::parse(ok.as_deref().unwrap_or(RawValue::NULL).get())
                .map_err(|error| AdkError::Gone(error.to_string())),
        };
        let call = waiting.with(|calls| calls.as_mut().ok().and_then(|calls| calls.remove(&id)));
        // If the call was dropped, nobody waits for its reply.
        let _ = call.map(|call| call.send(outcome));
    }
    let printed = complaints.await.unwrap_or_else(|error| error.to_string());
    let left = waiting.with(|calls| std::mem::replace(calls, Err(printed.clone())));
    for call in left.into_iter().flat_map(HashMap::into_values) {
        let _ = call.send(Err(AdkError::Gone(printed.clone())));
    }
    printed
}
