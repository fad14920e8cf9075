//! Pages of found sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Annotations, SessionFilter};
use crate::page::{read_token, write_token};
use crate::request::check_limit;
use crate::{
    Error, ListSessions, Order, Page, Result, Revision, SessionCursor, SessionId, SessionKey, SessionScope, State,
    Timestamp, UserId,
};

/// A request to [`find_sessions`](crate::DirectoryService::find_sessions).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FindSessions {
    pub(crate) scope: SessionScope,
    pub(crate) filter: SessionFilter,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) has_state: bool,
    pub(crate) cursor: Option<FindCursor>,
}

impl FindSessions {
    /// How many sessions a page looks at, at most, for a filter on state.
    pub const MAX_EXAMINED: u32 = 1000;

    /// Requests the first page of up to 100 sessions, newest first, without their states.
    pub fn new(scope: SessionScope) -> Self {
        let filter = SessionFilter::new();
        Self { scope, filter, order: Order::default(), limit: 100, has_state: false, cursor: None }
    }

    /// Sets which sessions to find.
    pub fn with_filter(mut self, filter: SessionFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Sets the direction.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets the page size, 1 to [`ListSessions::MAX_LIMIT`].
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Requests the states of the sessions, too.
    pub fn with_state(mut self) -> Self {
        self.has_state = true;
        self
    }

    /// Requests the page that begins at [`Page::next`](crate::Page::next). Scope, filter and order must be those of the
    /// listing that the cursor is from; limit and states may change.
    pub fn with_cursor(mut self, cursor: FindCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Returns whose sessions to find.
    pub fn scope(&self) -> &SessionScope {
        &self.scope
    }

    /// Returns which sessions to find.
    pub fn filter(&self) -> &SessionFilter {
        &self.filter
    }

    /// Returns the direction.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the page size.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether the states of the sessions are requested.
    pub fn has_state(&self) -> bool {
        self.has_state
    }

    /// Returns where the page begins; `None` for the first page.
    pub fn cursor(&self) -> Option<&FindCursor> {
        self.cursor.as_ref()
    }

    /// Checks the page size, the filter and the cursor, as every service does before it reads.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a page size that is out of range, for what [`SessionFilter::check`] rejects, and
    /// for a cursor of a listing with another scope, filter or order.
    pub fn check(&self) -> Result<()> {
        check_limit(self.limit, ListSessions::MAX_LIMIT)?;
        self.filter.check()?;
        match &self.cursor {
            Some(cursor) if cursor.listing != self.listing() => {
                Err(Error::invalid("cursor", "comes from a listing with another scope, filter or order"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the position just after a session of this listing, for a service of your own.
    pub fn cursor_after(&self, session: SessionCursor) -> FindCursor {
        FindCursor { listing: self.listing(), session }
    }

    /// How many sessions one page reads at most, besides one that shows that there are more.
    pub fn examined(&self) -> u32 {
        if self.filter.needs_state() { Self::MAX_EXAMINED } else { self.limit }
    }

    /// Builds a page of the rows that match everything but the filter's conditions on state, up to one more than
    /// [`examined`](Self::examined), each with its state if that is requested or needed.
    ///
    /// # Errors
    /// Those of [`Page::from_rows`].
    pub fn page(
        &self,
        rows: Vec<(Option<FindCursor>, Result<FoundSession>)>,
    ) -> Result<Page<FoundSession, FindCursor>> {
        self.page_of(rows, self.examined())
    }

    /// Whether a page is read with the states of its sessions.
    pub(crate) fn reads_state(&self) -> bool {
        self.has_state || self.filter.needs_state()
    }

    /// Like [`page`](Self::page), of at most the first `examined` rows.
    pub(crate) fn page_of(
        &self,
        rows: Vec<(Option<FindCursor>, Result<FoundSession>)>,
        examined: u32,
    ) -> Result<Page<FoundSession, FindCursor>> {
        let matches = |found: &FoundSession| found.state.as_ref().is_none_or(|state| self.filter.matches_state(state));
        let mut page = Page::from_scan(rows, self.limit, examined, matches)?;
        if !self.has_state {
            page.items.iter_mut().flatten().for_each(|found| found.state = None);
        }
        Ok(page)
    }

    /// A hash (FNV-1a) of what makes the listing: whose sessions, which of them, and their order.
    fn listing(&self) -> u64 {
        let (app_name, user_id) = match &self.scope {
            SessionScope::App(app_name) => (app_name, None),
            SessionScope::User(user) => (&user.app_name, Some(&user.user_id)),
        };
        let listing = serde_json::to_vec(&(app_name, user_id, self.order, &self.filter)).unwrap_or_default();
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        listing.iter().fold(0xcbf2_9ce4_8422_2325, step)
    }
}

/// A position in a listing of found sessions, just after one session.
///
/// As text, and where it is serialized, it is an opaque token of characters that need no escapes in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FindCursor {
    listing: u64,
    session: SessionCursor,
}

impl FindCursor {
    /// Returns the position among all sessions of the app or the user.
    pub fn session(&self) -> &SessionCursor {
        &self.session
    }
}

impl fmt::Display for FindCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionCursor { update_time, user_id, session_id } = &self.session;
        write_token(f, &(self.listing, update_time, user_id, session_id))
    }
}

impl FromStr for FindCursor {
    type Err = Error;

    fn from_str(token: &str) -> Result<Self> {
        let (listing, update_time, user_id, session_id): (u64, Timestamp, UserId, SessionId) = read_token(token)?;
        Ok(Self { listing, session: SessionCursor { update_time, user_id, session_id } })
    }
}

/// A session as [`find_sessions`](crate::DirectoryService::find_sessions) returns it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoundSession {
    /// The session.
    pub key: SessionKey,
    /// Its title and labels.
    pub annotations: Annotations,
    /// The revision it is at.
    pub revision: Revision,
    /// Its state, with that of its app and its user, if it was requested.
    pub state: Option<State>,
}

impl FoundSession {
    /// Creates the session as it is found, for a service of your own.
    pub fn new(key: SessionKey, annotations: Annotations, revision: Revision, state: Option<State>) -> Self {
        Self { key, annotations, revision, state }
    }

    /// Returns when the session was created.
    pub fn create_time(&self) -> Timestamp {
        self.revision.create_time()
    }

    /// Returns when the session last changed.
    pub fn last_update_time(&self) -> Timestamp {
        self.revision.timestamp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_belongs_to_the_listing_that_it_is_from() {
        let of = |user: &str| FindSessions::new(SessionScope::User(crate::UserKey::try_new("app", user).unwrap()));
        let time = Timestamp::try_from_micros(1_763_900_000_123_456).unwrap();
        let place = SessionCursor::new(time, "alice".parse().unwrap(), "s".parse().unwrap());
        let cursor = of("alice").cursor_after(place);
        assert_eq!(cursor.to_string().parse::<FindCursor>().unwrap(), cursor);
        let is_taken = |request: FindSessions| request.with_cursor(cursor.clone()).check().is_ok();
        assert!(is_taken(of("alice")) && is_taken(of("alice").with_limit(7).with_state()));
        let filtered = of("alice").with_filter(SessionFilter::new().with_any_label("l"));
        for other in [of("bob"), of("alice").with_order(Order::Ascending), filtered] {
            assert!(!is_taken(other));
        }
    }
}
