//! The reference model: the guarantees in their simplest form, without a database.

mod history;
mod retention;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::backend::{
    AdkCheck, NewAnnotations, NewEvent, NewSession, NewSharedState, NewStateUpdate, ScopedState, SharedTarget,
};
use crate::history::Parent;
use crate::state::DEFAULT_MAX_STATE_BYTES;
use crate::{
    AnnotateSession, Annotations, AppName, AppendEvent, Appended, BackendError, BackendErrorKind, Clock, CreateSession,
    DeleteSession, DirectoryService, Error, Event, EventCursor, FindCursor, FindSessions, FoundSession, GetSession,
    IdSource, Json, ListEvents, ListSessions, Order, Page, Result, Revision, Session, SessionCursor, SessionFilter,
    SessionKey, SessionScope, SessionService, SessionSummary, State, StateService, StateUpdated, SystemClock,
    Timestamp, UpdateState, UserKey, UuidV7,
};

/// A session service that keeps everything in memory, for tests and experiments.
///
/// It keeps every guarantee but durability: its data ends with the process. Clones share one store.
#[derive(Clone)]
pub struct MemorySessionService {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    adk_check: AdkCheck,
    store: Arc<Mutex<Store>>,
}

struct Store {
    apps: HashMap<AppName, State>,
    users: HashMap<UserKey, State>,
    sessions: BTreeMap<SessionKey, StoredSession>,
    max_state_bytes: usize,
    is_closed: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            apps: HashMap::new(),
            users: HashMap::new(),
            sessions: BTreeMap::new(),
            max_state_bytes: DEFAULT_MAX_STATE_BYTES,
            is_closed: false,
        }
    }
}

struct StoredSession {
    state: State,
    create_time: Timestamp,
    update_time: Timestamp,
    events: Vec<StoredEvent>,
    annotations: Annotations,
    initial_state: Option<State>,
    parent: Option<Parent>,
}

#[derive(Clone)]
struct StoredEvent {
    cursor: EventCursor,
    event_data: Json,
}

impl StoredSession {
    fn revision(&self) -> Revision {
        Revision::new(self.create_time, self.update_time)
    }

    /// The place of the session in listings.
    fn place(&self, key: &SessionKey) -> SessionCursor {
        SessionCursor::new(self.update_time, key.user_id.clone(), key.session_id.clone())
    }
}

impl StoredEvent {
    fn decode(&self) -> Result<Event> {
        self.event_data.decode().map_err(|error| {
            BackendError::corrupt("events", "event_data", &format!("event {:?}", self.cursor.event_id), error).into()
        })
    }
}

impl Default for MemorySessionService {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemorySessionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySessionService").finish_non_exhaustive()
    }
}

impl MemorySessionService {
    /// Creates an empty store with the system clock and UUIDv7 ids.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidV7),
            adk_check: AdkCheck::default(),
            store: Arc::default(),
        }
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

    /// Returns the same service with another limit on the state of a session, an app or a user: bytes of JSON text, 4
    /// MiB by default. Clones share it.
    pub fn with_max_state_bytes(self, bytes: usize) -> Self {
        self.lock().max_state_bytes = bytes;
        self
    }

    /// Returns the same service, which also stores events that google-adk could not read; see
    /// [`ServiceOptions::without_adk_check`](crate::sql::ServiceOptions::without_adk_check).
    pub fn without_adk_check(mut self) -> Self {
        self.adk_check = AdkCheck::Off;
        self
    }

    /// Ignores poisoning: no operation panics between two changes that belong together, so the store is consistent.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Store>> {
        let store = self.lock();
        if store.is_closed {
            return Err(BackendError::new(BackendErrorKind::Unavailable, "the service was closed").into());
        }
        Ok(store)
    }
}

impl Store {
    fn app_state(&self, app_name: &AppName) -> State {
        self.apps.get(app_name).cloned().unwrap_or_default()
    }

    fn user_state(&self, key: &UserKey) -> State {
        self.users.get(key).cloned().unwrap_or_default()
    }

    /// A state with the keys of `delta`, if it may be stored in the row of `row`.
    fn merged(&self, mut state: State, delta: State, row: &dyn fmt::Display) -> Result<State> {
        state.merge(delta);
        state.to_row(self.max_state_bytes, row)?;
        Ok(state)
    }

    /// The states of an app and one of its users with the keys of `app` and `user`.
    fn merged_shared(&self, key: &SessionKey, app: State, user: State) -> Result<(State, State)> {
        let of_user = key.user();
        Ok((
            self.merged(self.app_state(&key.app_name), app, &key.app_name)?,
            self.merged(self.user_state(&of_user), user, &of_user)?,
        ))
    }

    fn set_shared(&mut self, key: &SessionKey, (app, user): (State, State)) {
        self.apps.insert(key.app_name.clone(), app);
        self.users.insert(key.user(), user);
    }

    fn append(&mut self, new: NewEvent) -> Result<Appended> {
        let stored = self.sessions.get(&new.key).ok_or_else(|| Error::not_found(&new.key))?;
        if let Some(same_id) = stored.events.iter().find(|event| event.cursor.event_id == new.id) {
            new.check_replay(&same_id.event_data)?;
            return Ok(Appended::Replayed(Revision::new(stored.create_time, same_id.cursor.timestamp)));
        }
        new.check_revision(stored.revision())?;
        let timestamp = new.stored_timestamp(stored.create_time, stored.update_time)?;
        let create_time = stored.create_time;
        let state = self.merged(stored.state.clone(), new.delta.session, &new.key)?;
        let shared = self.merged_shared(&new.key, new.delta.app, new.delta.user)?;
        if let Some(stored) = self.sessions.get_mut(&new.key) {
            let cursor = EventCursor { timestamp, event_id: new.id };
            stored.events.push(StoredEvent { cursor, event_data: new.event_data });
            stored.state = state;
            stored.update_time = timestamp;
        }
        self.set_shared(&new.key, shared);
        Ok(Appended::Stored(Revision::new(create_time, timestamp)))
    }

    fn update_shared(&mut self, NewSharedState { target, delta, .. }: NewSharedState) -> Result<State> {
        Ok(match target {
            SharedTarget::App(app_name) => {
                let state = self.merged(self.app_state(&app_name), delta, &app_name)?;
                self.apps.insert(app_name, state.clone());
                state
            }
            SharedTarget::User(user) => {
                let state = self.merged(self.user_state(&user), delta, &user)?;
                self.users.insert(user, state.clone());
                state
            }
        })
    }

    /// The sessions that match everything but the filter's conditions on state.
    fn found<'a>(
        &'a self,
        scope: &'a SessionScope,
        filter: &'a SessionFilter,
    ) -> impl Iterator<Item = (&'a SessionKey, &'a StoredSession)> {
        self.sessions.iter().filter(|(key, stored)| {
            scope.contains(key) && filter.matches(&key.session_id, stored.revision(), &stored.annotations)
        })
    }

    fn show(&self, key: &SessionKey, stored: &StoredSession) -> Session {
        let scoped = ScopedState {
            app: self.app_state(&key.app_name),
            user: self.user_state(&key.user()),
            session: stored.state.clone(),
        };
        let revision = Revision::new(stored.create_time, stored.update_time);
        Session { state: scoped.merged(), revision, ..Session::new(key.clone(), stored.create_time) }
    }
}

/// Returns the rows after `cursor`, in the requested order.
fn rows_after<T, C: Ord>(mut rows: Vec<(C, T)>, order: Order, cursor: Option<&C>) -> impl Iterator<Item = (C, T)> {
    rows.sort_by(|(left, _), (right, _)| left.cmp(right));
    if order == Order::Descending {
        rows.reverse();
    }
    let behind = move |row: &C| match (cursor, order) {
        (None, _) => true,
        (Some(cursor), Order::Ascending) => row > cursor,
        (Some(cursor), Order::Descending) => row < cursor,
    };
    rows.into_iter().filter(move |(row, _)| behind(row))
}

/// Returns the page after `cursor`, in the requested order.
fn page_of<T, C: Ord + Clone>(
    rows: Vec<(C, Result<T>)>,
    order: Order,
    limit: u32,
    cursor: Option<&C>,
) -> Result<Page<T, C>> {
    let rows = rows_after(rows, order, cursor).map(|(row, item)| (Some(row), item));
    Page::from_rows(rows.collect(), limit)
}

#[async_trait]
impl SessionService for MemorySessionService {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        let new = NewSession::try_prepare(&request, &*self.clock, &*self.ids)?;
        let mut store = self.open()?;
        if store.sessions.contains_key(&new.key) {
            return Err(Error::already_exists(&new.key));
        }
        let state = store.merged(State::new(), new.state.session.clone(), &new.key)?;
        let shared = store.merged_shared(&new.key, new.state.app.clone(), new.state.user.clone())?;
        store.set_shared(&new.key, shared);
        let stored = StoredSession {
            state,
            create_time: new.create_time,
            update_time: new.create_time,
            events: Vec::new(),
            annotations: Annotations::default(),
            initial_state: new.keeps_initial_state.then(|| new.state.session.clone()),
            parent: None,
        };
        store.sessions.insert(new.key.clone(), stored);
        let (app, user) = (store.app_state(&new.key.app_name), store.user_state(&new.key.user()));
        Ok(new.to_session(app, user))
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        let store = self.open()?;
        let stored = store.sessions.get(&request.key);
        request.check_min_revision(stored.map(StoredSession::revision))?;
        let Some(stored) = stored else { return Ok(None) };
        let mut session = store.show(&request.key, stored);
        let after = |event: &&StoredEvent| request.after_timestamp.is_none_or(|after| event.cursor.timestamp >= after);
        let events: Vec<_> = stored.events.iter().filter(after).collect();
        let recent = request.num_recent_events.map_or(events.len(), |count| count as usize);
        let skipped = events.len().saturating_sub(recent);
        let events = &events[skipped..];
        session.events = events.iter().map(|event| event.decode()).collect::<Result<_>>()?;
        let times = events.iter().map(|event| event.cursor.timestamp);
        session.events_since = request.events_since(times, stored.create_time, stored.update_time);
        Ok(Some(session))
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        request.check()?;
        let store = self.open()?;
        let rows = store
            .sessions
            .iter()
            .filter(|(key, _)| request.scope.contains(key))
            .map(|(key, stored)| (stored.place(key), Ok(store.show(key, stored))))
            .collect();
        page_of(rows, request.order, request.limit, request.cursor.as_ref())
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        request.check()?;
        let store = self.open()?;
        let stored = store.sessions.get(&request.key);
        request.check_min_revision(stored.map(StoredSession::revision))?;
        let stored = stored.ok_or_else(|| Error::not_found(&request.key))?;
        let rows = stored.events.iter().map(|event| (event.cursor.clone(), event.decode())).collect();
        page_of(rows, request.order, request.limit, request.cursor.as_ref())
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        match NewEvent::try_prepare(request, &*self.clock, self.adk_check)? {
            Some(new) => self.open()?.append(new),
            None => Ok(Appended::Partial),
        }
    }

    async fn delete_session(&self, request: DeleteSession) -> Result<()> {
        let sessions = &mut self.open()?.sessions;
        if let Some(stored) = sessions.get(request.key()) {
            request.check_revision(stored.revision())?;
            sessions.remove(request.key());
        }
        Ok(())
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        Ok(self.open()?.user_state(key))
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        Ok(self.open()?.app_state(app_name))
    }

    async fn check_health(&self) -> Result<()> {
        self.open().map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.lock().is_closed = true;
        Ok(())
    }
}

#[async_trait]
impl StateService for MemorySessionService {
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated> {
        let update = NewStateUpdate::try_prepare(request, &*self.clock, self.adk_check)?;
        let mut store = self.open()?;
        Ok(match update {
            NewStateUpdate::Session(new) => StateUpdated::Session(store.append(*new)?),
            NewStateUpdate::Shared(update) => StateUpdated::Shared(store.update_shared(update)?),
        })
    }
}

#[async_trait]
impl DirectoryService for MemorySessionService {
    async fn annotate_session(&self, request: AnnotateSession) -> Result<Annotations> {
        let NewAnnotations { request, .. } = NewAnnotations::try_prepare(request, &*self.clock)?;
        let sessions = &mut self.open()?.sessions;
        let stored = sessions.get_mut(request.key()).ok_or_else(|| Error::not_found(request.key()))?;
        request.check_revision(stored.revision())?;
        stored.annotations = request.apply_to(stored.annotations.clone())?;
        Ok(stored.annotations.clone())
    }

    async fn find_sessions(&self, request: FindSessions) -> Result<Page<FoundSession, FindCursor>> {
        request.check()?;
        let store = self.open()?;
        let found = store.found(request.scope(), request.filter());
        let found: Vec<_> = found.map(|(key, stored)| (stored.place(key), (key, stored))).collect();
        let rows = rows_after(found, request.order, request.cursor().map(FindCursor::session));
        let rows = rows.map(|(place, (key, stored))| {
            let state = Some(store.show(key, stored).state);
            let session = FoundSession::new(key.clone(), stored.annotations.clone(), stored.revision(), state);
            (Some(request.cursor_after(place)), Ok(session))
        });
        request.page(rows.collect())
    }

    async fn count_sessions(&self, scope: &SessionScope, filter: &SessionFilter) -> Result<u64> {
        filter.check()?;
        let store = self.open()?;
        let found = store.found(scope, filter).filter(|(_, stored)| filter.matches_state(&stored.state));
        Ok(found.count() as u64)
    }

    async fn summarize_session(&self, key: &SessionKey) -> Result<Option<SessionSummary>> {
        let store = self.open()?;
        let Some(stored) = store.sessions.get(key) else { return Ok(None) };
        let recent = stored.events.iter().rev().take(SessionSummary::RECENT_EVENTS as usize);
        let recent = recent.filter_map(|event| event.event_data.decode().ok());
        let (title, events) = (stored.annotations.title.clone(), stored.events.len() as u64);
        Ok(Some(SessionSummary::new(key.clone(), title, recent, events, stored.revision())))
    }
}
