//! The clock of a session, which is also its revision.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{BackendError, BackendErrorKind, Error, Result, SessionKey, Timestamp};

/// Identifies the state a session was in when it was read: by when it was created, and by the stored time of its newest
/// event.
///
/// It strictly increases with each stored event, so it never repeats, whatever the writers' clocks say. A session that
/// was deleted and created again under the same id has other revisions, unless both were created in the same
/// microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revision {
    create_time: Timestamp,
    update_time: Timestamp,
}

impl Revision {
    /// Creates the revision of a session with these two times. They are equal as long as it has no events.
    pub fn new(create_time: Timestamp, update_time: Timestamp) -> Self {
        Self { create_time, update_time }
    }

    /// Returns when the session was created.
    pub fn create_time(self) -> Timestamp {
        self.create_time
    }

    /// Returns the stored time of the session's newest event, or of its creation if it has none.
    pub fn timestamp(self) -> Timestamp {
        self.update_time
    }

    /// The first time at which a later event may be stored.
    pub(crate) fn following(self) -> Timestamp {
        self.update_time.next().unwrap_or(self.update_time)
    }

    /// Whether a read that must show this state of a session shows it, or a later one. `actual` is the revision that it
    /// found, and `None` if it found no such session.
    ///
    /// # Errors
    /// A backend error of kind [`Unavailable`](BackendErrorKind::Unavailable) if it does not: the server is behind the
    /// one that the caller knows this revision from, or the session was deleted.
    pub(crate) fn check_reached(self, key: &SessionKey, actual: Option<Revision>) -> Result<()> {
        let found = match actual {
            Some(actual) if actual >= self => return Ok(()),
            Some(actual) => format!("has {key} at revision {actual}"),
            None => format!("does not know {key}"),
        };
        let message = format!(
            "the server is behind, or has lost writes: it {found}, and the caller asks for revision {self} or a later one"
        );
        Err(BackendError::new(BackendErrorKind::Unavailable, message).into())
    }

    fn has_events(self) -> bool {
        self.update_time != self.create_time
    }
}

impl Ord for Revision {
    /// Later states of a session are greater. Its first state is the least, although the first event may have an
    /// earlier time.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |revision: Self| (revision.create_time, revision.has_events(), revision.update_time);
        order(*self).cmp(&order(*other))
    }
}

impl PartialOrd for Revision {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Revision {
    /// The stored time of the newest event.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.update_time.fmt(f)
    }
}

/// The revision at which a writer expects the session to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedRevision {
    /// Write only if the session is at this revision; otherwise
    /// [`Error::RevisionConflict`].
    Exact(Revision),
    /// Write at any revision.
    Any,
}

impl ExpectedRevision {
    /// Whether the caller has read a later state of the session than `actual`.
    pub(crate) fn is_ahead_of(self, actual: Revision) -> bool {
        matches!(self, Self::Exact(expected) if expected.create_time == actual.create_time && expected > actual)
    }

    /// Whether the session of `key`, which is at `actual`, is as expected.
    pub(crate) fn check(self, key: &SessionKey, actual: Revision) -> Result<()> {
        match self {
            Self::Exact(expected) if expected != actual => {
                Err(Error::RevisionConflict { key: Box::new(key.clone()), expected, actual })
            }
            _ => Ok(()),
        }
    }
}

/// Returns the time at which the next event of a session is stored.
///
/// It is the event's own time, moved forward where needed to preserve two facts that readers and google-adk's
/// `ORDER BY timestamp` rely on: stored times strictly increase in append order, and `update_time` differs from
/// `create_time` exactly when the session has events.
///
/// `None` when the session's clock is at the end of the year 9999, which another program may have set.
pub(crate) fn stored_timestamp(own: Timestamp, create_time: Timestamp, update_time: Timestamp) -> Option<Timestamp> {
    let has_events = update_time != create_time;
    let stored = if has_events && own <= update_time { update_time.next()? } else { own };
    if stored == create_time { stored.next() } else { Some(stored) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::try_from_micros(micros).unwrap()
    }

    #[test]
    fn a_first_event_keeps_its_own_time_even_before_the_creation() {
        assert_eq!(stored_timestamp(at(5), at(100), at(100)), Some(at(5)));
        assert_eq!(stored_timestamp(at(500), at(100), at(100)), Some(at(500)));
    }

    #[test]
    fn a_first_event_in_the_past_makes_a_greater_revision() {
        let states = [Revision::new(at(100), at(100)), Revision::new(at(100), at(5)), Revision::new(at(100), at(6))];
        assert!(states.is_sorted_by(|before, after| before < after));
        assert!(states[2] < Revision::new(at(101), at(101)), "a later session under the same id");
    }

    #[test]
    fn a_revision_is_reached_by_itself_and_by_later_ones() {
        let key = SessionKey::try_new("app", "alice", "session").unwrap();
        let (created, first, second) =
            (Revision::new(at(100), at(100)), Revision::new(at(100), at(5)), Revision::new(at(100), at(200)));
        let created_anew = Revision::new(at(300), at(300));
        for actual in [first, second, created_anew] {
            first.check_reached(&key, Some(actual)).unwrap();
        }
        for actual in [None, Some(created)] {
            let behind = first.check_reached(&key, actual).unwrap_err();
            assert_eq!(behind.backend_kind(), Some(BackendErrorKind::Unavailable), "{behind}");
        }
    }

    #[test]
    fn a_late_clock_is_moved_past_the_newest_event() {
        assert_eq!(stored_timestamp(at(5), at(100), at(200)), Some(at(201)));
        assert_eq!(stored_timestamp(at(200), at(100), at(200)), Some(at(201)));
    }

    #[test]
    fn a_clock_that_has_come_to_its_end_takes_no_more_events() {
        let last = Timestamp::clamped(i64::MAX);
        assert_eq!(stored_timestamp(at(5), at(100), last), None);
        assert_eq!(stored_timestamp(last, last, last), None);
    }

    #[test]
    fn no_event_is_stored_at_the_creation_time() {
        assert_eq!(stored_timestamp(at(100), at(100), at(100)), Some(at(101)));
        assert_eq!(stored_timestamp(at(1), at(100), at(99)), Some(at(101)));
    }
}
