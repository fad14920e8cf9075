//! `delete_session`: the session row, its events, and what Seabed keeps beside them.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::Query;

use super::context::Context;
use crate::entity::{events, seabed_labels, seabed_sessions, sessions};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::statement::{
    SqlText, event_session_predicate, key_predicate, session_key_predicate, session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::{DeleteSession, ExpectedRevision, Result};

const OPERATION: &str = "delete_session";

/// The statements of `delete_session`.
pub(crate) struct DeleteSql<D> {
    session: SqlText<D>,
    events: SqlText<D>,
    annotations: SqlText<D>,
    labels: SqlText<D>,
}

impl<D: Dialect> DeleteSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        let session =
            Query::delete().from_table(tables.table(sessions::Entity)).and_where(session_key_predicate::<D>()).take();
        let events =
            Query::delete().from_table(tables.table(events::Entity)).and_where(event_session_predicate::<D>()).take();
        let annotations = {
            use seabed_sessions::Column;
            let key = [Column::AppName, Column::UserId, Column::SessionId];
            Query::delete()
                .from_table(tables.table(seabed_sessions::Entity))
                .and_where(key_predicate::<D, _, 3>(key))
                .take()
        };
        let labels = {
            use seabed_labels::Column;
            let key = [Column::AppName, Column::UserId, Column::SessionId];
            Query::delete()
                .from_table(tables.table(seabed_labels::Entity))
                .and_where(key_predicate::<D, _, 3>(key))
                .take()
        };
        Self {
            session: SqlText::new(&session),
            events: SqlText::new(&events),
            annotations: SqlText::new(&annotations),
            labels: SqlText::new(&labels),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let own = [("annotations", &self.annotations), ("labels", &self.labels)];
        [("session", &self.session), ("events", &self.events)].into_iter().chain(own).collect()
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
    /// event left behind would turn up in the next session of that id, and so would a title or a label. If there was
    /// no session to delete, one may have been created since, whose events must stay.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<()>> {
        let Self { sql, request } = self;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        if let ExpectedRevision::Exact(_) = request.expected()
            && let Some(actual) = context.revision(attempt.on, request.key(), OPERATION).await?
        {
            context.check_revision(attempt.on, request.key(), request.expected(), actual, OPERATION).await?;
        }
        let mut delete = async |delete: &SqlText<D>| {
            let deleted = attempt.on.execute(delete.bind(session_key_values(request.key()))).await;
            deleted.map_err(|error| statement_error::<D>(OPERATION, error))
        };
        if delete(&sql.session).await? > 0 {
            delete(&sql.events).await?;
            // Where there are labels, there are annotations.
            if context.settings.deletes_own_rows && delete(&sql.annotations).await? > 0 {
                delete(&sql.labels).await?;
            }
        } else {
            // An earlier delete may still be on its way to the standby servers.
            context.await_standbys(attempt.on, OPERATION).await?;
        }
        Ok(Applied::Written(()))
    }

    async fn resolve(&self, context: &Context<D>) -> Result<Option<()>> {
        let mut on = context.database.autocommit();
        if context.revision(&mut on, self.request.key(), OPERATION).await?.is_some() {
            return Ok(None);
        }
        context.await_standbys(&mut on, OPERATION).await?;
        Ok(Some(()))
    }
}
