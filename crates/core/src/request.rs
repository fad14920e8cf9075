//! The requests of the operations of [`SessionService`](crate::SessionService): required parts in `new`, optional parts
//! in `with_*`.

use std::fmt;

use crate::key::check_id;
use crate::{
    AppName, Error, Event, EventCursor, ExpectedRevision, Order, Result, Revision, SessionCursor, SessionId,
    SessionKey, State, Timestamp, UserKey,
};

/// How to handle `\u0000` in JSON, which PostgreSQL's `jsonb` cannot store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NulPolicy {
    /// Reject it with [`Invalid`](crate::Error::Invalid), on every backend.
    #[default]
    Refuse,
    /// Replace it with U+FFFD, the replacement character.
    Replace,
}

/// A request to [`create_session`](crate::SessionService::create_session).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CreateSession {
    pub(crate) user: UserKey,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) state: State,
    pub(crate) nul_policy: NulPolicy,
    pub(crate) keeps_initial_state: bool,
}

impl CreateSession {
    /// Requests a session of `user` without state, with an id chosen by the service.
    pub fn new(user: UserKey) -> Self {
        Self {
            user,
            session_id: None,
            state: State::new(),
            nul_policy: NulPolicy::default(),
            keeps_initial_state: false,
        }
    }

    /// Sets the session id.
    pub fn with_session_id(mut self, session_id: SessionId) -> Self {
        self.session_id = Some(session_id);
        self
    }

    /// Also keeps the session's own initial state, for good. Its state as of any event is then known exactly (see
    /// [`HistoryService`](crate::HistoryService)). Without this, nobody knows the initial value of a key that an event
    /// has set.
    ///
    /// On a database this writes a row of `seabed_sessions`: the create fails with the kind
    /// [`Schema`](crate::BackendErrorKind::Schema) if the table is missing, and takes a transaction of its own on
    /// PostgreSQL, where others share a statement.
    pub fn with_history(mut self) -> Self {
        self.keeps_initial_state = true;
        self
    }

    /// Sets the initial state. Keys with `app:` and `user:` are merged into the existing state of the app and the user;
    /// `temp:` keys are dropped.
    pub fn with_state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// Sets how to handle `\u0000`.
    pub fn with_nul_policy(mut self, nul_policy: NulPolicy) -> Self {
        self.nul_policy = nul_policy;
        self
    }

    /// Returns whose session to create.
    pub fn user(&self) -> &UserKey {
        &self.user
    }

    /// Returns the session id; `None` if the service chooses one.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.session_id.as_ref()
    }

    /// Returns the initial state, with its prefixed keys.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns how to handle `\u0000`.
    pub fn nul_policy(&self) -> NulPolicy {
        self.nul_policy
    }

    /// Whether the initial state is kept.
    pub fn has_history(&self) -> bool {
        self.keeps_initial_state
    }
}

/// A request to [`get_session`](crate::SessionService::get_session).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GetSession {
    pub(crate) key: SessionKey,
    pub(crate) num_recent_events: Option<u32>,
    pub(crate) after_timestamp: Option<Timestamp>,
    pub(crate) min_revision: Option<Revision>,
}

impl GetSession {
    /// Requests the session with all its events.
    pub fn new(key: SessionKey) -> Self {
        Self { key, num_recent_events: None, after_timestamp: None, min_revision: None }
    }

    /// Limits the events to the newest `count`; 0 for none.
    pub fn with_num_recent_events(mut self, count: u32) -> Self {
        self.num_recent_events = Some(count);
        self
    }

    /// Limits the events to those stored at or after this time, in the session's own clock (see [`Revision`]). As in
    /// google-adk, the time is inclusive.
    pub fn with_after_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.after_timestamp = Some(timestamp);
        self
    }

    /// Requests the session at this revision or a later one, for a service whose server may be behind the one that the
    /// revision comes from: a replica, or a server that has just taken over. See
    /// [`get_session`](crate::SessionService::get_session) for what happens if the server does not have it.
    pub fn with_min_revision(mut self, revision: Revision) -> Self {
        self.min_revision = Some(revision);
        self
    }

    /// Checks the revision of the session, as every service does after it has read it; `None` if it does not exist.
    ///
    /// # Errors
    /// A backend error of kind [`Unavailable`](crate::BackendErrorKind::Unavailable) if `actual` is earlier than the
    /// requested revision.
    pub fn check_min_revision(&self, actual: Option<Revision>) -> Result<()> {
        self.min_revision.map_or(Ok(()), |min| min.check_reached(&self.key, actual))
    }

    /// Returns what a service of your own writes to [`Session::events_since`](crate::Session::events_since), given the
    /// stored times of the events that it found, and the session's creation and update.
    pub fn events_since(
        &self,
        times: impl ExactSizeIterator<Item = Timestamp>,
        create_time: Timestamp,
        update_time: Timestamp,
    ) -> Option<Timestamp> {
        let has_events = create_time != update_time;
        if !(has_events && self.num_recent_events.is_some_and(|most| times.len() >= most as usize)) {
            return self.after_timestamp;
        }
        times.min().or_else(|| Some(Revision::new(create_time, update_time).following()))
    }

    /// Returns which session to read.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns how many of the newest events to read at most; `None` for all.
    pub fn num_recent_events(&self) -> Option<u32> {
        self.num_recent_events
    }

    /// Returns the earliest stored time of the events to read; `None` for all.
    pub fn after_timestamp(&self) -> Option<Timestamp> {
        self.after_timestamp
    }

    /// Returns the earliest revision to read; `None` for whatever the server has.
    pub fn min_revision(&self) -> Option<Revision> {
        self.min_revision
    }
}

/// Whose sessions to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionScope {
    /// All users of an app.
    App(AppName),
    /// One user.
    User(UserKey),
}

impl SessionScope {
    /// Whether a listing of this scope includes the session of `key`.
    pub fn contains(&self, key: &SessionKey) -> bool {
        match self {
            Self::App(app_name) => key.app_name == *app_name,
            Self::User(user) => key.app_name == user.app_name && key.user_id == user.user_id,
        }
    }
}

/// A request to [`list_sessions`](crate::SessionService::list_sessions).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListSessions {
    pub(crate) scope: SessionScope,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<SessionCursor>,
}

impl ListSessions {
    /// The largest page size.
    pub const MAX_LIMIT: u32 = 1000;

    /// Requests the first page of up to 100 sessions, newest first.
    pub fn new(scope: SessionScope) -> Self {
        Self { scope, order: Order::default(), limit: 100, cursor: None }
    }

    /// Sets the direction.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets the page size, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Requests the page that begins at [`Page::next`](crate::Page::next). Keep the scope and the order the same.
    pub fn with_cursor(mut self, cursor: SessionCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Returns whose sessions to list.
    pub fn scope(&self) -> &SessionScope {
        &self.scope
    }

    /// Returns the direction.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the page size.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns where the page begins; `None` for the first page.
    pub fn cursor(&self) -> Option<&SessionCursor> {
        self.cursor.as_ref()
    }

    /// Checks the page size, as every service does before it reads.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a page size that is not between 1 and [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn check(&self) -> Result<()> {
        check_limit(self.limit, Self::MAX_LIMIT)
    }
}

/// A request to [`list_events`](crate::SessionService::list_events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListEvents {
    pub(crate) key: SessionKey,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<EventCursor>,
    pub(crate) min_revision: Option<Revision>,
}

impl ListEvents {
    /// The largest page size.
    pub const MAX_LIMIT: u32 = 1000;

    /// Requests the first page of up to 100 events, in append order.
    pub fn new(key: SessionKey) -> Self {
        Self { key, order: Order::Ascending, limit: 100, cursor: None, min_revision: None }
    }

    /// Sets the direction.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets the page size, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Requests the page that begins at [`Page::next`](crate::Page::next). Keep the key and the order the same.
    pub fn with_cursor(mut self, cursor: EventCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Requests the events of the session at this revision or a later one; see [`GetSession::with_min_revision`].
    pub fn with_min_revision(mut self, revision: Revision) -> Self {
        self.min_revision = Some(revision);
        self
    }

    /// Checks the revision of the session; see [`GetSession::check_min_revision`].
    ///
    /// # Errors
    /// A backend error of kind [`Unavailable`](crate::BackendErrorKind::Unavailable) if `actual` is earlier than the
    /// requested revision.
    pub fn check_min_revision(&self, actual: Option<Revision>) -> Result<()> {
        self.min_revision.map_or(Ok(()), |min| min.check_reached(&self.key, actual))
    }

    /// Returns whose events to list.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the direction.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the page size.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns where the page begins; `None` for the first page.
    pub fn cursor(&self) -> Option<&EventCursor> {
        self.cursor.as_ref()
    }

    /// Returns the earliest revision to read; `None` for whatever the server has.
    pub fn min_revision(&self) -> Option<Revision> {
        self.min_revision
    }

    /// Checks the page size and the cursor, as every service does before it reads.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a page size that is not between 1 and [`MAX_LIMIT`](Self::MAX_LIMIT), and for
    /// a cursor with an id that no event can have.
    pub fn check(&self) -> Result<()> {
        if let Some(cursor) = &self.cursor {
            check_id("cursor.event_id", &cursor.event_id)?;
        }
        check_limit(self.limit, Self::MAX_LIMIT)
    }
}

pub(crate) fn check_limit(limit: u32, max: u32) -> Result<()> {
    if (1..=max).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid("limit", format!("{limit} is not between 1 and {max}")))
}

/// A request to [`append_event`](crate::SessionService::append_event).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AppendEvent {
    pub(crate) key: SessionKey,
    pub(crate) event: Event,
    pub(crate) expected: ExpectedRevision,
    pub(crate) nul_policy: NulPolicy,
}

impl AppendEvent {
    /// Requests to append `event` if the session is at `expected`.
    pub fn new(key: SessionKey, event: Event, expected: ExpectedRevision) -> Self {
        Self { key, event, expected, nul_policy: NulPolicy::default() }
    }

    /// Sets how to handle `\u0000`.
    pub fn with_nul_policy(mut self, nul_policy: NulPolicy) -> Self {
        self.nul_policy = nul_policy;
        self
    }

    /// Returns the session to append to.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns the event, for whoever passes it on in a request of their own.
    pub fn into_event(self) -> Event {
        self.event
    }

    /// Returns the revision that the session must be at.
    pub fn expected(&self) -> ExpectedRevision {
        self.expected
    }

    /// Returns how to handle `\u0000`.
    pub fn nul_policy(&self) -> NulPolicy {
        self.nul_policy
    }
}

/// A request to [`delete_session`](crate::SessionService::delete_session).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeleteSession {
    pub(crate) key: SessionKey,
    pub(crate) expected: ExpectedRevision,
}

impl DeleteSession {
    /// Requests to delete a session at whatever revision it is.
    pub fn new(key: SessionKey) -> Self {
        Self { key, expected: ExpectedRevision::Any }
    }

    /// Deletes the session only at `revision`: nothing was appended since it was read, and it is not another session
    /// that was created under the same id.
    pub fn at_revision(mut self, revision: Revision) -> Self {
        self.expected = ExpectedRevision::Exact(revision);
        self
    }

    /// Returns the session to delete.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the revision that the session must be at.
    pub fn expected(&self) -> ExpectedRevision {
        self.expected
    }

    /// Checks the revision of the session, as every service does before it deletes.
    ///
    /// # Errors
    /// [`RevisionConflict`](crate::Error::RevisionConflict) if the session must be at another revision than `actual`.
    pub fn check_revision(&self, actual: Revision) -> Result<()> {
        self.expected.check(&self.key, actual)
    }
}

/// The outcome of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The event is now stored, and the session is at this revision.
    Stored(Revision),
    /// The same event was stored before, at this revision. The session may have changed since.
    Replayed(Revision),
    /// The event is a streamed fragment, and is intentionally not stored.
    Partial,
}

impl fmt::Display for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(revision) => write!(f, "stored at {revision}"),
            Self::Replayed(revision) => write!(f, "stored before, at {revision}"),
            Self::Partial => f.write_str("partial, not stored"),
        }
    }
}

impl Appended {
    /// Returns the revision at which the event is stored.
    pub fn revision(self) -> Option<Revision> {
        match self {
            Self::Stored(revision) | Self::Replayed(revision) => Some(revision),
            Self::Partial => None,
        }
    }

    /// Whether the event was already stored before this call.
    pub fn is_replayed(self) -> bool {
        matches!(self, Self::Replayed(_))
    }
}
