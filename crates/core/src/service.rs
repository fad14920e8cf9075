//! The contract of a session service.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    AppName, AppendEvent, Appended, CreateSession, DeleteSession, Event, EventCursor, GetSession, ListEvents,
    ListSessions, Page, Result, Session, SessionCursor, State, UserKey,
};

/// A durable, race-free store of agent sessions.
///
/// The terms are google-adk's. Every implementation keeps the guarantees (the laws) that the crate `seabed-conformance`
/// checks. The most important ones:
///
/// - concurrent creates never fail because of each other;
/// - an acknowledged event is durable, stored once, and read back in append order, whatever the clocks say;
/// - state merges are atomic and shallow, key by key, in all three scopes;
/// - a stale writer gets an error, and nothing of its append is stored.
///
/// The trait is object-safe: hold an `Arc<dyn SessionService>`. Conveniences that need no further storage operation
/// are in [`SessionServiceExt`](crate::SessionServiceExt).
///
/// # Cancel safety
/// The future of any operation may be dropped at any time. The operation is then stored entirely or not at all, and no
/// connection is left in a transaction. An operation that has already started continues: it may be stored after the
/// drop, and even after a later call.
#[async_trait]
pub trait SessionService: Send + Sync {
    /// Creates a session, and the rows of its app and user if they do not exist.
    ///
    /// # Atomicity
    /// The session and the `app:` and `user:` keys of its initial state appear together or not at all. Any number of
    /// concurrent calls succeed; among calls with the same explicit id, exactly one succeeds.
    ///
    /// # Ordering
    /// The session's `create_time` comes from the service's clock. It orders nothing but listings.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) for an explicit id that is taken;
    /// [`Invalid`](crate::Error::Invalid) for state that not every backend can store.
    ///
    /// # Cancel safety
    /// All or nothing.
    async fn create_session(&self, request: CreateSession) -> Result<Session>;

    /// Reads a session. Returns `None` if it does not exist.
    ///
    /// # Atomicity
    /// One snapshot: session, events, user and app state belong to one instant.
    ///
    /// # Ordering
    /// Events are returned in append order.
    ///
    /// # Errors
    /// A backend error of kind [`Corrupt`](crate::BackendErrorKind::Corrupt) names a row that cannot be decoded: the
    /// session, one of its events, or the state of its app or user, which is never taken for empty.
    /// [`list_events`](Self::list_events) needs no state, and still reads the other events. One of kind
    /// [`TooLarge`](crate::BackendErrorKind::TooLarge) means that the session has more events than a service reads at
    /// once; `list_events` reads them page by page.
    ///
    /// If the request names a revision to read at least ([`GetSession::with_min_revision`]), and the session is at an
    /// earlier one or not there, the service reads again for up to about a second, and not past the limit on a call. Then
    /// the call ends in [`Unavailable`](crate::BackendErrorKind::Unavailable), and the message says that the server is
    /// behind. A session that was deleted looks the same.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_session(&self, request: GetSession) -> Result<Option<Session>>;

    /// Lists the sessions of a user or an app by last update, one page at a time, without their events.
    ///
    /// A page ends early where its sessions would take more than 16 MiB or so of memory; `next` says whether there are
    /// more.
    ///
    /// # Atomicity
    /// Each page is one snapshot; the listing as a whole is not.
    ///
    /// # Ordering
    /// By last update, then user id and session id as the database sorts them. A session that does not change during
    /// the listing comes exactly once. One that is updated meanwhile moves to the newest end: ascending order meets it
    /// again there, descending order has passed that end already.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a limit of zero or over [`ListSessions::MAX_LIMIT`]. A session that
    /// cannot be decoded, or whose app's or user's state cannot, is an error in its place in the page.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>>;

    /// Lists the events of a session, one page at a time.
    ///
    /// A page ends early where its events would take more than 16 MiB or so of memory; `next` says whether there are
    /// more.
    ///
    /// # Atomicity
    /// Each page is one snapshot.
    ///
    /// # Ordering
    /// In append order, or exactly reversed. In ascending order, events appended during the listing appear at its end.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) when the session does not exist; [`Invalid`](crate::Error::Invalid) for a
    /// limit of zero or over [`ListEvents::MAX_LIMIT`]. A row that cannot be decoded is an error in its place.
    /// [`ListEvents::with_min_revision`] works as in [`get_session`](Self::get_session).
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>>;

    /// Appends an event, and merges its `state_delta` into session, user and app state.
    ///
    /// A partial event is not stored; the call returns [`Appended::Partial`]. An event that is already stored, with the
    /// same id and content, is a replay; the call returns [`Appended::Replayed`], whatever revision is expected. All
    /// fields count but the event's own time, so a repeated request may build its event anew, and but for fields that say
    /// nothing ([`Event::is_replay_of`]). The stored event stays as it is.
    ///
    /// # Atomicity
    /// The event and every key of its delta are stored together or not at all.
    ///
    /// # Ordering
    /// The event comes after every event acknowledged before the call, even if the clocks say otherwise.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the session does not exist;
    /// [`RevisionConflict`](crate::Error::RevisionConflict) if the session is not at the revision that
    /// [`ExpectedRevision::Exact`](crate::ExpectedRevision::Exact) names;
    /// [`EventIdReused`](crate::Error::EventIdReused) if the id belongs to an event with different content;
    /// [`Invalid`](crate::Error::Invalid) for an event that not every backend can store, and for one
    /// that google-adk cannot read ([`Event::check_for_adk`]).
    ///
    /// # Cancel safety
    /// All or nothing; repeat the identical call to learn which.
    async fn append_event(&self, request: AppendEvent) -> Result<Appended>;

    /// Deletes a session and its events. User and app state stay. Deleting a session that does not exist succeeds.
    ///
    /// # Atomicity
    /// The session and its events disappear together. A database deletes a large session in steps: after the first one
    /// nobody finds the session, and its id is free after the last. A delete at a revision deletes exactly what was
    /// read: no event that came since, and no session that was created anew under the same id.
    ///
    /// # Ordering
    /// An append acknowledged before the call is deleted with the session. An append that comes after it fails with
    /// [`NotFound`](crate::Error::NotFound).
    ///
    /// # Errors
    /// [`RevisionConflict`](crate::Error::RevisionConflict) if the session is not at the revision that
    /// [`DeleteSession::at_revision`] names; otherwise backend errors only.
    ///
    /// # Cancel safety
    /// All or nothing. If a database fails, or a limit on the call passes, in the middle of a large session, the error
    /// says that the session is gone, and that its id is not free yet: repeat the call.
    async fn delete_session(&self, request: DeleteSession) -> Result<()>;

    /// Reads the state that all sessions of a user share. Keys have no `user:` prefix. Empty if the user is unknown.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every append acknowledged before the call.
    ///
    /// # Errors
    /// Backend errors only.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_user_state(&self, key: &UserKey) -> Result<State>;

    /// Reads the state that all users of an app share. Keys have no `app:` prefix. Empty if the app is unknown.
    ///
    /// # Atomicity
    /// One snapshot.
    ///
    /// # Ordering
    /// Sees every append acknowledged before the call.
    ///
    /// # Errors
    /// Backend errors only.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn get_app_state(&self, app_name: &AppName) -> Result<State>;

    /// Checks that the store is reachable and has its tables. Reads the schema version, on a connection like those that
    /// the operations use.
    ///
    /// # Errors
    /// A backend error within 5 seconds: of kind [`Unavailable`](crate::BackendErrorKind::Unavailable) if the store
    /// cannot be reached, [`Schema`](crate::BackendErrorKind::Schema) if tables are missing or unknown,
    /// [`ReadOnly`](crate::BackendErrorKind::ReadOnly) if the server accepts no writes: reads work there.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn check_health(&self) -> Result<()>;

    /// Shuts the service down gracefully, for all its clones: accepted operations finish and return their results to
    /// the callers, then the connections are closed. Later calls fail with
    /// [`Unavailable`](crate::BackendErrorKind::Unavailable). Closing a closed service succeeds.
    ///
    /// # Errors
    /// Backend errors from closing the connections.
    ///
    /// # Cancel safety
    /// If the future is dropped, the service may be closed or open.
    async fn close(&self) -> Result<()>;
}

#[async_trait]
impl<S: SessionService + ?Sized> SessionService for Arc<S> {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        (**self).create_session(request).await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        (**self).get_session(request).await
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        (**self).list_sessions(request).await
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        (**self).list_events(request).await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        (**self).append_event(request).await
    }

    async fn delete_session(&self, request: DeleteSession) -> Result<()> {
        (**self).delete_session(request).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        (**self).get_user_state(key).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        (**self).get_app_state(app_name).await
    }

    async fn check_health(&self) -> Result<()> {
        (**self).check_health().await
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}
