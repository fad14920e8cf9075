//! `list_sessions` and `list_events`: a page is one statement, starting after the key of the previous page's last row.

use sea_orm::sea_query::{
    Alias, Asterisk, Expr, ExprTrait, Func, IntoColumnRef, OverStatement as _, Query, SelectStatement, WindowStatement,
};
use sea_orm::{QueryResult, Value};

use super::page::{PageRow, PageRows, PageStates};
use crate::entity::{app_states, events, sessions, user_states};
use crate::sql::decode::{EventName, RowDecoder, decode_event};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{is_not_being_deleted, name};
use crate::sql::tables::Tables;
use crate::{
    AppName, Error, Event, EventCursor, ListEvents, ListSessions, Order, Page, Result, Revision, Session,
    SessionCursor, SessionId, SessionKey, SessionScope, Timestamp, UserId,
};

/// The columns of a listed session, by their places.
pub(super) const USER_ID: usize = 0;
const ID: usize = 1;
pub(super) const CREATE_TIME: usize = 2;
const UPDATE_TIME: usize = 3;
pub(super) const STATE: usize = 4;
pub(super) const USER_STATE: usize = 5;
pub(super) const APP_STATE: usize = 6;

fn direction(order: Order) -> sea_orm::Order {
    match order {
        Order::Ascending => sea_orm::Order::Asc,
        Order::Descending => sea_orm::Order::Desc,
    }
}

/// Sorts by `columns`, a time and then names, the first of them most significant, and starts after `cursor`.
fn keyset<D: Dialect, C: IntoColumnRef + Clone>(
    select: &mut SelectStatement,
    order: Order,
    columns: &[C],
    cursor: Option<Vec<Value>>,
) {
    for column in columns {
        select.order_by(column.clone(), direction(order));
    }
    let Some(cursor) = cursor else { return };
    // The condition below implies this one, but MySQL begins a range of the index only with it, and otherwise reads all
    // rows for each page.
    if let [column, ..] = columns
        && let [first, ..] = &*cursor
    {
        let column = Expr::col(column.clone());
        select.and_where(match order {
            Order::Ascending => column.gte(first.clone()),
            Order::Descending => column.lte(first.clone()),
        });
    }
    // (a, b) > (x, y) is a > x OR (a = x AND b > y); the row comparison itself keeps MySQL from using the index.
    let places = columns.iter().enumerate().zip(cursor).rev();
    let behind = places.fold(None, |less_significant: Option<Expr>, ((place, column), value)| {
        let column = || if place == 0 { Expr::col(column.clone()) } else { name::<D>(column.clone()) };
        let beyond = match order {
            Order::Ascending => column().gt(value.clone()),
            Order::Descending => column().lt(value.clone()),
        };
        Some(match less_significant {
            Some(rest) => beyond.or(column().eq(value).and(rest)),
            None => beyond,
        })
    });
    select.and_where_option(behind);
}

/// The app of a scope.
pub(super) fn app_of(scope: &SessionScope) -> &AppName {
    match scope {
        SessionScope::App(app_name) => app_name,
        SessionScope::User(user) => &user.app_name,
    }
}

/// Selects from the sessions of an app or a user that are not being deleted; no columns yet.
pub(super) fn of_scope<D: Dialect>(tables: &Tables, scope: &SessionScope) -> SelectStatement {
    let create_time = (sessions::Entity, sessions::Column::CreateTime);
    all_of_scope::<D>(tables, scope).and_where(is_not_being_deleted(create_time)).take()
}

/// Selects from the sessions of an app or a user, also from those of which a delete has left something.
pub(super) fn all_of_scope<D: Dialect>(tables: &Tables, scope: &SessionScope) -> SelectStatement {
    use sessions::Column;
    let user_id = match scope {
        SessionScope::App(_) => None,
        SessionScope::User(user) => Some(&user.user_id),
    };
    let named = |column: Column| name::<D>((sessions::Entity, column));
    Query::select()
        .from(tables.aliased(sessions::Entity))
        .and_where(named(Column::AppName).eq(app_of(scope).as_str()))
        .and_where_option(user_id.map(|user_id| named(Column::UserId).eq(user_id.as_str())))
        .take()
}

/// The columns that sessions are sorted by, the most significant one first.
const SORTED_BY: [sessions::Column; 3] = [sessions::Column::UpdateTime, sessions::Column::UserId, sessions::Column::Id];

/// Completes `page`, which selects sessions with their states, with the states of their app and their users, and with
/// `more` of its own columns. A state that several sessions show comes with the first of them: it may be large, and the
/// page long.
pub(super) fn with_states<D: Dialect>(
    mut page: SelectStatement,
    tables: &Tables,
    app_name: &AppName,
    order: Order,
    more: &[&'static str],
) -> SelectStatement {
    use {app_states::Column as App, sessions::Column, user_states::Column as User};
    const PAGE: &str = "page";
    // The number of a session among all of the page, and among those of its user.
    const OF_APP: &str = "of_app";
    const OF_USER: &str = "of_user";
    page.column((sessions::Entity, Column::State));
    let (mut of_app, mut of_user) = (WindowStatement::new(), WindowStatement::new());
    of_user.add_partition_by(name::<D>(Column::UserId));
    for column in SORTED_BY {
        of_app.order_by(column, direction(order));
        of_user.order_by(column, direction(order));
    }
    let row_number = || Func::cust("ROW_NUMBER");
    let numbered = Query::select()
        .column(Asterisk)
        .expr_window_as(row_number(), of_app, OF_APP)
        .expr_window_as(row_number(), of_user, OF_USER)
        .from_subquery(page, PAGE)
        .take();
    let is_first = |number: &'static str| Expr::col((PAGE, number)).eq(Expr::cust("1"));
    let json = |column: Expr, alias: &'static str| (D::SCHEMA.read_json(column), Alias::new(alias));
    let mut select = Query::select();
    select.columns([Column::UserId, Column::Id, Column::CreateTime, Column::UpdateTime].map(|column| (PAGE, column)));
    for (state, alias) in [
        json(Expr::col((PAGE, Column::State)), "state"),
        json(Expr::col((user_states::Entity, User::State)), "user_state"),
        json(Expr::col((app_states::Entity, App::State)), "app_state"),
    ] {
        select.expr_as(state, alias);
    }
    select
        .columns(more.iter().map(|column| (PAGE, *column)))
        .from_subquery(numbered, PAGE)
        .left_join(
            tables.aliased(user_states::Entity),
            is_first(OF_USER)
                .and(name::<D>((user_states::Entity, User::AppName)).eq(app_name.as_str()))
                .and(name::<D>((user_states::Entity, User::UserId)).eq(name::<D>((PAGE, Column::UserId)))),
        )
        .left_join(
            tables.aliased(app_states::Entity),
            is_first(OF_APP).and(name::<D>((app_states::Entity, App::AppName)).eq(app_name.as_str())),
        );
    for column in SORTED_BY {
        select.order_by((PAGE, column), direction(order));
    }
    select
}

/// Sorts sessions by last update, and starts after `cursor`.
pub(super) fn sort_sessions<D: Dialect>(select: &mut SelectStatement, order: Order, cursor: Option<&SessionCursor>) {
    let cursor = cursor.map(|cursor| {
        vec![D::SCHEMA.timestamp(cursor.update_time), cursor.user_id.as_str().into(), cursor.session_id.as_str().into()]
    });
    keyset::<D, _>(select, order, &SORTED_BY.map(|column| (sessions::Entity, column)), cursor);
}

/// The query for a page of sessions, and one row more.
fn select_sessions<D: Dialect>(tables: &Tables, request: &ListSessions) -> SelectStatement {
    use sessions::Column;
    let mut select = of_scope::<D>(tables, &request.scope);
    select
        .columns([Column::UserId, Column::Id, Column::CreateTime, Column::UpdateTime].map(|c| (sessions::Entity, c)))
        .limit(u64::from(request.limit) + 1);
    sort_sessions::<D>(&mut select, request.order, request.cursor.as_ref());
    with_states::<D>(select, tables, app_of(&request.scope), request.order, &[])
}

pub(crate) async fn list_sessions<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    request: &ListSessions,
) -> Result<Page<Session, SessionCursor>> {
    let app_name = app_of(&request.scope);
    let mut states = PageStates::<D>::new();
    let decode = |row: &QueryResult| {
        let kept = states.keep(app_name, row);
        Some(match session_cursor::<D>(app_name, row) {
            Ok(cursor) => {
                let item = decode_session::<D>(app_name, cursor.clone(), row, &states);
                let bytes = kept + item.as_ref().map_or(0, |session| session.state.memory());
                PageRow { after: Some(cursor), item, bytes }
            }
            Err(error) => PageRow { after: None, item: Err(error), bytes: kept },
        })
    };
    let statement = D::BACKEND.build(&select_sessions::<D>(tables, request));
    let page = PageRows::read(on, statement, decode).await;
    let page = page.map_err(|error| statement_error::<D>("list_sessions", error))?;
    let limit = page.limit(request.limit);
    Page::from_rows(page.rows, limit)
}

/// The place of a session in the listing.
pub(super) fn session_cursor<D: Dialect>(app_name: &AppName, row: &QueryResult) -> Result<SessionCursor> {
    let any = RowDecoder::<D>::new("sessions", app_name);
    let user_id = UserId::from_row(any.text(row, USER_ID, "user_id")?.to_owned());
    let session_id = SessionId::from_row(any.text(row, ID, "id")?.to_owned());
    let key = SessionKey::new(app_name.clone(), user_id, session_id);
    let update_time = RowDecoder::<D>::new("sessions", &key).timestamp(row, UPDATE_TIME, "update_time")?;
    Ok(SessionCursor::new(update_time, key.user_id, key.session_id))
}

fn decode_session<D: Dialect>(
    app_name: &AppName,
    cursor: SessionCursor,
    row: &QueryResult,
    states: &PageStates<D>,
) -> Result<Session> {
    let SessionCursor { update_time, user_id, session_id } = cursor;
    let key = SessionKey::new(app_name.clone(), user_id, session_id);
    let state = states.merged(&key, row)?;
    let create_time = RowDecoder::<D>::new("sessions", &key).timestamp(row, CREATE_TIME, "create_time")?;
    let revision = Revision::new(create_time, update_time);
    Ok(Session { state, revision, ..Session::new(key, create_time) })
}

/// The query for a page of events, and one row more. It is joined to the session, so that a session without events
/// differs from one that does not exist, in the same snapshot.
fn select_events<D: Dialect>(tables: &Tables, request: &ListEvents) -> SelectStatement {
    use {events::Column, sessions::Column as SessionColumn};
    let key = &request.key;
    let page = Alias::new("page");
    let mut rows_of_page = Query::select();
    rows_of_page
        .columns([Column::Id, Column::Timestamp])
        .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
        .from(tables.table(events::Entity))
        .and_where(name::<D>(Column::AppName).eq(key.app_name.as_str()))
        .and_where(name::<D>(Column::UserId).eq(key.user_id.as_str()))
        .and_where(name::<D>(Column::SessionId).eq(key.session_id.as_str()))
        .limit(u64::from(request.limit) + 1);
    let cursor = request
        .cursor
        .as_ref()
        .map(|cursor| vec![D::SCHEMA.timestamp(cursor.timestamp), cursor.event_id.as_str().into()]);
    let sorted_by = [Column::Timestamp, Column::Id];
    keyset::<D, _>(&mut rows_of_page, request.order, &sorted_by, cursor);
    let mut select = Query::select();
    select
        .columns([Column::Id, Column::Timestamp, Column::EventData].map(|column| (page.clone(), column)))
        .from(tables.aliased(sessions::Entity))
        .join_subquery(sea_orm::JoinType::LeftJoin, rows_of_page, page.clone(), Expr::cust("1 = 1"))
        .and_where(name::<D>((sessions::Entity, SessionColumn::AppName)).eq(key.app_name.as_str()))
        .and_where(name::<D>((sessions::Entity, SessionColumn::UserId)).eq(key.user_id.as_str()))
        .and_where(name::<D>((sessions::Entity, SessionColumn::Id)).eq(key.session_id.as_str()))
        .and_where(is_not_being_deleted((sessions::Entity, SessionColumn::CreateTime)));
    if request.min_revision.is_some() {
        select.columns([SessionColumn::CreateTime, SessionColumn::UpdateTime].map(|column| (sessions::Entity, column)));
    }
    keyset::<D, _>(&mut select, request.order, &sorted_by.map(|column| (page.clone(), column)), None);
    select
}

/// The revision of the session in a row of events, if it was selected.
fn revision_of_session<D: Dialect>(request: &ListEvents, row: &QueryResult) -> Result<Option<Revision>> {
    if request.min_revision.is_none() {
        return Ok(None);
    }
    let stored = RowDecoder::<D>::new("sessions", &request.key);
    let time = |column| stored.timestamp(row, column, column);
    Ok(Some(Revision::new(time("create_time")?, time("update_time")?)))
}

pub(crate) async fn list_events<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    request: &ListEvents,
) -> Result<Page<Event, EventCursor>> {
    let key = &request.key;
    let stored = RowDecoder::<D>::new("events", key);
    let mut session = None;
    let decode = |row: &QueryResult| {
        session.get_or_insert_with(|| revision_of_session::<D>(request, row));
        let event_id = match stored.text_or_null(row, "id", "id") {
            Ok(event_id) => event_id?,
            Err(error) => return Some(PageRow { after: None, item: Err(error), bytes: 0 }),
        };
        let name = EventName { id: event_id, session: key };
        let timestamp = RowDecoder::<D>::new("events", &name).timestamp(row, "timestamp", "timestamp");
        Some(match timestamp {
            Ok(timestamp) => {
                let cursor = EventCursor { timestamp, event_id: event_id.to_owned() };
                let text = stored.text_or_null(row, "event_data", "event_data");
                let bytes = size_of::<Event>() + text.ok().flatten().map_or(0, str::len);
                PageRow { after: Some(cursor), item: decode_event::<D>(key, event_id, row, "event_data"), bytes }
            }
            Err(error) => PageRow { after: None, item: Err(error), bytes: 0 },
        })
    };
    let statement = D::BACKEND.build(&select_events::<D>(tables, request));
    let page = PageRows::read(on, statement, decode).await;
    let page = page.map_err(|error| statement_error::<D>("list_events", error))?;
    let exists = session.is_some();
    request.check_min_revision(session.transpose()?.flatten())?;
    if !exists {
        return Err(Error::not_found(key));
    }
    let limit = page.limit(request.limit);
    Page::from_rows(page.rows, limit)
}

/// The listings' statements, which are built for each call, as samples: first and later pages.
pub(super) fn sample_texts<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let owned = |text: &str| text.to_owned();
    let (app_name, user_id) = (AppName::from_row(owned("app")), UserId::from_row(owned("user")));
    let key = SessionKey::new(app_name.clone(), user_id.clone(), SessionId::from_row(owned("session")));
    let update_time = Timestamp::clamped(0);
    let after_session = SessionCursor { update_time, user_id, session_id: key.session_id.clone() };
    let after_event = EventCursor { timestamp: update_time, event_id: owned("event") };
    let revision = Revision::new(update_time, update_time);
    let of_app = ListSessions::new(SessionScope::App(app_name));
    let of_user = ListSessions::new(SessionScope::User(key.user()));
    let events = ListEvents::new(key);
    let text = |select: SelectStatement| D::BACKEND.build(&select).sql;
    [
        ("list_sessions.of_app", select_sessions::<D>(tables, &of_app)),
        ("list_sessions.of_user_after_cursor", select_sessions::<D>(tables, &of_user.with_cursor(after_session))),
        ("list_events.first_page", select_events::<D>(tables, &events)),
        ("list_events.after_cursor", select_events::<D>(tables, &events.clone().with_cursor(after_event))),
        ("list_events.at_least", select_events::<D>(tables, &events.clone().with_min_revision(revision))),
    ]
    .map(|(sample, select)| (owned(sample), text(select)))
    .into()
}
