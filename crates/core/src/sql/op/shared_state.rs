//! App and user state: rows that many sessions share.
//!
//! The two tables differ in their name and in one key column. The algorithm is written once, over [`SharedTable`].

use std::collections::BTreeSet;

use sea_orm::sea_query::{
    Alias, Expr, ExprTrait as _, IntoIden, LockBehavior, LockType, Query, SelectStatement, UnionType,
};
use sea_orm::{EntityTrait, QueryResult, Value};

use crate::entity::{app_states, user_states};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    KeyedRow, Ladder, MAX_GROUPED_STATE, SqlText, any_of, key_predicate, placeholder, update_by_key,
};
use crate::sql::tables::Tables;
use crate::sql::write::{SharedChange, SharedChanges, SharedKey, SharedLocks, SharedStates};
use crate::state::ScopedState;
use crate::{BackendError, BackendErrorKind, Result, SessionKey, State};

/// The column that says which of two tables a row is from.
const TABLE: &str = "table_name";

/// The statements on shared state.
pub(crate) struct SharedStateSql<D> {
    app: SharedTable<D>,
    user: SharedTable<D>,
    /// Reads the states of an app and of one of its users, with the names of their tables.
    both: SqlText<D>,
    max_state_bytes: usize,
}

impl<D: Dialect> SharedStateSql<D> {
    pub(crate) fn new(tables: &Tables, max_state_bytes: usize) -> Self {
        use {app_states::Column as App, user_states::Column as User};
        let app = SharedTable::new(tables, app_states::Entity, [App::AppName], App::State, App::UpdateTime);
        let user =
            SharedTable::new(tables, user_states::Entity, [User::AppName, User::UserId], User::State, User::UpdateTime);
        let named = |(table, mut select): (&'static str, SelectStatement)| {
            select.expr_as(Expr::cust(format!("'{table}'")), Alias::new(TABLE)).take()
        };
        let both = named((app.0.name, app.1)).union(UnionType::All, named((user.0.name, user.1))).take();
        Self { app: app.0, user: user.0, both: SqlText::new(&both), max_state_bytes }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let Self { app, user, both, .. } = self;
        let mut texts = vec![
            ("read_app", &app.read),
            ("lock_app", &app.lock),
            ("insert_app", &app.insert_or_ignore),
            ("write_app", &app.write),
            ("read_user", &user.read),
            ("lock_user", &user.lock),
            ("insert_user", &user.insert_or_ignore),
            ("write_user", &user.write),
            ("read_both", both),
        ];
        texts.extend([("lock_free_apps", app.lock_free.sample()), ("lock_free_users", user.lock_free.sample())]);
        for (table, lock, write) in [(app, "lock_apps", "write_apps"), (user, "lock_users", "write_users")] {
            texts.extend(
                table.group.iter().flat_map(|group| [(lock, group.lock.sample()), (write, group.write.sample())]),
            );
        }
        texts
    }

    fn table(&self, row: &SharedKey) -> &SharedTable<D> {
        match row {
            SharedKey::App(_) => &self.app,
            SharedKey::User(_) => &self.user,
        }
    }

    /// Locks those of the rows that no other connection has locked, in lock order, and reads their states.
    pub(super) async fn lock_free(
        &self,
        on: &mut dyn Executor,
        rows: BTreeSet<SharedKey>,
        operation: &str,
    ) -> Result<SharedLocks> {
        let mut locks = SharedLocks::default();
        let (apps, users): (Vec<SharedKey>, Vec<SharedKey>) =
            rows.into_iter().partition(|row| matches!(row, SharedKey::App(_)));
        for (table, rows) in [(&self.app, apps), (&self.user, users)] {
            table.lock_many(&table.lock_free, on, &rows, operation, &mut locks.held).await?;
            for row in rows.into_iter().filter(|row| !locks.held.contains(row)) {
                if table.select(on, &table.read, &row, operation).await?.is_some() {
                    locks.taken.insert(row);
                }
            }
        }
        Ok(locks)
    }

    /// Merges the changes into their rows in lock order, and returns the resulting states. Many rows that exist take few
    /// statements, where the dialect has some for that. The rows of `held` are locked already.
    pub(super) async fn merge(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        mut held: SharedStates,
        operation: &str,
    ) -> Result<SharedStates> {
        let mut states = SharedStates::default();
        let (apps, users): (Vec<SharedChange>, Vec<SharedChange>) =
            changes.into_iter().partition(|change| matches!(change.row, SharedKey::App(_)));
        for (table, changes) in [(&self.app, apps), (&self.user, users)] {
            let is_unknown = |change: &&SharedChange| !change.delta.is_empty() && !held.contains(&change.row);
            let unknown: Vec<SharedKey> = changes.iter().filter(is_unknown).map(|change| change.row.clone()).collect();
            if let (Some(group), [_, _, ..]) = (&table.group, &*unknown) {
                table.lock_many(&group.lock, on, &unknown, operation, &mut held).await?;
            }
            self.merge_table(table, on, changes, &mut held, operation, &mut states).await?;
        }
        Ok(states)
    }

    /// Merges the changes into the rows of a table: those of `held` together, and the others one by one.
    async fn merge_table(
        &self,
        table: &SharedTable<D>,
        on: &mut dyn Executor,
        changes: Vec<SharedChange>,
        held: &mut SharedStates,
        operation: &str,
        states: &mut SharedStates,
    ) -> Result<()> {
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for change in changes {
            match held.take(&change.row).filter(|_| !change.delta.is_empty()) {
                Some(mut state) => {
                    state.merge(change.delta);
                    known.push(KeyedRow {
                        key: key_values(&change.row).collect(),
                        values: [
                            state.to_row(self.max_state_bytes, &change.row)?.into(),
                            D::SCHEMA.timestamp(change.now),
                        ],
                    });
                    states.insert(change.row, state);
                }
                None => others.push(change),
            }
        }
        table.write_many(on, known, operation).await?;
        for change in others {
            let state = table.merge(on, &change, self.max_state_bytes, operation).await?;
            states.insert(change.row, state);
        }
        Ok(())
    }

    /// Reads a state; `None` where there is no row.
    pub(crate) async fn read(&self, on: &mut dyn Executor, row: &SharedKey, operation: &str) -> Result<Option<State>> {
        let table = self.table(row);
        table.select(on, &table.read, row, operation).await
    }

    /// Like [`read`](Self::read), but waits for a transaction that is about to change the row.
    pub(super) async fn read_decided(
        &self,
        on: &mut dyn Executor,
        row: &SharedKey,
        operation: &str,
    ) -> Result<Option<State>> {
        let table = self.table(row);
        table.select(on, &table.lock, row, operation).await
    }

    /// Reads the states of a session's app and user, if both have a row.
    pub(super) async fn read_both(
        &self,
        on: &mut dyn Executor,
        key: &SessionKey,
        operation: &str,
    ) -> Result<Option<(State, State)>> {
        let (app_key, user_key) = (SharedKey::app(key), SharedKey::user(key));
        let rows = on.query_all(self.both.bind(key_values(&app_key).chain(key_values(&user_key)))).await;
        let (mut app, mut user) = (None, None);
        for row in rows.map_err(|error| statement_error::<D>(operation, error))? {
            let table = RowDecoder::<D>::new(TABLE, key).text(&row, TABLE, TABLE)?.to_owned();
            if table == self.app.name {
                app = Some(self.app.decode(&row, &app_key)?);
            } else {
                user = Some(self.user.decode(&row, &user_key)?);
            }
        }
        Ok(app.zip(user))
    }
}

/// The statements on one table of shared state.
struct SharedTable<D> {
    name: &'static str,
    /// How many columns the key has.
    key_columns: usize,
    /// Reads the state, and locks nothing.
    read: SqlText<D>,
    /// Reads the newest state, and locks the row until the transaction ends.
    lock: SqlText<D>,
    /// Creates the row, with an empty state, unless it exists.
    insert_or_ignore: SqlText<D>,
    /// Replaces the state.
    write: SqlText<D>,
    /// Reads the newest states with their keys, and locks the rows, of those that no other connection has locked.
    lock_free: Ladder<D>,
    group: Option<GroupSql<D>>,
}

/// The statements on many rows of a table.
struct GroupSql<D> {
    /// Like `lock_free`, but waits for those that others have locked.
    lock: Ladder<D>,
    /// Replaces the states.
    write: Ladder<D>,
}

impl<D: Dialect> SharedTable<D> {
    /// The table, and the query that reads it.
    fn new<E, C, const N: usize>(
        tables: &Tables,
        table: E,
        key: [C; N],
        state: C,
        update_time: C,
    ) -> (Self, SelectStatement)
    where
        E: EntityTrait,
        C: IntoIden + Copy,
    {
        let read = Query::select()
            .expr_as(D::SCHEMA.read_json(Expr::col(state)), state)
            .from(tables.table(table))
            .and_where(key_predicate::<D, _, N>(key))
            .take();
        let mut insert = Query::insert()
            .into_table(tables.table(table))
            .columns(key.into_iter().chain([state, update_time]))
            .values_panic(
                key.map(|_| placeholder()).into_iter().chain([D::SCHEMA.write_json(placeholder()), placeholder()]),
            )
            .take();
        D::insert_or_ignore(&mut insert, key.map(IntoIden::into_iden).into());
        let write = Query::update()
            .table(tables.table(table))
            .value(state, D::SCHEMA.write_json(placeholder()))
            .value(update_time, placeholder())
            .and_where(key_predicate::<D, _, N>(key))
            .take();
        let lock_many = |rows, behavior: Option<LockBehavior>| {
            let mut select = Query::select().columns(key).expr_as(D::SCHEMA.read_json(Expr::col(state)), state).take();
            select.from(tables.table(table)).and_where(any_of(rows, || key_predicate::<D, _, N>(key)));
            D::look_up_by_primary_key(&mut select);
            SqlText::new(match behavior {
                Some(behavior) => select.lock_with_behavior(LockType::Update, behavior),
                None => select.lock_exclusive(),
            })
        };
        let write_many = |rows| {
            let time = placeholder().cast_as(D::SCHEMA.timestamp_type());
            let columns = [(state, D::SCHEMA.write_json(placeholder())), (update_time, time)];
            update_by_key(tables.table(table), rows, || key_predicate::<D, _, N>(key), columns)
        };
        let table = Self {
            group: D::GROUPS_STATEMENTS
                .then(|| GroupSql { lock: Ladder::new(|rows| lock_many(rows, None)), write: Ladder::new(write_many) }),
            lock_free: Ladder::new(|rows| lock_many(rows, Some(LockBehavior::SkipLocked))),
            key_columns: N,
            name: table.table_name(),
            lock: SqlText::new(read.clone().lock_exclusive()),
            read: SqlText::new(&read),
            insert_or_ignore: SqlText::new(&insert),
            write: SqlText::new(&write),
        };
        (table, read)
    }

    fn decode(&self, row: &QueryResult, key: &SharedKey) -> Result<State> {
        RowDecoder::<D>::new(self.name, key).state(row, "state")
    }

    async fn select(
        &self,
        on: &mut dyn Executor,
        select: &SqlText<D>,
        key: &SharedKey,
        operation: &str,
    ) -> Result<Option<State>> {
        let row = on.query_one(select.bind(key_values(key))).await;
        let row = row.map_err(|error| statement_error::<D>(operation, error))?;
        row.map(|row| self.decode(&row, key)).transpose()
    }

    /// Locks rows with statements of `lock`, and adds the states of those that they return to `states`.
    async fn lock_many(
        &self,
        lock: &Ladder<D>,
        on: &mut dyn Executor,
        keys: &[SharedKey],
        operation: &str,
        states: &mut SharedStates,
    ) -> Result<()> {
        for (text, keys) in lock.padded(keys) {
            let rows = on.query_all(text.bind(keys.iter().flat_map(|key| key_values(key)))).await;
            for row in rows.map_err(|error| statement_error::<D>(operation, error))? {
                let names = (0..self.key_columns).map_while(|index| D::Driver::text(&row, index).ok().flatten());
                let names: Vec<&str> = names.collect();
                if let Some(key) = keys.iter().find(|key| names_of(key) == names) {
                    states.insert((*key).clone(), self.decode(&row, key)?);
                }
            }
        }
        Ok(())
    }

    /// Replaces the states of rows: large ones one by one, and others together, where the dialect has a statement for
    /// that.
    async fn write_many(&self, on: &mut dyn Executor, rows: Vec<KeyedRow<2>>, operation: &str) -> Result<()> {
        let failed = |error| statement_error::<D>(operation, error);
        let (small, others): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| self.group.is_some() && row.bytes() <= MAX_GROUPED_STATE);
        for update in self.group.iter().flat_map(|group| group.write.updates(&small)) {
            on.execute(update).await.map_err(failed)?;
        }
        for KeyedRow { key, values } in others {
            on.execute(self.write.bind(values.into_iter().chain(key))).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Creates the row if it is missing, merges the change into it, and returns its state.
    ///
    /// A row that exists is locked only if it changes. Otherwise a plain read finds it: an insert-or-ignore alone would
    /// queue all creates of an app on MySQL, where its no-op update locks the row. The read may miss a row that was
    /// created meanwhile. The insert-or-ignore then waits for the transaction that creates it, and the locking read
    /// after it sees what was committed, at any isolation level.
    async fn merge(
        &self,
        on: &mut dyn Executor,
        change: &SharedChange,
        max_state_bytes: usize,
        operation: &str,
    ) -> Result<State> {
        let failed = |error| statement_error::<D>(operation, error);
        let SharedChange { row: key, delta, now } = change;
        let select = if delta.is_empty() { &self.read } else { &self.lock };
        let mut found = self.select(on, select, key, operation).await?;
        if found.is_none() {
            let values = key_values(key).chain([Value::from("{}"), D::SCHEMA.timestamp(*now)]);
            on.execute(self.insert_or_ignore.bind(values)).await.map_err(failed)?;
            found = self.select(on, &self.lock, key, operation).await?;
        }
        let Some(mut state) = found else {
            // Somebody deleted the row since: merging into nothing would lose the delta.
            let message = format!("the row of {key} disappeared during {operation}");
            return Err(BackendError::new(BackendErrorKind::Contention, message).into());
        };
        if !delta.is_empty() {
            state.merge(delta.clone());
            let values = [state.to_row(max_state_bytes, key)?.into(), D::SCHEMA.timestamp(*now)];
            on.execute(self.write.bind(values.into_iter().chain(key_values(key)))).await.map_err(failed)?;
        }
        Ok(state)
    }
}

fn key_values(key: &SharedKey) -> impl Iterator<Item = Value> + Clone + use<> {
    let (app_name, user_id) = match key {
        SharedKey::App(app_name) => (app_name, None),
        SharedKey::User(user) => (&user.app_name, Some(Value::from(user.user_id.as_str()))),
    };
    [Value::from(app_name.as_str())].into_iter().chain(user_id)
}

/// The names in a key, in the order of its columns.
fn names_of(key: &SharedKey) -> Vec<&str> {
    match key {
        SharedKey::App(app_name) => vec![app_name.as_str()],
        SharedKey::User(user) => vec![user.app_name.as_str(), user.user_id.as_str()],
    }
}

/// The shared rows of a session's that `delta` changes.
pub(super) fn changed_rows(key: &SessionKey, delta: &ScopedState) -> Vec<SharedKey> {
    let app = (!delta.app.is_empty()).then(|| SharedKey::app(key));
    let user = (!delta.user.is_empty()).then(|| SharedKey::user(key));
    app.into_iter().chain(user).collect()
}
