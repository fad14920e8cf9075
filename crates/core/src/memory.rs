//! The reference model: the guarantees in their simplest form, without a database.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::backend::{NewEvent, NewSession, NewSharedState, NewStateUpdate, ScopedState, SharedTarget};
use crate::{
    AppName, AppendEvent, Appended, BackendError, BackendErrorKind, Clock, CreateSession, DeleteSession, Error, Event,
    EventCursor, GetSession, IdSource, Json, ListEvents, ListSessions, Order, Page, Result, Revision, Session,
    SessionCursor, SessionKey, SessionService, State, StateService, StateUpdated, SystemClock, Timestamp, UpdateState,
    UserKey, UuidV7,
};

/// A session service that keeps everything in memory, for tests and experiments.
///
/// It keeps every guarantee but durability: its data ends with the process. Clones share one store.
#[derive(Clone)]
pub struct MemorySessionService {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    apps: HashMap<AppName, State>,
    users: HashMap<UserKey, State>,
    sessions: BTreeMap<SessionKey, StoredSession>,
    is_closed: bool,
}

struct StoredSession {
    state: State,
    create_time: Timestamp,
    update_time: Timestamp,
    events: Vec<StoredEvent>,
}

struct StoredEvent {
    cursor: EventCursor,
    event_data: Json,
}

impl StoredSession {
    fn revision(&self) -> Revision {
        Revision::new(self.create_time, self.update_time)
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
        Self { clock: Arc::new(SystemClock), ids: Arc::new(UuidV7), store: Arc::default() }
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

    fn merge_shared(&mut self, key: &SessionKey, app: State, user: State) {
        self.apps.entry(key.app_name.clone()).or_default().merge(app);
        self.users.entry(key.user()).or_default().merge(user);
    }

    fn append(&mut self, new: NewEvent) -> Result<Appended> {
        let stored = self.sessions.get_mut(&new.key).ok_or_else(|| Error::not_found(&new.key))?;
        if let Some(same_id) = stored.events.iter().find(|event| event.cursor.event_id == new.id) {
            new.check_replay(&same_id.event_data)?;
            return Ok(Appended::Replayed(Revision::new(stored.create_time, same_id.cursor.timestamp)));
        }
        new.check_revision(stored.revision())?;
        let timestamp = new.stored_timestamp(stored.create_time, stored.update_time)?;
        let cursor = EventCursor { timestamp, event_id: new.id };
        stored.events.push(StoredEvent { cursor, event_data: new.event_data });
        stored.state.merge(new.delta.session);
        stored.update_time = timestamp;
        let create_time = stored.create_time;
        self.merge_shared(&new.key, new.delta.app, new.delta.user);
        Ok(Appended::Stored(Revision::new(create_time, timestamp)))
    }

    fn update_shared(&mut self, NewSharedState { target, delta, .. }: NewSharedState) -> State {
        let state = match target {
            SharedTarget::App(app_name) => self.apps.entry(app_name).or_default(),
            SharedTarget::User(user) => self.users.entry(user).or_default(),
        };
        state.merge(delta);
        state.clone()
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

/// Returns the rows after `cursor` in the requested order, one more than fits the page.
fn page_of<T, C: Ord + Clone>(
    mut rows: Vec<(C, Result<T>)>,
    order: Order,
    limit: u32,
    cursor: Option<&C>,
) -> Result<Page<T, C>> {
    rows.sort_by(|(left, _), (right, _)| left.cmp(right));
    if order == Order::Descending {
        rows.reverse();
    }
    let behind = |row: &C| match (cursor, order) {
        (None, _) => true,
        (Some(cursor), Order::Ascending) => row > cursor,
        (Some(cursor), Order::Descending) => row < cursor,
    };
    let rows = rows.into_iter().filter(|(row, _)| behind(row)).map(|(row, item)| (Some(row), item));
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
        store.merge_shared(&new.key, new.state.app.clone(), new.state.user.clone());
        let stored = StoredSession {
            state: new.state.session.clone(),
            create_time: new.create_time,
            update_time: new.create_time,
            events: Vec::new(),
        };
        store.sessions.insert(new.key.clone(), stored);
        let (app, user) = (store.app_state(&new.key.app_name), store.user_state(&new.key.user()));
        Ok(new.to_session(app, user))
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        let store = self.open()?;
        let Some(stored) = store.sessions.get(&request.key) else { return Ok(None) };
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
            .map(|(key, stored)| {
                let cursor = SessionCursor {
                    update_time: stored.update_time,
                    user_id: key.user_id.clone(),
                    session_id: key.session_id.clone(),
                };
                (cursor, Ok(store.show(key, stored)))
            })
            .collect();
        page_of(rows, request.order, request.limit, request.cursor.as_ref())
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        request.check()?;
        let store = self.open()?;
        let stored = store.sessions.get(&request.key).ok_or_else(|| Error::not_found(&request.key))?;
        let rows = stored.events.iter().map(|event| (event.cursor.clone(), event.decode())).collect();
        page_of(rows, request.order, request.limit, request.cursor.as_ref())
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        match NewEvent::try_prepare(request, &*self.clock)? {
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
        let update = NewStateUpdate::try_prepare(request, &*self.clock)?;
        let mut store = self.open()?;
        Ok(match update {
            NewStateUpdate::Session(new) => StateUpdated::Session(store.append(*new)?),
            NewStateUpdate::Shared(update) => StateUpdated::Shared(store.update_shared(update)),
        })
    }
}
