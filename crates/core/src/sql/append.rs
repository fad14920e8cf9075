//! `append_event`: under the lock of the session row, revision check, replay check, event, state.

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Expr, ExprTrait, InsertStatement, IntoIden, LockBehavior, LockType, Query, SelectStatement};
use sea_orm::{EntityName, QueryResult, Value};

use super::Dialect;
use super::failure::statement_error;
use super::get::{event_key_condition, session_key_condition, session_key_values};
use super::prepared::{Prepared, is_new, slot};
use super::rows::{EventName, RowOf};
use super::service::Inner;
use super::shared_state::{Deltas, Touch, json_value};
use super::transaction::InTransaction;
use crate::entity::{events, sessions};
use crate::prepare::NewEvent;
use crate::revision::stored_timestamp;
use crate::{Appended, BackendError, BackendErrorKind, Error, Result, Revision, Timestamp};

const OPERATION: &str = "append_event";

pub(in crate::sql) struct Statements<D> {
    /// Reads the session row and locks it until the transaction ends.
    lock_session: Prepared<D>,
    /// The same, unless somebody else has locked it.
    lock_free_session: Prepared<D>,
    /// Reads the event that is stored under an id, whatever the snapshot of a caller's transaction is.
    lock_event: Prepared<D>,
    /// Stores the event, unless its id is taken.
    insert_event: Prepared<D>,
    /// The same, in a session that is at a revision and was not created at a time, and locks that session.
    insert_at_revision: Prepared<D>,
    /// The same, in a session that nobody else has locked.
    insert_at_free_revision: Prepared<D>,
    /// Reads the session's clock and the event that is stored under an id, and locks nothing.
    explain: Prepared<D>,
    /// Moves the session's clock on.
    write_time: Prepared<D>,
    /// Moves the session's clock on and replaces its state.
    write_state: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        use {events::Column as Event, sessions::Column as Session};
        let lock_session = Query::select()
            .columns([Session::CreateTime, Session::UpdateTime])
            .expr_as(D::read_json(Expr::col(Session::State)), Session::State)
            .from(sessions::Entity)
            .and_where(session_key_condition())
            .lock_exclusive()
            .take();
        let lock_free_session =
            lock_session.clone().lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).take();
        let lock_event = Query::select()
            .column(Event::Timestamp)
            .expr_as(D::read_json(Expr::col(Event::EventData)), Event::EventData)
            .from(events::Entity)
            .and_where(event_key_condition())
            .and_where(Expr::col(Event::Id).eq(slot()))
            .lock_exclusive()
            .take();
        let explain = Query::select()
            .column((sessions::Entity, Session::UpdateTime))
            .column((events::Entity, Event::Timestamp))
            .expr_as(D::read_json(Expr::col((events::Entity, Event::EventData))), Event::EventData)
            .from(sessions::Entity)
            .left_join(
                events::Entity,
                Expr::col((events::Entity, Event::Id))
                    .eq(slot())
                    .and(same(Event::AppName, Session::AppName))
                    .and(same(Event::UserId, Session::UserId))
                    .and(same(Event::SessionId, Session::Id)),
            )
            .and_where(Expr::col((sessions::Entity, Session::AppName)).eq(slot()))
            .and_where(Expr::col((sessions::Entity, Session::UserId)).eq(slot()))
            .and_where(Expr::col((sessions::Entity, Session::Id)).eq(slot()))
            .take();
        let new_event = || [slot(), slot(), slot(), slot(), slot(), slot(), D::write_json(slot())];
        let at_revision = Query::select()
            .exprs(new_event())
            .from(sessions::Entity)
            .and_where(session_key_condition())
            .and_where(Expr::col(Session::UpdateTime).eq(slot()))
            .and_where(Expr::col(Session::CreateTime).ne(slot()))
            .lock_exclusive()
            .take();
        let at_free_revision =
            at_revision.clone().lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).take();
        let write_time = Query::update()
            .table(sessions::Entity)
            .value(Session::UpdateTime, slot())
            .and_where(session_key_condition())
            .take();
        let write_state = Query::update()
            .table(sessions::Entity)
            .value(Session::UpdateTime, slot())
            .value(Session::State, D::write_json(slot()))
            .and_where(session_key_condition())
            .take();
        Self {
            lock_session: Prepared::new(&lock_session),
            lock_free_session: Prepared::new(&lock_free_session),
            lock_event: Prepared::new(&lock_event),
            explain: Prepared::new(&explain),
            insert_event: Prepared::new(insert_event::<D>().values_panic(new_event())),
            insert_at_revision: Prepared::new(&insert_selected::<D>(at_revision)),
            insert_at_free_revision: Prepared::new(&insert_selected::<D>(at_free_revision)),
            write_time: Prepared::new(&write_time),
            write_state: Prepared::new(&write_state),
        }
    }
}

/// An insert of an event, without what it takes the event from, unless the event's id is taken.
fn insert_event<D: Dialect>() -> InsertStatement {
    use events::Column as Event;
    let key = [Event::Id, Event::AppName, Event::UserId, Event::SessionId];
    let mut insert = Query::insert()
        .into_table(events::Entity)
        .columns([
            Event::AppName,
            Event::UserId,
            Event::SessionId,
            Event::Id,
            Event::InvocationId,
            Event::Timestamp,
            Event::EventData,
        ])
        .take();
    D::insert_if_absent(&mut insert, key.map(IntoIden::into_iden).into());
    insert
}

/// The same, taken from a select.
fn insert_selected<D: Dialect>(select: SelectStatement) -> InsertStatement {
    insert_event::<D>().select_from(select).expect("an expression for each column").take()
}

fn same(event: events::Column, session: sessions::Column) -> Expr {
    Expr::col((events::Entity, event)).equals((sessions::Entity, session))
}

/// Why an event was not appended, in one look that locks nothing; `None` when it could be by now, or has to wait.
pub(super) async fn explain<D: Dialect>(inner: &Inner<D>, new: &NewEvent) -> Result<Option<Appended>> {
    let statements = &inner.append;
    let values = [Value::from(new.id.as_str())].into_iter().chain(session_key_values(&new.key));
    let rows = inner.query_all(statements.explain.bind(values)).await;
    let rows = rows.map_err(|error| statement_error::<D>(OPERATION, error))?;
    let row = rows.into_iter().next().ok_or_else(|| Error::not_found(&new.key))?;
    let event = EventName { id: &new.id, session: &new.key };
    if RowOf::new(events::Entity.table_name(), &event)
        .get::<Option<DateTime>>(&row, "timestamp", "timestamp")?
        .is_some()
    {
        return check_replay(new, &row).map(Some);
    }
    let session = RowOf::new(sessions::Entity.table_name(), &new.key);
    new.check_revision(Revision::new(session.timestamp(&row, "update_time", "update_time")?))?;
    Ok(None)
}

/// Appends an event in a transaction of the caller's.
pub(super) async fn append_event<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
) -> Result<Appended> {
    let appended = store_event(inner, transaction, new, Wait::Yes).await?.ok_or_else(|| Error::not_found(&new.key))?;
    if !appended.is_replayed() {
        let mut deltas = Deltas::default();
        deltas.add(&new.key, &new.delta, new.now, Touch::Changed);
        deltas.merge(&inner.shared_state, transaction, OPERATION).await?;
    }
    Ok(appended)
}

/// Stores the event and what it changes in its session, but not in app and user state.
///
/// The lock on the session row makes appends to one session follow each other, so what is read under it is what the
/// writes below change. Refusals come before the first write: nothing of a refused append is stored, in a caller's own
/// transaction either. `None` if the session is not there, or would have to be waited for.
pub(super) async fn store_event<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
    wait: Wait,
) -> Result<Option<Appended>> {
    let statements = &inner.append;
    let failed = |error| statement_error::<D>(OPERATION, error);
    let key = &new.key;
    if inner.fast
        && let Some(expected) = new.sufficient_revision()
    {
        if store_at_revision(statements, transaction, new, expected, wait).await? {
            return Ok(Some(Appended::Stored(Revision::new(new.timestamp))));
        }
        if wait == Wait::No {
            return Ok(None);
        }
    }
    let lock = match wait {
        Wait::Yes => &statements.lock_session,
        Wait::No => &statements.lock_free_session,
    };
    let locked = transaction.query_one(lock.bind(session_key_values(key))).await;
    let Some(row) = locked.map_err(failed)? else { return Ok(None) };
    let session = RowOf::new(sessions::Entity.table_name(), key);
    let create_time = session.timestamp(&row, "create_time", "create_time")?;
    let update_time = session.timestamp(&row, "update_time", "update_time")?;
    if let Err(conflict) = new.check_revision(Revision::new(update_time)) {
        // The session may have moved on by this very event.
        return replayed(statements, transaction, new).await?.ok_or(conflict).map(Some);
    }

    let timestamp = stored_timestamp(new.timestamp, create_time, update_time);
    let mut state = None;
    if !new.delta.session.is_empty() {
        let mut merged = session.state(&row, "state")?;
        merged.merge(new.delta.session.clone());
        state = Some(json_value(&merged)?);
    }
    let inserted = transaction.execute(statements.insert_event.bind(event_values::<D>(new, timestamp))).await;
    if !is_new(inserted).map_err(failed)? {
        let replayed = replayed(statements, transaction, new).await?.ok_or_else(|| {
            let message = format!("event {:?} disappeared during {OPERATION}", new.id);
            BackendError::new(BackendErrorKind::Contention, message)
        });
        return Ok(Some(replayed?));
    }
    let write = if state.is_some() { &statements.write_state } else { &statements.write_time };
    let values = [D::timestamp(timestamp)].into_iter().chain(state).chain(session_key_values(key));
    transaction.execute(write.bind(values)).await.map_err(failed)?;
    Ok(Some(Appended::Stored(Revision::new(timestamp))))
}

/// Stores an event that needs no look at its session first, one round trip fewer; false, and nothing is written, if the session
/// is at another revision, absent or not to be waited for, or if the event's id is taken.
async fn store_at_revision<D: Dialect>(
    statements: &Statements<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
    expected: Revision,
    wait: Wait,
) -> Result<bool> {
    let failed = |error| statement_error::<D>(OPERATION, error);
    let insert_at_revision = match wait {
        Wait::Yes => &statements.insert_at_revision,
        Wait::No => &statements.insert_at_free_revision,
    };
    let timestamp = D::timestamp(new.timestamp);
    let condition = [D::timestamp(expected.timestamp()), timestamp.clone()];
    let values = event_values::<D>(new, new.timestamp).chain(session_key_values(&new.key)).chain(condition);
    let is_stored = is_new(transaction.execute(insert_at_revision.bind(values)).await).map_err(failed)?;
    if is_stored {
        let values = [timestamp].into_iter().chain(session_key_values(&new.key));
        transaction.execute(statements.write_time.bind(values)).await.map_err(failed)?;
    }
    Ok(is_stored)
}

/// The columns of an event's row, as an insert names them.
fn event_values<D: Dialect>(new: &NewEvent, timestamp: Timestamp) -> impl Iterator<Item = Value> {
    session_key_values(&new.key).chain([
        Value::from(new.id.as_str()),
        new.invocation_id.as_str().into(),
        D::timestamp(timestamp),
        new.event_data.as_str().into(),
    ])
}

/// Whether to wait for a session that somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// The outcome for an event whose id is taken: it was stored before, or another was.
async fn replayed<D: Dialect>(
    statements: &Statements<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
) -> Result<Option<Appended>> {
    let values = session_key_values(&new.key).chain([Value::from(new.id.as_str())]);
    let row = transaction.query_one(statements.lock_event.bind(values)).await;
    match row.map_err(|error| statement_error::<D>(OPERATION, error))? {
        Some(row) => check_replay(new, &row).map(Some),
        None => Ok(None),
    }
}

/// The outcome for an event, given the row that is stored under its id.
fn check_replay(new: &NewEvent, row: &QueryResult) -> Result<Appended> {
    let event = EventName { id: &new.id, session: &new.key };
    let stored = RowOf::new(events::Entity.table_name(), &event);
    let text: String = stored.get(row, "event_data", "event_data")?;
    new.check_replay(&stored.decode(&text, "event_data")?)?;
    Ok(Appended::Replayed(Revision::new(stored.timestamp(row, "timestamp", "timestamp")?)))
}
