//! Naming sessions, and finding them.

mod filter;
mod find;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::ready;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::key::check_text;
use crate::{Error, ExpectedRevision, Page, Result, Revision, SessionKey, SessionScope, SessionService};

pub use filter::SessionFilter;
pub use find::{FindCursor, FindSessions, FoundSession};
pub use summary::SessionSummary;

/// The longest title, in characters.
const MAX_TITLE_CHARS: usize = 256;
/// The longest name of a label, in characters.
const MAX_LABEL_NAME_CHARS: usize = 64;
/// The longest value of a label, in characters. With the longest ids and name, in characters of four bytes, it still
/// fits the row of an index on PostgreSQL, which has 2704 bytes at most.
const MAX_LABEL_VALUE_CHARS: usize = 128;

/// What a session is called, and the labels that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Annotations {
    /// Its title.
    pub title: Option<String>,
    /// Its labels, by their names.
    pub labels: BTreeMap<String, String>,
}

/// Sets or removes the title and labels of a session. What the request does not name stays as it is.
///
/// ```
/// use seabed_core::{AnnotateSession, SessionKey};
///
/// let key = SessionKey::try_new("travel", "alice", "s1")?;
/// let titled = AnnotateSession::new(key).with_title("A week in Rome");
/// let request = titled.with_label("stage", "booked").without_label("new");
/// # Ok::<_, seabed_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AnnotateSession {
    pub(crate) key: SessionKey,
    #[allow(clippy::option_option, reason = "a title is left, removed or set, as a label in the map below")]
    pub(crate) title: Option<Option<String>>,
    pub(crate) labels: BTreeMap<String, Option<String>>,
    pub(crate) expected: ExpectedRevision,
}

impl AnnotateSession {
    /// The largest number of labels of a session.
    pub const MAX_LABELS: usize = 64;

    /// Changes nothing yet. The session may be at any revision.
    pub fn new(key: SessionKey) -> Self {
        Self { key, title: None, labels: BTreeMap::new(), expected: ExpectedRevision::Any }
    }

    /// Sets the title: 1 to 256 characters.
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(Some(title.into()));
        self
    }

    /// Removes the title.
    pub fn without_title(mut self) -> Self {
        self.title = Some(None);
        self
    }

    /// Sets a label: a name of 1 to 64 characters, and a value of at most 128.
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a label, if the session has it.
    pub fn without_label(mut self, name: impl Into<String>) -> Self {
        self.labels.insert(name.into(), None);
        self
    }

    /// Sets the revision that the session must be at. Titles and labels do not change it.
    pub fn with_expected_revision(mut self, revision: Revision) -> Self {
        self.expected = ExpectedRevision::Exact(revision);
        self
    }

    /// Returns which session to change.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the title to set, `Some(None)` to remove it, and `None` to leave it.
    #[allow(clippy::option_option, reason = "a title is left, removed or set")]
    pub fn title(&self) -> Option<Option<&str>> {
        self.title.as_ref().map(Option::as_deref)
    }

    /// Returns the labels to set, and with `None` those to remove.
    pub fn labels(&self) -> &BTreeMap<String, Option<String>> {
        &self.labels
    }

    /// Returns the revision that the session must be at.
    pub fn expected(&self) -> ExpectedRevision {
        self.expected
    }

    /// Checks the title and the labels, as every service does before it does anything.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `title`, `label.name`, `label.value` or `labels`: a text that is too long,
    /// empty (a value may be), or has a NUL character; more than [`MAX_LABELS`](Self::MAX_LABELS) labels; or nothing
    /// to change.
    pub fn check(&self) -> Result<()> {
        if self.title.is_none() && self.labels.is_empty() {
            return Err(Error::invalid("annotations", "there is nothing to change"));
        }
        if let Some(Some(title)) = &self.title {
            check_title(title)?;
        }
        check_label_count(self.labels.len())?;
        self.labels.iter().try_for_each(|(name, value)| check_label(name, value.as_deref()))
    }

    /// Checks the revision of the session, as every service does before it writes.
    ///
    /// # Errors
    /// [`RevisionConflict`](Error::RevisionConflict) if the session must be at another revision than `actual`.
    pub fn check_revision(&self, actual: Revision) -> Result<()> {
        self.expected.check(&self.key, actual)
    }

    /// Returns what a session with the annotations `stored` has after the change.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `labels` if it would have more than [`MAX_LABELS`](Self::MAX_LABELS).
    pub fn apply_to(&self, mut stored: Annotations) -> Result<Annotations> {
        if let Some(title) = &self.title {
            stored.title.clone_from(title);
        }
        for (name, value) in &self.labels {
            match value {
                Some(value) => stored.labels.insert(name.clone(), value.clone()),
                None => stored.labels.remove(name),
            };
        }
        check_label_count(stored.labels.len())?;
        Ok(stored)
    }

    /// Whether a session with the annotations `stored` already has all that the request sets.
    pub(crate) fn is_met_by(&self, stored: &Annotations) -> bool {
        self.title.as_ref().is_none_or(|title| *title == stored.title)
            && self.labels.iter().all(|(name, value)| stored.labels.get(name) == value.as_ref())
    }
}

fn check_title(title: &str) -> Result<()> {
    if title.is_empty() {
        return Err(Error::invalid("title", "empty"));
    }
    check_text("title", title, MAX_TITLE_CHARS)
}

fn check_label(name: &str, value: Option<&str>) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("label.name", "empty"));
    }
    check_text("label.name", name, MAX_LABEL_NAME_CHARS)?;
    value.map_or(Ok(()), |value| check_text("label.value", value, MAX_LABEL_VALUE_CHARS))
}

fn check_label_count(count: usize) -> Result<()> {
    let max = AnnotateSession::MAX_LABELS;
    if count > max {
        return Err(Error::invalid("labels", format!("{count} labels; at most {max} are allowed")));
    }
    Ok(())
}

/// Gives sessions titles and labels, and finds sessions by them.
#[async_trait]
pub trait DirectoryService: SessionService {
    /// Sets and removes the title and labels of a session, and returns those that it has now. Neither the session's
    /// revision nor the time of its last update changes, so no holder of the session becomes stale. Titles and labels
    /// are deleted with the session.
    ///
    /// # Atomicity
    /// Changes all or nothing. Concurrent changes of different labels lose none.
    ///
    /// # Ordering
    /// Comes after every change acknowledged before the call.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) as [`AnnotateSession::check`] says, and if the session would have too many labels;
    /// [`NotFound`](Error::NotFound) if it does not exist; [`RevisionConflict`](Error::RevisionConflict) if it is not
    /// at the expected revision. A backend error of kind [`Schema`](crate::BackendErrorKind::Schema) if the database
    /// lacks the tables for it, with the command that creates them. After an unknown commit, repeating the call sets
    /// the title and labels again, also over what others have set since.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn annotate_session(&self, request: AnnotateSession) -> Result<Annotations>;

    /// Finds the sessions of a user or an app that a filter matches, by last update, one page at a time, without their
    /// events.
    ///
    /// With a filter on state, a page looks at no more than 1,000 of the sessions that match the rest of the filter: it
    /// may have fewer sessions than its limit, or none, and still not be the last. Read on while
    /// [`Page::next`] is there.
    ///
    /// # Atomicity
    /// Each page is one snapshot; the listing as a whole is not.
    ///
    /// # Ordering
    /// As for [`list_sessions`](SessionService::list_sessions).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a limit that is out of range, for a filter that can match nothing (an empty
    /// text, a key of an app or a user), and for a cursor of another listing. `Schema` as for
    /// [`annotate_session`](Self::annotate_session). A session that cannot be decoded is an error in its place.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn find_sessions(&self, request: FindSessions) -> Result<Page<FoundSession, FindCursor>>;

    /// Counts the sessions of a user or an app that a filter matches. Reads all of them, and with a filter on state
    /// also their states.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every write acknowledged before the call.
    ///
    /// # Errors
    /// Those of [`find_sessions`](Self::find_sessions) for the filter. A session whose state cannot be decoded is an
    /// error if the filter looks at states.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn count_sessions(&self, scope: &SessionScope, filter: &SessionFilter) -> Result<u64>;

    /// Reads what a list of conversations shows of a session: its title, what was said last, and how many events it
    /// has. Reads at most [`SessionSummary::RECENT_EVENTS`] of its events, and counts all of them in an index. Returns
    /// `None` if the session does not exist.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every write acknowledged before the call.
    ///
    /// # Errors
    /// `Schema` as for [`annotate_session`](Self::annotate_session). An event that cannot be decoded says nothing here,
    /// and is an error for readers of the session.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn summarize_session(&self, key: &SessionKey) -> Result<Option<SessionSummary>>;
}

#[async_trait]
impl<S: DirectoryService + ?Sized> DirectoryService for Arc<S> {
    async fn annotate_session(&self, request: AnnotateSession) -> Result<Annotations> {
        (**self).annotate_session(request).await
    }

    async fn find_sessions(&self, request: FindSessions) -> Result<Page<FoundSession, FindCursor>> {
        (**self).find_sessions(request).await
    }

    async fn count_sessions(&self, scope: &SessionScope, filter: &SessionFilter) -> Result<u64> {
        (**self).count_sessions(scope, filter).await
    }

    async fn summarize_session(&self, key: &SessionKey) -> Result<Option<SessionSummary>> {
        (**self).summarize_session(key).await
    }
}

/// Conveniences on every [`DirectoryService`].
#[async_trait]
pub trait DirectoryServiceExt: DirectoryService {
    /// Sets the title of a session, or removes it. Atomicity, ordering and cancel safety are those of
    /// [`annotate_session`](DirectoryService::annotate_session).
    ///
    /// # Errors
    /// Those of `annotate_session`.
    async fn set_title(&self, key: &SessionKey, title: Option<&str>) -> Result<Annotations> {
        let request = AnnotateSession::new(key.clone());
        let request = match title {
            Some(title) => request.with_title(title),
            None => request.without_title(),
        };
        self.annotate_session(request).await
    }

    /// Sets labels of a session, and with `None` removes them; the other labels stay. Atomicity, ordering and cancel
    /// safety are those of [`annotate_session`](DirectoryService::annotate_session).
    ///
    /// # Errors
    /// Those of `annotate_session`.
    async fn set_labels(&self, key: &SessionKey, labels: &[(&str, Option<&str>)]) -> Result<Annotations> {
        let mut request = AnnotateSession::new(key.clone());
        for (name, value) in labels {
            request.labels.insert((*name).to_owned(), value.map(str::to_owned));
        }
        self.annotate_session(request).await
    }

    /// Summarizes sessions, such as those of a page that [`find_sessions`](DirectoryService::find_sessions) returned, in
    /// the order of `keys`. Those that do not exist are left out. Four are read at a time, each in a snapshot of its own.
    ///
    /// # Errors
    /// The first of [`summarize_session`](DirectoryService::summarize_session).
    ///
    /// # Cancel safety
    /// Reads only.
    async fn summarize_sessions(&self, keys: &[SessionKey]) -> Result<Vec<SessionSummary>> {
        let mut reads = Vec::with_capacity(keys.len());
        for key in keys {
            reads.push(self.summarize_session(key));
        }
        let found = stream::iter(reads).buffered(4).try_filter_map(|summary| ready(Ok(summary)));
        found.try_collect().await
    }
}

impl<S: DirectoryService + ?Sized> DirectoryServiceExt for S {}
