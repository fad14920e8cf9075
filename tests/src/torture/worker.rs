//! A process that makes random calls and records their outcomes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use futures_util::future::BoxFuture;
use seabed::sea_orm::TransactionTrait;
use seabed::{
    AppendEvent, Appended, BackendErrorKind, CreateSession, DeleteSession, Error, Event, ExpectedRevision, GetSession,
    ListSessions, Revision, Session, SessionId, SessionKey, SessionScope, SessionService, State, TransactionalService,
    UserKey,
};
use seabed_core::sql::{Dialect, SqlSessionService};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::checker::{COUNTER, INCARNATION};
use super::history::{Action, Journal, Outcome, Record, Refusal, now, scope_of};

/// The environment variable that makes a process a worker, and contains its orders.
const VARIABLE: &str = "SEABED_TORTURE_WORKER";
pub(crate) const APPS: usize = 6;
pub(crate) const USERS: usize = 3;
/// Per user: sessions that are never deleted, and ids of sessions that are created and deleted.
pub(crate) const LASTING: usize = 6;
const MORTAL: usize = 2;
/// The number of keys per scope that all tasks write.
const HOT_KEYS: usize = 4;

/// What a worker does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) url: String,
    pub(crate) journal: PathBuf,
    pub(crate) process: usize,
    /// How many workers had this slot before.
    pub(crate) generation: usize,
    pub(crate) tasks: usize,
    pub(crate) seed: u64,
    pub(crate) fast: bool,
}

impl Orders {
    /// Returns the command that starts the current program as this worker.
    pub(crate) fn command(&self) -> anyhow::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.env(VARIABLE, serde_json::to_string(self)?);
        Ok(command)
    }
}

/// Works, if this process was started as a worker. Ends when its standard input closes.
///
/// # Errors
/// If it cannot record its calls, or never reaches the database.
pub async fn work_if_told() -> Option<anyhow::Result<()>> {
    let orders = std::env::var(VARIABLE).ok()?;
    Some(match serde_json::from_str(&orders) {
        Ok(orders) => work(orders).await,
        Err(error) => Err(error.into()),
    })
}

async fn work(orders: Orders) -> anyhow::Result<()> {
    let service = connect(&orders).await?;
    let journal = Arc::new(Journal::create(&orders.journal)?);
    let done = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..orders.tasks {
        let seed = orders.seed.wrapping_add((orders.process * 1000 + orders.generation * 100_000 + task) as u64);
        let mut worker = Task {
            service: service.clone(),
            journal: journal.clone(),
            name: format!("p{}t{task}", orders.process),
            generation: orders.generation,
            calls: 0,
            random: Rng::with_seed(seed),
            recent: VecDeque::new(),
            done: done.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            while stop.load(Ordering::Relaxed) == 0 {
                worker.step().await?;
            }
            anyhow::Ok(())
        });
    }
    // Prints the number of acknowledged writes on a line from time to time, until standard input closes.
    let told = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
    while !told.is_finished() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        println!("{}", done.load(Ordering::Relaxed));
    }
    stop.store(1, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    println!("{}", done.load(Ordering::Relaxed));
    service.close().await?;
    Ok(())
}

/// Retries, because the server may be down at the moment.
async fn connect(orders: &Orders) -> anyhow::Result<Arc<dyn Store>> {
    let started = Instant::now();
    loop {
        match super::connect(&orders.url, orders.fast).await {
            Err(error) if error.is_retryable() && started.elapsed() < Duration::from_mins(1) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// A caller of the service.
struct Task {
    service: Arc<dyn Store>,
    journal: Arc<Journal>,
    name: String,
    generation: usize,
    calls: u64,
    random: Rng,
    /// The latest acknowledged appends to lasting sessions, for replays.
    recent: VecDeque<(Event, Action)>,
    done: Arc<AtomicU64>,
}

pub(crate) fn user(app: usize, user: usize) -> anyhow::Result<UserKey> {
    Ok(UserKey::try_new(format!("app{app}"), format!("user{user}"))?)
}

pub(crate) fn lasting(user: &UserKey, number: usize) -> anyhow::Result<SessionKey> {
    Ok(user.session(SessionId::try_new(format!("lasting{number}"))?))
}

fn name_of(key: &SessionKey) -> String {
    format!("{}/{}/{}", key.app_name.as_str(), key.user_id.as_str(), key.session_id.as_str())
}

/// Builds the create of a session with `keys`, as operation `op`.
pub(crate) fn create(key: &SessionKey, op: &str, keys: Vec<String>) -> (CreateSession, Action) {
    let state = keys.iter().fold(State::new().with(INCARNATION, op), |state, key| state.with(key, op));
    let request = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    (request, Action::Create { session: name_of(key), keys })
}

impl Task {
    fn next_op(&mut self) -> String {
        self.calls += 1;
        format!("{}g{}n{}", self.name, self.generation, self.calls)
    }

    fn user(&mut self) -> anyhow::Result<UserKey> {
        user(self.random.usize(..APPS), self.random.usize(..USERS))
    }

    fn lasting(&mut self) -> anyhow::Result<SessionKey> {
        let user = self.user()?;
        lasting(&user, self.random.usize(..LASTING))
    }

    fn mortal(&mut self) -> anyhow::Result<SessionKey> {
        let id = SessionId::try_new(format!("mortal{}", self.random.usize(..MORTAL)))?;
        Ok(self.user()?.session(id))
    }

    /// Picks some of the keys that all tasks write, and some of its own, in any scope.
    fn keys(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        for (scope, one_in) in [("", 2), ("user:", 4), ("app:", 6)] {
            if self.random.usize(..one_in) == 0 {
                keys.push(format!("{scope}{}", self.name));
            }
            if self.random.usize(..one_in) == 0 {
                keys.push(format!("{scope}hot{}", self.random.usize(..HOT_KEYS)));
            }
        }
        keys
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.random.usize(..100) {
            0..50 => {
                let key = self.lasting()?;
                self.append(key, true).await
            }
            50..57 => self.append_without_look().await,
            57..72 => self.count_up().await,
            72..76 => {
                let id = self.next_op();
                let key = self.user()?.session(SessionId::try_new(format!("own-{id}"))?);
                self.create(key, id).await
            }
            76..80 => {
                let (key, op) = (self.mortal()?, self.next_op());
                self.create(key, op).await
            }
            80..83 => self.delete().await,
            83..88 => {
                let key = self.mortal()?;
                self.append(key, false).await
            }
            88..92 => self.replay().await,
            92..93 => self.reuse().await,
            93..98 => self.get(Some(8)).await,
            98 => self.get(None).await,
            _ => self.list().await,
        }
    }

    /// Records a call, makes it, and records its outcome. Repeats it while the outcome is unknown or the database
    /// cannot be reached.
    async fn call(&mut self, op: &str, action: &Action, request: Request) -> anyhow::Result<Outcome> {
        for attempt in 0.. {
            self.journal.write(&Record::Began { op: op.to_owned(), at: now(), action: action.clone() })?;
            let outcome = request.clone().send(&*self.service).await;
            self.journal.write(&Record::Ended { op: op.to_owned(), at: now(), outcome: outcome.clone() })?;
            let again =
                matches!(outcome, Outcome::Unknown | Outcome::Refused(Refusal::Unavailable | Refusal::Contention));
            if !again || attempt == 20 {
                if matches!(outcome, Outcome::Stored(_)) {
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(outcome);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("a loop without end has ended")
    }

    async fn create(&mut self, key: SessionKey, op: String) -> anyhow::Result<()> {
        let keys = self.keys();
        let (request, action) = create(&key, &op, keys);
        self.call(&op, &action, Request::Create(request)).await.map(drop)
    }

    /// Builds an append, from time to time in the caller's own transaction.
    fn append_somehow(&mut self, request: AppendEvent) -> Request {
        let request = Box::new(request);
        if self.random.usize(..8) == 0 { Request::AppendInTransaction(request) } else { Request::Append(request) }
    }

    async fn append(&mut self, key: SessionKey, lasts: bool) -> anyhow::Result<()> {
        let op = self.next_op();
        let keys = self.keys();
        let delta = keys.iter().fold(State::new(), |delta, key| delta.with(key, op.as_str()));
        let action = Action::Append { session: name_of(&key), keys, counter: None };
        let event = event(&op, delta);
        let request = self.append_somehow(AppendEvent::new(key, event.clone(), ExpectedRevision::Any));
        let outcome = self.call(&op, &action, request).await?;
        if lasts && matches!(outcome, Outcome::Stored(_)) {
            self.recent.push_back((event, action));
            if self.recent.len() > 16 {
                self.recent.pop_front();
            }
        }
        Ok(())
    }

    /// Picks a session; half of the time the same one for all tasks, so that processes collide.
    fn wanted_by_all(&mut self) -> anyhow::Result<SessionKey> {
        if self.random.bool() { lasting(&user(0, 0)?, 0) } else { self.lasting() }
    }

    /// Appends at a revision that was read, without session state: the service then reads nothing before it stores the
    /// event.
    async fn append_without_look(&mut self) -> anyhow::Result<()> {
        let key = self.wanted_by_all()?;
        let Some(session) = self.look(&key, Some(0)).await? else { return Ok(()) };
        let op = self.next_op();
        let keys: Vec<String> = self.keys().into_iter().filter(|key| key.contains(':')).collect();
        let delta = keys.iter().fold(State::new(), |delta, key| delta.with(key, op.as_str()));
        let action = Action::Append { session: name_of(&key), keys, counter: None };
        let request = AppendEvent::new(key, event(&op, delta), ExpectedRevision::Exact(session.revision));
        let request = self.append_somehow(request);
        self.call(&op, &action, request).await.map(drop)
    }

    /// Reads a counter in session state and appends its increment, at the revision that was read. Retries after a
    /// conflict.
    async fn count_up(&mut self) -> anyhow::Result<()> {
        let key = self.wanted_by_all()?;
        for _ in 0..3 {
            let Some(session) = self.look(&key, Some(2)).await? else { return Ok(()) };
            let counter = session.state.decode::<u64>(COUNTER).ok().flatten().unwrap_or_default() + 1;
            let op = self.next_op();
            let action = Action::Append { session: name_of(&key), keys: Vec::new(), counter: Some(counter) };
            let event = event(&op, State::new().with(COUNTER, counter));
            let request = AppendEvent::new(key.clone(), event, ExpectedRevision::Exact(session.revision));
            let outcome = self.call(&op, &action, Request::Append(Box::new(request))).await?;
            if outcome != Outcome::Refused(Refusal::RevisionConflict) {
                break;
            }
        }
        Ok(())
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let (key, op) = (self.mortal()?, self.next_op());
        let action = Action::Delete { session: name_of(&key) };
        self.call(&op, &action, Request::Delete(key)).await.map(drop)
    }

    /// Returns one of its own acknowledged events, unchanged or changed, and the action that wrote it.
    fn again(&mut self, change: impl Fn(&mut Event)) -> anyhow::Result<Option<(String, AppendEvent, Action)>> {
        let Some((mut event, action)) = self.random.choice(&self.recent).cloned() else { return Ok(None) };
        let Action::Append { session, .. } = &action else { return Ok(None) };
        let [app, user, id] = session.splitn(3, '/').collect::<Vec<_>>()[..] else { return Ok(None) };
        let (key, op) = (SessionKey::try_new(app, user, id)?, event.id.clone());
        change(&mut event);
        Ok(Some((op, AppendEvent::new(key, event, ExpectedRevision::Any), action)))
    }

    async fn replay(&mut self) -> anyhow::Result<()> {
        let Some((op, request, action)) = self.again(|_| {})? else { return Ok(()) };
        if let Outcome::Stored(_) = self.call(&op, &action, Request::Append(Box::new(request))).await? {
            self.journal.write(&Record::Objection(format!("the replay of {op} was stored again")))?;
        }
        Ok(())
    }

    async fn reuse(&mut self) -> anyhow::Result<()> {
        let changed = self.again(|event| "somebody else".clone_into(&mut event.author))?;
        let Some((_, request, Action::Append { session, .. })) = changed else { return Ok(()) };
        let op = self.next_op();
        self.call(&op, &Action::Reuse { session }, Request::Append(Box::new(request))).await.map(drop)
    }

    /// Reads a session, and checks that it is of one instant.
    async fn look(&mut self, key: &SessionKey, recent: Option<u32>) -> anyhow::Result<Option<Session>> {
        let request = GetSession::new(key.clone());
        let request = match recent {
            Some(recent) => request.with_num_recent_events(recent),
            None => request,
        };
        let session = match self.service.get_session(request).await {
            Ok(session) => session,
            Err(error) => {
                if let Outcome::Wrong(what) = outcome_of(&error) {
                    self.journal.write(&Record::Objection(format!("get_session: {what}")))?;
                }
                return Ok(None);
            }
        };
        let Some(session) = session else { return Ok(None) };
        let mut state = std::collections::BTreeMap::new();
        for event in &session.events {
            state.extend(event.actions.state_delta.iter().map(|(key, value)| (key.as_str(), (value, &event.id))));
        }
        for (name, (value, event)) in state {
            let stored = session.state.get(name);
            if stored == Some(value) {
                continue;
            }
            // Others may have written shared state since.
            let Some(stored) = stored.filter(|_| name.contains(':')).and_then(|json| json.decode::<String>().ok())
            else {
                let what = format!("a read of {} shows event {event} without its {name}", name_of(key));
                self.journal.write(&Record::Objection(what))?;
                continue;
            };
            if self.random.usize(..16) == 0 || name.ends_with(&self.name) {
                let (scope, name) = scope_of(&name_of(key), name);
                let seen = Record::Saw { event: event.clone(), scope, key: name.to_owned(), value: stored };
                self.journal.write(&seen)?;
            }
        }
        Ok(Some(session))
    }

    async fn get(&mut self, recent: Option<u32>) -> anyhow::Result<()> {
        let key = if self.random.bool() { self.lasting()? } else { self.mortal()? };
        self.look(&key, recent).await.map(drop)
    }

    async fn list(&mut self) -> anyhow::Result<()> {
        let request = ListSessions::new(SessionScope::User(self.user()?)).with_limit(10);
        match self.service.list_sessions(request).await {
            Err(error) if matches!(outcome_of(&error), Outcome::Wrong(_)) => {
                self.journal.write(&Record::Objection(format!("list_sessions: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// A write as it is sent.
#[derive(Clone)]
enum Request {
    Create(CreateSession),
    Append(Box<AppendEvent>),
    AppendInTransaction(Box<AppendEvent>),
    Delete(SessionKey),
}

/// A service that can append in its caller's transactions, whatever the database.
pub(crate) trait Store: SessionService {
    fn append_in_transaction(&self, request: AppendEvent) -> BoxFuture<'_, Outcome>;
}

impl<D: Dialect> Store for SqlSessionService<D> {
    fn append_in_transaction(&self, request: AppendEvent) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let begun = self.pool().begin_with_options(D::transaction_options()).await;
            let Ok(transaction) = begun else { return Outcome::Refused(Refusal::Unavailable) };
            match outcome_of_append(self.append_event_in(&transaction, request).await) {
                written @ (Outcome::Stored(_) | Outcome::Replayed(_)) => match transaction.commit().await {
                    Ok(()) => written,
                    Err(_) => Outcome::Unknown,
                },
                refused => {
                    // A connection that cannot roll back is closed.
                    let _ = transaction.rollback().await;
                    refused
                }
            }
        })
    }
}

impl Request {
    async fn send(self, service: &dyn Store) -> Outcome {
        let ended = match self {
            Self::Create(request) => {
                service.create_session(request).await.map(|session| Outcome::Stored(micros(session.revision)))
            }
            Self::Append(request) => return outcome_of_append(service.append_event(*request).await),
            Self::AppendInTransaction(request) => return service.append_in_transaction(*request).await,
            Self::Delete(key) => {
                service.delete_session(DeleteSession::new(key.clone())).await.map(|()| Outcome::Stored(0))
            }
        };
        ended.unwrap_or_else(|error| outcome_of(&error))
    }
}

fn micros(revision: Revision) -> i64 {
    revision.timestamp().as_micros()
}

fn outcome_of_append(appended: seabed::Result<Appended>) -> Outcome {
    match appended {
        Ok(Appended::Stored(revision)) => Outcome::Stored(micros(revision)),
        Ok(Appended::Replayed(revision)) => Outcome::Replayed(micros(revision)),
        Ok(other @ Appended::Partial) => Outcome::Wrong(format!("{other:?}")),
        Err(error) => outcome_of(&error),
    }
}

fn event(op: &str, delta: State) -> Event {
    let content = serde_json::json!({"role": "user", "parts": [{"text": format!("said by {op}")}]});
    Event::new("user").with_id(op).with_content(content).with_state_delta(delta)
}

fn outcome_of(error: &Error) -> Outcome {
    Outcome::Refused(match error {
        Error::NotFound { .. } => Refusal::NotFound,
        Error::AlreadyExists { .. } => Refusal::AlreadyExists,
        Error::RevisionConflict { .. } => Refusal::RevisionConflict,
        Error::EventIdReused { .. } => Refusal::EventIdReused,
        error => match error.backend_kind() {
            Some(BackendErrorKind::CommitUnknown) => return Outcome::Unknown,
            Some(BackendErrorKind::Contention) => Refusal::Contention,
            Some(BackendErrorKind::Unavailable) => Refusal::Unavailable,
            _ => {
                let first: Option<&dyn std::error::Error> = Some(error);
                let chain = std::iter::successors(first, |error| error.source());
                let told: Vec<String> = chain.map(ToString::to_string).collect();
                return Outcome::Wrong(told.join(": "));
            }
        },
    })
}

/// Creates the sessions that are never deleted.
pub(crate) async fn create_lasting(service: &dyn SessionService, journal: &Journal) -> anyhow::Result<()> {
    for number in 0..APPS * USERS * LASTING {
        let user = user(number % APPS, number / APPS % USERS)?;
        let (key, op) = (lasting(&user, number / APPS / USERS)?, format!("first{number}"));
        let (request, action) = create(&key, &op, Vec::new());
        journal.write(&Record::Began { op: op.clone(), at: now(), action })?;
        let created = service.create_session(request).await.context("a lasting session")?;
        let outcome = Outcome::Stored(created.revision.timestamp().as_micros());
        journal.write(&Record::Ended { op, at: now(), outcome })?;
    }
    Ok(())
}
