//! Keyset pages: stable while rows come and go.

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
/// A row that cannot be decoded stands in its place as an error that names it, so it neither vanishes nor hides the
/// others.
#[derive(Debug)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The rows, in the order that was asked for.
    pub items: Vec<Result<T>>,
    /// Where the next page begins, or `None` on the last page. Keep it as long as you like; it serializes.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// All rows, or the first error among them.
    ///
    /// # Errors
    /// The first row's error, of kind [`Corrupt`](crate::BackendErrorKind::Corrupt).
    pub fn try_into_items(self) -> Result<Vec<T>> {
        self.items.into_iter().collect()
    }

    /// Makes a page out of up to `limit + 1` rows: the one too many only says that there are more.
    pub(crate) fn from_rows(mut rows: Vec<(C, Result<T>)>, limit: u32) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let mut last = None;
        let items = rows
            .into_iter()
            .map(|(cursor, item)| {
                last = Some(cursor);
                item
            })
            .collect();
        Self { items, next: last.filter(|_| more) }
    }
}

/// A place in a listing of sessions, just behind one session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionCursor {
    pub(crate) update_time: Timestamp,
    pub(crate) user_id: UserId,
    pub(crate) session_id: SessionId,
}

/// A place in the events of a session, just behind one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventCursor {
    pub(crate) timestamp: Timestamp,
    pub(crate) event_id: String,
}
