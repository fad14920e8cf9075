//! `append_event`: under the lock of the session row, revision check, replay check, event, state.

use std::collections::HashMap;

use sea_orm::sea_query::{
    Expr, ExprTrait, InsertStatement, IntoIden, LockBehavior, LockType, Query, SelectStatement, UpdateStatement,
};
use sea_orm::{EntityName, QueryResult, Value};
use serde_json::Value as Json;

use super::Dialect;
use super::failure::statement_error;
use super::get::{event_key_condition, session_key_condition, session_key_values};
use super::prepared::{Prepared, is_new, slot};
use super::queue::Claimed;
use super::rows::{EventName, RowOf};
use super::service::Inner;
use super::shared_state::{Deltas, Touch, json_value};
use super::transaction::{InTransaction, Transaction};
use crate::entity::{events, sessions};
use crate::prepare::NewEvent;
use crate::revision::stored_timestamp;
use crate::{Appended, BackendError, BackendErrorKind, Error, Result, Revision, SessionKey, Timestamp};

const OPERATION: &str = "append_event";

pub(in crate::sql) struct Statements<D> {
    /// Reads the session row and locks it until the transaction ends.
    lock_session: Prepared<D>,
    /// The same, unless somebody else has locked it.
    lock_free_session: Prepared<D>,
    /// Reads the rows of many sessions.
    look: Option<Prepared<D>>,
    /// Reads the event that is stored under an id, whatever the snapshot of a caller's transaction is.
    lock_event: Prepared<D>,
    /// Stores the event, unless its id is taken, and moves the session's clock on.
    store: Store<D>,
    /// The same, and replaces the session's state.
    store_with_state: Store<D>,
    /// The same as the first, in a session that is at a revision and was not created at a time, and locks that session.
    store_at_revision: Store<D>,
    /// The same, in a session that nobody else has locked.
    store_at_free_revision: Store<D>,
    /// Reads the session's clock and the event that is stored under an id, and locks nothing.
    explain: Prepared<D>,
}

/// An insert of an event, and what it changes in the session's row.
struct Store<D> {
    insert: Prepared<D>,
    write_session: Prepared<D>,
    /// Both in one, where the driver can.
    both: Option<Prepared<D>>,
}

impl<D: Dialect> Store<D> {
    fn new(insert: &InsertStatement, write_session: &UpdateStatement) -> Self {
        let insert = Prepared::new(insert);
        let both = D::previous_changed_a_row().map(|condition| {
            let write_session = write_session.clone().and_where(condition).take();
            Prepared::both(&insert, &Prepared::new(&write_session))
        });
        Self { insert, write_session: Prepared::new(write_session), both }
    }

    /// False, and nothing is written, if the insert leaves the event out.
    async fn run(
        &self,
        inner: &Inner<D>,
        transaction: &mut impl InTransaction,
        event: impl Iterator<Item = Value>,
        session: impl Iterator<Item = Value>,
    ) -> Result<bool> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        if let Some(both) = self.both.as_ref().filter(|_| inner.fast) {
            return is_new::<D>(transaction.execute(both.bind(event.chain(session))).await).map_err(failed);
        }
        let is_stored = is_new::<D>(transaction.execute(self.insert.bind(event)).await).map_err(failed)?;
        if is_stored {
            transaction.execute(self.write_session.bind(session)).await.map_err(failed)?;
        }
        Ok(is_stored)
    }
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
        let session_key = [Session::AppName, Session::UserId, Session::Id];
        let of_session = |column| (sessions::Entity, column);
        let look = Query::select()
            .columns(session_key.map(of_session))
            .columns([Session::CreateTime, Session::UpdateTime].map(of_session))
            .expr_as(D::read_json(Expr::col(of_session(Session::State))), Session::State)
            .take();
        let look = D::select_many(look, sessions::Entity.into_iden(), session_key.map(IntoIden::into_iden));
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
            .columns([Event::Id, Event::Timestamp].map(|column| (events::Entity, column)))
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
        let insert = insert_event::<D>().values_panic(new_event()).take();
        Self {
            lock_session: Prepared::new(&lock_session),
            lock_free_session: Prepared::new(&lock_free_session),
            look: look.as_ref().map(Prepared::new),
            lock_event: Prepared::new(&lock_event),
            explain: Prepared::new(&explain),
            store: Store::new(&insert, &write_time),
            store_with_state: Store::new(&insert, &write_state),
            store_at_revision: Store::new(&insert_selected::<D>(at_revision), &write_time),
            store_at_free_revision: Store::new(&insert_selected::<D>(at_free_revision), &write_time),
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
    let stored = RowOf::<D>::new(events::Entity.table_name(), &event);
    if stored.text_or_null(&row, "id", "id")?.is_some() {
        return check_replay::<D>(new, &row).map(Some);
    }
    let session = RowOf::<D>::new(sessions::Entity.table_name(), &new.key);
    new.check_revision(Revision::new(session.timestamp(&row, "update_time", "update_time")?))?;
    Ok(None)
}

/// Appends an event in a transaction of the caller's.
pub(super) async fn append_event<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
) -> Result<Appended> {
    let appended =
        store_event(inner, transaction, new, None, Wait::Yes).await?.ok_or_else(|| Error::not_found(&new.key))?;
    if !appended.is_replayed() {
        let mut deltas = Deltas::default();
        deltas.add(&new.key, &new.delta, new.now, Touch::Changed);
        deltas.merge(&inner.shared_state, transaction, OPERATION).await?;
    }
    Ok(appended)
}

/// The rows of the sessions that a group appends to, all at once, where its transaction has locked the database. A session that is
/// not among them is read when its turn comes.
pub(super) async fn look<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut Transaction<'_, D>,
    group: &[Claimed],
) -> Result<HashMap<SessionKey, QueryResult>> {
    let mut rows = HashMap::new();
    let Some(look) = &inner.append.look else { return Ok(rows) };
    let appended = group.iter().filter_map(|claimed| claimed.write.append());
    let mut keys: Vec<Json> = appended
        .filter(|new| new.sufficient_revision().is_none())
        .map(|NewEvent { key, .. }| vec![key.app_name.as_str(), key.user_id.as_str(), key.session_id.as_str()].into())
        .collect();
    // A group is in the order of its sessions.
    keys.dedup();
    if keys.len() > 1 {
        let mut add = |row: QueryResult| {
            let name = |index| D::text(&row, index).ok().flatten().unwrap_or_default();
            if let Ok(key) = SessionKey::try_new(name(0), name(1), name(2)) {
                rows.insert(key, row);
            }
        };
        let looked = transaction.query(look.bind([Json::from(keys).to_string().into()]), &mut add).await;
        looked.map_err(|error| statement_error::<D>(OPERATION, error))?;
    }
    Ok(rows)
}

/// Stores the event and what it changes in its session, but not in app and user state. `seen` is the session's row, if this
/// transaction has locked and read it, and written nothing to it since.
///
/// The lock on the session row makes appends to one session follow each other, so what is read under it is what the
/// writes below change. Refusals come before the first write: nothing of a refused append is stored, in a caller's own
/// transaction either. `None` if the session is not there, or would have to be waited for.
pub(super) async fn store_event<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
    seen: Option<QueryResult>,
    wait: Wait,
) -> Result<Option<Appended>> {
    let statements = &inner.append;
    let failed = |error| statement_error::<D>(OPERATION, error);
    let key = &new.key;
    if inner.fast
        && let Some(expected) = new.sufficient_revision()
    {
        if store_at_revision(inner, transaction, new, expected, wait).await? {
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
    let row = match seen {
        None => transaction.query_one(lock.bind(session_key_values(key))).await.map_err(failed)?,
        seen => seen,
    };
    let Some(row) = row else { return Ok(None) };
    let session = RowOf::<D>::new(sessions::Entity.table_name(), key);
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
    let store = if state.is_some() { &statements.store_with_state } else { &statements.store };
    let written = [D::timestamp(timestamp)].into_iter().chain(state).chain(session_key_values(key));
    if !store.run(inner, transaction, event_values::<D>(new, timestamp), written).await? {
        let replayed = replayed(statements, transaction, new).await?.ok_or_else(|| {
            let message = format!("event {:?} disappeared during {OPERATION}", new.id);
            BackendError::new(BackendErrorKind::Contention, message)
        });
        return Ok(Some(replayed?));
    }
    Ok(Some(Appended::Stored(Revision::new(timestamp))))
}

/// Stores an event that needs no look at its session first, one round trip fewer; false, and nothing is written, if the session
/// is at another revision, absent or not to be waited for, or if the event's id is taken.
async fn store_at_revision<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewEvent,
    expected: Revision,
    wait: Wait,
) -> Result<bool> {
    let store = match wait {
        Wait::Yes => &inner.append.store_at_revision,
        Wait::No => &inner.append.store_at_free_revision,
    };
    let timestamp = D::timestamp(new.timestamp);
    let condition = [D::timestamp(expected.timestamp()), timestamp.clone()];
    let event = event_values::<D>(new, new.timestamp).chain(session_key_values(&new.key)).chain(condition);
    store.run(inner, transaction, event, [timestamp].into_iter().chain(session_key_values(&new.key))).await
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
        Some(row) => check_replay::<D>(new, &row).map(Some),
        None => Ok(None),
    }
}

/// The outcome for an event, given the row that is stored under its id.
fn check_replay<D: Dialect>(new: &NewEvent, row: &QueryResult) -> Result<Appended> {
    let event = EventName { id: &new.id, session: &new.key };
    let stored = RowOf::<D>::new(events::Entity.table_name(), &event);
    let text = stored.text(row, "event_data", "event_data")?;
    new.check_replay(&stored.decode(text, "event_data")?)?;
    Ok(Appended::Replayed(Revision::new(stored.timestamp(row, "timestamp", "timestamp")?)))
}
