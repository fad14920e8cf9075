//! A session at one instant.

use serde::{Deserialize, Serialize};

use crate::{Event, Revision, SessionKey, State, Timestamp};

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
}

impl Session {
    /// Returns when the session last changed, in the session's own clock: the stored time of its newest event.
    pub fn last_update_time(&self) -> Timestamp {
        self.revision.timestamp()
    }
}
