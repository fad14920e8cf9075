//! adk-rust's trait over any of Seabed's services.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use adk_core::identity::AdkIdentity;
use adk_core::{AdkError, Event, Result};
use adk_session::{AppendEventRequest, CreateRequest, DeleteRequest, GetRequest, ListRequest, Session, SessionService};
use async_trait::async_trait;
use seabed::{
    AppName, AppendEvent, CreateSession, DeleteSession, ExpectedRevision, GetSession, ListSessions, NulPolicy,
    Revision, SessionId, SessionKey, SessionScope, State, Timestamp, UserKey,
};

use crate::codec;
use crate::error::{ambiguous, not_found, to_adk, unknown_id, unwritable};
use crate::recent::Recent;
use crate::session::StoredSession;

/// The session service of adk-rust, over a service of Seabed's.
///
/// ```
/// use std::sync::Arc;
///
/// use adk_session::{CreateRequest, SessionService};
/// use seabed_adk_rust::SeabedSessionService;
/// use seabed_adk_rust::seabed::MemorySessionService;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> adk_core::Result<()> {
/// let sessions: Arc<dyn SessionService> = Arc::new(SeabedSessionService::new(MemorySessionService::default()));
/// let session = sessions
///     .create(CreateRequest {
///         app_name: "travel".to_owned(),
///         user_id: "alice".to_owned(),
///         session_id: None,
///         state: [("user:home".to_owned(), "Bergen".into())].into(),
///     })
///     .await?;
/// assert_eq!(session.state().get("user:home"), Some("Bergen".into()));
/// # Ok(())
/// # }
/// ```
///
/// # What is stored
/// Events in google-adk's shape, so that Python agents read them; what that shape has no place for is stored beside
/// them and comes back equal. A NUL character becomes U+FFFD. `temp:` keys and partial events are not stored, and
/// neither are the copies of the request to the model that `LlmAgent` adds to each event, unless
/// [`with_requests`](Self::with_requests) keeps them.
///
/// Appending an event again is safe: it is stored once. It must be the same event, down to the nanoseconds of its time.
///
/// # Bare session ids
/// [`append_event`](SessionService::append_event) names no user. Unless this service chose the id, it lists the
/// sessions of its apps, once for each id: those apps of which it has created or read a session, and those of
/// [`with_app_name`](Self::with_app_name). An id that two users have is an error. Where ids may repeat, or an app has
/// many sessions, call [`append_event_for_identity`](SessionService::append_event_for_identity), which looks nothing
/// up.
///
/// # Errors
/// Errors have adk-rust's codes where it has one: `session.not_found`, `session.already_exists`, and for an id that
/// adk-rust itself refuses `config.legacy`. The others are `session.invalid_input`, `session.event_id_reused`,
/// `session.revision_conflict`, `session.ambiguous`, `session.contention`, `session.unavailable`,
/// `session.commit_unknown`, `session.corrupt`, `session.schema`, `session.too_large`, `session.read_only` and
/// `session.backend`. The source is Seabed's error.
///
/// # Not supported
/// `rewind` and `rewind_steps`, which delete events. They return adk-rust's error for that.
pub struct SeabedSessionService {
    store: Arc<dyn seabed::SessionService>,
    keeps_requests: bool,
    app_names: Mutex<BTreeSet<AppName>>,
    /// How many sessions were seen to exist.
    sightings: AtomicU64,
    /// The only session with an id, where that is known.
    owners: Recent<SessionId, SessionKey>,
    /// The revision after the last event of a run, if runs are exclusive.
    runs: Option<Recent<(SessionKey, String), Revision>>,
}

impl SeabedSessionService {
    /// Creates a service over any service of Seabed's.
    pub fn new(store: impl seabed::SessionService + 'static) -> Self {
        Self {
            store: Arc::new(store),
            keeps_requests: false,
            app_names: Mutex::default(),
            sightings: AtomicU64::new(0),
            owners: Recent::new(),
            runs: None,
        }
    }

    /// Connects to a database that has its tables; see [`seabed::connect`] for the URLs, and [`seabed::migrate`] for
    /// the tables.
    ///
    /// # Errors
    /// Those of [`seabed::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        seabed::connect(url).await.map(Self::new).map_err(to_adk)
    }

    /// Also stores the requests to the model that `LlmAgent` adds to each event for display. Each of them contains the
    /// whole conversation up to its event.
    pub fn with_requests(mut self) -> Self {
        self.keeps_requests = true;
        self
    }

    /// Makes a run fail with `session.revision_conflict` if anything else was appended to its session since the run's
    /// first event. The events of a run have one invocation id, and are appended through one service. The first of
    /// them, the user's message, is stored at any revision.
    pub fn with_exclusive_runs(mut self) -> Self {
        self.runs = Some(Recent::new());
        self
    }

    /// Adds an app whose sessions may be named by their bare ids before this service has seen any of them.
    pub fn with_app_name(self, app_name: AppName) -> Self {
        self.add_app(app_name);
        self
    }

    fn add_app(&self, app_name: AppName) {
        self.app_names.lock().unwrap_or_else(PoisonError::into_inner).insert(app_name);
    }

    /// Takes note of a session that exists.
    fn saw(&self, key: &SessionKey) {
        self.add_app(key.app_name.clone());
        self.sightings.fetch_add(1, Ordering::SeqCst);
        // Two users have this id: the next lookup finds both.
        self.owners.remove_if(&key.session_id, |owner| owner != key);
    }

    async fn append(&self, key: SessionKey, mut event: Event) -> Result<()> {
        if event.llm_response.partial {
            return Ok(());
        }
        if !self.keeps_requests {
            codec::leave_out_requests(&mut event);
        }
        let runs = self.runs.as_ref().filter(|_| !event.invocation_id.is_empty());
        let run = (key.clone(), event.invocation_id.clone());
        let begun = runs.and_then(|runs| runs.get(&run));
        let expected = begun.map_or(ExpectedRevision::Any, ExpectedRevision::Exact);
        let request = AppendEvent::new(key, codec::encode(event).map_err(unwritable)?, expected);
        let appended = self.store.append_event(request.with_nul_policy(NulPolicy::Replace)).await.map_err(to_adk)?;
        // A replay tells the revision of the time when its event was stored, which the run may have left since.
        if let (Some(runs), Some(revision)) = (runs, appended.revision())
            && !(appended.is_replayed() && runs.get(&run).is_some_and(|later| later.timestamp() > revision.timestamp()))
        {
            runs.insert(run, revision);
        }
        Ok(())
    }

    /// Returns the only session with this id.
    async fn owner(&self, session_id: &SessionId) -> Result<SessionKey> {
        if let Some(owner) = self.owners.get(session_id) {
            return Ok(owner);
        }
        let sightings = self.sightings.load(Ordering::SeqCst);
        let app_names = self.app_names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = None;
        for app_name in app_names {
            for session in self.sessions(SessionScope::App(app_name), usize::MAX).await? {
                if session.key.session_id == *session_id && found.replace(session.key).is_some() {
                    return Err(ambiguous(session_id.as_str()));
                }
            }
        }
        let owner = found.ok_or_else(|| unknown_id(session_id.as_str()))?;
        self.owners.insert(session_id.clone(), owner.clone());
        // A session that this service saw since the lookup began may have this id, and is perhaps not in the listing.
        if self.sightings.load(Ordering::SeqCst) != sightings {
            self.owners.remove_if(session_id, |_| true);
        }
        Ok(owner)
    }

    /// Lists up to `count` sessions, newest first.
    async fn sessions(&self, scope: SessionScope, count: usize) -> Result<Vec<seabed::Session>> {
        let mut sessions = Vec::new();
        let mut request = ListSessions::new(scope).with_limit(ListSessions::MAX_LIMIT);
        while sessions.len() < count {
            let page = self.store.list_sessions(request.clone()).await.map_err(to_adk)?;
            let next = page.next.clone();
            sessions.extend(page.try_into_items().map_err(to_adk)?);
            let Some(cursor) = next else { break };
            request = request.with_cursor(cursor);
        }
        sessions.truncate(count);
        Ok(sessions)
    }
}

#[async_trait]
impl SessionService for SeabedSessionService {
    async fn create(&self, req: CreateRequest) -> Result<Box<dyn Session>> {
        req.try_app_name()?;
        req.try_user_id()?;
        req.try_session_id()?;
        let state = req.state.into_iter().map(|(key, value)| (key, value.into())).collect::<State>();
        let user = UserKey::try_new(req.app_name, req.user_id).map_err(to_adk)?;
        let mut create = CreateSession::new(user).with_state(state).with_nul_policy(NulPolicy::Replace);
        let is_unique = req.session_id.is_none();
        if let Some(session_id) = req.session_id {
            create = create.with_session_id(SessionId::try_new(session_id).map_err(to_adk)?);
        }
        let session = self.store.create_session(create).await.map_err(to_adk)?;
        self.saw(&session.key);
        if is_unique {
            self.owners.insert(session.key.session_id.clone(), session.key.clone());
        }
        Ok(Box::new(StoredSession::new(&session)))
    }

    async fn get(&self, req: GetRequest) -> Result<Box<dyn Session>> {
        let key = key_of(&req.try_identity()?)?;
        let mut read = GetSession::new(key.clone());
        if let Some(count) = req.num_recent_events {
            read = read.with_num_recent_events(u32::try_from(count).unwrap_or(u32::MAX));
        }
        if let Some(after) = req.after {
            // An event is stored at its own time or later, so this reads all that may be returned.
            read = read.with_after_timestamp(Timestamp::try_from(after).map_err(to_adk)?);
        }
        let session = self.store.get_session(read).await.map_err(to_adk)?.ok_or_else(|| not_found(&key))?;
        self.saw(&session.key);
        let mut session = StoredSession::new(&session);
        if let Some(after) = req.after {
            session.retain_since(after);
        }
        Ok(Box::new(session))
    }

    async fn list(&self, req: ListRequest) -> Result<Vec<Box<dyn Session>>> {
        req.try_app_name()?;
        req.try_user_id()?;
        let user = UserKey::try_new(req.app_name, req.user_id).map_err(to_adk)?;
        let (offset, limit) = (req.offset.unwrap_or(0), req.limit.unwrap_or(usize::MAX));
        let sessions = self.sessions(SessionScope::User(user), offset.saturating_add(limit)).await?;
        for session in &sessions {
            self.saw(&session.key);
        }
        let listed = sessions.iter().skip(offset);
        Ok(listed.map(|session| Box::new(StoredSession::new(session)) as Box<dyn Session>).collect())
    }

    async fn delete(&self, req: DeleteRequest) -> Result<()> {
        let key = key_of(&req.try_identity()?)?;
        self.owners.remove_if(&key.session_id, |owner| *owner == key);
        self.store.delete_session(DeleteSession::new(key)).await.map_err(to_adk)
    }

    async fn append_event(&self, session_id: &str, event: Event) -> Result<()> {
        if event.llm_response.partial {
            return Ok(());
        }
        let session_id = SessionId::try_new(session_id).map_err(to_adk)?;
        let key = self.owner(&session_id).await?;
        let appended = self.append(key.clone(), event).await;
        if appended.as_ref().is_err_and(AdkError::is_not_found) {
            self.owners.remove_if(&session_id, |owner| *owner == key);
        }
        appended
    }

    async fn append_event_for_identity(&self, req: AppendEventRequest) -> Result<()> {
        let key = key_of(&req.identity)?;
        self.append(key.clone(), req.event).await?;
        self.saw(&key);
        Ok(())
    }

    /// Deletes the sessions one by one; those that are created meanwhile may stay.
    async fn delete_all_sessions(&self, app_name: &str, user_id: &str) -> Result<()> {
        let user = UserKey::try_new(app_name, user_id).map_err(to_adk)?;
        for session in self.sessions(SessionScope::User(user), usize::MAX).await? {
            self.owners.remove_if(&session.key.session_id, |owner| *owner == session.key);
            self.store.delete_session(DeleteSession::new(session.key)).await.map_err(to_adk)?;
        }
        Ok(())
    }

    async fn health_check(&self) -> Result<()> {
        self.store.check_health().await.map_err(to_adk)
    }
}

/// Seabed's ids are shorter than adk-rust's: at most 128 characters.
fn key_of(identity: &AdkIdentity) -> Result<SessionKey> {
    let AdkIdentity { app_name, user_id, session_id } = identity;
    SessionKey::try_new(app_name.as_str(), user_id.as_str(), session_id.as_str()).map_err(to_adk)
}
