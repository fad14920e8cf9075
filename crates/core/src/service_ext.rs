//! Conveniences that need no storage operation of their own.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::{
    AppendEvent, Appended, CreateSession, Error, Event, ExpectedRevision, GetSession, ListEvents, ListSessions, Page,
    Result, Session, SessionKey, SessionService, State,
};

/// The result of [`SessionServiceExt::get_or_create`].
#[derive(Debug, Clone, PartialEq)]
pub enum GetOrCreated {
    /// The session is new and has the requested state.
    Created(Session),
    /// The session already existed. It is returned unchanged, with its events.
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
        let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
        for _ in 0..GET_OR_CREATE_TRIES {
            if let Some(session) = self.get_session(GetSession::new(key.clone())).await? {
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
    /// store, so that it includes what others appended in between.
    ///
    /// # Atomicity, Ordering
    /// As for [`append_event`](SessionService::append_event) with [`ExpectedRevision::Exact`].
    ///
    /// # Errors
    /// Those of `append_event`; `session` is then unchanged. On [`RevisionConflict`](Error::RevisionConflict),
    /// [`refresh`](Self::refresh) it and decide again.
    ///
    /// # Cancel safety
    /// `session` changes only after the commit. If the future is dropped after that, `session` is merely out of date,
    /// and repeating the call with the same event updates it.
    async fn append(&self, session: &mut Session, event: Event) -> Result<Appended> {
        let request = AppendEvent::new(session.key.clone(), event.clone(), ExpectedRevision::Exact(session.revision));
        let appended = self.append_event(request).await?;
        match appended {
            Appended::Stored(revision) => {
                let mut stored = event;
                session.state.merge(stored.actions.state_delta.clone());
                stored.actions.state_delta = stored.actions.state_delta.without_temp();
                session.events.push(stored);
                session.revision = revision;
            }
            Appended::Replayed(_) => {
                self.refresh(session).await?;
                session.state.merge(event.actions.state_delta.only_temp());
            }
            Appended::Partial => {}
        }
        Ok(appended)
    }

    /// Brings `session` up to date: adds the events that it lacks, and updates its state and revision.
    ///
    /// A session that was deleted and created again, or that has no events yet, is read in full. A session that was
    /// read in part receives the events after those that it has. `temp:` keys, which live only in `session`, stay.
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
        // A revision is the stored time of the newest event, and later events are stored at later times. Only the first
        // event may be stored at a time before the creation, so a session without events is read in full.
        if session.last_update_time() != session.create_time {
            let newer = whole.clone().with_after_timestamp(session.last_update_time().next());
            let read = self.get_session(newer).await?.ok_or_else(not_found)?;
            if read.create_time == session.create_time && read.revision >= session.revision {
                let temp = session.state.only_temp();
                session.state = read.state;
                session.state.merge(temp);
                session.events.extend(read.events);
                session.revision = read.revision;
                return Ok(());
            }
        }
        let mut read = self.get_session(whole).await?.ok_or_else(not_found)?;
        read.state.merge(session.state.only_temp());
        *session = read;
        Ok(())
    }

    /// Streams all events of the listing, fetching a page at a time as they are consumed.
    ///
    /// Each page is one snapshot. In ascending order, events appended during the listing appear at the end. The error
    /// of a row takes the row's place and the stream continues; the error of a page ends the stream.
    fn stream_events(&self, request: ListEvents) -> BoxStream<'_, Result<Event>> {
        stream_pages(request, |request| self.list_events(request), ListEvents::with_cursor)
    }

    /// Streams all sessions of the listing, fetching a page at a time as they are consumed; see
    /// [`stream_events`](Self::stream_events).
    fn stream_sessions(&self, request: ListSessions) -> BoxStream<'_, Result<Session>> {
        stream_pages(request, |request| self.list_sessions(request), ListSessions::with_cursor)
    }
}

fn stream_pages<'a, R, T, C, List, Listing>(first: R, list: List, turn: fn(R, C) -> R) -> BoxStream<'a, Result<T>>
where
    R: Clone + Send + 'a,
    T: Send + 'a,
    C: Send + 'a,
    List: Fn(R) -> Listing + Send + 'a,
    Listing: Future<Output = Result<Page<T, C>>> + Send + 'a,
{
    stream::unfold((Some(first), list), move |(request, list)| async move {
        let request = request?;
        let (items, next) = match list(request.clone()).await {
            Ok(page) => (page.items, page.next),
            Err(error) => (vec![Err(error)], None),
        };
        Some((stream::iter(items), (next.map(|cursor| turn(request, cursor)), list)))
    })
    .flatten()
    .boxed()
}

impl<S: SessionService + ?Sized> SessionServiceExt for S {}
