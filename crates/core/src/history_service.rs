//! The history of a session: how it began, and branches of it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::history::{ForkSession, Forked, Origin, RedactEvent, Redacted, RewindSession, Rewound, StateAt};
use crate::service_ext::append_rewind;
use crate::{Error, GetSession, Result, SessionKey, SessionService};

/// Keeps how sessions began, forks them, and takes back what was said.
#[async_trait]
pub trait HistoryService: SessionService {
    /// Returns how a session began: its initial state if the session was created
    /// [`with_history`](crate::CreateSession::with_history), and what it was forked from.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every write acknowledged before the call.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound). A backend error of kind [`Schema`](crate::BackendErrorKind::Schema) if the
    /// database lacks the table for it, with the command that creates it.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn get_origin(&self, key: &SessionKey) -> Result<Origin>;

    /// Forks a session at one of its events: creates a new session of the same user with the events up to and including
    /// it, as they are stored, and with the session's own state as of that event. What happens to either session
    /// afterwards does not reach the other. Both share the state of their app and their user, as all sessions of a user
    /// do, and title and labels are not copied.
    ///
    /// The events keep their ids, contents and times. So the new session is created now, and its last update is the
    /// time of its last event. Events before the fork that a rewind has taken back are copied with the rewind.
    ///
    /// If the initial state is unknown, so may be keys that only later events set: [`Forked::unknown`] names them. The
    /// fork begins without them, and they count as absent from then on.
    ///
    /// The database copies the events. The service reads each of them once, and keeps of them only the state, the ids
    /// of function calls and the ids of invocations.
    ///
    /// # Atomicity
    /// All or nothing, however many events there are. Of concurrent forks and creates with one id exactly one succeeds.
    ///
    /// # Ordering
    /// Comes after every append acknowledged before the call. One that happens at the same time is after the fork's
    /// event, and so in the old session only.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `event_id` if the session has no such event, if a rewind has taken it back,
    /// or if a function call has no response at that point (see
    /// [`with_open_calls_allowed`](ForkSession::with_open_calls_allowed)); [`NotFound`](Error::NotFound) if there is no
    /// session to fork; [`AlreadyExists`](Error::AlreadyExists) if there is one of the new id already. `Schema` as for
    /// [`get_origin`](Self::get_origin). After an unknown commit, repeating the call without an id may fork twice.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn fork_session(&self, request: ForkSession) -> Result<Forked>;

    /// Removes the content of an event for good. Its place, id, invocation, author and times stay, and so do the state
    /// that it set, a rewind or compaction that it is (without its summary), and function calls and responses, without
    /// arguments and results. Everything else that was said goes, also from keys that Seabed does not know.
    /// `custom_metadata.seabed_redacted` marks the event.
    ///
    /// What was said may also stand elsewhere: an agent with an `output_key` writes its answer into the state, where it
    /// stays, and so does its place in the event's `state_delta`; and a compaction that covers the event has a summary of
    /// its own, which is another event to redact.
    ///
    /// The session gets an event of the author `user`, without content, that reports it: its
    /// `custom_metadata.seabed_redacted_event_id` names the redacted event. So the revision changes: who has read the
    /// session is told so by the next append, and who follows its events or keeps a copy finds out which of them to
    /// read again. Sessions that were forked from this one have copies of their own.
    ///
    /// A replay of the original event then fails with [`EventIdReused`](Error::EventIdReused): it is never stored again.
    /// Redacting an event in the same way again changes nothing. The database may keep the old text in its files and
    /// logs until it reuses their space.
    ///
    /// # Atomicity
    /// All or nothing.
    ///
    /// # Ordering
    /// As for [`append_event`](SessionService::append_event), at any revision.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `event_id` if the session has no such event, and naming `replacement` for a
    /// text that is empty or that not every backend can store; [`NotFound`](Error::NotFound).
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn redact_event(&self, request: RedactEvent) -> Result<Redacted>;
}

#[async_trait]
impl<S: HistoryService + ?Sized> HistoryService for Arc<S> {
    async fn get_origin(&self, key: &SessionKey) -> Result<Origin> {
        (**self).get_origin(key).await
    }

    async fn fork_session(&self, request: ForkSession) -> Result<Forked> {
        (**self).fork_session(request).await
    }

    async fn redact_event(&self, request: RedactEvent) -> Result<Redacted> {
        (**self).redact_event(request).await
    }
}

/// Conveniences on every [`HistoryService`].
#[async_trait]
pub trait HistoryServiceExt: HistoryService {
    /// Returns the session's own state right after an event. It is exact if the session was created
    /// [`with_history`](crate::CreateSession::with_history); otherwise [`StateAt::unknown`] names the keys that nobody
    /// knows. Reads all events of the session.
    ///
    /// # Atomicity, Ordering
    /// As for [`get_session`](SessionService::get_session).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `event_id` if the session has no such event, and those of
    /// [`get_origin`](HistoryService::get_origin) and `get_session`.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn state_at(&self, key: &SessionKey, event_id: &str) -> Result<StateAt> {
        let origin = self.get_origin(key).await?;
        let session = self.get_session(GetSession::new(key.clone())).await?.ok_or_else(|| Error::not_found(key))?;
        let history = session.state_history()?;
        let initial = origin.initial_state_of(&session);
        let history = initial.map_or(history, |initial| history.with_initial_state(initial));
        history.state_at(event_id).ok_or_else(|| Error::invalid("event_id", "no event of the session has it"))
    }

    /// Rewinds a session as [`rewind`](crate::SessionServiceExt::rewind) does, from its initial state if that was kept
    /// and the request has none. Atomicity, ordering and cancel safety are those of `rewind`.
    ///
    /// # Errors
    /// Those of `rewind` and [`get_origin`](HistoryService::get_origin).
    async fn rewind_with_history(&self, request: RewindSession) -> Result<Rewound> {
        request.check()?;
        let key = request.key().clone();
        let origin = self.get_origin(&key).await?;
        let session = self.get_session(GetSession::new(key.clone())).await?.ok_or_else(|| Error::not_found(&key))?;
        let request = request.with_initial_state_if_absent(origin.initial_state_of(&session));
        append_rewind(self, session, &request).await
    }
}

impl<S: HistoryService + ?Sized> HistoryServiceExt for S {}
