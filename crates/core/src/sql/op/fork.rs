//! `fork_session`: reads the history of a session once, outside of any transaction, and then lets the database copy the
//! events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Func, Order, Query};
use sea_orm::{QueryResult, Statement, Value};

use super::context::Context;
use super::create::CreateSql;
use super::origin::{OriginSql, StoredOrigin};
use crate::entity::events;
use crate::history::fork::{Fork, NewFork};
use crate::history::fork_plan::ForkPlan;
use crate::history::redact::REDACTED_EVENT_ID;
use crate::history::{Forked, Origin};
use crate::sql::decode::{EventName, RowDecoder, decode_event};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    SqlText, event_columns, event_session_predicate, inserted, name, placeholder, session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, SharedChange, SharedKey, SharedStates, WriteOp};
use crate::state::ScopedState;
use crate::{BackendError, BackendErrorKind, Error, Result, Revision, Session, SessionKey, State, Timestamp};

const OPERATION: &str = "fork_session";

/// The statements of `fork_session`.
pub(crate) struct ForkSql<D> {
    create: Arc<CreateSql<D>>,
    origin: Arc<OriginSql<D>>,
    history: SqlText<D>,
    copy_events: SqlText<D>,
    count_events: SqlText<D>,
    count_reports: SqlText<D>,
}

impl<D: Dialect> ForkSql<D> {
    pub(super) fn new(tables: &Tables, create: Arc<CreateSql<D>>, origin: Arc<OriginSql<D>>) -> Self {
        Self {
            create,
            origin,
            history: select_history(tables),
            copy_events: copy_events(tables),
            count_events: count_events(tables),
            count_reports: count_reports(tables),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![
            ("history", &self.history),
            ("copy_events", &self.copy_events),
            ("count_events", &self.count_events),
            ("count_reports", &self.count_reports),
        ]
    }

    /// Reads what a fork depends on. The events are read after the session's row, so none of those that made its state
    /// is missing, and are decoded and dropped as they arrive.
    pub(crate) async fn plan(&self, on: &mut dyn Executor, new: &NewFork) -> Result<PlannedFork> {
        let StoredOrigin { origin, now, update_time } = self.origin.read(on, &new.source, OPERATION).await?;
        let mut plan = ForkPlan::new(new.clone(), now, origin.initial_state);
        let (mut read, mut bytes) = (Ok(()), 0);
        let mut add = |row: QueryResult| {
            if read.is_ok() {
                read = decode::<D>(&new.source, &row).map(|(event, stored, size)| {
                    plan.add(&event, stored);
                    bytes += size;
                });
            }
        };
        let ran = on.run(self.history.bind(session_key_values(&new.source)), &mut add).await;
        ran.map_err(|error| statement_error::<D>(OPERATION, error))?;
        read?;
        let (source, source_revision) = (new.source.clone(), Revision::new(origin.create_time, update_time));
        Ok(PlannedFork { source, source_revision, fork: plan.finish()?, bytes })
    }

    async fn count(&self, on: &mut dyn Executor, statement: Statement) -> Result<u64> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        let row = on.query_one(statement).await.map_err(failed)?;
        let count = row.map(|row| row.try_get_by_index::<i64>(0)).transpose();
        let count = count.map_err(|error| statement_error::<D>(OPERATION, error))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
    }

    /// Checks that no event of the source was redacted since the plan.
    async fn check_redactions(&self, on: &mut dyn Executor, planned: &PlannedFork) -> Result<()> {
        let since = D::SCHEMA.timestamp(planned.source_revision.timestamp());
        let reports = self.count_reports.bind(session_key_values(&planned.source).chain([since]));
        if self.count(on, reports).await? == 0 { Ok(()) } else { Err(changed(&planned.source)) }
    }
}

/// Another plan may succeed.
fn changed(source: &SessionKey) -> Error {
    let message = format!("the events of {source} changed while it was forked; nothing of the fork is stored");
    BackendError::new(BackendErrorKind::Contention, message).into()
}

/// Decodes an event, its stored time, and its size in bytes.
fn decode<D: Dialect>(session: &SessionKey, row: &QueryResult) -> Result<(crate::Event, Timestamp, usize)> {
    let id = RowDecoder::<D>::new("events", session).text(row, 0, "id")?;
    let stored = RowDecoder::<D>::new("events", &EventName { id, session }).timestamp(row, 1, "timestamp")?;
    let size = RowDecoder::<D>::new("events", session).text_or_null(row, 2, "event_data")?.map_or(0, str::len);
    Ok((decode_event::<D>(session, id, row, 2)?, stored, size))
}

/// Reads the events of a session in order.
fn select_history<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use events::Column;
    let select = Query::select()
        .columns([Column::Id, Column::Timestamp])
        .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
        .from(tables.table(events::Entity))
        .and_where(event_session_predicate::<D>())
        .order_by(Column::Timestamp, Order::Asc)
        .order_by(Column::Id, Order::Asc)
        .take();
    SqlText::new(&select)
}

/// Copies the events of a session up to one of them. Parameters: the id of the new session, the key of the old one, the
/// stored time of the last event (twice), and its id.
fn copy_events<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use events::Column;
    let mut select = Query::select();
    for column in event_columns() {
        select.expr(match column {
            Column::SessionId => placeholder(),
            _ => Expr::col(column),
        });
    }
    select.from(tables.table(events::Entity)).and_where(is_copied::<D>());
    let mut insert = Query::insert();
    insert.into_table(tables.table(events::Entity)).columns(event_columns());
    insert.select_from(select).expect("an expression for each column");
    SqlText::new(&insert)
}

/// The condition on an event that it is copied. Parameters: those of [`copy_events`] but the first.
fn is_copied<D: Dialect>() -> Expr {
    use events::Column;
    let time = || Expr::col(Column::Timestamp);
    let is_last = time().eq(placeholder()).and(name::<D>(Column::Id).lte(placeholder()));
    event_session_predicate::<D>().and(time().lt(placeholder()).or(is_last))
}

/// Counts the events that are copied.
fn count_events<D: Dialect>(tables: &Tables) -> SqlText<D> {
    let mut select = Query::select();
    select.expr(Expr::cust("COUNT(*)")).from(tables.table(events::Entity)).and_where(is_copied::<D>());
    SqlText::new(&select)
}

/// Counts the events after a stored time that report redactions.
fn count_reports<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use events::Column;
    let text = D::SCHEMA.read_json(Expr::col(Column::EventData));
    // Values would be parameters.
    let mark = Expr::cust(format!("'{REDACTED_EVENT_ID}'"));
    let place = Func::cust(D::SCHEMA.position_function()).arg(text).arg(mark);
    let mut select = Query::select();
    select
        .expr(Expr::cust("COUNT(*)"))
        .from(tables.table(events::Entity))
        .and_where(event_session_predicate::<D>())
        .and_where(Expr::col(Column::Timestamp).gt(placeholder()))
        .and_where(Expr::from(place).gt(Expr::cust("0")));
    SqlText::new(&select)
}

/// A fork, and the session that it was planned for.
#[derive(Clone)]
pub(crate) struct PlannedFork {
    source: SessionKey,
    source_revision: Revision,
    fork: Fork,
    /// The size of the source's events.
    bytes: usize,
}

/// A session to fork.
pub(crate) struct ForkOp<D: Dialect> {
    pub(crate) sql: Arc<ForkSql<D>>,
    pub(crate) planned: PlannedFork,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for ForkOp<D> {
    type Outcome = Forked;

    const NAME: &'static str = OPERATION;

    /// It may take long, so other writes do not wait for it.
    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.planned.fork.key.clone())
    }

    /// Both rows must exist: google-adk appends only where they do.
    fn shared(&self) -> Vec<SharedChange> {
        let Fork { key, create_time, .. } = &self.planned.fork;
        [SharedKey::app(key), SharedKey::user(key)]
            .map(|row| SharedChange { row, delta: State::new(), now: *create_time })
            .into()
    }

    fn bytes(&self) -> usize {
        self.planned.fork.state.bytes() + self.planned.bytes
    }

    /// The source is not locked while its events are copied. No other event comes between them, unless the session is
    /// deleted, or a program with a late clock inserts one: then their number is wrong, or it is another session by now.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Forked>> {
        let Self { sql, planned } = self;
        let PlannedFork { source, source_revision, fork, .. } = planned;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let on = attempt.on;
        let stored = sql.origin.read(on, source, OPERATION).await?.origin;
        if stored.create_time != source_revision.create_time() {
            return Err(Error::not_found(source));
        }
        let copied = || {
            let time = || D::SCHEMA.timestamp(fork.update_time);
            session_key_values(source).chain([time(), time(), fork.parent.event_id.as_str().into()])
        };
        // Before anything is copied in vain.
        if sql.count(on, sql.count_events.bind(copied())).await? != fork.events {
            return Err(changed(source));
        }
        sql.check_redactions(on, planned).await?;
        let max = context.settings.max_state_bytes;
        let insert = sql.create.bind_session(&fork.key, &fork.state, [fork.create_time, fork.update_time], max)?;
        match inserted::<D>(on.execute(insert).await) {
            Ok(true) => {}
            Ok(false) => return Err(Error::already_exists(&fork.key)),
            Err(error) => return Err(statement_error::<D>(OPERATION, error)),
        }
        let values = [Value::from(fork.key.session_id.as_str())].into_iter().chain(copied());
        let copied = on.execute(sql.copy_events.bind(values)).await;
        if copied.map_err(|error| statement_error::<D>(OPERATION, error))? != fork.events {
            return Err(changed(source));
        }
        // A redaction that was acknowledged before this lock may have come too late for the copy; those that come after
        // it wait for the fork.
        context.revision(on, source, OPERATION).await?;
        sql.check_redactions(on, planned).await?;
        let origin = Origin::new(fork.create_time, fork.initial_state.clone(), Some(fork.parent.clone()));
        sql.origin.write(on, &fork.key, &origin, max, OPERATION).await?;
        Ok(Applied::Written(forked(fork, State::new(), State::new())))
    }

    fn complete(&self, _: Forked, shared: &SharedStates) -> Forked {
        let fork = &self.planned.fork;
        forked(fork, shared.get(&SharedKey::app(&fork.key)), shared.get(&SharedKey::user(&fork.key)))
    }

    /// Whether the session that exists is this fork: the microsecond of its creation decides.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<Forked>> {
        let fork = &self.planned.fork;
        let mut on = context.database.autocommit();
        let stored = context.revision(&mut on, &fork.key, OPERATION).await?;
        if stored.map(Revision::create_time) != Some(fork.create_time) {
            return Ok(None);
        }
        let (app, user) = context.shared_state.read_both(&mut on, &fork.key, OPERATION).await?.unwrap_or_default();
        Ok(Some(forked(fork, app, user)))
    }
}

fn forked(fork: &Fork, app: State, user: State) -> Forked {
    let state = ScopedState { app, user, session: fork.state.clone() }.merged();
    let revision = Revision::new(fork.create_time, fork.update_time);
    let session = Session { state, revision, ..Session::new(fork.key.clone(), fork.create_time) };
    Forked { session, events: fork.events, unknown: fork.unknown.clone() }
}
