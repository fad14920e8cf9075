//! A backend that has nothing but what `seabed-core` exports, as any program could write one. Its store is a journal: a
//! file to which each write adds a JSON object, and which several services may open. It passes the suite.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use seabed_conformance::{Opened, Services, Target};
use seabed_core::backend::{AdkCheck, NewEvent, NewSession, NewSharedState, NewStateUpdate, ScopedState, SharedTarget};
use seabed_core::{
    AppName, AppendEvent, Appended, BackendError, BackendErrorKind, CreateSession, DeleteSession, Error, Event,
    EventCursor, GetSession, Json, ListEvents, ListSessions, Order, Page, Result, Revision, Session, SessionCursor,
    SessionKey, SessionService, State, StateService, StateUpdated, SystemClock, Timestamp, UpdateState, UserKey,
    UuidV7,
};
use serde::{Deserialize, Serialize};

/// What one write adds to the journal. What it sets through a session has keys with prefixes.
#[derive(Serialize, Deserialize)]
enum Record {
    Created { key: SessionKey, create_time: Timestamp, state: State },
    Appended { key: SessionKey, timestamp: Timestamp, id: String, event_data: Json, delta: State },
    AppStateUpdated { app_name: AppName, delta: State },
    UserStateUpdated { user: UserKey, delta: State },
    Deleted { key: SessionKey },
}

/// What the records say, in memory.
#[derive(Default)]
struct Index {
    apps: HashMap<AppName, State>,
    users: HashMap<UserKey, State>,
    sessions: HashMap<SessionKey, StoredSession>,
}

struct StoredSession {
    state: State,
    create_time: Timestamp,
    events: BTreeMap<EventCursor, Json>,
}

impl StoredSession {
    fn update_time(&self) -> Timestamp {
        self.events.last_key_value().map_or(self.create_time, |(newest, _)| newest.timestamp())
    }

    fn revision(&self) -> Revision {
        Revision::new(self.create_time, self.update_time())
    }
}

impl Index {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Created { key, create_time, state } => {
                let session = StoredSession { state: State::new(), create_time, events: BTreeMap::new() };
                self.sessions.insert(key.clone(), session);
                self.merge(&key, ScopedState::split(&state));
            }
            Record::Appended { key, timestamp, id, event_data, delta } => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.events.insert(EventCursor::new(timestamp, id), event_data);
                }
                self.merge(&key, ScopedState::split(&delta));
            }
            Record::AppStateUpdated { app_name, delta } => self.apps.entry(app_name).or_default().merge(delta),
            Record::UserStateUpdated { user, delta } => self.users.entry(user).or_default().merge(delta),
            Record::Deleted { key } => drop(self.sessions.remove(&key)),
        }
    }

    fn merge(&mut self, key: &SessionKey, delta: ScopedState) {
        self.apps.entry(key.app_name.clone()).or_default().merge(delta.app);
        self.users.entry(key.user()).or_default().merge(delta.user);
        if let Some(session) = self.sessions.get_mut(key) {
            session.state.merge(delta.session);
        }
    }

    fn app_state(&self, app_name: &AppName) -> State {
        self.apps.get(app_name).cloned().unwrap_or_default()
    }

    fn user_state(&self, user: &UserKey) -> State {
        self.users.get(user).cloned().unwrap_or_default()
    }

    fn stored(&self, key: &SessionKey) -> Result<&StoredSession> {
        self.sessions.get(key).ok_or_else(|| Error::NotFound { key: Box::new(key.clone()) })
    }

    fn session(&self, key: &SessionKey, stored: &StoredSession) -> Session {
        let (app, user) = (self.app_state(&key.app_name), self.user_state(&key.user()));
        let mut session = Session::new(key.clone(), stored.create_time);
        session.state = ScopedState { app, user, session: stored.state.clone() }.merged();
        session.revision = stored.revision();
        session
    }

    fn get_session(&self, request: &GetSession) -> Result<Option<Session>> {
        let stored = self.sessions.get(request.key());
        request.check_min_revision(stored.map(StoredSession::revision))?;
        let Some(stored) = stored else { return Ok(None) };
        let wanted = |time| request.after_timestamp().is_none_or(|after| time >= after);
        let most = request.num_recent_events().map_or(usize::MAX, |count| count as usize);
        let newest_first = stored.events.iter().rev().take_while(|(cursor, _)| wanted(cursor.timestamp()));
        let mut events: Vec<_> = newest_first.take(most).collect();
        events.reverse();
        let mut session = self.session(request.key(), stored);
        let times = events.iter().map(|(cursor, _)| cursor.timestamp());
        session.events_since = request.events_since(times, stored.create_time, stored.update_time());
        session.events = events.into_iter().map(|(_, event_data)| decode_event(event_data)).collect::<Result<_>>()?;
        Ok(Some(session))
    }

    fn list_sessions(&self, request: &ListSessions) -> Result<Page<Session, SessionCursor>> {
        let in_scope = self.sessions.iter().filter(|(key, _)| request.scope().contains(key));
        let sessions = in_scope.map(|(key, stored)| self.session(key, stored));
        let rows = sessions.map(|session| (session.cursor(), session)).collect();
        page(&rows, request.order(), request.limit(), request.cursor(), |session| Ok(session.clone()))
    }

    fn list_events(&self, request: &ListEvents) -> Result<Page<Event, EventCursor>> {
        request.check_min_revision(self.sessions.get(request.key()).map(StoredSession::revision))?;
        let stored = self.stored(request.key())?;
        page(&stored.events, request.order(), request.limit(), request.cursor(), decode_event)
    }
}

/// Reads the rows behind `cursor`, one more than fits the page.
fn page<C: Ord + Clone, R, T>(
    rows: &BTreeMap<C, R>,
    order: Order,
    limit: u32,
    cursor: Option<&C>,
    item: impl Fn(&R) -> Result<T>,
) -> Result<Page<T, C>> {
    let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
    let behind: Box<dyn Iterator<Item = (&C, &R)>> = match order {
        Order::Ascending => Box::new(rows.range((start, Bound::Unbounded))),
        Order::Descending => Box::new(rows.range((Bound::Unbounded, start)).rev()),
    };
    let read = behind.take(limit as usize + 1).map(|(cursor, row)| (Some(cursor.clone()), item(row)));
    Page::from_rows(read.collect(), limit)
}

fn decode_event(event_data: &Json) -> Result<Event> {
    event_data.decode().map_err(|error| failed(BackendErrorKind::Corrupt, "an event cannot be decoded", error))
}

fn failed(kind: BackendErrorKind, message: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    BackendError::new(kind, message).with_source(source).into()
}

struct Journal {
    path: PathBuf,
    is_closed: bool,
    /// What the records up to here say is in the index.
    end: u64,
    index: Index,
}

impl Journal {
    /// Locks the file, and reads what this and other services have added to it.
    fn lock(&mut self) -> Result<LockedJournal<'_>> {
        if self.is_closed {
            return Err(BackendError::new(BackendErrorKind::Unavailable, "the service was closed").into());
        }
        let locked = File::options().read(true).write(true).open(&self.path).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        let file =
            locked.map_err(|error| failed(BackendErrorKind::Unavailable, "the journal cannot be opened", error))?;
        let mut journal = LockedJournal { file, journal: self };
        journal.catch_up()?;
        Ok(journal)
    }
}

/// A journal that no other service reads or writes until this one is dropped, which closes the file.
struct LockedJournal<'a> {
    file: File,
    journal: &'a mut Journal,
}

impl LockedJournal<'_> {
    fn index(&self) -> &Index {
        &self.journal.index
    }

    fn catch_up(&mut self) -> Result<()> {
        let start = self.journal.end;
        let mut added = Vec::new();
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_to_end(&mut added));
        read.map_err(|error| failed(BackendErrorKind::Unavailable, "the journal cannot be read", error))?;
        let mut records = serde_json::Deserializer::from_slice(&added).into_iter();
        while let Some(record) = records.next() {
            match record {
                Ok(record) => self.journal.index.apply(record),
                // Its writer was killed. The next record takes its place.
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(failed(BackendErrorKind::Corrupt, "a record cannot be decoded", error)),
            }
            self.journal.end = start + records.byte_offset() as u64;
        }
        Ok(())
    }

    /// Stores a record, and returns once it is on the disk and in the index.
    fn commit(&mut self, record: &Record) -> Result<()> {
        let in_doubt = "it is unknown whether the journal has the record";
        self.write(record).map_err(|error| failed(BackendErrorKind::CommitUnknown, in_doubt, error))?;
        self.catch_up().map_err(|error| failed(BackendErrorKind::CommitUnknown, in_doubt, error))
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_string(record)?;
        self.file.set_len(self.journal.end)?;
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(format!("\n{text}").as_bytes())?;
        self.file.sync_data()
    }

    fn create(&mut self, new: NewSession) -> Result<Session> {
        if self.index().sessions.contains_key(&new.key) {
            return Err(Error::AlreadyExists { key: Box::new(new.key) });
        }
        let state = new.state.clone().merged();
        self.commit(&Record::Created { key: new.key.clone(), create_time: new.create_time, state })?;
        let (app, user) = (self.index().app_state(&new.key.app_name), self.index().user_state(&new.key.user()));
        Ok(new.to_session(app, user))
    }

    fn append(&mut self, new: NewEvent) -> Result<Appended> {
        let session = self.index().stored(&new.key)?;
        if let Some((stored, event_data)) = session.events.iter().find(|(stored, _)| stored.event_id() == new.id) {
            new.check_replay(event_data)?;
            return Ok(Appended::Replayed(Revision::new(session.create_time, stored.timestamp())));
        }
        new.check_revision(session.revision())?;
        let timestamp = new.stored_timestamp(session.create_time, session.update_time())?;
        let revision = Revision::new(session.create_time, timestamp);
        let NewEvent { key, id, event_data, delta, .. } = new;
        self.commit(&Record::Appended { key, timestamp, id, event_data, delta: delta.merged() })?;
        Ok(Appended::Stored(revision))
    }

    fn update_shared_state(&mut self, update: NewSharedState) -> Result<State> {
        let delta = update.delta;
        match update.target {
            SharedTarget::App(app_name) => {
                self.commit(&Record::AppStateUpdated { app_name: app_name.clone(), delta })?;
                Ok(self.index().app_state(&app_name))
            }
            SharedTarget::User(user) => {
                self.commit(&Record::UserStateUpdated { user: user.clone(), delta })?;
                Ok(self.index().user_state(&user))
            }
        }
    }

    fn delete(&mut self, request: &DeleteSession) -> Result<()> {
        let Some(session) = self.index().sessions.get(request.key()) else { return Ok(()) };
        request.check_revision(session.revision())?;
        self.commit(&Record::Deleted { key: request.key().clone() })
    }
}

/// A session service on a journal.
struct JournalSessionService {
    journal: Arc<Mutex<Journal>>,
}

impl JournalSessionService {
    fn new(path: PathBuf) -> Self {
        let journal = Journal { path, is_closed: false, end: 0, index: Index::default() };
        Self { journal: Arc::new(Mutex::new(journal)) }
    }

    /// Runs an operation on a thread that may wait for the file, to its end even if the future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Journal) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let journal = self.journal.clone();
        let task =
            tokio::task::spawn_blocking(move || operation(&mut journal.lock().unwrap_or_else(PoisonError::into_inner)));
        task.await.unwrap_or_else(|error| Err(failed(BackendErrorKind::Unexpected, "an operation panicked", error)))
    }
}

#[async_trait]
impl SessionService for JournalSessionService {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        let new = NewSession::try_prepare(&request, &SystemClock, &UuidV7)?;
        self.run(|journal| journal.lock()?.create(new)).await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        self.run(move |journal| journal.lock()?.index().get_session(&request)).await
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        request.check()?;
        self.run(move |journal| journal.lock()?.index().list_sessions(&request)).await
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        request.check()?;
        self.run(move |journal| journal.lock()?.index().list_events(&request)).await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        match NewEvent::try_prepare(request, &SystemClock, AdkCheck::On)? {
            Some(new) => self.run(|journal| journal.lock()?.append(new)).await,
            None => Ok(Appended::Partial),
        }
    }

    async fn delete_session(&self, request: DeleteSession) -> Result<()> {
        self.run(move |journal| journal.lock()?.delete(&request)).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        let key = key.clone();
        self.run(move |journal| Ok(journal.lock()?.index().user_state(&key))).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        let app_name = app_name.clone();
        self.run(move |journal| Ok(journal.lock()?.index().app_state(&app_name))).await
    }

    async fn check_health(&self) -> Result<()> {
        self.run(|journal| journal.lock().map(drop)).await
    }

    async fn close(&self) -> Result<()> {
        self.run(|journal| {
            journal.is_closed = true;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl StateService for JournalSessionService {
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated> {
        let update = NewStateUpdate::try_prepare(request, &SystemClock, AdkCheck::On)?;
        self.run(|journal| {
            let mut journal = journal.lock()?;
            Ok(match update {
                NewStateUpdate::Session(new) => StateUpdated::Session(journal.append(*new)?),
                NewStateUpdate::Shared(update) => StateUpdated::Shared(journal.update_shared_state(update)?),
            })
        })
        .await
    }
}

fn main() -> io::Result<ExitCode> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.json");
    // The journal begins as a killed writer leaves it.
    fs::write(&path, r#"{"Created":{"key":"#)?;
    Ok(seabed_conformance::run([Target::new("journal", move || {
        let service = JournalSessionService::new(path.clone());
        async move { Ok(Opened::Service(Services::with_state(Arc::new(service)))) }
    })]))
}
