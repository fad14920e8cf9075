//! Validates requests and brings them into the form that is stored: before any I/O, and the same for every backend.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::adk_check::AdkCheck;
use crate::key::{check_id, check_text};
use crate::replay::is_same_event;
use crate::revision::stored_timestamp;
use crate::state::ScopedState;
use crate::{
    AnnotateSession, AppName, AppendEvent, BackendError, BackendErrorKind, Clock, CreateSession, Error,
    ExpectedRevision, IdSource, Json, NulPolicy, Result, Revision, Scope, Session, SessionId, SessionKey, State,
    StateTarget, Timestamp, UpdateState, UserKey,
};

/// The width of google-adk's column `events.invocation_id`, in characters.
pub(crate) const MAX_INVOCATION_ID_CHARS: usize = 256;
/// 1000-01-01T00:00:00Z, the first time of an event: before it, MySQL's manual promises nothing.
const FIRST_EVENT_TIME: i64 = -30_610_224_000_000_000;
/// 9999-12-31T00:00:00Z, the last time of an event: the day after is left for the steps of the session's clock.
const LAST_EVENT_TIME: i64 = 253_402_214_400_000_000;

/// A session about to be created.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewSession {
    /// The session, with an id that the caller or the service chose.
    pub key: SessionKey,
    /// The initial state: the session's own, and what to merge into the state of its app and its user.
    pub state: ScopedState,
    /// When the session is created. It is also the session's first update.
    pub create_time: Timestamp,
    /// Whether to keep the session's part of `state` for good, as its initial state.
    pub keeps_initial_state: bool,
}

impl NewSession {
    /// Validates `request`. The session is created now by `clock`, under an id from `ids` if the request has none.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for state that not every backend can store, and for an id of `ids` that is no
    /// [`SessionId`].
    pub fn try_prepare(request: &CreateSession, clock: &dyn Clock, ids: &dyn IdSource) -> Result<Self> {
        let session_id = match &request.session_id {
            Some(id) => id.clone(),
            None => SessionId::try_new(ids.new_id())?,
        };
        let (_, state) = portable("state", request.state.without_temp(), request.nul_policy)?;
        Ok(Self {
            key: request.user.session(session_id),
            state: ScopedState::split(&state),
            create_time: clock.now(),
            keeps_initial_state: request.keeps_initial_state,
        })
    }

    /// Returns the session as it is once stored, given the state of its app and its user after the merge.
    pub fn to_session(&self, app: State, user: State) -> Session {
        let state = ScopedState { app, user, session: self.state.session.clone() }.merged();
        Session { state, ..Session::new(self.key.clone(), self.create_time) }
    }
}

/// An event about to be appended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewEvent {
    /// The session to append to.
    pub key: SessionKey,
    /// The revision that the session must be at; see [`check_revision`](Self::check_revision).
    pub expected: ExpectedRevision,
    /// The event's id, unique in its session.
    pub id: String,
    /// The agent run that the event belongs to. May be empty.
    pub invocation_id: String,
    /// The event's own time, which is not always the time to store; see [`stored_timestamp`](Self::stored_timestamp).
    pub timestamp: Timestamp,
    /// The event as JSON, which decodes to an [`Event`](crate::Event): what goes into google-adk's `events.event_data`.
    pub event_data: Json,
    /// What to merge into the state of the session, its app and its user. Keys have no prefixes.
    pub delta: ScopedState,
    /// When app and user state change, by the clock of the service.
    pub now: Timestamp,
}

impl NewEvent {
    /// Validates `request`. Returns `None` for a partial event, which is checked but never stored; the append then
    /// returns [`Appended::Partial`](crate::Appended::Partial).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an event that not every backend can store, or that google-adk cannot read.
    pub fn try_prepare(request: AppendEvent, clock: &dyn Clock, adk_check: AdkCheck) -> Result<Option<Self>> {
        let AppendEvent { key, mut event, expected, nul_policy } = request;
        check_id("event.id", &event.id)?;
        check_text("event.invocation_id", &event.invocation_id, MAX_INVOCATION_ID_CHARS)?;
        let timestamp = Timestamp::try_from_seconds(event.timestamp)
            .ok()
            .filter(|timestamp| (FIRST_EVENT_TIME..=LAST_EVENT_TIME).contains(&timestamp.as_micros()))
            .ok_or_else(|| {
                Error::invalid("event.timestamp", "not a moment from the year 1000 to 9999-12-31T00:00:00Z")
            })?;
        event.actions.state_delta = event.actions.state_delta.without_temp();
        let (event_data, event) = portable("event", event, nul_policy)?;
        adk_check.check(&event_data)?;
        if event.is_partial() {
            return Ok(None);
        }
        let delta = ScopedState::split(&event.actions.state_delta);
        Ok(Some(Self {
            key,
            expected,
            id: event.id,
            invocation_id: event.invocation_id,
            timestamp,
            event_data,
            delta,
            now: clock.now(),
        }))
    }

    /// Checks whether the event may be appended to a session at `actual`. Look for a replay first, which may come at any
    /// revision.
    ///
    /// # Errors
    /// [`RevisionConflict`](Error::RevisionConflict) if the caller expects another revision.
    pub fn check_revision(&self, actual: Revision) -> Result<()> {
        self.expected.check(&self.key, actual)
    }

    /// The revision, if it alone suffices to append: the event changes no session state and keeps its own time
    /// (see [`stored_timestamp`]).
    pub(crate) fn revision_for_blind_append(&self) -> Option<Revision> {
        match self.expected {
            ExpectedRevision::Exact(expected)
                if self.delta.session.is_empty()
                    && self.timestamp > expected.timestamp()
                    && self.timestamp != expected.create_time() =>
            {
                Some(expected)
            }
            _ => None,
        }
    }

    /// Returns the time at which the event is stored in a session with these times. It becomes the session's
    /// `update_time`, and with the session's creation its [`Revision`].
    ///
    /// It is the event's own time, moved forward where needed: stored times strictly increase in append order, and none
    /// equals the session's `create_time`.
    ///
    /// # Errors
    /// A backend error if the session's clock is at the end of the year 9999, which only another program can have set.
    pub fn stored_timestamp(&self, create_time: Timestamp, update_time: Timestamp) -> Result<Timestamp> {
        stored_timestamp(self.timestamp, create_time, update_time).ok_or_else(|| {
            let message = format!("the clock of {} is at the end of the year 9999: it takes no more events", self.key);
            BackendError::new(BackendErrorKind::Unexpected, message).into()
        })
    }

    /// Checks that the event stored under this id is this very event, as
    /// [`Event::is_replay_of`](crate::Event::is_replay_of) decides. `stored` is its [`event_data`](Self::event_data).
    ///
    /// # Errors
    /// [`EventIdReused`](Error::EventIdReused) if it is another event.
    pub fn check_replay(&self, stored: &Json) -> Result<()> {
        if is_same_event(stored, &self.event_data) {
            return Ok(());
        }
        Err(Error::EventIdReused { key: Box::new(self.key.clone()), event_id: self.id.clone() })
    }
}

/// The JSON of `value`, and `value`, with NUL characters treated as `nul_policy` wants, after a check that every
/// backend and reader can take them.
fn portable<T>(field: &'static str, mut value: T, nul_policy: NulPolicy) -> Result<(Json, T)>
where
    T: Serialize + DeserializeOwned,
{
    let invalid = |error: serde_json::Error| Error::invalid(field, error.to_string());
    let mut written = Json::from_serialize(&value).map_err(invalid)?;
    if nul_policy == NulPolicy::Replace
        && let Some(replaced) = written.with_nul_replaced().map_err(invalid)?
    {
        value = replaced.decode().map_err(invalid)?;
        written = replaced;
    }
    written.check_portable().map_err(invalid)?;
    Ok((written, value))
}

/// A change of the title and labels of a session, about to be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewAnnotations {
    /// The change, and what it needs to know of the session: [`AnnotateSession::check_revision`] and
    /// [`AnnotateSession::apply_to`].
    pub request: AnnotateSession,
    /// When it is made, by the clock of the service.
    pub now: Timestamp,
}

impl NewAnnotations {
    /// Validates `request`.
    ///
    /// # Errors
    /// Those of [`AnnotateSession::check`].
    pub fn try_prepare(request: AnnotateSession, clock: &dyn Clock) -> Result<Self> {
        request.check()?;
        Ok(Self { request, now: clock.now() })
    }
}

/// Keys about to be set.
#[derive(Debug, Clone)]
pub enum NewStateUpdate {
    /// In a session: by an event.
    Session(Box<NewEvent>),
    /// In the state of an app or a user.
    Shared(NewSharedState),
}

/// Keys about to be set in the state of an app or a user.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewSharedState {
    /// Whose state it is.
    pub target: SharedTarget,
    /// The keys, without prefixes.
    pub delta: State,
    /// When the state changes, by the clock of the service.
    pub now: Timestamp,
}

/// Whose state a [`NewSharedState`] sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedTarget {
    /// The state that all users of an app share.
    App(AppName),
    /// The state that all sessions of a user share.
    User(UserKey),
}

impl NewStateUpdate {
    /// Validates `request`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an empty delta, for values that not every backend can store, and for an app or a
    /// user also for a prefixed key or an expected revision.
    pub fn try_prepare(request: UpdateState, clock: &dyn Clock, adk_check: AdkCheck) -> Result<Self> {
        if request.delta().without_temp().is_empty() {
            return Err(Error::invalid("delta", "empty"));
        }
        let UpdateState { target, event, expected, nul_policy } = request;
        let target = match target {
            StateTarget::Session(key) => {
                let request = AppendEvent { key, event, expected, nul_policy };
                let new = NewEvent::try_prepare(request, clock, adk_check)?;
                // Only a partial event is none, and this one is not.
                return new
                    .map(|new| Self::Session(Box::new(new)))
                    .ok_or_else(|| Error::invalid("delta", "its event is partial"));
            }
            _ if expected != ExpectedRevision::Any => {
                return Err(Error::invalid("expected", "the state of an app or a user has no revision"));
            }
            StateTarget::App(app_name) => SharedTarget::App(app_name),
            StateTarget::User(user) => SharedTarget::User(user),
        };
        if let Some((key, _)) = event.actions.state_delta.iter().find(|(key, _)| Scope::of(key).0 != Scope::Session) {
            let reason = format!("the key {key:?} has a prefix; the keys of an app or a user have none here");
            return Err(Error::invalid("delta", reason));
        }
        let (_, delta) = portable("delta", event.actions.state_delta, nul_policy)?;
        Ok(Self::Shared(NewSharedState { target, delta, now: clock.now() }))
    }
}
