//! Appends of a batch in few statements, each of them about all the appends: on a server that is far away, a round trip
//! costs more than anything else.

use std::collections::{HashMap, HashSet};

use sea_orm::sea_query::{Expr, ExprTrait as _, Func, Query};
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
    KeyedRow, Ladder, MAX_GROUPED_STATE, SqlText, any_of, event_key_predicate, is_not_being_deleted, key_predicate,
    placeholder, session_key_columns, session_key_values, update_by_key,
};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, GroupResults};
use crate::validate::NewEvent;
use crate::{Appended, Result, Revision, SessionKey, State, Timestamp};

/// The statements, for any number of appends.
pub(super) struct GroupSql<D> {
    /// Reads the clocks of the sessions that no other connection has locked, and locks them.
    lock_sessions: Ladder<D>,
    /// The same, and reads their states, except for large ones.
    lock_sessions_with_states: Ladder<D>,
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
    /// What becomes of the other appends, once one of them is not for the group: later ones must not overtake it.
    rest: Option<Rest>,
}

/// What becomes of appends that are not for the group.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// The batch leaves them out.
    LeftOut,
    /// They are applied one by one, as the state of the session is large.
    OneByOne,
}

impl<D: Dialect> GroupSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use sessions::Column;
        let key = || key_predicate::<D, _, 3>(session_key_columns());
        let lock_sessions = |rows, state: Option<Expr>| {
            let mut select = Query::select();
            select.columns(session_key_columns()).columns([Column::CreateTime, Column::UpdateTime]);
            if let Some(state) = state {
                select.expr_as(state, Column::State);
            }
            select.from(tables.table(sessions::Entity)).and_where(any_of(rows, key));
            select.and_where(is_not_being_deleted(Column::CreateTime));
            D::look_up_by_primary_key(&mut select);
            SqlText::new(&super::sql::skip_locked(select.lock_exclusive()))
        };
        let state = || D::SCHEMA.read_json(Expr::col(Column::State));
        let size = Expr::from(Func::cust("octet_length").arg(state()));
        let is_small = size.lte(Expr::cust(MAX_GROUPED_STATE.to_string()));
        let small_state: Expr = Expr::case(is_small, state()).finally(Expr::cust("NULL")).into();
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
            lock_sessions: Ladder::new(|rows| lock_sessions(rows, None)),
            lock_sessions_with_states: Ladder::new(|rows| lock_sessions(rows, Some(small_state.clone()))),
            stored_events: Ladder::new(stored_events),
            insert_events: Ladder::new(insert_events),
            write_times: Ladder::new(write_times),
            write_times_and_states: Ladder::new(write_times_and_states),
        }
    }

    pub(super) fn texts(&self) -> [(&'static str, &SqlText<D>); 6] {
        [
            ("group_insert", self.insert_events.sample()),
            ("group_lock", self.lock_sessions.sample()),
            ("group_lock_with_states", self.lock_sessions_with_states.sample()),
            ("group_stored", self.stored_events.sample()),
            ("group_write", self.write_times.sample()),
            ("group_write_with_state", self.write_times_and_states.sample()),
        ]
    }

    /// Applies appends, sorted by session. Leaves out those whose sessions are locked or missing, and those whose events
    /// are stored, or have the id of another one in the batch. Does nothing about those to large states.
    pub(super) async fn apply(
        &self,
        context: &Context<D>,
        on: &mut dyn Executor,
        writes: &[&AppendOp<D>],
    ) -> Result<GroupResults<Appended>> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        let mut sessions = self.lock(on, writes).await?;
        let mut taken = self.stored(on, writes).await.map_err(failed)?;
        let (mut results, mut events) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in writes {
            let Some(session) = sessions.get_mut(&write.new.key) else {
                results.push(Some(Ok(Applied::Locked)));
                continue;
            };
            let result = session.append(write, &mut taken, context.settings.max_state_bytes);
            if let Some(Ok(Applied::Written(Appended::Stored(revision)))) = &result {
                events.push((write, revision.timestamp()));
            }
            match result {
                Some(Err(error)) if error.backend_kind().is_some() => return Err(error),
                result => results.push(result),
            }
        }
        for (text, events) in self.insert_events.chunks(&events) {
            let values = events.iter().flat_map(|(write, time)| event_values::<D>(&write.new, *time));
            on.execute(text.bind(values)).await.map_err(failed)?;
        }
        self.write(context, on, &sessions).await?;
        Ok(results)
    }

    /// Locks the sessions, and reads the states of those whose state changes.
    async fn lock(&self, on: &mut dyn Executor, writes: &[&AppendOp<D>]) -> Result<HashMap<SessionKey, LockedSession>> {
        let mut keys: Vec<(&SessionKey, bool)> = Vec::new();
        for AppendOp { new, .. } in writes {
            let changes_state = !new.delta.session.is_empty();
            match keys.last_mut().filter(|(key, _)| *key == &new.key) {
                Some((_, any_changes_state)) => *any_changes_state |= changes_state,
                None => keys.push((&new.key, changes_state)),
            }
        }
        let (with_states, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(_, changes_state)| *changes_state);
        let mut sessions = HashMap::new();
        for (ladder, keys) in [(&self.lock_sessions_with_states, with_states), (&self.lock_sessions, others)] {
            for (text, keys) in ladder.padded(&keys) {
                let rows = on.query_all(text.bind(keys.into_iter().flat_map(|(key, _)| session_key_values(key)))).await;
                for row in rows.map_err(|error| statement_error::<D>(OPERATION, error))? {
                    sessions.extend(LockedSession::of_row::<D>(row)?);
                }
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
            let (state, key) = (session.state.as_ref().map(|state| (state, key)), session_key_values(key).collect());
            match state {
                None => times.push(KeyedRow { key, values: [time] }),
                Some((state, name)) => {
                    let state = state.to_row(context.settings.max_state_bytes, name)?;
                    states.push(KeyedRow { key, values: [time, state.into()] });
                }
            }
        }
        let updates = [self.write_times.updates(&times), self.write_times_and_states.updates(&states)];
        for update in updates.into_iter().flatten() {
            on.execute(update).await.map_err(failed)?;
        }
        Ok(())
    }
}

impl LockedSession {
    /// The session of a row, and its key; `None` for a key that is not one of ours.
    fn of_row<D: Dialect>(row: QueryResult) -> Result<Option<(SessionKey, Self)>> {
        let name = |index| D::Driver::text(&row, index).ok().flatten().unwrap_or_default();
        let Ok(key) = SessionKey::try_new(name(0), name(1), name(2)) else { return Ok(None) };
        let decoder = RowDecoder::<D>::new("sessions", &key);
        let created = decoder.timestamp(&row, "create_time", "create_time")?;
        let updated = decoder.timestamp(&row, "update_time", "update_time")?;
        Ok(Some((key, Self { row, created, updated, state: None, is_changed: false, rest: None })))
    }

    /// The outcome of an append. `taken` are the ids of events that are stored; the append's is added.
    fn append<D: Dialect>(
        &mut self,
        AppendOp { new, .. }: &AppendOp<D>,
        taken: &mut HashSet<(SessionKey, String)>,
        max_state_bytes: usize,
    ) -> Option<Result<Applied<Appended>>> {
        if self.rest.is_none() {
            // A server that is behind is for the portable algorithm to find out.
            let is_behind = new.expected.is_ahead_of(Revision::new(self.created, self.updated));
            if is_behind || !taken.insert((new.key.clone(), new.id.clone())) {
                self.rest = Some(Rest::LeftOut);
            }
        }
        match self.rest {
            Some(Rest::LeftOut) => Some(Ok(Applied::Locked)),
            Some(Rest::OneByOne) => None,
            None => {
                let moved = self.move_on::<D>(new, max_state_bytes).transpose();
                if moved.is_none() {
                    self.rest = Some(Rest::OneByOne);
                }
                moved.map(|moved| moved.map(|revision| Applied::Written(Appended::Stored(revision))))
            }
        }
    }

    /// Moves the session on, and returns its new revision. A refused append leaves it as it is, as does one to a state
    /// that is too large for a group: `None`.
    fn move_on<D: Dialect>(&mut self, new: &NewEvent, max_state_bytes: usize) -> Result<Option<Revision>> {
        new.check_revision(Revision::new(self.created, self.updated))?;
        let timestamp = new.stored_timestamp(self.created, self.updated)?;
        if !new.delta.session.is_empty() {
            let Some(mut state) = self.state::<D>(&new.key)? else { return Ok(None) };
            state.merge(new.delta.session.clone());
            if state.to_row(max_state_bytes, &new.key)?.len() > MAX_GROUPED_STATE {
                return Ok(None);
            }
            self.state = Some(state);
        }
        (self.updated, self.is_changed) = (timestamp, true);
        Ok(Some(Revision::new(self.created, timestamp)))
    }

    /// The state as the appends so far leave it; `None` if it is large.
    fn state<D: Dialect>(&self, key: &SessionKey) -> Result<Option<State>> {
        if let Some(state) = &self.state {
            return Ok(Some(state.clone()));
        }
        let session = RowDecoder::<D>::new("sessions", key);
        match session.text_or_null(&self.row, "state", "state")? {
            Some(_) => session.state(&self.row, "state").map(Some),
            None => Ok(None),
        }
    }
}
