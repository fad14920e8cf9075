//! `delete_session`: the session row and its events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Query};

use super::context::Context;
use crate::entity::{events, sessions};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::statement::{SqlText, event_session_predicate, placeholder, session_key_predicate, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::{BackendError, BackendErrorKind, DeleteSession, ExpectedRevision, Result};

const OPERATION: &str = "delete_session";

/// The statements of `delete_session`.
pub(crate) struct DeleteSql<D> {
    session: SqlText<D>,
    session_at_revision: SqlText<D>,
    events: SqlText<D>,
}

impl<D: Dialect> DeleteSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use sessions::Column;
        let session =
            Query::delete().from_table(tables.table(sessions::Entity)).and_where(session_key_predicate::<D>()).take();
        let mut at_revision = session.clone();
        for time in [Column::CreateTime, Column::UpdateTime] {
            at_revision.and_where(Expr::col(time).eq(placeholder()));
        }
        let is_there = Query::select()
            .expr(Expr::cust("1"))
            .from(tables.table(sessions::Entity))
            .and_where(session_key_predicate::<D>())
            .take();
        let events = Query::delete()
            .from_table(tables.table(events::Entity))
            .and_where(event_session_predicate::<D>())
            .and_where(Expr::exists(is_there).not())
            .take();
        Self {
            session: SqlText::new(&session),
            session_at_revision: SqlText::new(&at_revision),
            events: SqlText::new(&events),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("session", &self.session), ("session_at_revision", &self.session_at_revision), ("events", &self.events)]
    }
}

/// A session to delete.
pub(crate) struct DeleteOp<D: Dialect> {
    pub(crate) sql: Arc<DeleteSql<D>>,
    pub(crate) request: DeleteSession,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for DeleteOp<D> {
    type Outcome = ();

    const NAME: &'static str = OPERATION;

    /// Others may have created the session again since.
    const REPEATABLE: bool = false;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.request.key().clone())
    }

    /// The session row goes first: appends wait for it, and then find no session. The foreign key would delete its
    /// events as well, but SQLite enforces it only on connections that enable it, and a user's own pool may not. An
    /// event left behind would turn up in the next session of that id. If there was no session to delete, one may have
    /// been created since, whose events stay.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<()>> {
        let Self { sql, request } = self;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let key = || session_key_values(request.key());
        let session = match request.expected() {
            ExpectedRevision::Any => sql.session.bind(key()),
            ExpectedRevision::Exact(revision) => {
                let times = [revision.create_time(), revision.timestamp()].map(|time| D::SCHEMA.timestamp(time));
                sql.session_at_revision.bind(key().chain(times))
            }
        };
        let failed = |error| statement_error::<D>(OPERATION, error);
        let deleted = attempt.on.execute(session).await.map_err(failed)? > 0;
        if !deleted
            && let ExpectedRevision::Exact(_) = request.expected()
            && let Some(actual) = context.revision(attempt.on, request.key(), OPERATION).await?
        {
            request.check_revision(actual)?;
            let message = "the session came to its expected revision during the delete";
            return Err(BackendError::new(BackendErrorKind::Contention, message).into());
        }
        attempt.on.execute(sql.events.bind(key().chain(key()))).await.map_err(failed)?;
        Ok(Applied::Written(()))
    }

    async fn resolve(&self, context: &Context<D>) -> Result<Option<()>> {
        let mut on = context.database.autocommit();
        Ok(context.revision(&mut on, self.request.key(), OPERATION).await?.is_none().then_some(()))
    }
}
