//! The operations in a caller's transaction.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, TransactionOptions};

use super::{SqlSessionService, traced};
use crate::sql::dialect::Dialect;
use crate::sql::executor::CallerTransaction;
use crate::sql::op::context::Context;
use crate::sql::op::delete::{DeleteOp, Deleted};
use crate::sql::op::update_state::UpdateSharedStateOp;
use crate::sql::op::{find, list, summarize};
use crate::sql::write::{SharedKey, WriteOp};
use crate::validate::NewStateUpdate;
use crate::{
    AnnotateSession, Annotations, AppName, AppendEvent, Appended, CreateSession, DeleteSession, Error, Event,
    EventCursor, FindCursor, FindSessions, FoundSession, GetSession, ListEvents, ListSessions, Page, Result, Session,
    SessionCursor, SessionFilter, SessionKey, SessionScope, SessionSummary, State, StateUpdated, TransactionalService,
    UpdateState, UserKey,
};

impl<D: Dialect> SqlSessionService<D> {
    async fn apply_in<O: WriteOp<Context<D>>>(&self, transaction: &DatabaseTransaction, op: &O) -> Result<O::Outcome> {
        let Context { database, tables, .. } = &*self.context;
        let mut on = in_transaction::<D>(transaction)?;
        self.identity.check(database, tables, &mut on).await?;
        op.apply_in(&self.context, &mut on).await
    }
}

/// A caller's transaction, if it is one on such a database.
fn in_transaction<D: Dialect>(transaction: &DatabaseTransaction) -> Result<CallerTransaction<'_, D>> {
    match transaction.get_database_backend() {
        backend if backend == D::BACKEND => Ok(CallerTransaction::new(transaction)),
        backend => Err(Error::invalid("transaction", format!("belongs to {backend:?}, not to {:?}", D::BACKEND))),
    }
}

#[async_trait]
impl<D: Dialect> TransactionalService for SqlSessionService<D> {
    fn transaction_options(&self) -> TransactionOptions {
        D::transaction_options()
    }

    async fn create_session_in(&self, transaction: &DatabaseTransaction, request: CreateSession) -> Result<Session> {
        traced::<D, _>("create_session", async { self.apply_in(transaction, &self.create_op(&request)?).await }).await
    }

    async fn get_session_in(&self, transaction: &DatabaseTransaction, request: GetSession) -> Result<Option<Session>> {
        traced::<D, _>("get_session", async {
            self.read_session(&mut in_transaction::<D>(transaction)?, &request).await
        })
        .await
    }

    async fn list_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListSessions,
    ) -> Result<Page<Session, SessionCursor>> {
        traced::<D, _>("list_sessions", async {
            request.check()?;
            list::list_sessions::<D>(&self.context.tables, &mut in_transaction::<D>(transaction)?, &request).await
        })
        .await
    }

    async fn list_events_in(
        &self,
        transaction: &DatabaseTransaction,
        request: ListEvents,
    ) -> Result<Page<Event, EventCursor>> {
        traced::<D, _>("list_events", async {
            request.check()?;
            list::list_events::<D>(&self.context.tables, &mut in_transaction::<D>(transaction)?, &request).await
        })
        .await
    }

    async fn append_event_in(&self, transaction: &DatabaseTransaction, request: AppendEvent) -> Result<Appended> {
        traced::<D, _>("append_event", async {
            match self.append_op(request)? {
                Some(op) => self.apply_in(transaction, &op).await,
                None => Ok(Appended::Partial),
            }
        })
        .await
    }

    async fn delete_session_in(&self, transaction: &DatabaseTransaction, request: DeleteSession) -> Result<()> {
        traced::<D, _>("delete_session", async {
            let key = request.key().clone();
            let mut step = self.delete_op(request);
            while self.apply_in(transaction, &step).await? == Deleted::Partly {
                step = DeleteOp::next_step(self.sql.delete.clone(), key.clone());
            }
            Ok(())
        })
        .await
    }

    async fn update_state_in(&self, transaction: &DatabaseTransaction, request: UpdateState) -> Result<StateUpdated> {
        traced::<D, _>("update_state", async {
            Ok(match NewStateUpdate::try_prepare(request, &*self.clock, self.context.settings.adk_check)? {
                NewStateUpdate::Session(new) => {
                    StateUpdated::Session(self.apply_in(transaction, &self.append_new(*new)).await?)
                }
                NewStateUpdate::Shared(update) => {
                    StateUpdated::Shared(self.apply_in(transaction, &UpdateSharedStateOp::new(update)).await?)
                }
            })
        })
        .await
    }

    async fn get_user_state_in(&self, transaction: &DatabaseTransaction, key: &UserKey) -> Result<State> {
        const OPERATION: &str = "get_user_state";
        let mut on = in_transaction::<D>(transaction)?;
        traced::<D, _>(OPERATION, self.read_state(&mut on, SharedKey::User(key.clone()), OPERATION)).await
    }

    async fn get_app_state_in(&self, transaction: &DatabaseTransaction, app_name: &AppName) -> Result<State> {
        const OPERATION: &str = "get_app_state";
        let mut on = in_transaction::<D>(transaction)?;
        traced::<D, _>(OPERATION, self.read_state(&mut on, SharedKey::App(app_name.clone()), OPERATION)).await
    }

    async fn annotate_session_in(
        &self,
        transaction: &DatabaseTransaction,
        request: AnnotateSession,
    ) -> Result<Annotations> {
        traced::<D, _>("annotate_session", async { self.apply_in(transaction, &self.annotate_op(request)?).await })
            .await
    }

    async fn find_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        request: FindSessions,
    ) -> Result<Page<FoundSession, FindCursor>> {
        traced::<D, _>("find_sessions", async {
            request.check()?;
            find::find_sessions::<D>(&self.context.tables, &mut in_transaction::<D>(transaction)?, &request).await
        })
        .await
    }

    async fn count_sessions_in(
        &self,
        transaction: &DatabaseTransaction,
        scope: &SessionScope,
        filter: &SessionFilter,
    ) -> Result<u64> {
        traced::<D, _>("count_sessions", async {
            filter.check()?;
            let mut on = in_transaction::<D>(transaction)?;
            find::count_sessions::<D>(&self.context.tables, &mut on, scope, filter).await
        })
        .await
    }

    async fn summarize_session_in(
        &self,
        transaction: &DatabaseTransaction,
        key: &SessionKey,
    ) -> Result<Option<SessionSummary>> {
        let mut on = in_transaction::<D>(transaction)?;
        traced::<D, _>("summarize_session", summarize::summarize_session::<D>(&self.context.tables, &mut on, key)).await
    }
}
