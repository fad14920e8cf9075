//! App and user state: rows that many sessions share.
//!
//! The two tables differ in their name and in one key column. The algorithm is written once, over [`SharedTable`].

use std::collections::HashMap;

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, IntoIden, Query, SelectStatement, UnionType};
use sea_orm::{EntityTrait, QueryResult, Value};

use crate::entity::{app_states, user_states};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{Ladder, SqlText, any_of, key_predicate, placeholder, update_by_key};
use crate::sql::tables::Tables;
use crate::sql::write::{SharedChange, SharedChanges, SharedKey, SharedStates};
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

    /// Merges the changes into their rows in lock order, and returns the resulting states. Many rows that exist take few
    /// statements, where the dialect has some for that.
    pub(super) async fn merge(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        operation: &str,
    ) -> Result<SharedStates> {
        let mut states = SharedStates::default();
        let (apps, users): (Vec<SharedChange>, Vec<SharedChange>) =
            changes.into_iter().partition(|change| matches!(change.row, SharedKey::App(_)));
        for (table, changes) in [(&self.app, apps), (&self.user, users)] {
            let rest = match &table.group {
                Some(group) if changes.len() > 1 => {
                    group.merge(table, on, changes, self.max_state_bytes, operation, &mut states).await?
                }
                _ => changes,
            };
            self.merge_each(on, rest, operation, &mut states).await?;
        }
        Ok(states)
    }

    /// Merges the changes into their rows one by one.
    async fn merge_each(
        &self,
        on: &mut dyn Executor,
        changes: Vec<SharedChange>,
        operation: &str,
        states: &mut SharedStates,
    ) -> Result<()> {
        for change in changes {
            let state = self.table(&change.row).merge(on, &change, self.max_state_bytes, operation).await?;
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
    group: Option<GroupSql<D>>,
}

/// The statements on many rows of a table.
struct GroupSql<D> {
    /// Reads the newest states with their keys, and locks the rows.
    lock: Ladder<D>,
    /// Replaces the states.
    write: Ladder<D>,
}

impl<D: Dialect> GroupSql<D> {
    /// Merges changes into the rows that exist, and returns the other changes, and those that change nothing.
    async fn merge(
        &self,
        table: &SharedTable<D>,
        on: &mut dyn Executor,
        changes: Vec<SharedChange>,
        max_state_bytes: usize,
        operation: &str,
        states: &mut SharedStates,
    ) -> Result<Vec<SharedChange>> {
        let failed = |error| statement_error::<D>(operation, error);
        let (changes, mut rest): (Vec<SharedChange>, Vec<SharedChange>) =
            changes.into_iter().partition(|change| !change.delta.is_empty());
        let mut found: HashMap<Vec<String>, QueryResult> = HashMap::new();
        for (text, changes) in self.lock.padded(&changes) {
            let keys = changes.into_iter().flat_map(|change| key_values(&change.row));
            for row in on.query_all(text.bind(keys)).await.map_err(failed)? {
                let names = (0..table.key_columns).map_while(|index| D::Driver::text(&row, index).ok().flatten());
                found.insert(names.map(str::to_owned).collect(), row);
            }
        }
        let mut written = Vec::new();
        for change in changes {
            let Some(row) = found.get(&names(&change.row)) else {
                rest.push(change);
                continue;
            };
            let mut state = table.decode(row, &change.row)?;
            state.merge(change.delta);
            let values = [state.to_row(max_state_bytes, &change.row)?.into(), D::SCHEMA.timestamp(change.now)];
            written.push((change.row.clone(), values));
            states.insert(change.row, state);
        }
        // A state may be large, so none is sent twice.
        for (text, rows) in self.write.chunks(&written) {
            let rows = rows.iter().map(|(key, values)| (key_values(key), values.clone()));
            on.execute(text.bind_by_key(rows)).await.map_err(failed)?;
        }
        Ok(rest)
    }
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
        let lock_many = |rows| {
            let mut select = Query::select().columns(key).expr_as(D::SCHEMA.read_json(Expr::col(state)), state).take();
            select.from(tables.table(table)).and_where(any_of(rows, || key_predicate::<D, _, N>(key)));
            D::look_up_by_primary_key(&mut select);
            SqlText::new(select.lock_exclusive())
        };
        let write_many = |rows| {
            let time = placeholder().cast_as(D::SCHEMA.timestamp_type());
            let columns = [(state, D::SCHEMA.write_json(placeholder())), (update_time, time)];
            update_by_key(tables.table(table), rows, || key_predicate::<D, _, N>(key), columns)
        };
        let table = Self {
            group: D::GROUPS_STATEMENTS
                .then(|| GroupSql { lock: Ladder::new(lock_many), write: Ladder::new(write_many) }),
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
fn names(key: &SharedKey) -> Vec<String> {
    match key {
        SharedKey::App(app_name) => vec![app_name.as_str().to_owned()],
        SharedKey::User(user) => vec![user.app_name.as_str().to_owned(), user.user_id.as_str().to_owned()],
    }
}

/// The shared rows of a session's that `delta` changes.
pub(super) fn changed_rows(key: &SessionKey, delta: &ScopedState) -> Vec<SharedKey> {
    let app = (!delta.app.is_empty()).then(|| SharedKey::app(key));
    let user = (!delta.user.is_empty()).then(|| SharedKey::user(key));
    app.into_iter().chain(user).collect()
}
