//! `delete_session`: the session row, its events, and what Seabed keeps beside them.
//!
//! A session with many events goes in steps, each of them a transaction: one transaction for all of it would run into
//! the statement timeout, and on SQLite keep all other writers waiting. The first step marks the session's row; from
//! then on no operation finds the session. The others delete its events, and the last of them the row. Until then the
//! id is taken, so that no new session of that id inherits old events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::Value;
use sea_orm::sea_query::{Expr, ExprTrait as _, Query, SelectStatement};

use super::context::Context;
use crate::entity::{events, seabed_labels, seabed_sessions, sessions};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    SqlText, being_deleted, event_session_predicate, key_predicate, session_key_columns, session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::{DeleteSession, ExpectedRevision, Result, SessionKey};

const OPERATION: &str = "delete_session";

/// How many events a transaction deletes at most: some 30 ms of work on SQLite, where it keeps other writers waiting.
const EVENTS_PER_STEP: i64 = 1000;

/// The statements of `delete_session`.
pub(crate) struct DeleteSql<D> {
    /// Deletes a session's row unless it has more events than a step deletes.
    small_session: SqlText<D>,
    /// Marks a session as being deleted.
    mark: SqlText<D>,
    /// Locks the row of a session that is being deleted.
    lock_marked: SqlText<D>,
    /// Deletes as many events as a step may.
    some_events: SqlText<D>,
    /// Deletes a session's row.
    session: SqlText<D>,
    events: SqlText<D>,
    annotations: SqlText<D>,
    labels: SqlText<D>,
    /// Reads whether a session is being deleted. Waits for a transaction that has not decided it yet.
    find_marked: SqlText<D>,
}

impl<D: Dialect> DeleteSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use sessions::Column;
        let key = || key_predicate::<D, _, 3>(session_key_columns());
        let mark = Query::update()
            .table(tables.table(sessions::Entity))
            .value(Column::CreateTime, being_deleted())
            .and_where(key())
            .take();
        let is_marked = || Expr::col(Column::CreateTime).eq(being_deleted());
        let session = Query::delete().from_table(tables.table(sessions::Entity)).and_where(key()).take();
        let find_marked = Query::select()
            .column(Column::Id)
            .from(tables.table(sessions::Entity))
            .and_where(key())
            .and_where(is_marked())
            .lock_exclusive()
            .take();
        let events =
            Query::delete().from_table(tables.table(events::Entity)).and_where(event_session_predicate::<D>()).take();
        let mut some_events = events.clone();
        if D::DELETE_HAS_LIMIT {
            some_events.limit(0);
        } else {
            some_events
                .and_where(Expr::col(events::Column::Id).in_subquery(ids_of_events::<D>(tables).limit(0).take()));
        }
        let one_too_many = ids_of_events::<D>(tables).limit(1).offset(0).take();
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
            small_session: SqlText::new(session.clone().and_where(Expr::from(one_too_many).is_null())),
            lock_marked: SqlText::new(mark.clone().and_where(is_marked())),
            mark: SqlText::new(&mark),
            some_events: SqlText::new(&some_events),
            session: SqlText::new(&session),
            events: SqlText::new(&events),
            annotations: SqlText::new(&annotations),
            labels: SqlText::new(&labels),
            find_marked: SqlText::new(&find_marked),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![
            ("small_session", &self.small_session),
            ("mark", &self.mark),
            ("lock_marked", &self.lock_marked),
            ("some_events", &self.some_events),
            ("session", &self.session),
            ("events", &self.events),
            ("annotations", &self.annotations),
            ("labels", &self.labels),
            ("find_marked", &self.find_marked),
        ]
    }
}

/// The ids of a session's events.
fn ids_of_events<D: Dialect>(tables: &Tables) -> SelectStatement {
    Query::select()
        .column(events::Column::Id)
        .from(tables.table(events::Entity))
        .and_where(event_session_predicate::<D>())
        .take()
}

/// What a transaction of a delete leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// The session is not there, nor is anything of it.
    Entirely,
    /// Nobody finds the session any more, and the rest is for [`DeleteOp::next_step`].
    Partly,
}

/// A session to delete.
pub(crate) struct DeleteOp<D: Dialect> {
    pub(crate) sql: Arc<DeleteSql<D>>,
    pub(crate) request: DeleteSession,
    /// Whether the session is marked already. If it is not, somebody else has deleted it.
    pub(crate) is_next_step: bool,
}

impl<D: Dialect> DeleteOp<D> {
    /// The operation that goes on with a session that is [`Partly`](Deleted::Partly) deleted.
    pub(crate) fn next_step(sql: Arc<DeleteSql<D>>, key: SessionKey) -> Self {
        Self { sql, request: DeleteSession::new(key), is_next_step: true }
    }

    fn key(&self) -> &SessionKey {
        self.request.key()
    }

    /// Runs a statement about the session. Returns how many rows it changed.
    async fn run(&self, on: &mut dyn Executor, sql: &SqlText<D>, more: &[Value]) -> Result<u64> {
        let changed = on.execute(sql.bind(self.values().chain(more.iter().cloned()))).await;
        changed.map_err(|error| statement_error::<D>(OPERATION, error))
    }

    fn values(&self) -> std::array::IntoIter<Value, 3> {
        session_key_values(self.key())
    }

    /// Deletes the session if it is small, and marks it otherwise.
    ///
    /// The session row goes first: appends wait for it, and then find no session. The foreign key would delete its
    /// events as well, but SQLite enforces it only on connections that enable it, and a user's own pool may not. An
    /// event left behind would turn up in the next session of that id, and so would a title or a label. If there was
    /// no session to delete, one may have been created since, whose events must stay.
    async fn begin(&self, context: &Context<D>, on: &mut dyn Executor) -> Result<Deleted> {
        let is_small = self.values().chain([1, EVENTS_PER_STEP].map(Value::from));
        if self.run(on, &self.sql.small_session, &is_small.collect::<Vec<_>>()).await? > 0 {
            self.delete_what_is_left(context, on).await?;
            return Ok(Deleted::Entirely);
        }
        if self.run(on, &self.sql.mark, &[]).await? > 0 {
            return Ok(Deleted::Partly);
        }
        // An earlier delete may still be on its way to the standby servers.
        context.await_standbys(on, OPERATION).await?;
        Ok(Deleted::Entirely)
    }

    /// Deletes some events of a session that is marked, and the session with the last of them.
    async fn go_on(&self, context: &Context<D>, on: &mut dyn Executor) -> Result<Deleted> {
        if self.run(on, &self.sql.lock_marked, &[]).await? == 0 {
            context.await_standbys(on, OPERATION).await?;
            return Ok(Deleted::Entirely);
        }
        let among = self.values().filter(|_| !D::DELETE_HAS_LIMIT).chain([Value::from(EVENTS_PER_STEP)]);
        if self.run(on, &self.sql.some_events, &among.collect::<Vec<_>>()).await? == EVENTS_PER_STEP.unsigned_abs() {
            return Ok(Deleted::Partly);
        }
        self.run(on, &self.sql.session, &[]).await?;
        self.delete_what_is_left(context, on).await?;
        Ok(Deleted::Entirely)
    }

    /// Deletes what the foreign keys have left of a session whose row is gone.
    async fn delete_what_is_left(&self, context: &Context<D>, on: &mut dyn Executor) -> Result<()> {
        self.run(on, &self.sql.events, &[]).await?;
        // Where there are labels, there are annotations.
        if context.settings.deletes_own_rows && self.run(on, &self.sql.annotations, &[]).await? > 0 {
            self.run(on, &self.sql.labels, &[]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for DeleteOp<D> {
    type Outcome = Deleted;

    const NAME: &'static str = OPERATION;

    /// Others may have created the session again since.
    const REPEATABLE: bool = false;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.key().clone())
    }

    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Deleted>> {
        let (Self { request, .. }, Attempt { on, lock, .. }) = (self, attempt);
        if lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        if self.is_next_step {
            return self.go_on(context, on).await.map(Applied::Written);
        }
        if let ExpectedRevision::Exact(_) = request.expected()
            && let Some(actual) = context.revision(on, request.key(), OPERATION).await?
        {
            context.check_revision(on, request.key(), request.expected(), actual, OPERATION).await?;
        }
        self.begin(context, on).await.map(Applied::Written)
    }

    /// A session that is marked stays so until it is gone. Whoever has marked it, the next step deletes it.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<Deleted>> {
        let mut on = context.database.autocommit();
        let marked = on.query_one(self.sql.find_marked.bind(self.values())).await;
        if marked.map_err(|error| statement_error::<D>(OPERATION, error))?.is_some() {
            return Ok(Some(Deleted::Partly));
        }
        let exists = context.revision(&mut on, self.key(), OPERATION).await?.is_some();
        if exists && !self.is_next_step {
            return Ok(None);
        }
        context.await_standbys(&mut on, OPERATION).await?;
        Ok(Some(Deleted::Entirely))
    }
}
