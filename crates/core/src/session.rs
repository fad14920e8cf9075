//! A session as it was at one instant.

use crate::{Event, Revision, SessionKey, State, Timestamp};

/// A session as one read saw it: a plain value, connected to nothing.
///
/// [`SessionServiceExt::append`](crate::SessionServiceExt::append) appends through it, and changes it only after the
/// event is stored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Session {
    /// Application, user and session id.
    pub key: SessionKey,
    /// Session, user and app state together; the latter two under their prefixes `user:` and `app:`.
    pub state: State,
    /// The events that were asked for, in the order in which they were appended. Empty in listings.
    pub events: Vec<Event>,
    /// When the session was created, by the clock of its creator.
    pub create_time: Timestamp,
    /// What the session was at; pass it to an append as [`ExpectedRevision::Exact`](crate::ExpectedRevision::Exact).
    pub revision: Revision,
}

impl Session {
    /// When the session last changed, in the session's own clock: the stored time of its newest event.
    pub fn last_update_time(&self) -> Timestamp {
        self.revision.timestamp()
    }
}
