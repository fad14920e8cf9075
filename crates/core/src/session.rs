//! A session at one instant.

use serde::{Deserialize, Serialize};

use crate::{Event, Revision, SessionCursor, SessionKey, State, Timestamp};

/// A session as one read saw it: a plain value without a connection.
///
/// [`SessionServiceExt::append`](crate::SessionServiceExt::append) appends through it, and updates it only after the
/// event is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Session {
    /// Application, user and session id.
    pub key: SessionKey,
    /// Session, user and app state merged; user and app keys carry their prefixes `user:` and `app:`.
    pub state: State,
    /// The requested events, in append order. Empty in listings.
    pub events: Vec<Event>,
    /// When the session was created, by its creator's clock.
    pub create_time: Timestamp,
    /// The revision that was read; pass it to an append as [`ExpectedRevision::Exact`](crate::ExpectedRevision::Exact).
    pub revision: Revision,
    /// The earliest stored time that this read covered. `None` in listings, and if the number of events was not limited
    /// or the session had fewer. A [`refresh`](crate::SessionServiceExt::refresh) reads from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_since: Option<Timestamp>,
}

impl Session {
    /// Creates a session without state and events, for a service of your own.
    pub fn new(key: SessionKey, create_time: Timestamp) -> Self {
        let revision = Revision::new(create_time, create_time);
        Self { key, state: State::new(), events: Vec::new(), create_time, revision, events_since: None }
    }

    /// Returns when the session last changed, in the session's own clock: the stored time of its newest event.
    pub fn last_update_time(&self) -> Timestamp {
        self.revision.timestamp()
    }

    /// Returns the session's position in a listing of its app's or its user's sessions, as of this read.
    pub fn cursor(&self) -> SessionCursor {
        SessionCursor::new(self.last_update_time(), self.key.user_id.clone(), self.key.session_id.clone())
    }
}
