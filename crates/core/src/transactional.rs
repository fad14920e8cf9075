//! Operations inside the caller's own transaction.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{DatabaseTransaction, TransactionOptions};

use crate::{
    AnnotateSession, Annotations, AppName, AppendEvent, Appended, CreateSession, DeleteSession, Event, EventCursor,
    FindCursor, FindSessions, FoundSession, GetSession, ListEvents, ListSessions, Page, Result, Session, SessionCursor,
    SessionFilter, SessionKey, SessionScope, SessionService, SessionSummary, State, StateUpdated, UpdateState, UserKey,
};

/// Runs operations inside your transaction, so that they commit together with your own writes. The algorithms are those
/// of [`SessionService`], [`StateService`](crate::StateService) and [`DirectoryService`](crate::DirectoryService),
/// without a commit, a retry, or a task of their own.
///
/// What they write is durable once you commit. Begin the transaction with
/// [`transaction_options`](Self::transaction_options): on SQLite a transaction that was not begun with `BEGIN
/// IMMEDIATE` may fail as busy, whatever the timeout.
///
/// # Lock order
/// Seabed locks sessions first, then app states, then user states. A transaction that writes to several of them should
/// do so in this order; otherwise it may end in a deadlock, which is
/// [`Contention`](crate::BackendErrorKind::Contention).
///
/// # Errors
/// [`Invalid`](crate::Error::Invalid) for a transaction of another kind of database, and for a write in a
/// transaction on another database of the same kind; a read may run on any replica. Each write asks the transaction
/// where it is, which takes a round trip. The answer is the same for two databases of SQLite in memory. Otherwise those
/// of the operation of the same name. After a rejection nothing of the operation is in the transaction, which may
/// continue. After a backend error part of it may be: roll back, and if the error [is
/// retryable](crate::Error::is_retryable), repeat the whole transaction.
///
/// # Cancel safety
/// When a future is dropped, part of its operation may be in the transaction: roll it back. On MySQL and MariaDB do not
/// drop it (run it in a task): sqlx 0.9 loses count of the server's answers when a statement is dropped while it is
/// being prepared, and may then wait for an answer forever.
#[async_trait]
pub trait TransactionalService: SessionService {
    /// How to begin a transaction for these operations.
    fn transaction_options(&self) -> TransactionOptions;

    /// See [`create_session`](SessionService::create_session).
    async fn create_session_in(&self, transaction: &DatabaseTransaction, request: CreateSession) -> Result<Session>;

    /// See [`get_session`](SessionService::get_session). Sees what the transaction has written.
    async fn get_session_in(&self, transaction: &DatabaseTransaction, request: GetSession) -> Result<Option<Session>>;

    /// See [`list_sessions`](SessionService::list_sessions).
    async fn list_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListSessions,
    ) -> Result<Page<Session, SessionCursor>>;

    /// See [`list_events`](SessionService::list_events).
    async fn list_events_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListEvents,
    ) -> Result<Page<Event, EventCursor>>;

    /// See [`append_event`](SessionService::append_event).
    async fn append_event_in(&self, transaction: &DatabaseTransaction, request: AppendEvent) -> Result<Appended>;

    /// See [`delete_session`](SessionService::delete_session).
    async fn delete_session_in(&self, transaction: &DatabaseTransaction, request: DeleteSession) -> Result<()>;

    /// See [`update_state`](crate::StateService::update_state).
    async fn update_state_in(&self, transaction: &DatabaseTransaction, request: UpdateState) -> Result<StateUpdated>;

    /// See [`get_user_state`](SessionService::get_user_state).
    async fn get_user_state_in(&self, transaction: &DatabaseTransaction, key: &UserKey) -> Result<State>;

    /// See [`get_app_state`](SessionService::get_app_state).
    async fn get_app_state_in(&self, transaction: &DatabaseTransaction, app_name: &AppName) -> Result<State>;

    /// See [`annotate_session`](crate::DirectoryService::annotate_session).
    async fn annotate_session_in(
        &self,
        transaction: &DatabaseTransaction,
        request: AnnotateSession,
    ) -> Result<Annotations>;

    /// See [`find_sessions`](crate::DirectoryService::find_sessions).
    async fn find_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: FindSessions,
    ) -> Result<Page<FoundSession, FindCursor>>;

    /// See [`count_sessions`](crate::DirectoryService::count_sessions).
    async fn count_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        scope: &SessionScope,
        filter: &SessionFilter,
    ) -> Result<u64>;

    /// See [`summarize_session`](crate::DirectoryService::summarize_session).
    async fn summarize_session_in(
        &self,
        transaction: &DatabaseTransaction,
        key: &SessionKey,
    ) -> Result<Option<SessionSummary>>;
}

#[async_trait]
impl<S: TransactionalService + ?Sized> TransactionalService for Arc<S> {
    fn transaction_options(&self) -> TransactionOptions {
        (**self).transaction_options()
    }

    async fn create_session_in(&self, transaction: &DatabaseTransaction, request: CreateSession) -> Result<Session> {
        (**self).create_session_in(transaction, request).await
    }

    async fn get_session_in(&self, transaction: &DatabaseTransaction, request: GetSession) -> Result<Option<Session>> {
        (**self).get_session_in(transaction, request).await
    }

    async fn list_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListSessions,
    ) -> Result<Page<Session, SessionCursor>> {
        (**self).list_sessions_in(transaction, request).await
    }

    async fn list_events_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListEvents,
    ) -> Result<Page<Event, EventCursor>> {
        (**self).list_events_in(transaction, request).await
    }

    async fn append_event_in(&self, transaction: &DatabaseTransaction, request: AppendEvent) -> Result<Appended> {
        (**self).append_event_in(transaction, request).await
    }

    async fn delete_session_in(&self, transaction: &DatabaseTransaction, request: DeleteSession) -> Result<()> {
        (**self).delete_session_in(transaction, request).await
    }

    async fn update_state_in(&self, transaction: &DatabaseTransaction, request: UpdateState) -> Result<StateUpdated> {
        (**self).update_state_in(transaction, request).await
    }

    async fn get_user_state_in(&self, transaction: &DatabaseTransaction, key: &UserKey) -> Result<State> {
        (**self).get_user_state_in(transaction, key).await
    }

    async fn get_app_state_in(&self, transaction: &DatabaseTransaction, app_name: &AppName) -> Result<State> {
        (**self).get_app_state_in(transaction, app_name).await
    }

    async fn annotate_session_in(
        &self,
        transaction: &DatabaseTransaction,
        request: AnnotateSession,
    ) -> Result<Annotations> {
        (**self).annotate_session_in(transaction, request).await
    }

    async fn find_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: FindSessions,
    ) -> Result<Page<FoundSession, FindCursor>> {
        (**self).find_sessions_in(transaction, request).await
    }

    async fn count_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        scope: &SessionScope,
        filter: &SessionFilter,
    ) -> Result<u64> {
        (**self).count_sessions_in(transaction, scope, filter).await
    }

    async fn summarize_session_in(
        &self,
        transaction: &DatabaseTransaction,
        key: &SessionKey,
    ) -> Result<Option<SessionSummary>> {
        (**self).summarize_session_in(transaction, key).await
    }
}
