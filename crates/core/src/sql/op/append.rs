//! `append_event`: under the lock of the session row, revision check, replay check, event, state.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{
    Expr, ExprTrait, InsertStatement, LockBehavior, LockType, Query, SelectStatement, UpdateStatement,
};
use sea_orm::{QueryResult, Value};

use super::bulk;
use super::context::Context;
use super::shared_state::{changed_rows, state_value};
use crate::entity::{events, sessions};
use crate::revision::stored_timestamp;
use crate::sql::decode::{EventName, RowDecoder};
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    SqlText, event_columns, event_key_columns, event_session_predicate, inserted, placeholder, session_key_predicate,
    session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, BulkResults, LockMode, Row, SharedChange, SharedKey, WriteOp};
use crate::validate::NewEvent;
use crate::{
    Appended, BackendError, BackendErrorKind, Error, ExpectedRevision, Result, Revision, SessionKey, State, Timestamp,
};

const OPERATION: &str = "append_event";

/// The statements of `append_event`.
pub(crate) struct AppendSql<D> {
    /// Reads the session row and locks it until the transaction ends.
    lock_session: SqlText<D>,
    /// The same, unless another connection has locked it.
    lock_free_session: SqlText<D>,
    /// Reads the event that is stored under an id, whatever the snapshot of a caller's transaction is.
    lock_event: SqlText<D>,
    /// Stores the event, unless its id is taken, and moves the session's clock on.
    store: StoreSql<D>,
    /// The same, and replaces the session's state.
    store_with_state: StoreSql<D>,
    /// The same as `store`, if the session is at a given revision and was not created at the event's time. Locks the
    /// session.
    store_at_revision: StoreSql<D>,
    /// The same, in a session that no other connection has locked.
    store_at_free_revision: StoreSql<D>,
    /// Reads the session's clock and the event that is stored under an id, and locks nothing.
    diagnose: SqlText<D>,
    /// Appends many events to different sessions.
    bulk: Option<SqlText<D>>,
}

impl<D: Dialect> AppendSql<D> {
    pub(super) fn new(tables: &Tables, bulk: Option<&BulkStatements>) -> Self {
        use sessions::Column;
        let lock_session = Query::select()
            .columns([Column::CreateTime, Column::UpdateTime])
            .expr_as(D::SCHEMA.read_json(Expr::col(Column::State)), Column::State)
            .from(tables.table(sessions::Entity))
            .and_where(session_key_predicate())
            .lock_exclusive()
            .take();
        let at_revision = Query::select()
            .exprs(new_event::<D>())
            .from(tables.table(sessions::Entity))
            .and_where(session_key_predicate())
            .and_where(Expr::col(Column::UpdateTime).eq(placeholder()))
            .and_where(Expr::col(Column::CreateTime).ne(placeholder()))
            .lock_exclusive()
            .take();
        let write_time = Query::update()
            .table(tables.table(sessions::Entity))
            .value(Column::UpdateTime, placeholder())
            .and_where(session_key_predicate())
            .take();
        let write_state = Query::update()
            .table(tables.table(sessions::Entity))
            .value(Column::UpdateTime, placeholder())
            .value(Column::State, D::SCHEMA.write_json(placeholder()))
            .and_where(session_key_predicate())
            .take();
        let insert = insert_event::<D>(tables).values_panic(new_event::<D>()).take();
        let insert_at = |select: SelectStatement| insert_selected_event::<D>(tables, select);
        Self {
            lock_session: SqlText::new(&lock_session),
            lock_free_session: SqlText::new(&skip_locked(&lock_session)),
            lock_event: SqlText::new(&select_event::<D>(tables)),
            store: StoreSql::new(&insert, &write_time),
            store_with_state: StoreSql::new(&insert, &write_state),
            store_at_free_revision: StoreSql::new(&insert_at(skip_locked(&at_revision)), &write_time),
            store_at_revision: StoreSql::new(&insert_at(at_revision), &write_time),
            diagnose: SqlText::new(&select_for_diagnosis::<D>(tables)),
            bulk: bulk.map(|bulk| SqlText::new(&bulk.append)),
        }
    }

    pub(super) fn has_bulk_statement(&self) -> bool {
        self.bulk.is_some()
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let mut texts = vec![
            ("lock_session", &self.lock_session),
            ("lock_free_session", &self.lock_free_session),
            ("lock_event", &self.lock_event),
            ("diagnose", &self.diagnose),
        ];
        for (insert, write, joined, store) in [
            ("insert", "write", "insert_and_write", &self.store),
            ("insert", "write_with_state", "insert_and_write_with_state", &self.store_with_state),
            ("insert_at_revision", "write", "insert_and_write_at_revision", &self.store_at_revision),
            ("insert_at_free_revision", "write", "insert_and_write_at_free_revision", &self.store_at_free_revision),
        ] {
            texts.extend([(insert, &store.insert), (write, &store.write_session)]);
            texts.extend(store.joined.iter().map(|text| (joined, text)));
        }
        texts.extend(self.bulk.iter().map(|bulk| ("bulk", bulk)));
        texts.sort_by_key(|(name, _)| *name);
        texts.dedup_by_key(|(name, _)| *name);
        texts
    }
}

fn skip_locked(select: &SelectStatement) -> SelectStatement {
    select.clone().lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).take()
}

/// A placeholder for each of [`event_columns`].
fn new_event<D: Dialect>() -> [Expr; 7] {
    let value = || placeholder();
    [value(), value(), value(), value(), value(), value(), D::SCHEMA.write_json(value())]
}

/// An insert of an event that leaves alone an event with the same id. It still lacks its source.
fn insert_event<D: Dialect>(tables: &Tables) -> InsertStatement {
    let mut insert = Query::insert().into_table(tables.table(events::Entity)).columns(event_columns()).take();
    D::insert_if_absent(&mut insert, event_key_columns());
    insert
}

/// The same, with the rows of `select`, which must have an expression for each of [`event_columns`].
fn insert_selected_event<D: Dialect>(tables: &Tables, select: SelectStatement) -> InsertStatement {
    insert_event::<D>(tables).select_from(select).expect("an expression for each column").take()
}

fn select_event<D: Dialect>(tables: &Tables) -> SelectStatement {
    use events::Column;
    Query::select()
        .column(Column::Timestamp)
        .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
        .from(tables.table(events::Entity))
        .and_where(event_session_predicate())
        .and_where(Expr::col(Column::Id).eq(placeholder()))
        .lock_exclusive()
        .take()
}

fn select_for_diagnosis<D: Dialect>(tables: &Tables) -> SelectStatement {
    use {events::Column as Event, sessions::Column as Session};
    let event = |column| Expr::col((events::Entity, column));
    let session = |column| Expr::col((sessions::Entity, column));
    let same = |of_event, of_session| event(of_event).equals((sessions::Entity, of_session));
    Query::select()
        .column((sessions::Entity, Session::UpdateTime))
        .columns([Event::Id, Event::Timestamp].map(|column| (events::Entity, column)))
        .expr_as(D::SCHEMA.read_json(event(Event::EventData)), Event::EventData)
        .from(tables.aliased(sessions::Entity))
        .left_join(
            tables.aliased(events::Entity),
            event(Event::Id)
                .eq(placeholder())
                .and(same(Event::AppName, Session::AppName))
                .and(same(Event::UserId, Session::UserId))
                .and(same(Event::SessionId, Session::Id)),
        )
        .and_where(session(Session::AppName).eq(placeholder()))
        .and_where(session(Session::UserId).eq(placeholder()))
        .and_where(session(Session::Id).eq(placeholder()))
        .take()
}

/// An insert of an event, and what it changes in the session's row.
struct StoreSql<D> {
    insert: SqlText<D>,
    write_session: SqlText<D>,
    /// Both in one, where the driver can.
    joined: Option<SqlText<D>>,
}

impl<D: Dialect> StoreSql<D> {
    fn new(insert: &InsertStatement, write_session: &UpdateStatement) -> Self {
        let insert = SqlText::new(insert);
        let joined = D::if_previous_changed().map(|condition| {
            let write_session = write_session.clone().and_where(condition).take();
            SqlText::joined(&insert, &SqlText::new(&write_session))
        });
        Self { insert, write_session: SqlText::new(write_session), joined }
    }

    /// Returns false, and writes nothing, if the insert leaves the event out.
    async fn run(
        &self,
        fast_paths: bool,
        on: &mut dyn Executor,
        event: impl Iterator<Item = Value> + Send,
        session: impl Iterator<Item = Value> + Send,
    ) -> Result<bool> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        if let Some(joined) = self.joined.as_ref().filter(|_| fast_paths) {
            return inserted::<D>(on.execute(joined.bind(event.chain(session))).await).map_err(failed);
        }
        let is_stored = inserted::<D>(on.execute(self.insert.bind(event)).await).map_err(failed)?;
        if is_stored {
            on.execute(self.write_session.bind(session)).await.map_err(failed)?;
        }
        Ok(is_stored)
    }
}

/// An event to append.
pub(crate) struct AppendOp<D: Dialect> {
    pub(crate) sql: Arc<AppendSql<D>>,
    pub(crate) new: NewEvent,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for AppendOp<D> {
    type Outcome = Appended;

    const NAME: &'static str = OPERATION;
    const HAS_BULK: bool = true;

    fn target(&self) -> Row {
        Row::Session(self.new.key.clone())
    }

    fn shared(&self) -> Vec<SharedChange> {
        let NewEvent { key, delta, now, .. } = &self.new;
        let change = |row, delta: &State| SharedChange { row, delta: delta.clone(), now: *now };
        let app = (!delta.app.is_empty()).then(|| change(SharedKey::app(key), &delta.app));
        let user = (!delta.user.is_empty()).then(|| change(SharedKey::user(key), &delta.user));
        app.into_iter().chain(user).collect()
    }

    fn changed_rows(&self) -> Vec<SharedKey> {
        changed_rows(&self.new.key, &self.new.delta)
    }

    fn reads_target(&self) -> bool {
        self.new.revision_for_blind_append().is_none()
    }

    /// Stores the event and what it changes in its session.
    ///
    /// The lock on the session row serializes the appends to one session, so what is read under it is what the writes
    /// below change. A refusal comes before the first write: nothing of a refused append is stored, not even in a
    /// caller's own transaction.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Appended>> {
        let Attempt { on, lock, prefetched } = attempt;
        if context.fast_paths
            && let Some(expected) = self.new.revision_for_blind_append()
        {
            if self.store_at_revision(on, expected, lock).await? {
                return Ok(Applied::Written(Appended::Stored(Revision::new(self.new.timestamp))));
            }
            if lock == LockMode::SkipLocked {
                return Ok(Applied::Locked);
            }
        }
        self.store_under_lock(context.fast_paths, Attempt { on, lock, prefetched }).await
    }

    async fn apply_bulk(context: &Context<D>, writes: &[&Self]) -> Option<Result<BulkResults<Appended>>> {
        let bulk = writes.first()?.sql.bulk.as_ref()?;
        Some(apply_bulk(context, bulk, writes).await)
    }

    async fn diagnose(&self, context: &Context<D>) -> Result<Option<Appended>> {
        let new = &self.new;
        let values = [Value::from(new.id.as_str())].into_iter().chain(session_key_values(&new.key));
        let row = context.database.autocommit().query_one(self.sql.diagnose.bind(values)).await;
        let row = row.map_err(|error| statement_error::<D>(OPERATION, error))?;
        let row = row.ok_or_else(|| Error::not_found(&new.key))?;
        let event = EventName { id: &new.id, session: &new.key };
        if RowDecoder::<D>::new("events", &event).text_or_null(&row, "id", "id")?.is_some() {
            return check_replay::<D>(new, &row).map(Some);
        }
        let session = RowDecoder::<D>::new("sessions", &new.key);
        new.check_revision(Revision::new(session.timestamp(&row, "update_time", "update_time")?))?;
        Ok(None)
    }
}

impl<D: Dialect> AppendOp<D> {
    /// Stores an event without reading its session first, which saves a round trip. Returns false, and writes nothing,
    /// if the session is at another revision, absent or locked, or if the event's id is taken.
    async fn store_at_revision(&self, on: &mut dyn Executor, expected: Revision, lock: LockMode) -> Result<bool> {
        let Self { sql, new } = self;
        let store = match lock {
            LockMode::Wait => &sql.store_at_revision,
            LockMode::SkipLocked => &sql.store_at_free_revision,
        };
        let timestamp = D::SCHEMA.timestamp(new.timestamp);
        let condition = [D::SCHEMA.timestamp(expected.timestamp()), timestamp.clone()];
        let event = event_values::<D>(new, new.timestamp).chain(session_key_values(&new.key)).chain(condition);
        store.run(true, on, event, [timestamp].into_iter().chain(session_key_values(&new.key))).await
    }

    async fn store_under_lock(&self, fast_paths: bool, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Appended>> {
        let (Self { sql, new }, Attempt { on, lock, prefetched }) = (self, attempt);
        let select = match lock {
            LockMode::Wait => &sql.lock_session,
            LockMode::SkipLocked => &sql.lock_free_session,
        };
        let row = match prefetched {
            Some(row) => Ok(Some(row)),
            None => on.query_one(select.bind(session_key_values(&new.key))).await,
        };
        let row = match (row.map_err(|error| statement_error::<D>(OPERATION, error))?, lock) {
            (Some(row), _) => row,
            (None, LockMode::Wait) => return Err(Error::not_found(&new.key)),
            (None, LockMode::SkipLocked) => return Ok(Applied::Locked),
        };
        let session = RowDecoder::<D>::new("sessions", &new.key);
        let create_time = session.timestamp(&row, "create_time", "create_time")?;
        let update_time = session.timestamp(&row, "update_time", "update_time")?;
        if let Err(conflict) = new.check_revision(Revision::new(update_time)) {
            // This very event may be what moved the session on.
            return self.replayed(on).await?.ok_or(conflict).map(Applied::Unchanged);
        }

        let timestamp = stored_timestamp(new.timestamp, create_time, update_time);
        let mut state = None;
        if !new.delta.session.is_empty() {
            let mut merged = session.state(&row, "state")?;
            merged.merge(new.delta.session.clone());
            state = Some(state_value(&merged)?);
        }
        let store = if state.is_some() { &sql.store_with_state } else { &sql.store };
        let written = [D::SCHEMA.timestamp(timestamp)].into_iter().chain(state).chain(session_key_values(&new.key));
        if store.run(fast_paths, on, event_values::<D>(new, timestamp), written).await? {
            return Ok(Applied::Written(Appended::Stored(Revision::new(timestamp))));
        }
        let replayed = self.replayed(on).await?.ok_or_else(|| {
            let message = format!("event {:?} disappeared during {OPERATION}", new.id);
            BackendError::new(BackendErrorKind::Contention, message)
        });
        Ok(Applied::Unchanged(replayed?))
    }

    /// The outcome for an event whose id is taken: either this event or a different one is stored under that id. `None`
    /// when the id is free.
    async fn replayed(&self, on: &mut dyn Executor) -> Result<Option<Appended>> {
        let Self { sql, new } = self;
        let values = session_key_values(&new.key).chain([Value::from(new.id.as_str())]);
        let row = on.query_one(sql.lock_event.bind(values)).await;
        let row = row.map_err(|error| statement_error::<D>(OPERATION, error))?;
        row.map(|row| check_replay::<D>(new, &row)).transpose()
    }
}

/// The outcome for an event, given the row that is stored under its id.
fn check_replay<D: Dialect>(new: &NewEvent, row: &QueryResult) -> Result<Appended> {
    let event = EventName { id: &new.id, session: &new.key };
    let stored = RowDecoder::<D>::new("events", &event);
    new.check_replay(&stored.event_data(row, "event_data")?)?;
    Ok(Appended::Replayed(Revision::new(stored.timestamp(row, "timestamp", "timestamp")?)))
}

/// The values of [`event_columns`].
fn event_values<D: Dialect>(new: &NewEvent, timestamp: Timestamp) -> impl Iterator<Item = Value> + Send + use<D> {
    let rest = [
        Value::from(new.id.as_str()),
        new.invocation_id.as_str().into(),
        D::SCHEMA.timestamp(timestamp),
        new.event_data.as_str().into(),
    ];
    session_key_values(&new.key).chain(rest)
}

async fn apply_bulk<D: Dialect>(
    context: &Context<D>,
    statement: &SqlText<D>,
    writes: &[&AppendOp<D>],
) -> Result<BulkResults<Appended>> {
    let new = || writes.iter().map(|write| &write.new);
    let expected = |new: &NewEvent| match new.expected {
        ExpectedRevision::Exact(revision) => revision.timestamp().to_naive_utc().to_string(),
        ExpectedRevision::Any => String::new(),
    };
    let keys = bulk::keys(new().map(|new| -> &SessionKey { &new.key }));
    let values = keys.chain([
        bulk::texts(new().map(|new| &new.id)),
        bulk::texts(new().map(|new| &new.invocation_id)),
        bulk::times(new().map(|new| new.timestamp)),
        bulk::texts(new().map(|new| new.event_data.as_str())),
        bulk::texts(new().map(expected)),
        bulk::states(new().map(|new| &new.delta.session))?,
        bulk::states(new().map(|new| &new.delta.app))?,
        bulk::states(new().map(|new| &new.delta.user))?,
        bulk::times(new().map(|new| new.now)),
        bulk::count(writes.len()),
    ]);
    let rows = bulk::run::<D>(&context.database, statement.bind(values), OPERATION).await?;
    let mut results: BulkResults<Appended> = writes.iter().map(|_| Ok(Applied::Locked)).collect();
    for row in rows {
        let number = bulk::number(&row, OPERATION)?;
        if let Some((result, write)) = results.get_mut(number).zip(writes.get(number)) {
            let stored = D::Driver::moment(&row, 1).map_err(|error| {
                let message = format!("the event {:?} is stored, but its time cannot be read", write.new.id);
                BackendError::new(BackendErrorKind::CommitUnknown, message).with_source(error).into()
            });
            *result = stored.map(|stored| Applied::Written(Appended::Stored(Revision::new(stored))));
        }
    }
    Ok(results)
}
