//! Keyset pagination, which stays stable while rows are inserted and deleted.

use serde::{Deserialize, Serialize};

use crate::{Result, SessionId, Timestamp, UserId};

/// The direction of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// One page of a listing.
///
/// A row that cannot be decoded appears in its place as an error that names it. It neither vanishes nor hides the other
/// rows. If not even its place can be read (its time, say), and it ends a page, the next page begins with it again; a
/// page of nothing but such rows is an error.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The rows, in the requested order.
    pub items: Vec<Result<T>>,
    /// The start of the next page, or `None` on the last page. A cursor does not expire, and can be serialized.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Creates a page, for a service of your own.
    pub fn new(items: Vec<Result<T>>, next: Option<C>) -> Self {
        Self { items, next }
    }

    /// Returns all rows, or the first error among them.
    ///
    /// # Errors
    /// The first row's error, of kind [`Corrupt`](crate::BackendErrorKind::Corrupt).
    pub fn try_into_items(self) -> Result<Vec<T>> {
        self.items.into_iter().collect()
    }

    /// Builds a page from up to `limit + 1` rows. The extra row only shows that there are more.
    /// A row whose place cannot be read has no cursor.
    pub(crate) fn from_rows(mut rows: Vec<(Option<C>, Result<T>)>, limit: u32) -> Result<Self> {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let (cursors, mut items): (Vec<Option<C>>, Vec<Result<T>>) = rows.into_iter().unzip();
        let next = cursors.into_iter().flatten().next_back().filter(|_| more);
        if more
            && next.is_none()
            && let Some(Err(error)) = items.pop()
        {
            return Err(error);
        }
        Ok(Self { items, next })
    }
}

/// A position in a listing of sessions, just after one session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionCursor {
    pub(crate) update_time: Timestamp,
    pub(crate) user_id: UserId,
    pub(crate) session_id: SessionId,
}

/// A position in the events of a session, just after one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventCursor {
    pub(crate) timestamp: Timestamp,
    pub(crate) event_id: String,
}

impl SessionCursor {
    /// Creates the position just after a session of the listed app or user.
    pub fn new(update_time: Timestamp, user_id: UserId, session_id: SessionId) -> Self {
        Self { update_time, user_id, session_id }
    }

    /// Returns when the session last changed. Sessions are listed by this time, then by their user and id.
    pub fn update_time(&self) -> Timestamp {
        self.update_time
    }

    /// Returns the session's user.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// Returns the session's id.
    pub fn session_id(&self) -> &SessionId {
        &self.session_id
    }
}

impl EventCursor {
    /// Creates the position just after an event.
    pub fn new(timestamp: Timestamp, event_id: String) -> Self {
        Self { timestamp, event_id }
    }

    /// Returns the stored time of the event. Events are listed by this time, then by their id.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Returns the event's id.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }
}
