//! `append_event`: under the lock of the session row, revision check, replay check, event, state.

mod bulk_append;
mod group;
mod sql;

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{QueryResult, Value};

use super::bulk;
use super::context::Context;
use super::shared_state::changed_rows;
use crate::sql::decode::{EventName, RowDecoder};
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{SqlText, session_key_values};
use crate::sql::write::{
    Applied, Attempt, BeforeSending, BulkResults, GroupResults, LockMode, Row, SharedChange, SharedKey, WriteOp,
};
use crate::validate::NewEvent;
use crate::{
    Appended, BackendError, BackendErrorKind, Error, ExpectedRevision, Result, Revision, SessionKey, State, Timestamp,
};

use bulk_append::BulkAppend;
pub(crate) use sql::AppendSql;

const OPERATION: &str = "append_event";

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

    fn bytes(&self) -> usize {
        self.new.event_data.as_str().len()
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
        if context.settings.fast_paths
            && let Some(expected) = self.new.revision_for_blind_append()
        {
            if self.store_at_revision(on, expected, lock).await? {
                let stored = Revision::new(expected.create_time(), self.new.timestamp);
                return Ok(Applied::Written(Appended::Stored(stored)));
            }
            if lock == LockMode::SkipLocked {
                return Ok(Applied::Locked);
            }
        }
        self.store_under_lock(context, Attempt { on, lock, prefetched }).await
    }

    async fn apply_bulk(
        context: &Context<D>,
        shared: LockMode,
        writes: &[&Self],
        before_sending: BeforeSending<'_>,
    ) -> Option<Result<BulkResults<Appended>>> {
        let bulk = writes.first()?.sql.bulk.as_ref()?;
        let changes_shared =
            writes.iter().any(|write| !write.new.delta.app.is_empty() || !write.new.delta.user.is_empty());
        let statement = match shared {
            LockMode::SkipLocked if changes_shared => bulk.free(),
            _ => bulk.next(),
        };
        Some(apply_bulk(context, bulk, statement, writes, before_sending).await)
    }

    async fn apply_together(
        context: &Context<D>,
        on: &mut dyn Executor,
        lock: LockMode,
        writes: &[&Self],
    ) -> Result<GroupResults<Appended>> {
        let group = writes.first().and_then(|write| write.sql.group.as_ref());
        match group.filter(|_| context.settings.fast_paths && lock == LockMode::SkipLocked) {
            Some(group) => group.apply(context, on, writes).await,
            None => Ok(writes.iter().map(|_| None).collect()),
        }
    }

    async fn diagnose(&self, context: &Context<D>) -> Result<()> {
        let new = &self.new;
        let values = [Value::from(new.id.as_str())].into_iter().chain(session_key_values(&new.key));
        let row = context.database.autocommit().query_one(self.sql.diagnose.bind(values)).await;
        let row = row.map_err(|error| statement_error::<D>(OPERATION, error))?;
        let stored = check_without_lock::<D>(new, &row.ok_or_else(|| Error::not_found(&new.key))?);
        if let (Err(Error::RevisionConflict { .. }), Some(bulk)) = (&stored, &self.sql.bulk) {
            bulk.expect_conflicts();
        }
        stored
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
        let condition = [expected.timestamp(), expected.create_time()].map(|time| D::SCHEMA.timestamp(time));
        let event = event_values::<D>(new, new.timestamp).chain(session_key_values(&new.key)).chain(condition);
        store.run(true, on, event, [timestamp].into_iter().chain(session_key_values(&new.key))).await
    }

    async fn store_under_lock(
        &self,
        context: &Context<D>,
        attempt: Attempt<'_, Context<D>>,
    ) -> Result<Applied<Appended>> {
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
        let actual = Revision::new(create_time, update_time);
        if new.check_revision(actual).is_err() {
            // This very event may be what moved the session on.
            if let Some(replayed) = self.replayed(on, create_time).await? {
                return Ok(Applied::Unchanged(replayed));
            }
            // An error of the backend would end the batch.
            if lock == LockMode::SkipLocked && new.expected.is_ahead_of(actual) {
                return Ok(Applied::Locked);
            }
            context.check_revision(on, &new.key, new.expected, actual, OPERATION).await?;
        }

        let timestamp = new.stored_timestamp(create_time, update_time)?;
        let mut state = None;
        if !new.delta.session.is_empty() {
            let mut merged = session.state(&row, "state")?;
            merged.merge(new.delta.session.clone());
            state = Some(Value::from(merged.to_row(context.settings.max_state_bytes, &new.key)?));
        }
        let store = if state.is_some() { &sql.store_with_state } else { &sql.store };
        let written = [D::SCHEMA.timestamp(timestamp)].into_iter().chain(state).chain(session_key_values(&new.key));
        if store.run(context.settings.fast_paths, on, event_values::<D>(new, timestamp), written).await? {
            return Ok(Applied::Written(Appended::Stored(Revision::new(create_time, timestamp))));
        }
        let replayed = self.replayed(on, create_time).await?.ok_or_else(|| {
            let message = format!("event {:?} disappeared during {OPERATION}", new.id);
            BackendError::new(BackendErrorKind::Contention, message)
        });
        Ok(Applied::Unchanged(replayed?))
    }

    /// The outcome for an event whose id is taken: either this event or a different one is stored under that id. `None`
    /// when the id is free.
    async fn replayed(&self, on: &mut dyn Executor, create_time: Timestamp) -> Result<Option<Appended>> {
        let Self { sql, new } = self;
        let values = session_key_values(&new.key).chain([Value::from(new.id.as_str())]);
        let row = on.query_one(sql.lock_event.bind(values)).await;
        let row = row.map_err(|error| statement_error::<D>(OPERATION, error))?;
        row.map(|row| check_replay::<D>(new, create_time, &row)).transpose()
    }
}

/// The outcome for an event, given the row that is stored under its id, and when its session was created.
fn check_replay<D: Dialect>(new: &NewEvent, create_time: Timestamp, row: &QueryResult) -> Result<Appended> {
    let event = EventName { id: &new.id, session: &new.key };
    let stored = RowDecoder::<D>::new("events", &event);
    new.check_replay(&stored.event_data(row, "event_data")?)?;
    Ok(Appended::Replayed(Revision::new(create_time, stored.timestamp(row, "timestamp", "timestamp")?)))
}

/// Refuses an event, given a row with the times of its session, and with the event's id if it is taken.
///
/// The row was read without a lock, so only what is certain all the same is refused. A replay is never answered from
/// such a row: the event may not have reached the standby servers yet, and only a commit waits for them. The portable
/// algorithm locks the session, and commits.
fn check_without_lock<D: Dialect>(new: &NewEvent, row: &QueryResult) -> Result<()> {
    let session = RowDecoder::<D>::new("sessions", &new.key);
    let time = |name| session.timestamp(row, name, name);
    let actual = Revision::new(time("create_time")?, time("update_time")?);
    let event = EventName { id: &new.id, session: &new.key };
    let is_taken = RowDecoder::<D>::new("events", &event).text_or_null(row, "id", "id")?.is_some();
    if is_taken || new.expected.is_ahead_of(actual) {
        return Ok(());
    }
    new.check_revision(actual)
}

/// The values of [`event_columns`](crate::sql::statement::event_columns).
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
    append: &BulkAppend<D>,
    statement: &SqlText<D>,
    writes: &[&AppendOp<D>],
    before_sending: BeforeSending<'_>,
) -> Result<BulkResults<Appended>> {
    let new = || writes.iter().map(|write| &write.new);
    let max = context.settings.max_state_bytes;
    let expected = |time: fn(Revision) -> Timestamp| {
        bulk::texts(new().map(|new| match new.expected {
            ExpectedRevision::Exact(revision) => time(revision).to_naive_utc().to_string(),
            ExpectedRevision::Any => String::new(),
        }))
    };
    let keys = bulk::keys(new().map(|new| -> &SessionKey { &new.key }));
    let values = keys.chain([
        bulk::texts(new().map(|new| &new.id)),
        bulk::texts(new().map(|new| &new.invocation_id)),
        bulk::times(new().map(|new| new.timestamp)),
        bulk::texts(new().map(|new| new.event_data.as_str())),
        expected(Revision::create_time),
        expected(Revision::timestamp),
        bulk::states(new().map(|new| (&new.key, &new.delta.session)), max)?,
        bulk::states(new().map(|new| (&new.key, &new.delta.app)), max)?,
        bulk::states(new().map(|new| (&new.key, &new.delta.user)), max)?,
        bulk::times(new().map(|new| new.now)),
    ]);
    let rows = bulk::run(&context.database, statement, values, writes.len(), OPERATION, before_sending).await?;
    let mut results: BulkResults<Appended> = writes.iter().map(|_| Ok(Applied::Locked)).collect();
    for row in rows {
        let number = bulk::number(&row, OPERATION)?;
        if let Some((result, write)) = results.get_mut(number).zip(writes.get(number)) {
            *result =
                if bulk::is_blocked(&row) { Ok(Applied::SharedLocked) } else { bulk_result::<D>(&write.new, &row) };
            if matches!(result, Err(Error::RevisionConflict { .. })) {
                append.expect_conflicts();
            }
        }
    }
    Ok(results)
}

/// What a row of the bulk statement says of its write.
fn bulk_result<D: Dialect>(new: &NewEvent, row: &QueryResult) -> Result<Applied<Appended>> {
    if matches!(row.try_get("", BulkStatements::REFUSED), Ok(true)) {
        return match check_without_lock::<D>(new, row) {
            Err(refusal) if refusal.backend_kind().is_none() => Err(refusal),
            // The portable algorithm names the row at fault.
            Ok(()) | Err(_) => Ok(Applied::Locked),
        };
    }
    let time = |index| D::Driver::moment(row, index);
    let stored = time(1).and_then(|created| Ok(Revision::new(created, time(2)?))).map_err(|error| {
        let message = format!("the event {:?} is stored, but its time cannot be read", new.id);
        BackendError::new(BackendErrorKind::CommitUnknown, message).with_source(error)
    });
    Ok(Applied::Written(Appended::Stored(stored?)))
}
