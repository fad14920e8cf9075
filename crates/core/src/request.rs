//! What an operation is asked to do: required parts in `new`, the rest in `with_*`.

use crate::{
    AppName, Event, EventCursor, ExpectedRevision, Order, Revision, SessionCursor, SessionId, SessionKey, State,
    Timestamp, UserKey,
};

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

/// What to create: see [`create_session`](crate::SessionService::create_session).
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

/// What to read: see [`get_session`](crate::SessionService::get_session).
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

/// What to list: see [`list_sessions`](crate::SessionService::list_sessions).
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

    /// The page that begins at [`Page::next`](crate::Page::next); keep scope and order as they were.
    pub fn with_cursor(mut self, cursor: SessionCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// What to list: see [`list_events`](crate::SessionService::list_events).
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

    /// The page that begins at [`Page::next`](crate::Page::next); keep key and order as they were.
    pub fn with_cursor(mut self, cursor: EventCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// What to append: see [`append_event`](crate::SessionService::append_event).
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
