//! Appends of a batch in few statements, each of them about all the appends: on a server that is far away, a round trip
//! costs more than anything else.

use std::collections::{HashMap, HashSet};

use sea_orm::sea_query::{Expr, ExprTrait as _, Query};
use sea_orm::{QueryResult, Value};

use super::sql::{insert_event, new_event};
use super::{AppendOp, OPERATION, event_values};
use crate::entity::{events, sessions};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::driver::Driver;
use crate::sql::error::{StatementError, statement_error};
use crate::sql::executor::Executor;
use crate::sql::op::context::Context;
use crate::sql::statement::{
    Ladder, SqlText, any_of, event_key_predicate, is_not_being_deleted, key_predicate, placeholder,
    session_key_columns, session_key_values, update_by_key,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, BulkResults};
use crate::{Appended, Result, Revision, SessionKey, State, Timestamp};

/// The statements, for any number of appends.
pub(super) struct GroupSql<D> {
    /// Reads and locks the sessions that no other connection has locked.
    lock_sessions: Ladder<D>,
    /// Reads which of some events are stored.
    stored_events: Ladder<D>,
    insert_events: Ladder<D>,
    write_times: Ladder<D>,
    write_times_and_states: Ladder<D>,
}

/// A session that the transaction has locked, as the appends so far leave it.
struct LockedSession {
    row: QueryResult,
    created: Timestamp,
    updated: Timestamp,
    /// `None` while no append has changed it.
    state: Option<State>,
    is_changed: bool,
    /// Whether an append was left out, which later ones must not overtake.
    is_left_out: bool,
}

impl<D: Dialect> GroupSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use sessions::Column;
        let key = || key_predicate::<D, _, 3>(session_key_columns());
        let lock_sessions = |rows| {
            let mut select = Query::select();
            select.columns(session_key_columns()).columns([Column::CreateTime, Column::UpdateTime]);
            select.expr_as(D::SCHEMA.read_json(Expr::col(Column::State)), Column::State);
            select.from(tables.table(sessions::Entity)).and_where(any_of(rows, key));
            select.and_where(is_not_being_deleted(Column::CreateTime));
            D::look_up_by_primary_key(&mut select);
            SqlText::new(&super::sql::skip_locked(select.lock_exclusive()))
        };
        let stored_events = |rows| {
            use events::Column;
            let mut select = Query::select();
            select.columns([Column::AppName, Column::UserId, Column::SessionId, Column::Id]);
            select.from(tables.table(events::Entity)).and_where(any_of(rows, event_key_predicate::<D>));
            D::look_up_by_primary_key(&mut select);
            SqlText::new(&select)
        };
        let insert_events = |rows| {
            let mut insert = insert_event::<D>(tables);
            (0..rows).for_each(|_| _ = insert.values_panic(new_event::<D>()));
            SqlText::new(&insert)
        };
        let time = || placeholder().cast_as(D::SCHEMA.timestamp_type());
        let table = || tables.table(sessions::Entity);
        let write_times = |rows| update_by_key(table(), rows, key, [(Column::UpdateTime, time())]);
        let write_times_and_states = |rows| {
            let state = D::SCHEMA.write_json(placeholder());
            update_by_key(table(), rows, key, [(Column::UpdateTime, time()), (Column::State, state)])
        };
        Self {
            lock_sessions: Ladder::new(lock_sessions),
            stored_events: Ladder::new(stored_events),
            insert_events: Ladder::new(insert_events),
            write_times: Ladder::new(write_times),
            write_times_and_states: Ladder::new(write_times_and_states),
        }
    }

    pub(super) fn texts(&self) -> [(&'static str, &SqlText<D>); 5] {
        [
            ("group_insert", self.insert_events.sample()),
            ("group_lock", self.lock_sessions.sample()),
            ("group_stored", self.stored_events.sample()),
            ("group_write", self.write_times.sample()),
            ("group_write_with_state", self.write_times_and_states.sample()),
        ]
    }

    /// Applies appends, sorted by session. Leaves out those whose sessions are locked or missing, and those whose events
    /// are stored, or have the id of another one in the batch.
    pub(super) async fn apply(
        &self,
        context: &Context<D>,
        on: &mut dyn Executor,
        writes: &[&AppendOp<D>],
    ) -> Result<BulkResults<Appended>> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        let mut sessions = self.lock(on, writes).await?;
        let mut taken = self.stored(on, writes).await.map_err(failed)?;
        let (mut results, mut events) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in writes {
            let key = &write.new.key;
            let Some(session) = sessions.get_mut(key).filter(|session| !session.is_left_out) else {
                results.push(Ok(Applied::Locked));
                continue;
            };
            // A server that is behind is for the portable algorithm to find out.
            let is_behind = write.new.expected.is_ahead_of(Revision::new(session.created, session.updated));
            if is_behind || !taken.insert((key.clone(), write.new.id.clone())) {
                session.is_left_out = true;
                results.push(Ok(Applied::Locked));
                continue;
            }
            results.push(match session.append(write, context.settings.max_state_bytes) {
                Ok(revision) => {
                    events.push((write, revision.timestamp()));
                    Ok(Applied::Written(Appended::Stored(revision)))
                }
                Err(error) if error.backend_kind().is_some() => return Err(error),
                Err(refusal) => Err(refusal),
            });
        }
        for (text, events) in self.insert_events.chunks(&events) {
            let values = events.iter().flat_map(|(write, time)| event_values::<D>(&write.new, *time));
            on.execute(text.bind(values)).await.map_err(failed)?;
        }
        self.write(context, on, &sessions).await?;
        Ok(results)
    }

    async fn lock(&self, on: &mut dyn Executor, writes: &[&AppendOp<D>]) -> Result<HashMap<SessionKey, LockedSession>> {
        let mut keys: Vec<&SessionKey> = writes.iter().map(|write| &write.new.key).collect();
        keys.dedup();
        let mut sessions = HashMap::new();
        for (text, keys) in self.lock_sessions.padded(&keys) {
            let rows = on.query_all(text.bind(keys.into_iter().flat_map(|key| session_key_values(key)))).await;
            for row in rows.map_err(|error| statement_error::<D>(OPERATION, error))? {
                let name = |index| D::Driver::text(&row, index).ok().flatten().unwrap_or_default();
                let Ok(key) = SessionKey::try_new(name(0), name(1), name(2)) else { continue };
                let decoder = RowDecoder::<D>::new("sessions", &key);
                let created = decoder.timestamp(&row, "create_time", "create_time")?;
                let updated = decoder.timestamp(&row, "update_time", "update_time")?;
                let session =
                    LockedSession { row, created, updated, state: None, is_changed: false, is_left_out: false };
                sessions.insert(key, session);
            }
        }
        Ok(sessions)
    }

    async fn stored(
        &self,
        on: &mut dyn Executor,
        writes: &[&AppendOp<D>],
    ) -> Result<HashSet<(SessionKey, String)>, StatementError> {
        let mut stored = HashSet::new();
        for (text, writes) in self.stored_events.padded(writes) {
            let key =
                |write: &&AppendOp<D>| session_key_values(&write.new.key).chain([Value::from(write.new.id.as_str())]);
            for row in on.query_all(text.bind(writes.into_iter().flat_map(key))).await? {
                let name = |index| D::Driver::text(&row, index).ok().flatten().unwrap_or_default();
                if let Ok(key) = SessionKey::try_new(name(0), name(1), name(2)) {
                    stored.insert((key, name(3).to_owned()));
                }
            }
        }
        Ok(stored)
    }

    /// Writes the clocks of the changed sessions, and their states where these changed.
    async fn write(
        &self,
        context: &Context<D>,
        on: &mut dyn Executor,
        sessions: &HashMap<SessionKey, LockedSession>,
    ) -> Result<()> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        let (mut times, mut states) = (Vec::new(), Vec::new());
        for (key, session) in sessions.iter().filter(|(_, session)| session.is_changed) {
            let time = D::SCHEMA.timestamp(session.updated);
            match &session.state {
                None => times.push((key, [time])),
                Some(state) => {
                    let state = state.to_row(context.settings.max_state_bytes, key)?;
                    states.push((key, [time, state.into()]));
                }
            }
        }
        for (text, rows) in self.write_times.padded(&times) {
            let rows = rows.into_iter().map(|(key, values)| (session_key_values(key), values.clone()));
            on.execute(text.bind_by_key(rows)).await.map_err(failed)?;
        }
        // A state may be large, so none is sent twice.
        for (text, rows) in self.write_times_and_states.chunks(&states) {
            let rows = rows.iter().map(|(key, values)| (session_key_values(key), values.clone()));
            on.execute(text.bind_by_key(rows)).await.map_err(failed)?;
        }
        Ok(())
    }
}

impl LockedSession {
    /// Moves the session on, and returns its new revision. A refused append leaves it as it is.
    fn append<D: Dialect>(&mut self, AppendOp { new, .. }: &AppendOp<D>, max_state_bytes: usize) -> Result<Revision> {
        new.check_revision(Revision::new(self.created, self.updated))?;
        let timestamp = new.stored_timestamp(self.created, self.updated)?;
        if !new.delta.session.is_empty() {
            let mut state = match self.state.take() {
                Some(state) => state,
                None => RowDecoder::<D>::new("sessions", &new.key).state(&self.row, "state")?,
            };
            state.merge(new.delta.session.clone());
            state.to_row(max_state_bytes, &new.key)?;
            self.state = Some(state);
        }
        (self.updated, self.is_changed) = (timestamp, true);
        Ok(Revision::new(self.created, timestamp))
    }
}
