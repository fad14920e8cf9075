//! Conveniences that need no storage operation of their own.

use std::borrow::Cow;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::history::{self, AgentContext, RewindSession, Rewound};
use crate::{
    AppendEvent, Appended, BackendError, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession,
    ListEvents, ListSessions, Page, Result, Revision, Session, SessionKey, SessionService, State,
};

/// The result of [`SessionServiceExt::get_or_create`].
#[derive(Debug, Clone, PartialEq)]
pub enum GetOrCreated {
    /// The session is new and has the requested state.
    Created(Session),
    /// The session already existed. It is returned unchanged, with the events that were asked for.
    Existing(Session),
}

impl GetOrCreated {
    /// Returns the session in either case.
    pub fn into_session(self) -> Session {
        match self {
            Self::Created(session) | Self::Existing(session) => session,
        }
    }

    /// Whether the session is new.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

/// How often [`SessionServiceExt::get_or_create`] tries again while others delete and create the same session.
const GET_OR_CREATE_TRIES: usize = 16;

/// Convenience methods on every [`SessionService`].
#[async_trait]
pub trait SessionServiceExt: SessionService {
    /// Returns the session, or creates it with `state`. If the session exists, `state` is ignored.
    ///
    /// # Atomicity
    /// Among any number of concurrent calls exactly one returns [`GetOrCreated::Created`], unless the session is
    /// deleted in the meantime.
    ///
    /// # Ordering
    /// As for [`create_session`](SessionService::create_session).
    ///
    /// # Errors
    /// Those of `create_session` and `get_session`. [`AlreadyExists`](Error::AlreadyExists) only if others delete and
    /// create the session faster than this call can read it.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn get_or_create(&self, key: SessionKey, state: State) -> Result<GetOrCreated> {
        self.get_or_create_with(GetSession::new(key), state).await
    }

    /// Like [`get_or_create`](Self::get_or_create), and reads an existing session as `read` says: without its events,
    /// for example, by [`with_num_recent_events(0)`](GetSession::with_num_recent_events).
    async fn get_or_create_with(&self, read: GetSession, state: State) -> Result<GetOrCreated> {
        let key = read.key().clone();
        let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
        for _ in 0..GET_OR_CREATE_TRIES {
            if let Some(session) = self.get_session(read.clone()).await? {
                return Ok(GetOrCreated::Existing(session));
            }
            match self.create_session(create.clone()).await {
                Err(Error::AlreadyExists { .. }) => {}
                created => return created.map(GetOrCreated::Created),
            }
        }
        Err(Error::already_exists(&key))
    }

    /// Appends `event` to a session that was read before, if the session has not changed since.
    ///
    /// Once the event is stored, `session` contains it, its state delta (including the `temp:` keys, which live only
    /// here) and the new revision. A partial event changes nothing. After a replay, `session` is refreshed from the
    /// store, so that it includes what others appended in between. So it is if the event is stored before one that
    /// `session` has, which happens beside google-adk.
    ///
    /// # Atomicity, Ordering
    /// As for [`append_event`](SessionService::append_event) with [`ExpectedRevision::Exact`].
    ///
    /// # Errors
    /// Those of `append_event`, and where the session is refreshed, those of [`refresh`](Self::refresh), which say that
    /// the event is stored; `session` is then unchanged. On [`RevisionConflict`](Error::RevisionConflict),
    /// [`refresh`](Self::refresh) it and decide again.
    ///
    /// # Cancel safety
    /// `session` changes only after the commit. If the future is dropped after that, `session` is merely out of date,
    /// and repeating the call with the same event updates it.
    async fn append(&self, session: &mut Session, event: Event) -> Result<Appended> {
        let request = AppendEvent::new(session.key.clone(), event.clone(), ExpectedRevision::Exact(session.revision));
        let appended = self.append_event(request).await?;
        match appended {
            Appended::Stored(revision) if !has_later_event(session, revision) => {
                let mut stored = event;
                session.state.merge(stored.actions.state_delta.clone());
                stored.actions.state_delta = stored.actions.state_delta.without_temp();
                session.events.push(stored);
                session.revision = revision;
                session.events_since = session.events_since.map(|since| since.min(revision.timestamp()));
            }
            Appended::Stored(_) | Appended::Replayed(_) => {
                self.refresh(session).await.map_err(after_the_commit)?;
                session.state.merge(event.actions.state_delta.only_temp());
            }
            Appended::Partial => {}
        }
        Ok(appended)
    }

    /// Appends `event` to the session at whatever revision it is, and brings `session` up to date if others have appended
    /// to it. (App and user state, which other sessions change too, stays as it was read otherwise.)
    ///
    /// For events that do not depend on what was read, such as the message of a user: there are no conflicts. The rest
    /// is as for [`append`](Self::append), and so is the cost while nobody else appends. Otherwise the session is
    /// refreshed, which costs what [`refresh`](Self::refresh) costs.
    ///
    /// # Atomicity, Ordering
    /// As for [`append_event`](SessionService::append_event) with [`ExpectedRevision::Any`]. A session that is refreshed
    /// is read after the commit, so it may contain still later events.
    ///
    /// # Errors
    /// Those of `append_event`; `session` is then unchanged. A backend error of the refresh after the commit says that
    /// the event is stored; its kind is [`CommitUnknown`](crate::BackendErrorKind::CommitUnknown) if repeating the call
    /// with the same event may help.
    ///
    /// # Cancel safety
    /// As for [`append`](Self::append).
    async fn append_latest(&self, session: &mut Session, event: Event) -> Result<Appended> {
        match self.append(session, event.clone()).await {
            Err(Error::RevisionConflict { .. }) => {}
            appended => return appended,
        }
        let temp = event.actions.state_delta.only_temp();
        let appended = self.append_event(AppendEvent::new(session.key.clone(), event, ExpectedRevision::Any)).await?;
        self.refresh(session).await.map_err(after_the_commit)?;
        session.state.merge(temp);
        Ok(appended)
    }

    /// Brings `session` up to date: reads its events, its state and its revision again.
    ///
    /// If only the newer events were read, then these are read again, and all that came since
    /// ([`Session::events_since`]). A session that was deleted and created again is read in full. `temp:` keys, which live
    /// only in `session`, stay. The cost is that of reading these events. If you refresh a long session often, read only
    /// its newest events first, with [`with_num_recent_events`](GetSession::with_num_recent_events).
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// As for [`get_session`](SessionService::get_session).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if the session was deleted; `session` is then unchanged.
    ///
    /// # Cancel safety
    /// `session` changes in one step at the end.
    async fn refresh(&self, session: &mut Session) -> Result<()> {
        let whole = GetSession::new(session.key.clone());
        let not_found = || Error::not_found(&session.key);
        // Events are read again, and not only those after the newest: google-adk stores an event at the writer's own
        // time, which may be earlier than that of events that are there already.
        // What came since may be stored before the part that was read.
        let since = session.events_since.map(|since| since.min(session.revision.following()));
        let again = match since {
            Some(since) => whole.clone().with_after_timestamp(since),
            None => whole.clone(),
        };
        let mut read = self.get_session(again).await?.ok_or_else(not_found)?;
        if read.events_since.is_some() && read.create_time != session.create_time {
            read = self.get_session(whole).await?.ok_or_else(not_found)?;
        }
        read.state.merge(session.state.only_temp());
        *session = read;
        Ok(())
    }

    /// Returns the events that google-adk would build the request to the model of `agent` from, after rewinds and
    /// compactions: [`effective_events`](crate::history::effective_events) of the whole session.
    ///
    /// Reads all events of the session into memory: a rewind or a compaction at its end may concern the first of
    /// them.
    ///
    /// # Atomicity, Ordering
    /// As for [`get_session`](SessionService::get_session).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound), and those of `get_session`.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn effective_events(&self, key: SessionKey, agent: &AgentContext) -> Result<Vec<Event>> {
        let session = self.get_session(GetSession::new(key.clone())).await?.ok_or_else(|| Error::not_found(&key))?;
        Ok(history::effective_events(&session.events, agent).into_iter().map(Cow::into_owned).collect())
    }

    /// Rewinds the session: takes back everything from the first event of an invocation on, as google-adk's runner
    /// does, but keeps the keys that the session was created with, as far as they are known; see
    /// [`StateHistory::rewind_before`](crate::history::StateHistory::rewind_before). Reads all events of the session.
    ///
    /// Nothing is deleted. The event that is appended says what is taken back, and another rewind, to an invocation
    /// after the target of this one, brings part of it back. App and user state stay as they are, and so do
    /// artifacts.
    ///
    /// # Atomicity
    /// The event and its state are stored together, and only if nothing was appended since this call has read the session.
    /// What others had appended before is taken back too, unless the request has the revision that you have seen
    /// ([`with_expected_revision`](RewindSession::with_expected_revision)).
    ///
    /// # Ordering
    /// As for [`append_event`](SessionService::append_event) with [`ExpectedRevision::Exact`].
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an invocation that no event of the session has; [`NotFound`](Error::NotFound);
    /// and those of [`append`](Self::append). On [`RevisionConflict`](Error::RevisionConflict) others have appended:
    /// look at what they wrote before you take that back too. Repeating the call after an unknown commit may append a
    /// second event, which takes back the same, and whatever came since if no revision is expected.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn rewind(&self, request: RewindSession) -> Result<Rewound> {
        request.check()?;
        let read = GetSession::new(request.key.clone());
        let session = self.get_session(read).await?.ok_or_else(|| Error::not_found(&request.key))?;
        append_rewind(self, session, &request).await
    }

    /// Streams all events of the listing, fetching a page at a time as they are consumed.
    ///
    /// Each page is one snapshot. In ascending order, events appended during the listing appear at the end. The error
    /// of a row takes the row's place and the stream continues; the error of a page ends the stream.
    fn stream_events(&self, request: ListEvents) -> BoxStream<'_, Result<Event>> {
        stream_pages(self, request, |service, request| service.list_events(request), ListEvents::with_cursor)
    }

    /// Streams all sessions of the listing, fetching a page at a time as they are consumed; see
    /// [`stream_events`](Self::stream_events).
    fn stream_sessions(&self, request: ListSessions) -> BoxStream<'_, Result<Session>> {
        stream_pages(self, request, |service, request| service.list_sessions(request), ListSessions::with_cursor)
    }

    /// Like [`stream_events`](Self::stream_events), of a stream that owns its service: for the body of a response. Clone
    /// the service to keep it.
    fn into_event_stream(self, request: ListEvents) -> BoxStream<'static, Result<Event>>
    where
        Self: Sized + 'static,
    {
        stream_pages(self, request, |service, request| service.list_events(request), ListEvents::with_cursor)
    }

    /// Like [`stream_sessions`](Self::stream_sessions), of a stream that owns its service.
    fn into_session_stream(self, request: ListSessions) -> BoxStream<'static, Result<Session>>
    where
        Self: Sized + 'static,
    {
        stream_pages(self, request, |service, request| service.list_sessions(request), ListSessions::with_cursor)
    }
}

/// Rewinds a session that was read with all its events.
pub(crate) async fn append_rewind<S: SessionService + ?Sized>(
    service: &S,
    mut session: Session,
    request: &RewindSession,
) -> Result<Rewound> {
    let rewind = request.plan(&session)?;
    let unknown = rewind.unknown.clone();
    service.append(&mut session, rewind.into_event()).await?;
    Ok(Rewound { session, unknown })
}

/// Whether `session` has an event that is stored later than `revision`: google-adk stores an event at its own time, and
/// moves the session's clock back to it.
fn has_later_event(session: &Session, revision: Revision) -> bool {
    let stored = revision.timestamp();
    let begins_later = session.events_since.is_some_and(|since| since >= stored) && !session.events.is_empty();
    begins_later || session.events.iter().any(|event| event.timestamp > stored.as_seconds())
}

/// The error of a read that follows a commit, such that nobody takes it for the error of the write.
fn after_the_commit(error: Error) -> Error {
    let kind = match error.backend_kind() {
        Some(kind) if kind.is_retryable() => BackendErrorKind::CommitUnknown,
        Some(kind) => kind,
        None => return error,
    };
    BackendError::new(kind, "the event is stored, but reading the session ended in an error").with_source(error).into()
}

/// A method of `service` that lists a page.
type List<S, R, T, C> = for<'s> fn(&'s S, R) -> BoxFuture<'s, Result<Page<T, C>>>;

fn stream_pages<'a, S, R, T, C>(
    service: S,
    first: R,
    list: List<S, R, T, C>,
    turn: fn(R, C) -> R,
) -> BoxStream<'a, Result<T>>
where
    S: Send + Sync + 'a,
    R: Clone + Send + 'a,
    T: Send + 'a,
    C: Send + 'a,
{
    stream::unfold((Some(first), service), move |(request, service)| async move {
        let request = request?;
        let (items, next) = match list(&service, request.clone()).await {
            Ok(page) => (page.items, page.next),
            Err(error) => (vec![Err(error)], None),
        };
        Some((stream::iter(items), (next.map(|cursor| turn(request, cursor)), service)))
    })
    .flatten()
    .boxed()
}

impl<S: SessionService + ?Sized> SessionServiceExt for S {}
