//! The contract of a session service.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    AppName, Event, EventCursor, ExpectedRevision, Order, Page, Result, Revision, Session, SessionCursor, SessionId,
    SessionKey, State, Timestamp, UserKey,
};

/// A durable, race-free store of agent sessions.
///
/// The words are google-adk's. Every implementation keeps the laws that the crate `seabed-conformance` checks; the
/// most important ones:
///
/// - creating never loses a race;
/// - an acknowledged event is durable, stored once, and read back in append order, whatever the clocks say;
/// - state merges are atomic and shallow, key by key, in all three scopes;
/// - a writer that is out of date is told so, and nothing of its append is stored.
///
/// The trait is object-safe: hold an `Arc<dyn SessionService>`. Conveniences that need no further storage operation
/// are in [`SessionServiceExt`](crate::SessionServiceExt).
///
/// # Cancel safety
/// The future of any operation may be dropped at any time: then everything of it is stored, or nothing, and no
/// connection is left in a transaction.
#[async_trait]
pub trait SessionService: Send + Sync {
    /// Creates a session, and the rows of its app and user where they are missing.
    ///
    /// # Atomicity
    /// The session and the `app:` and `user:` keys of its initial state appear together or not at all. Any number of
    /// concurrent calls succeed; of those that name one explicit id exactly one does.
    ///
    /// # Ordering
    /// The session's `create_time` is the service's clock; it orders nothing but listings.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) for an explicit id that is taken;
    /// [`Invalid`](crate::Error::Invalid) for state that not every backend can hold.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn create_session(&self, request: CreateSession) -> Result<Session>;

    /// Reads a session, or `None` when there is none.
    ///
    /// # Atomicity
    /// One snapshot: session, events, user and app state belong to one instant.
    ///
    /// # Ordering
    /// Events come in the order in which they were appended.
    ///
    /// # Errors
    /// A backend error of kind [`Corrupt`](crate::BackendErrorKind::Corrupt) names a row that cannot be decoded;
    /// [`list_events`](Self::list_events) still reads the others.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_session(&self, request: GetSession) -> Result<Option<Session>>;

    /// Lists sessions of a user or an app by their last update, a page at a time, without events.
    ///
    /// # Atomicity
    /// Each page is one snapshot; the listing as a whole is not.
    ///
    /// # Ordering
    /// By last update, then user id and session id as the database sorts them. A session that does not change during
    /// the listing comes exactly once. One that is updated meanwhile moves to the newest end: ascending order meets it
    /// again there, descending order has passed that end already.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a limit of zero or over [`ListSessions::MAX_LIMIT`]. A row that cannot
    /// be decoded is an error in its place in the page.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>>;

    /// Lists the events of a session, a page at a time.
    ///
    /// # Atomicity
    /// Each page is one snapshot.
    ///
    /// # Ordering
    /// In append order, or exactly reversed. Ascending, events appended during the listing are met at its end.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) when the session does not exist; [`Invalid`](crate::Error::Invalid) for a
    /// limit of zero or over [`ListEvents::MAX_LIMIT`]. A row that cannot be decoded is an error in its place.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>>;

    /// Appends an event, and merges its `state_delta` into session, user and app state.
    ///
    /// A partial event is not stored: [`Appended::Partial`]. An event that is stored already, with the same id and
    /// content, is a replay: [`Appended::Replayed`], whatever revision is expected.
    ///
    /// # Atomicity
    /// The event and every key of its delta are stored together or not at all.
    ///
    /// # Ordering
    /// The event comes after every event acknowledged before the call, even if the clocks say otherwise.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`RevisionConflict`](crate::Error::RevisionConflict) when
    /// [`ExpectedRevision::Exact`] does not hold; [`EventIdReused`](crate::Error::EventIdReused);
    /// [`Invalid`](crate::Error::Invalid) for an event that not every backend can hold.
    ///
    /// # Cancel safety
    /// All or nothing; repeat the identical call to learn which.
    async fn append_event(&self, request: AppendEvent) -> Result<Appended>;

    /// Deletes a session and its events; user and app state stay. Deleting what does not exist succeeds.
    ///
    /// # Atomicity
    /// The session and its events disappear together.
    ///
    /// # Ordering
    /// An append that was acknowledged before the call is deleted with the session; one that comes after fails with
    /// [`NotFound`](crate::Error::NotFound).
    ///
    /// # Errors
    /// Backend errors only.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn delete_session(&self, key: &SessionKey) -> Result<()>;

    /// Reads the state that all sessions of a user share; keys are without the prefix `user:`. Empty when the user is
    /// unknown.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every append acknowledged before the call.
    ///
    /// # Errors
    /// Backend errors only.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_user_state(&self, key: &UserKey) -> Result<State>;

    /// Reads the state that all users of an app share; keys are without the prefix `app:`. Empty when the app is
    /// unknown.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every append acknowledged before the call.
    ///
    /// # Errors
    /// Backend errors only.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_app_state(&self, app_name: &AppName) -> Result<State>;
}

#[async_trait]
impl<S: SessionService + ?Sized> SessionService for Arc<S> {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        (**self).create_session(request).await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        (**self).get_session(request).await
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        (**self).list_sessions(request).await
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        (**self).list_events(request).await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        (**self).append_event(request).await
    }

    async fn delete_session(&self, key: &SessionKey) -> Result<()> {
        (**self).delete_session(key).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        (**self).get_user_state(key).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        (**self).get_app_state(app_name).await
    }
}

/// What to do with `\u0000` in JSON, which PostgreSQL's `jsonb` cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NulPolicy {
    /// Refuse it with [`Invalid`](crate::Error::Invalid), on every backend alike.
    #[default]
    Refuse,
    /// Store U+FFFD, the replacement character, in its place.
    Replace,
}

/// What to create: see [`SessionService::create_session`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CreateSession {
    pub(crate) user: UserKey,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) state: State,
    pub(crate) nul_policy: NulPolicy,
}

impl CreateSession {
    /// A session of `user` without state, under an id that the service makes.
    pub fn new(user: UserKey) -> Self {
        Self { user, session_id: None, state: State::new(), nul_policy: NulPolicy::default() }
    }

    /// Under this id.
    pub fn with_session_id(mut self, session_id: SessionId) -> Self {
        self.session_id = Some(session_id);
        self
    }

    /// With this initial state; `app:` and `user:` keys are merged into what the app and the user have already, and
    /// `temp:` keys are dropped.
    pub fn with_state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// What to do with `\u0000`.
    pub fn with_nul_policy(mut self, nul_policy: NulPolicy) -> Self {
        self.nul_policy = nul_policy;
        self
    }
}

/// What to read: see [`SessionService::get_session`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GetSession {
    pub(crate) key: SessionKey,
    pub(crate) num_recent_events: Option<u32>,
    pub(crate) after_timestamp: Option<Timestamp>,
}

impl GetSession {
    /// The session with all its events.
    pub fn new(key: SessionKey) -> Self {
        Self { key, num_recent_events: None, after_timestamp: None }
    }

    /// Only the newest `count` events; 0 for none.
    pub fn with_num_recent_events(mut self, count: u32) -> Self {
        self.num_recent_events = Some(count);
        self
    }

    /// Only events stored at this time or after it, in the session's own clock (see [`Revision`]). As in google-adk the
    /// moment itself is included.
    pub fn with_after_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.after_timestamp = Some(timestamp);
        self
    }
}

/// Whose sessions to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionScope {
    /// Those of all users of an app.
    App(AppName),
    /// Those of one user.
    User(UserKey),
}

/// What to list: see [`SessionService::list_sessions`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListSessions {
    pub(crate) scope: SessionScope,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<SessionCursor>,
}

impl ListSessions {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 1000;

    /// The first page, newest first, of up to 100 sessions.
    pub fn new(scope: SessionScope) -> Self {
        Self { scope, order: Order::default(), limit: 100, cursor: None }
    }

    /// The direction.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The size of a page, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// The page that begins at [`Page::next`]; keep scope and order as they were.
    pub fn with_cursor(mut self, cursor: SessionCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// What to list: see [`SessionService::list_events`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListEvents {
    pub(crate) key: SessionKey,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<EventCursor>,
}

impl ListEvents {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 1000;

    /// The first page, in append order, of up to 100 events.
    pub fn new(key: SessionKey) -> Self {
        Self { key, order: Order::Ascending, limit: 100, cursor: None }
    }

    /// The direction.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The size of a page, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// The page that begins at [`Page::next`]; keep key and order as they were.
    pub fn with_cursor(mut self, cursor: EventCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// What to append: see [`SessionService::append_event`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AppendEvent {
    pub(crate) key: SessionKey,
    pub(crate) event: Event,
    pub(crate) expected: ExpectedRevision,
    pub(crate) nul_policy: NulPolicy,
}

impl AppendEvent {
    /// `event`, if the session is at `expected`.
    pub fn new(key: SessionKey, event: Event, expected: ExpectedRevision) -> Self {
        Self { key, event, expected, nul_policy: NulPolicy::default() }
    }

    /// What to do with `\u0000`.
    pub fn with_nul_policy(mut self, nul_policy: NulPolicy) -> Self {
        self.nul_policy = nul_policy;
        self
    }
}

/// What became of an appended event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored now; the session is at this revision.
    Stored(Revision),
    /// The same event was stored before, under this revision; the session may have moved on since.
    Replayed(Revision),
    /// A streamed fragment: not stored, as intended.
    Partial,
}

impl Appended {
    /// The revision under which the event is stored.
    pub fn revision(self) -> Option<Revision> {
        match self {
            Self::Stored(revision) | Self::Replayed(revision) => Some(revision),
            Self::Partial => None,
        }
    }

    /// Whether the event had been stored before this call.
    pub fn is_replayed(self) -> bool {
        matches!(self, Self::Replayed(_))
    }
}
