//! `delete_session`: the session row and its events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::Query;

use super::context::Context;
use crate::entity::{events, sessions};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::statement::{SqlText, event_session_predicate, session_key_predicate, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::{Result, SessionKey};

const OPERATION: &str = "delete_session";

/// The statements of `delete_session`.
pub(crate) struct DeleteSql<D> {
    delete_session: SqlText<D>,
    delete_events: SqlText<D>,
}

impl<D: Dialect> DeleteSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        let session =
            Query::delete().from_table(tables.table(sessions::Entity)).and_where(session_key_predicate::<D>()).take();
        let events =
            Query::delete().from_table(tables.table(events::Entity)).and_where(event_session_predicate::<D>()).take();
        Self { delete_session: SqlText::new(&session), delete_events: SqlText::new(&events) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("delete_session", &self.delete_session), ("delete_events", &self.delete_events)]
    }
}

/// A session to delete.
pub(crate) struct DeleteOp<D: Dialect> {
    pub(crate) sql: Arc<DeleteSql<D>>,
    pub(crate) key: SessionKey,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for DeleteOp<D> {
    type Outcome = ();

    const NAME: &'static str = OPERATION;

    /// Others may have created the session again since.
    const REPEATABLE: bool = false;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.key.clone())
    }

    /// The session row goes first: appends wait for it, and then find no session. The foreign key would delete its
    /// events as well, but SQLite enforces it only on connections that enable it, and a user's own pool may not. An
    /// event left behind would turn up in the next session of that id.
    async fn apply(&self, _: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<()>> {
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        for delete in [&self.sql.delete_session, &self.sql.delete_events] {
            let deleted = attempt.on.execute(delete.bind(session_key_values(&self.key))).await;
            deleted.map_err(|error| statement_error::<D>(OPERATION, error))?;
        }
        Ok(Applied::Written(()))
    }

    async fn resolve(&self, context: &Context<D>) -> Result<Option<()>> {
        Ok(context.create_time(&self.key, OPERATION).await?.is_none().then_some(()))
    }
}
