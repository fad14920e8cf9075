//! Setting state without a message.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    AppName, Appended, Event, EventActions, ExpectedRevision, NulPolicy, Result, Revision, SessionKey, SessionService,
    State, UserKey,
};

/// Whose state an [`UpdateState`] sets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateTarget {
    /// The state that all users of an app share.
    App(AppName),
    /// The state that all sessions of a user share.
    User(UserKey),
    /// A session.
    Session(SessionKey),
}

impl From<AppName> for StateTarget {
    fn from(app_name: AppName) -> Self {
        Self::App(app_name)
    }
}

impl From<UserKey> for StateTarget {
    fn from(user: UserKey) -> Self {
        Self::User(user)
    }
}

impl From<SessionKey> for StateTarget {
    fn from(session: SessionKey) -> Self {
        Self::Session(session)
    }
}

/// Sets keys of an app's, a user's or a session's state.
///
/// Keys of an app and of a user are named as [`get_app_state`](SessionService::get_app_state) and
/// [`get_user_state`](SessionService::get_user_state) return them, without the prefixes `app:` and `user:`. Keys of a
/// session are named as in an event's state delta, where these prefixes set the app's and the user's state along with
/// it.
///
/// ```
/// use seabed_core::{AppName, State, UpdateState};
///
/// let request = UpdateState::new(AppName::try_new("travel")?, State::new().with("currency", "EUR"));
/// # Ok::<_, seabed_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UpdateState {
    pub(crate) target: StateTarget,
    pub(crate) event: Event,
    pub(crate) expected: ExpectedRevision,
    pub(crate) nul_policy: NulPolicy,
}

impl UpdateState {
    /// Sets the keys of `delta`, which must not be empty. The session may be at any revision.
    pub fn new(target: impl Into<StateTarget>, delta: State) -> Self {
        let mut event = Event::new("user").with_state_delta(delta);
        event.invocation_id = format!("p-{}", event.id);
        Self { target: target.into(), event, expected: ExpectedRevision::Any, nul_policy: NulPolicy::default() }
    }

    /// Sets the revision that the session must be at. Invalid for an app and a user, whose state has no revision.
    pub fn with_expected_revision(mut self, revision: Revision) -> Self {
        self.expected = ExpectedRevision::Exact(revision);
        self
    }

    /// Sets the id of the session's event; a new UUIDv7 by default. Repeating an update of a session under one
    /// id stores it once. For an app and a user there is no event: repeating their update sets its keys again.
    pub fn with_event_id(mut self, id: impl Into<String>) -> Self {
        self.event.id = id.into();
        self.event.invocation_id = format!("p-{}", self.event.id);
        self
    }

    /// Sets the time of the session's event, in seconds since the epoch; the time of [`new`](Self::new) by default.
    pub fn with_timestamp(mut self, seconds: f64) -> Self {
        self.event.timestamp = seconds;
        self
    }

    /// Sets how to handle `\u0000`.
    pub fn with_nul_policy(mut self, nul_policy: NulPolicy) -> Self {
        self.nul_policy = nul_policy;
        self
    }

    /// Returns whose state to set.
    pub fn target(&self) -> &StateTarget {
        &self.target
    }

    /// Returns the keys to set.
    pub fn delta(&self) -> &State {
        let EventActions { state_delta, .. } = &self.event.actions;
        state_delta
    }

    /// Returns the event that sets the keys of a session.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns the revision that the session must be at.
    pub fn expected(&self) -> ExpectedRevision {
        self.expected
    }

    /// Returns how to handle `\u0000`.
    pub fn nul_policy(&self) -> NulPolicy {
        self.nul_policy
    }
}

/// The outcome of an [`UpdateState`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StateUpdated {
    /// The state of the app or the user after the update, without prefixes. Updates that were committed together all
    /// return the state after the last of them.
    Shared(State),
    /// The event that sets the session's state.
    Session(Appended),
}

impl StateUpdated {
    /// The revision of the session; `None` for an app and a user.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Shared(_) => None,
            Self::Session(appended) => appended.revision(),
        }
    }
}

/// Sets state without a message of the user or the agent.
#[async_trait]
pub trait StateService: SessionService {
    /// Sets keys of an app's, a user's or a session's state.
    ///
    /// For a session this appends an event of the author `user`, as google-adk's `PATCH` of a session does, so that the
    /// session's history explains its state. For an app and a user no session is needed, and their row is created where
    /// it is missing.
    ///
    /// # Atomicity
    /// Sets all keys or none. Concurrent updates lose no key.
    ///
    /// # Ordering
    /// As for [`append_event`](SessionService::append_event).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for an empty delta, for keys of an app or a user with one of the prefixes
    /// `app:`, `user:` and `temp:`, and for values that not every backend can hold. For a session also
    /// [`NotFound`](crate::Error::NotFound), [`RevisionConflict`](crate::Error::RevisionConflict) and
    /// [`EventIdReused`](crate::Error::EventIdReused). After an unknown commit, repeating the call for an app or a user
    /// sets the keys again, also over what others have set since; for a session it is a replay.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated>;
}

#[async_trait]
impl<S: StateService + ?Sized> StateService for Arc<S> {
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated> {
        (**self).update_state(request).await
    }
}
