//! `append_event`: under the lock of the session row, replay check, revision check, event, state.

use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction, EntityName, SqlErr, Value};

use super::Dialect;
use super::failure::statement_error;
use super::get::{event_key_condition, session_key_condition, session_key_values};
use super::prepared::{Prepared, slot};
use super::rows::{EventName, RowOf};
use super::service::Inner;
use super::shared_state::{Key, json_value};
use crate::entity::{events, sessions};
use crate::prepare::NewEvent;
use crate::revision::stored_timestamp;
use crate::{Appended, Error, Result, Revision};

const OPERATION: &str = "append_event";

pub(in crate::sql) struct Statements<D> {
    /// Reads the session row and locks it until the transaction ends.
    lock_session: Prepared<D>,
    /// Reads the event that is stored under an id.
    event_by_id: Prepared<D>,
    /// The same, and whatever the transaction's snapshot is.
    lock_event_by_id: Prepared<D>,
    insert_event: Prepared<D>,
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
        let event_by_id = Query::select()
            .column(Event::Timestamp)
            .expr_as(D::read_json(Expr::col(Event::EventData)), Event::EventData)
            .from(events::Entity)
            .and_where(event_key_condition())
            .and_where(Expr::col(Event::Id).eq(slot()))
            .take();
        let insert_event = Query::insert()
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
            .values_panic([slot(), slot(), slot(), slot(), slot(), slot(), D::write_json(slot())])
            .take();
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
            event_by_id: Prepared::new(&event_by_id),
            lock_event_by_id: Prepared::new(event_by_id.clone().lock_exclusive()),
            insert_event: Prepared::new(&insert_event),
            write_time: Prepared::new(&write_time),
            write_state: Prepared::new(&write_state),
        }
    }
}

/// The lock on the session row makes appends to one session follow each other, so what is read under it is what the
/// writes below change. Refusals come before the first write: nothing of a refused append is stored, in a caller's own
/// transaction either.
pub(super) async fn append_event<D: Dialect>(
    inner: &Inner<D>,
    transaction: &DatabaseTransaction,
    new: &NewEvent,
) -> Result<Appended> {
    let statements = &inner.append;
    let failed = |error| statement_error::<D>(OPERATION, error);
    let key = &new.key;
    let locked = transaction.query_one_raw(statements.lock_session.bind(session_key_values(key))).await;
    let row = locked.map_err(failed)?.ok_or_else(|| Error::not_found(key))?;
    let session = RowOf::new(sessions::Entity.table_name(), key);
    let create_time = session.timestamp(&row, "create_time", "create_time")?;
    let update_time = session.timestamp(&row, "update_time", "update_time")?;

    if let Some(replayed) = replayed(&statements.event_by_id, transaction, new).await? {
        return Ok(replayed);
    }
    new.check_revision(Revision::new(update_time))?;

    let timestamp = stored_timestamp(new.timestamp, create_time, update_time);
    let mut state = None;
    if !new.delta.session.is_empty() {
        let mut merged = session.state(&row, "state")?;
        merged.merge(new.delta.session.clone());
        state = Some(json_value(&merged)?);
    }
    let event = session_key_values(key).chain([
        Value::from(new.id.as_str()),
        new.invocation_id.as_str().into(),
        D::timestamp(timestamp),
        new.event_data.as_str().into(),
    ]);
    if let Err(error) = transaction.execute_raw(statements.insert_event.bind(event)).await {
        // In a transaction of the caller's at REPEATABLE READ on MySQL, the look above sees no event that was stored after
        // the transaction's first read. A locking read does.
        if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
            && let Some(replayed) = replayed(&statements.lock_event_by_id, transaction, new).await?
        {
            return Ok(replayed);
        }
        return Err(failed(error));
    }
    let write = if state.is_some() { &statements.write_state } else { &statements.write_time };
    let values = [D::timestamp(timestamp)].into_iter().chain(state).chain(session_key_values(key));
    transaction.execute_raw(write.bind(values)).await.map_err(failed)?;

    let shared = &inner.shared_state;
    if !new.delta.app.is_empty() {
        shared.app.merge(transaction, &Key::App(&key.app_name), &new.delta.app, new.now, OPERATION).await?;
    }
    if !new.delta.user.is_empty() {
        let user = Key::User(&key.app_name, &key.user_id);
        shared.user.merge(transaction, &user, &new.delta.user, new.now, OPERATION).await?;
    }
    Ok(Appended::Stored(Revision::new(timestamp)))
}

/// The outcome for an event whose id is taken: it was stored before, or another was.
async fn replayed<D: Dialect>(
    event_by_id: &Prepared<D>,
    transaction: &DatabaseTransaction,
    new: &NewEvent,
) -> Result<Option<Appended>> {
    let values = session_key_values(&new.key).chain([Value::from(new.id.as_str())]);
    let row = transaction.query_one_raw(event_by_id.bind(values)).await;
    let Some(row) = row.map_err(|error| statement_error::<D>(OPERATION, error))? else { return Ok(None) };
    let event = EventName { id: &new.id, session: &new.key };
    let stored = RowOf::new(events::Entity.table_name(), &event);
    let text: String = stored.get(&row, "event_data", "event_data")?;
    new.check_replay(&stored.decode(&text, "event_data")?)?;
    Ok(Some(Appended::Replayed(Revision::new(stored.timestamp(&row, "timestamp", "timestamp")?))))
}
