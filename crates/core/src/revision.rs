//! The clock of a session, which is also its revision.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Identifies the state a session was in when it was read: the stored time of its newest event, or of its creation.
///
/// It strictly increases with each stored event, so it never repeats, whatever the writers' clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(Timestamp);

impl Revision {
    /// Creates the revision of a session whose `update_time` is `timestamp`.
    pub fn new(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }

    /// Returns the `update_time` of the session.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The revision at which the writer of an event expects the session to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedRevision {
    /// Append only if the session is at this revision; otherwise
    /// [`Error::RevisionConflict`](crate::Error::RevisionConflict).
    Exact(Revision),
    /// Append at any revision.
    Any,
}

/// Returns the time at which the next event of a session is stored.
///
/// It is the event's own time, moved forward where needed to preserve two facts that readers and google-adk's
/// `ORDER BY timestamp` rely on: stored times strictly increase in append order, and `update_time` differs from
/// `create_time` exactly when the session has events.
pub(crate) fn stored_timestamp(own: Timestamp, create_time: Timestamp, update_time: Timestamp) -> Timestamp {
    let has_events = update_time != create_time;
    let stored = if has_events && own <= update_time { update_time.next() } else { own };
    if stored == create_time { stored.next() } else { stored }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::try_from_micros(micros).unwrap()
    }

    #[test]
    fn a_first_event_keeps_its_own_time_even_before_the_creation() {
        assert_eq!(stored_timestamp(at(5), at(100), at(100)), at(5));
        assert_eq!(stored_timestamp(at(500), at(100), at(100)), at(500));
    }

    #[test]
    fn a_late_clock_is_moved_past_the_newest_event() {
        assert_eq!(stored_timestamp(at(5), at(100), at(200)), at(201));
        assert_eq!(stored_timestamp(at(200), at(100), at(200)), at(201));
    }

    #[test]
    fn no_event_is_stored_at_the_creation_time() {
        assert_eq!(stored_timestamp(at(100), at(100), at(100)), at(101));
        assert_eq!(stored_timestamp(at(1), at(100), at(99)), at(101));
    }
}
