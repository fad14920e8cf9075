//! `get_session`: one statement, and so one snapshot on every database and isolation level.

use sea_orm::sea_query::{Alias, Expr, ExprTrait, IntoIden, Order, Query, SelectStatement, UnionType};
use sea_orm::{ConnectionTrait, EntityName, EntityTrait, QueryResult, Value};

use super::Dialect;
use super::failure::statement_error;
use super::prepared::{Prepared, slot};
use super::rows::{EventName, RowOf};
use super::service::Inner;
use super::shared_state::Key;
use crate::entity::{app_states, events, sessions, user_states};
use crate::state::ScopedState;
use crate::{Event, GetSession, Result, Revision, Session, SessionKey, State, Timestamp};

const OPERATION: &str = "get_session";

// What the columns of the statement are called; the values of `kind` are the names of the tables.
const KIND: &str = "kind";
const ID: &str = "id";
const CREATED: &str = "created";
const UPDATED: &str = "updated";
const BODY: &str = "body";

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
        let recent = Query::select()
            .columns([KIND, ID, CREATED, UPDATED, BODY].map(Alias::new))
            .from_subquery(recent, Alias::new("recent"))
            .take();
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
        .expr_as(Expr::cust(format!("'{}'", table.table_name())), Alias::new(KIND))
        .expr_as(Expr::col(id), Alias::new(ID))
        .expr_as(Expr::col(created), Alias::new(CREATED))
        .expr_as(Expr::col(updated), Alias::new(UPDATED))
        .expr_as(D::read_json(Expr::col(body)), Alias::new(BODY))
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
    let rows = inner.connection.query_all_raw(statement).await;
    read(key, &rows.map_err(|error| statement_error::<D>(OPERATION, error))?)
}

/// Puts the session together out of rows that come in any order.
fn read(key: &SessionKey, rows: &[QueryResult]) -> Result<Option<Session>> {
    let session_row = RowOf::new(sessions::Entity.table_name(), key);
    let mut session = None;
    let (mut app, mut user) = (State::new(), State::new());
    let mut events: Vec<(Timestamp, String, &QueryResult)> = Vec::new();
    for row in rows {
        let kind: String = session_row.get(row, KIND, KIND)?;
        if kind == sessions::Entity.table_name() {
            session = Some(row);
        } else if kind == app_states::Entity.table_name() {
            app = RowOf::new(app_states::Entity.table_name(), &Key::App(&key.app_name)).state(row, BODY)?;
        } else if kind == user_states::Entity.table_name() {
            let user_key = Key::User(&key.app_name, &key.user_id);
            user = RowOf::new(user_states::Entity.table_name(), &user_key).state(row, BODY)?;
        } else {
            let stored = RowOf::new(events::Entity.table_name(), key);
            events.push((stored.timestamp(row, CREATED, "timestamp")?, stored.get(row, ID, "id")?, row));
        }
    }
    let Some(row) = session else { return Ok(None) };
    events.sort_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
    let scoped = ScopedState { app, user, session: session_row.state(row, BODY)? };
    Ok(Some(Session {
        key: key.clone(),
        state: scoped.merged(),
        events: events.into_iter().map(|(_, id, row)| event(key, &id, row, BODY)).collect::<Result<_>>()?,
        create_time: session_row.timestamp(row, CREATED, "create_time")?,
        revision: Revision::new(session_row.timestamp(row, UPDATED, "update_time")?),
    }))
}

/// The event of a row, or an error that names it.
pub(super) fn event(key: &SessionKey, id: &str, row: &QueryResult, alias: &str) -> Result<Event> {
    RowOf::new(events::Entity.table_name(), &EventName { id, session: key }).event(row, alias, id)
}
