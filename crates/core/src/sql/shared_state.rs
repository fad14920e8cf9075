//! App and user state: rows that many sessions share.
//!
//! The two tables differ in their name and in one key column; the algorithm is written once, over [`Table`].

use std::collections::BTreeMap;
use std::fmt;

use sea_orm::sea_query::{Alias, Expr, ExprTrait, IntoIden, Query, SelectStatement, UnionType};
use sea_orm::{EntityTrait, Value};

use super::Dialect;
use super::failure::statement_error;
use super::prepared::{Prepared, slot};
use super::rows::RowOf;
use super::service::Inner;
use super::transaction::InTransaction;
use crate::entity::{app_states, user_states};
use crate::state::ScopedState;
use crate::{AppName, BackendError, BackendErrorKind, Json, Result, SessionKey, State, Timestamp, UserId, UserKey};

/// What the column is called that tells the rows of two tables apart.
const TABLE: &str = "table_name";

pub(in crate::sql) struct Statements<D> {
    app: Table<D>,
    user: Table<D>,
    /// Reads the states of an app and of one of its users, with the names of their tables.
    both: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        use {app_states::Column as App, user_states::Column as User};
        let app = Table::new(app_states::Entity, &[App::AppName], App::State, App::UpdateTime);
        let user = Table::new(user_states::Entity, &[User::AppName, User::UserId], User::State, User::UpdateTime);
        let named = |table: &Table<D>, mut select: SelectStatement| {
            select.expr_as(Expr::cust(format!("'{}'", table.name)), Alias::new(TABLE)).take()
        };
        let both = named(&app.0, app.1).union(UnionType::All, named(&user.0, user.1)).take();
        Self { app: app.0, user: user.0, both: Prepared::new(&both) }
    }
}

/// The states of a session's app and user, if both have a row.
pub(super) async fn existing<D: Dialect>(
    inner: &Inner<D>,
    key: &SessionKey,
    operation: &str,
) -> Result<Option<(State, State)>> {
    let tables = &inner.shared_state;
    let (app_key, user_key) = (Key::app(key), Key::user(key));
    let rows = inner.query_all(tables.both.bind(app_key.values().chain(user_key.values()))).await;
    let (mut app, mut user) = (None, None);
    for row in rows.map_err(|error| statement_error::<D>(operation, error))? {
        if RowOf::<D>::new(tables.app.name, &app_key).text(&row, TABLE, TABLE)? == tables.app.name {
            app = Some(RowOf::<D>::new(tables.app.name, &app_key).state(&row, "state")?);
        } else {
            user = Some(RowOf::<D>::new(tables.user.name, &user_key).state(&row, "state")?);
        }
    }
    Ok(app.zip(user))
}

/// The statements on one table of shared state.
pub(super) struct Table<D> {
    name: &'static str,
    /// Reads the state, and locks nothing.
    read: Prepared<D>,
    /// Reads the newest state, and locks the row until the transaction ends.
    lock: Prepared<D>,
    /// Makes the row, without keys, unless it exists.
    insert_or_ignore: Prepared<D>,
    /// Replaces the state.
    write: Prepared<D>,
}

impl<D: Dialect> Table<D> {
    /// The table, and its read as sea-query's.
    fn new<E, C>(table: E, key: &[C], state: C, update_time: C) -> (Self, SelectStatement)
    where
        E: EntityTrait,
        C: IntoIden + Copy,
    {
        let by_key = || key.iter().fold(Expr::cust("1 = 1"), |all, column| all.and(Expr::col(*column).eq(slot())));
        let read =
            Query::select().expr_as(D::read_json(Expr::col(state)), state).from(table).and_where(by_key()).take();
        let mut insert = Query::insert()
            .into_table(table)
            .columns(key.iter().copied().chain([state, update_time]))
            .values_panic(key.iter().map(|_| slot()).chain([D::write_json(slot()), slot()]))
            .take();
        D::insert_or_ignore(&mut insert, key.iter().map(|column| column.into_iden()).collect());
        let write = Query::update()
            .table(table)
            .value(state, D::write_json(slot()))
            .value(update_time, slot())
            .and_where(by_key())
            .take();
        let table = Self {
            name: table.table_name(),
            lock: Prepared::new(read.clone().lock_exclusive()),
            read: Prepared::new(&read),
            insert_or_ignore: Prepared::new(&insert),
            write: Prepared::new(&write),
        };
        (table, read)
    }

    /// The state of the row, if there is one.
    async fn state(
        &self,
        transaction: &mut impl InTransaction,
        select: &Prepared<D>,
        key: &Key<'_>,
        operation: &str,
    ) -> Result<Option<State>> {
        let row = transaction.query_one(select.bind(key.values())).await;
        match row.map_err(|error| statement_error::<D>(operation, error))? {
            Some(row) => RowOf::<D>::new(self.name, key).state(&row, "state").map(Some),
            None => Ok(None),
        }
    }

    /// Makes the row where it is missing, merges `delta` into it, and returns its state.
    ///
    /// A row that exists is locked only to change it, and else found by a look that locks nothing: an insert-or-ignore
    /// alone would queue all creates of an app on MySQL, where its no-op update locks the row. The look may miss a row
    /// that was made meanwhile; the insert-or-ignore then waits for its maker, and the locking read after it sees what
    /// was committed, whatever the isolation level.
    async fn merge(
        &self,
        transaction: &mut impl InTransaction,
        key: &Key<'_>,
        delta: &State,
        now: Timestamp,
        operation: &str,
    ) -> Result<State> {
        let failed = |error| statement_error::<D>(operation, error);
        let look = if delta.is_empty() { &self.read } else { &self.lock };
        let mut found = self.state(transaction, look, key, operation).await?;
        if found.is_none() {
            let values = key.values().chain([Value::from("{}"), D::timestamp(now)]);
            transaction.execute(self.insert_or_ignore.bind(values)).await.map_err(failed)?;
            found = self.state(transaction, &self.lock, key, operation).await?;
        }
        let Some(mut state) = found else {
            // Somebody deleted the row since: merging into nothing would lose the delta.
            let message = format!("the row of {key} disappeared during {operation}");
            return Err(BackendError::new(BackendErrorKind::Contention, message).into());
        };
        if !delta.is_empty() {
            state.merge(delta.clone());
            let values = [json_value(&state)?, D::timestamp(now)];
            transaction.execute(self.write.bind(values.into_iter().chain(key.values()))).await.map_err(failed)?;
        }
        Ok(state)
    }
}

/// What writes that are committed together do to shared rows: one change a row, in the order in which rows are locked.
#[derive(Default)]
pub(super) struct Deltas<'a>(BTreeMap<Key<'a>, (State, Timestamp)>);

/// Which rows a write touches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// Those of its app and its user: they must exist.
    Both,
    /// Those that it changes.
    Changed,
}

impl<'a> Deltas<'a> {
    /// Adds what a write to session `key` at `now` does.
    pub(super) fn add(&mut self, key: &'a SessionKey, delta: &ScopedState, now: Timestamp, touch: Touch) {
        for (row, delta) in [(Key::app(key), &delta.app), (Key::user(key), &delta.user)] {
            if touch == Touch::Both || !delta.is_empty() {
                let (state, time) = self.0.entry(row).or_insert_with(|| (State::new(), now));
                state.merge(delta.clone());
                *time = now.max(*time);
            }
        }
    }

    /// Merges the changes into the rows, and returns the states they have then.
    pub(super) async fn merge<D: Dialect>(
        self,
        tables: &Statements<D>,
        transaction: &mut impl InTransaction,
        operation: &str,
    ) -> Result<BTreeMap<Key<'a>, State>> {
        let mut states = BTreeMap::new();
        for (key, (delta, now)) in self.0 {
            let table = match key {
                Key::App(_) => &tables.app,
                Key::User(..) => &tables.user,
            };
            states.insert(key, table.merge(transaction, &key, &delta, now, operation).await?);
        }
        Ok(states)
    }
}

/// The key of a row of shared state. They sort in the order in which rows are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    App(&'a AppName),
    User(&'a AppName, &'a UserId),
}

impl<'a> Key<'a> {
    /// The row of a session's app.
    pub(super) fn app(session: &'a SessionKey) -> Self {
        Self::App(&session.app_name)
    }

    /// The row of a session's user.
    pub(super) fn user(session: &'a SessionKey) -> Self {
        Self::User(&session.app_name, &session.user_id)
    }

    fn values(&self) -> impl Iterator<Item = Value> + use<> {
        let (app_name, user_id) = match self {
            Self::App(app_name) => (app_name, None),
            Self::User(app_name, user_id) => (app_name, Some(user_id.as_str())),
        };
        [Some(app_name.as_str()), user_id].into_iter().flatten().map(Value::from).collect::<Vec<_>>().into_iter()
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app_name) => write!(f, "app {:?}", app_name.as_str()),
            Self::User(app_name, user_id) => {
                write!(f, "user {:?} of app {:?}", user_id.as_str(), app_name.as_str())
            }
        }
    }
}

/// A state as the value of a JSON column.
pub(super) fn json_value(state: &State) -> Result<Value> {
    let json = Json::from_serialize(state).map_err(|error| crate::Error::invalid("state", error.to_string()))?;
    Ok(json.as_str().into())
}

/// The state as it is now, empty where there is no row.
async fn current<D: Dialect>(inner: &Inner<D>, table: &Table<D>, key: &Key<'_>, operation: &str) -> Result<State> {
    let rows = inner.query_all(table.read.bind(key.values())).await;
    match rows.map_err(|error| statement_error::<D>(operation, error))?.first() {
        Some(row) => RowOf::<D>::new(table.name, key).state(row, "state"),
        None => Ok(State::new()),
    }
}

pub(super) async fn get_app_state<D: Dialect>(inner: &Inner<D>, app_name: &AppName) -> Result<State> {
    current(inner, &inner.shared_state.app, &Key::App(app_name), "get_app_state").await
}

pub(super) async fn get_user_state<D: Dialect>(inner: &Inner<D>, key: &UserKey) -> Result<State> {
    let key = Key::User(&key.app_name, &key.user_id);
    current(inner, &inner.shared_state.user, &key, "get_user_state").await
}
