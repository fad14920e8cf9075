//! Which sessions to find.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Annotations, MAX_TITLE_CHARS, check_label, check_label_count};
use crate::key::{check_id, check_text};
use crate::{Error, Json, Result, Revision, Scope, SessionId, State, Timestamp};

/// Which sessions to find. A session must meet every condition; a new filter has none.
///
/// All texts are compared exactly, capitals included.
///
/// ```
/// use seabed_core::SessionFilter;
///
/// let filter = SessionFilter::new().with_label("stage", "booked").with_title_containing("Rome");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SessionFilter {
    pub(crate) updated_since: Option<Timestamp>,
    pub(crate) updated_until: Option<Timestamp>,
    pub(crate) created_since: Option<Timestamp>,
    pub(crate) created_until: Option<Timestamp>,
    /// With the value, or with `None` for any value.
    pub(crate) labels: BTreeMap<String, Option<String>>,
    pub(crate) title: Option<String>,
    pub(crate) id_prefix: Option<String>,
    pub(crate) state: BTreeMap<String, Json>,
}

impl SessionFilter {
    /// Matches every session.
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches sessions last updated at this time or later.
    pub fn with_updated_since(mut self, time: Timestamp) -> Self {
        self.updated_since = Some(time);
        self
    }

    /// Matches sessions last updated before this time.
    pub fn with_updated_until(mut self, time: Timestamp) -> Self {
        self.updated_until = Some(time);
        self
    }

    /// Matches sessions created at this time or later.
    pub fn with_created_since(mut self, time: Timestamp) -> Self {
        self.created_since = Some(time);
        self
    }

    /// Matches sessions created before this time.
    pub fn with_created_until(mut self, time: Timestamp) -> Self {
        self.created_until = Some(time);
        self
    }

    /// Matches sessions with this label.
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), Some(value.into()));
        self
    }

    /// Matches sessions with a label of this name.
    pub fn with_any_label(mut self, name: impl Into<String>) -> Self {
        self.labels.insert(name.into(), None);
        self
    }

    /// Matches sessions whose title contains this text.
    pub fn with_title_containing(mut self, text: impl Into<String>) -> Self {
        self.title = Some(text.into());
        self
    }

    /// Matches sessions whose id begins with this text.
    pub fn with_id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.id_prefix = Some(prefix.into());
        self
    }

    /// Matches sessions whose own state has this value under `key`. No index serves this: it reads the states of all
    /// sessions that match the rest of the filter.
    pub fn with_state(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.state.insert(key.into(), value.into());
        self
    }

    /// Checks the filter, as every service does before it reads.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for texts that no session has: empty, too long, or with a NUL character; and for keys
    /// of state that belong to the app, the user or nobody.
    pub fn check(&self) -> Result<()> {
        check_label_count(self.labels.len())?;
        self.labels.iter().try_for_each(|(name, value)| check_label(name, value.as_deref()))?;
        if let Some(title) = &self.title {
            if title.is_empty() {
                return Err(Error::invalid("title", "empty"));
            }
            check_text("title", title, MAX_TITLE_CHARS)?;
        }
        if let Some(prefix) = &self.id_prefix {
            check_id("id_prefix", prefix)?;
        }
        match self.state.keys().find(|key| Scope::of(key).0 != Scope::Session) {
            Some(key) => {
                Err(Error::invalid("state", format!("the key {key:?} does not belong to a session's own state")))
            }
            None => Ok(()),
        }
    }

    /// Whether a session matches everything but the conditions on its state.
    pub fn matches(&self, session_id: &SessionId, revision: Revision, annotations: &Annotations) -> bool {
        let is_within = |time: Timestamp, since: Option<Timestamp>, until: Option<Timestamp>| {
            since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
        };
        let has_label = |(name, value): (&String, &Option<String>)| {
            let stored = annotations.labels.get(name);
            stored.is_some() && value.as_ref().is_none_or(|value| stored == Some(value))
        };
        is_within(revision.timestamp(), self.updated_since, self.updated_until)
            && is_within(revision.create_time(), self.created_since, self.created_until)
            && self.labels.iter().all(has_label)
            && self
                .title
                .as_ref()
                .is_none_or(|text| annotations.title.as_ref().is_some_and(|title| title.contains(text.as_str())))
            && self.id_prefix.as_ref().is_none_or(|prefix| session_id.as_str().starts_with(prefix.as_str()))
    }

    /// Whether a session with this state of its own matches the conditions on its state. Keys of an app or a user in
    /// `state` do not matter.
    pub fn matches_state(&self, state: &State) -> bool {
        self.state.iter().all(|(key, value)| state.get(key) == Some(value))
    }

    /// Whether the filter has conditions on the state of sessions.
    pub fn needs_state(&self) -> bool {
        !self.state.is_empty()
    }
}
