//! Rewinding a session.

use std::collections::BTreeSet;

use super::state::Rewind;
use crate::key::check_text;
use crate::validate::MAX_INVOCATION_ID_CHARS;
use crate::{Error, Event, ExpectedRevision, Result, Revision, Session, SessionKey, State};

impl Rewind {
    /// Builds the event that rewinds the session, in the shape of google-adk's own. Append it at the revision at
    /// which the session was read.
    ///
    /// Its artifact delta is empty. If you keep artifacts, save their earlier versions again, and set them in
    /// [`artifact_delta`](crate::EventActions::artifact_delta).
    pub fn into_event(self) -> Event {
        let mut event = Event::new("user").with_state_delta(self.state_delta);
        event.invocation_id = format!("e-{}", event.id);
        let target = ("rewind_before_invocation_id".to_owned(), self.before_invocation_id.into());
        event.actions.extra.extend([target]);
        event
    }
}

/// A request to [`rewind`](crate::SessionServiceExt::rewind).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RewindSession {
    pub(crate) key: SessionKey,
    before_invocation_id: String,
    initial_state: Option<State>,
    expected: ExpectedRevision,
}

impl RewindSession {
    /// Requests to take back everything from the first event of this invocation on.
    pub fn new(key: SessionKey, before_invocation_id: impl Into<String>) -> Self {
        Self {
            key,
            before_invocation_id: before_invocation_id.into(),
            initial_state: None,
            expected: ExpectedRevision::Any,
        }
    }

    /// Sets the state with which the session was created, if you know it. Otherwise a key that it had, and that only
    /// events after the rewind's target have set, becomes `null`.
    pub fn with_initial_state(mut self, initial_state: State) -> Self {
        self.initial_state = Some(initial_state);
        self
    }

    pub(crate) fn with_initial_state_if_absent(mut self, initial_state: Option<&State>) -> Self {
        self.initial_state = self.initial_state.or_else(|| initial_state.cloned());
        self
    }

    /// Sets the revision that the session must be at: the one that whoever decided to rewind it has seen. Without it,
    /// what others have appended since is taken back too.
    pub fn with_expected_revision(mut self, revision: Revision) -> Self {
        self.expected = ExpectedRevision::Exact(revision);
        self
    }

    /// Returns the session to rewind.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Checks the id of the invocation, before anything is read.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an id that no rewind can have.
    pub(crate) fn check(&self) -> Result<()> {
        match self.before_invocation_id.as_str() {
            "" => Err(Error::invalid("before_invocation_id", "empty")),
            id => check_text("before_invocation_id", id, MAX_INVOCATION_ID_CHARS),
        }
    }

    /// Returns what to write to `session`.
    ///
    /// # Errors
    /// [`RevisionConflict`](Error::RevisionConflict) if the session is at another revision than expected, and
    /// [`Invalid`](Error::Invalid) if it has no event of the invocation.
    pub(crate) fn plan(&self, session: &Session) -> Result<Rewind> {
        self.expected.check(&self.key, session.revision)?;
        let history = session.state_history()?;
        let history = self.initial_state.as_ref().map_or(history, |initial| history.with_initial_state(initial));
        let unknown = || Error::invalid("before_invocation_id", "no event of the session has it");
        history.rewind_before(&self.before_invocation_id).ok_or_else(unknown)
    }
}

/// The outcome of a [`rewind`](crate::SessionServiceExt::rewind).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rewound {
    /// The session with all its events; the last is the rewind.
    pub session: Session,
    /// Keys that are now `null` although the session may have been created with them: its initial state is unknown.
    pub unknown: BTreeSet<String>,
}
