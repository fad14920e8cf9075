//! `get_session`: one statement, and so one snapshot on every database and isolation level.

use std::marker::PhantomData;

use sea_orm::sea_query::{Alias, Expr, ExprTrait, IntoIden, Order, Query, SelectStatement, UnionType};
use sea_orm::{ColIdx, EntityName, EntityTrait, QueryResult, Value};

use super::Dialect;
use super::failure::statement_error;
use super::prepared::{Prepared, slot};
use super::rows::{EventName, RowOf};
use super::service::Inner;
use super::shared_state::Key;
use crate::entity::{app_states, events, sessions, user_states};
use crate::state::ScopedState;
use crate::{Error, Event, GetSession, Result, Revision, Session, SessionKey, State, Timestamp};

const OPERATION: &str = "get_session";

/// The columns of the statement, in order; the values of `kind` are the names of the tables.
const COLUMNS: [&str; 5] = ["kind", "id", "created", "updated", "body"];
const KIND: usize = 0;
const ID: usize = 1;
const CREATED: usize = 2;
const UPDATED: usize = 3;
const BODY: usize = 4;

pub(in crate::sql) struct Statements<D> {
    all_events: Prepared<D>,
    recent_events: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        use {app_states::Column as App, events::Column as Event};
        use {sessions::Column as Session, user_states::Column as User};
        let app = part::<D, _, _>(app_states::Entity, [App::AppName, App::UpdateTime, App::UpdateTime, App::State])
            .and_where(Expr::col(App::AppName).eq(slot()))
            .take();
        let user =
            part::<D, _, _>(user_states::Entity, [User::UserId, User::UpdateTime, User::UpdateTime, User::State])
                .and_where(Expr::col(User::AppName).eq(slot()))
                .and_where(Expr::col(User::UserId).eq(slot()))
                .take();
        let session_columns = [Session::Id, Session::CreateTime, Session::UpdateTime, Session::State];
        let mut events =
            part::<D, _, _>(events::Entity, [Event::Id, Event::Timestamp, Event::Timestamp, Event::EventData]);
        events.and_where(event_key_condition()).and_where(Expr::col(Event::Timestamp).gte(slot()));
        // A part of a union may only sort and cut off its rows inside a subquery.
        let recent =
            events.clone().order_by(Event::Timestamp, Order::Desc).order_by(Event::Id, Order::Desc).limit(0).take();
        let recent =
            Query::select().columns(COLUMNS.map(Alias::new)).from_subquery(recent, Alias::new("recent")).take();
        let with_events = |events| {
            part::<D, _, _>(sessions::Entity, session_columns)
                .and_where(session_key_condition())
                .union(UnionType::All, app.clone())
                .union(UnionType::All, user.clone())
                .union(UnionType::All, events)
                .take()
        };
        Self { all_events: Prepared::new(&with_events(events)), recent_events: Prepared::new(&with_events(recent)) }
    }
}

/// The rows of one table in the shape they share: id, two times, and JSON text.
fn part<D: Dialect, E: EntityTrait, C: IntoIden + Copy>(
    table: E,
    [id, created, updated, body]: [C; 4],
) -> SelectStatement {
    Query::select()
        .expr_as(Expr::cust(format!("'{}'", table.table_name())), COLUMNS[KIND])
        .expr_as(Expr::col(id), COLUMNS[ID])
        .expr_as(Expr::col(created), COLUMNS[CREATED])
        .expr_as(Expr::col(updated), COLUMNS[UPDATED])
        .expr_as(D::read_json(Expr::col(body)), COLUMNS[BODY])
        .from(table)
        .take()
}

/// The condition on a row of `sessions` whose slots take [`session_key_values`].
pub(super) fn session_key_condition() -> Expr {
    use sessions::Column;
    key_condition([Column::AppName, Column::UserId, Column::Id])
}

/// The condition on rows of `events` whose slots take [`session_key_values`].
pub(super) fn event_key_condition() -> Expr {
    use events::Column;
    key_condition([Column::AppName, Column::UserId, Column::SessionId])
}

fn key_condition<C: IntoIden>([app_name, user_id, session_id]: [C; 3]) -> Expr {
    Expr::col(app_name).eq(slot()).and(Expr::col(user_id).eq(slot())).and(Expr::col(session_id).eq(slot()))
}

pub(super) fn session_key_values(key: &SessionKey) -> std::array::IntoIter<Value, 3> {
    [Value::from(key.app_name.as_str()), key.user_id.as_str().into(), key.session_id.as_str().into()].into_iter()
}

pub(super) async fn get_session<D: Dialect>(inner: &Inner<D>, request: &GetSession) -> Result<Option<Session>> {
    let key = &request.key;
    let (app_name, user_id) = (Value::from(key.app_name.as_str()), Value::from(key.user_id.as_str()));
    let after = request.after_timestamp.unwrap_or(Timestamp::clamped(i64::MIN));
    let values = session_key_values(key)
        .chain([app_name.clone(), app_name, user_id])
        .chain(session_key_values(key))
        .chain([D::timestamp(after)]);
    let statement = match request.num_recent_events {
        None => inner.get.all_events.bind(values),
        Some(count) => inner.get.recent_events.bind(values.chain([Value::from(i64::from(count))])),
    };
    let mut rows = Rows::<D>::new(key);
    let read = inner.query(statement, |row| rows.add(&row)).await;
    read.map_err(|error| statement_error::<D>(OPERATION, error))?;
    rows.into_session()
}

/// When a session was created, or `None` when there is none.
pub(super) async fn create_time<D: Dialect>(inner: &Inner<D>, key: &SessionKey) -> Result<Option<Timestamp>> {
    let request = GetSession::new(key.clone()).with_num_recent_events(0);
    Ok(get_session(inner, &request).await?.map(|session| session.create_time))
}

/// Puts a session together out of rows that come in any order, while they come.
struct Rows<'a, D> {
    key: &'a SessionKey,
    dialect: PhantomData<fn() -> D>,
    app: State,
    user: State,
    /// State, creation and revision.
    session: Option<(State, Timestamp, Revision)>,
    /// Under their stored times.
    events: Vec<(Timestamp, Event)>,
    /// The first row that cannot be decoded.
    corrupt: Option<Error>,
}

impl<'a, D: Dialect> Rows<'a, D> {
    fn new(key: &'a SessionKey) -> Self {
        Self {
            key,
            dialect: PhantomData,
            app: State::new(),
            user: State::new(),
            session: None,
            events: Vec::new(),
            corrupt: None,
        }
    }

    fn add(&mut self, row: &QueryResult) {
        if let Err(error) = self.read(row) {
            self.corrupt.get_or_insert(error);
        }
    }

    fn read(&mut self, row: &QueryResult) -> Result<()> {
        let key = self.key;
        let stored = RowOf::<D>::new(sessions::Entity.table_name(), key);
        let kind = stored.text(row, KIND, COLUMNS[KIND])?;
        if kind == events::Entity.table_name() {
            let event = RowOf::<D>::new(events::Entity.table_name(), key);
            let time = event.timestamp(row, CREATED, "timestamp")?;
            self.events.push((time, read_event::<D>(key, event.text(row, ID, "id")?, row, BODY)?));
        } else if kind == sessions::Entity.table_name() {
            let revision = Revision::new(stored.timestamp(row, UPDATED, "update_time")?);
            self.session = Some((stored.state(row, BODY)?, stored.timestamp(row, CREATED, "create_time")?, revision));
        } else if kind == app_states::Entity.table_name() {
            self.app = RowOf::<D>::new(app_states::Entity.table_name(), &Key::app(key)).state(row, BODY)?;
        } else {
            self.user = RowOf::<D>::new(user_states::Entity.table_name(), &Key::user(key)).state(row, BODY)?;
        }
        Ok(())
    }

    fn into_session(mut self) -> Result<Option<Session>> {
        if let Some(error) = self.corrupt {
            return Err(error);
        }
        let Some((session, create_time, revision)) = self.session else { return Ok(None) };
        self.events
            .sort_by(|(left_time, left), (right_time, right)| (left_time, &left.id).cmp(&(right_time, &right.id)));
        Ok(Some(Session {
            key: self.key.clone(),
            state: ScopedState { app: self.app, user: self.user, session }.merged(),
            events: self.events.into_iter().map(|(_, event)| event).collect(),
            create_time,
            revision,
        }))
    }
}

/// The event of a row, or an error that names it.
pub(super) fn read_event<D: Dialect>(
    key: &SessionKey,
    id: &str,
    row: &QueryResult,
    index: impl ColIdx,
) -> Result<Event> {
    let name = EventName { id, session: key };
    let event = RowOf::<D>::new(events::Entity.table_name(), &name).event(row, index)?;
    Ok(if event.id == id { event } else { event.with_id(id) })
}
