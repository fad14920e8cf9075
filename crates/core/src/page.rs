//! Keyset pagination, which stays stable while rows are inserted and deleted.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, FindCursor, Result, SessionId, Timestamp, UserId};

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
    /// The start of the next page, or `None` on the last page. A cursor does not expire.
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

    /// Builds a page from up to `limit + 1` rows in the requested order, each with the position just after it. The extra
    /// row only shows that there are more. A row whose position cannot be read has no cursor.
    ///
    /// # Errors
    /// The error of the page's last row, if there are more rows and none of the page has a cursor to continue from.
    pub fn from_rows(rows: Vec<(Option<C>, Result<T>)>, limit: u32) -> Result<Self> {
        Self::from_scan(rows, limit, limit, |_| true)
    }

    /// Like [`from_rows`](Self::from_rows), of the rows among the first `examined` that are to be kept.
    pub(crate) fn from_scan(
        rows: Vec<(Option<C>, Result<T>)>,
        limit: u32,
        examined: u32,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Self> {
        let (mut items, mut next) = (Vec::new(), None);
        for (place, (cursor, item)) in rows.into_iter().enumerate() {
            if items.len() == limit as usize || place == examined as usize {
                return match (next, items.pop()) {
                    // There is no place to continue from.
                    (None, Some(Err(error))) => Err(error),
                    (next, last) => Ok(Self { items: items.into_iter().chain(last).collect(), next }),
                };
            }
            next = cursor.or(next);
            if item.as_ref().map_or(true, &keep) {
                items.push(item);
            }
        }
        Ok(Self { items, next: None })
    }
}

/// A position in a listing of sessions, just after one session.
///
/// As text, and where it is serialized, it is an opaque token of characters that need no escapes in a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionCursor {
    pub(crate) update_time: Timestamp,
    pub(crate) user_id: UserId,
    pub(crate) session_id: SessionId,
}

/// A position in the events of a session, just after one event.
///
/// As text, and where it is serialized, it is an opaque token of characters that need no escapes in a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

pub(crate) fn write_token(f: &mut fmt::Formatter<'_>, place: &impl Serialize) -> fmt::Result {
    let json = serde_json::to_vec(place).map_err(|_| fmt::Error)?;
    f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(json))
}

pub(crate) fn read_token<T: DeserializeOwned>(token: &str) -> Result<T> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let place = json.and_then(|json| serde_json::from_slice(&json).ok());
    place.ok_or_else(|| Error::invalid("cursor", "is not a cursor of this kind of listing"))
}

impl fmt::Display for SessionCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_token(f, &(self.update_time, &self.user_id, &self.session_id))
    }
}

impl FromStr for SessionCursor {
    type Err = Error;

    fn from_str(token: &str) -> Result<Self> {
        let (update_time, user_id, session_id) = read_token(token)?;
        Ok(Self { update_time, user_id, session_id })
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_token(f, &(self.timestamp, &self.event_id))
    }
}

impl FromStr for EventCursor {
    type Err = Error;

    fn from_str(token: &str) -> Result<Self> {
        let (timestamp, event_id) = read_token(token)?;
        Ok(Self { timestamp, event_id })
    }
}

macro_rules! serialize_as_token {
    ($($cursor:ident),*) => {$(
        impl From<$cursor> for String {
            fn from(cursor: $cursor) -> Self {
                cursor.to_string()
            }
        }

        impl TryFrom<String> for $cursor {
            type Error = Error;

            fn try_from(token: String) -> Result<Self> {
                token.parse()
            }
        }
    )*};
}

serialize_as_token!(SessionCursor, EventCursor, FindCursor);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_token_for_urls() {
        let time = Timestamp::try_from_micros(1_763_900_000_123_456).unwrap();
        let event = EventCursor::new(time, "an event / ?&=\u{1F600}".to_owned());
        let session = SessionCursor::new(time, "alice@example".parse().unwrap(), "s+1".parse().unwrap());
        for token in [event.to_string(), session.to_string()] {
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        }
        assert_eq!(event.to_string().parse::<EventCursor>().unwrap(), event);
        assert_eq!(session.to_string().parse::<SessionCursor>().unwrap(), session);
        assert_eq!(serde_json::to_value(&event).unwrap(), serde_json::json!(event.to_string()));
        for other in ["", "x", "bnVsbA", &session.to_string()] {
            assert!(matches!(other.parse::<EventCursor>(), Err(Error::Invalid { field: "cursor", .. })), "{other}");
        }
    }
}
