//! Forking a session: the request, what is written, and how a session began.

use std::collections::BTreeSet;

use crate::key::check_id;
use crate::{Clock, IdSource, Result, Session, SessionId, SessionKey, State, Timestamp};

/// A request to [`fork_session`](crate::HistoryService::fork_session).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ForkSession {
    key: SessionKey,
    event_id: String,
    session_id: Option<SessionId>,
    allows_open_calls: bool,
}

impl ForkSession {
    /// Requests a new session of the same user, with the events of this session up to and including one of them, under
    /// an id chosen by the service.
    pub fn new(key: SessionKey, event_id: impl Into<String>) -> Self {
        Self { key, event_id: event_id.into(), session_id: None, allows_open_calls: false }
    }

    /// Sets the id of the new session.
    pub fn with_session_id(mut self, session_id: SessionId) -> Self {
        self.session_id = Some(session_id);
        self
    }

    /// Also forks where function calls have no response yet. Whoever goes on in the new session answers them: a model
    /// usually rejects a history without the responses.
    pub fn with_open_calls_allowed(mut self) -> Self {
        self.allows_open_calls = true;
        self
    }

    /// Returns the session to fork.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the last event that the new session has.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// Returns the id of the new session; `None` if the service chooses one.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.session_id.as_ref()
    }

    /// Whether function calls may have no response yet.
    pub fn allows_open_calls(&self) -> bool {
        self.allows_open_calls
    }
}

/// The outcome of a [`ForkSession`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Forked {
    /// The new session, without its events.
    pub session: Session,
    /// How many events it has.
    pub events: u64,
    /// The keys that it lacks because nobody knows whether they were there at its last event: later events set them,
    /// and the initial state is unknown.
    pub unknown: BTreeSet<String>,
}

/// How a session began.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Origin {
    /// When it was created.
    pub create_time: Timestamp,
    /// Its own state when it was created, if that was kept.
    pub initial_state: Option<State>,
    /// What it was forked from, if it was.
    pub parent: Option<Parent>,
}

impl Origin {
    /// Creates the origin of a session, for a service of your own.
    pub fn new(create_time: Timestamp, initial_state: Option<State>, parent: Option<Parent>) -> Self {
        Self { create_time, initial_state, parent }
    }

    /// The initial state, if `session` is the one that began like this, and not a later one of the same id.
    pub(crate) fn initial_state_of(&self, session: &Session) -> Option<&State> {
        self.initial_state.as_ref().filter(|_| self.create_time == session.create_time)
    }
}

/// The session that another one was forked from. It may have been deleted since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// The session, of the same user.
    pub session_id: SessionId,
    /// The last event that the fork has from it.
    pub event_id: String,
}

impl Parent {
    /// Creates a parent, for a service of your own.
    pub fn new(session_id: SessionId, event_id: impl Into<String>) -> Self {
        Self { session_id, event_id: event_id.into() }
    }
}

/// A session about to be forked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewFork {
    /// The session to fork.
    pub source: SessionKey,
    /// The new session, with an id that the caller or the service chose.
    pub key: SessionKey,
    /// The last event of the new session.
    pub event_id: String,
    /// Whether function calls may have no response yet.
    pub allows_open_calls: bool,
    /// When the new session is created.
    pub create_time: Timestamp,
}

impl NewFork {
    /// Validates `request`. The new session is created now by `clock`, under an id from `ids` if the request has none.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for an id that no event can have, and for an id of `ids` that is no
    /// [`SessionId`].
    pub fn try_prepare(request: &ForkSession, clock: &dyn Clock, ids: &dyn IdSource) -> Result<Self> {
        check_id("event_id", &request.event_id)?;
        let session_id = match &request.session_id {
            Some(id) => id.clone(),
            None => SessionId::try_new(ids.new_id())?,
        };
        Ok(Self {
            source: request.key.clone(),
            key: request.key.user().session(session_id),
            event_id: request.event_id.clone(),
            allows_open_calls: request.allows_open_calls,
            create_time: clock.now(),
        })
    }
}

/// What a fork writes, besides the events.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fork {
    /// The new session.
    pub key: SessionKey,
    /// Its own state: that of the session it is forked from, as of the event.
    pub state: State,
    /// Its initial state, if it is known: that of the session it is forked from, whose events it has.
    pub initial_state: Option<State>,
    /// What it is forked from.
    pub parent: Parent,
    /// When it is created.
    pub create_time: Timestamp,
    /// The stored time of its last event.
    pub update_time: Timestamp,
    /// How many events it has.
    pub events: u64,
    /// The keys of which nobody knows whether it should have them.
    pub unknown: BTreeSet<String>,
}
