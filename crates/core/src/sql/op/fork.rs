//! `fork_session`: reads the history of a session once, outside of any transaction, and then lets the database copy the
//! events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};
use sea_orm::{QueryResult, Value};

use super::context::Context;
use super::create::CreateSql;
use super::origin::{OriginSql, StoredOrigin};
use crate::entity::events;
use crate::history::fork::{Fork, NewFork};
use crate::history::fork_plan::ForkPlan;
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
}

impl<D: Dialect> ForkSql<D> {
    pub(super) fn new(tables: &Tables, create: Arc<CreateSql<D>>, origin: Arc<OriginSql<D>>) -> Self {
        Self { create, origin, history: select_history(tables), copy_events: copy_events(tables) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("history", &self.history), ("copy_events", &self.copy_events)]
    }

    /// Reads what a fork depends on. The events are read after the session's row, so none of those that made its state
    /// is missing, and are decoded and dropped as they arrive.
    pub(crate) async fn plan(&self, on: &mut dyn Executor, new: &NewFork) -> Result<PlannedFork> {
        let StoredOrigin { origin, now } = self.origin.read(on, &new.source, OPERATION).await?;
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
        let (source, source_create_time) = (new.source.clone(), origin.create_time);
        Ok(PlannedFork { source, source_create_time, fork: plan.finish()?, bytes })
    }
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
    let time = || Expr::col(Column::Timestamp);
    let is_last = time().eq(placeholder()).and(name::<D>(Column::Id).lte(placeholder()));
    select
        .from(tables.table(events::Entity))
        .and_where(event_session_predicate::<D>())
        .and_where(time().lt(placeholder()).or(is_last));
    let mut insert = Query::insert();
    insert.into_table(tables.table(events::Entity)).columns(event_columns());
    insert.select_from(select).expect("an expression for each column");
    SqlText::new(&insert)
}

/// A fork, and the session that it was planned for.
#[derive(Clone)]
pub(crate) struct PlannedFork {
    source: SessionKey,
    source_create_time: Timestamp,
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

    /// The source is not locked. Its events are neither moved nor joined by others, unless it is deleted, or a program
    /// with a late clock inserts one: then the number of events is wrong, or it is another session by now.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Forked>> {
        let Self { sql, planned: PlannedFork { source, source_create_time, fork, .. } } = self;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let on = attempt.on;
        let stored = sql.origin.read(on, source, OPERATION).await?.origin;
        if stored.create_time != *source_create_time {
            return Err(Error::not_found(source));
        }
        let max = context.settings.max_state_bytes;
        let insert = sql.create.bind_session(&fork.key, &fork.state, [fork.create_time, fork.update_time], max)?;
        match inserted::<D>(on.execute(insert).await) {
            Ok(true) => {}
            Ok(false) => return Err(Error::already_exists(&fork.key)),
            Err(error) => return Err(statement_error::<D>(OPERATION, error)),
        }
        let time = || D::SCHEMA.timestamp(fork.update_time);
        let values = [Value::from(fork.key.session_id.as_str())].into_iter().chain(session_key_values(source));
        let values = values.chain([time(), time(), fork.parent.event_id.as_str().into()]);
        let copied = on.execute(sql.copy_events.bind(values)).await;
        if copied.map_err(|error| statement_error::<D>(OPERATION, error))? != fork.events {
            let message = format!("the events of {source} changed while it was forked; nothing of the fork is stored");
            return Err(BackendError::new(BackendErrorKind::Contention, message).into());
        }
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
