//! `summarize_session`: one statement, which reads only the last events, and counts all of them in an index.

use sea_orm::QueryResult;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, JoinType, Order, Query, SelectStatement};

use super::annotate::own_tables_error;
use super::find::join_annotations;
use crate::entity::{events, seabed_sessions, sessions};
use crate::sql::decode::{RowDecoder, decode_event};
use crate::sql::dialect::Dialect;
use crate::sql::executor::Executor;
use crate::sql::statement::{is_not_being_deleted, name};
use crate::sql::tables::Tables;
use crate::{Result, Revision, SessionId, SessionKey, SessionSummary, UserId};

/// The columns of the statement, by their places.
const TITLE: usize = 0;
const CREATE_TIME: usize = 1;
const UPDATE_TIME: usize = 2;
const EVENTS: usize = 3;
const EVENT_ID: usize = 4;
const EVENT_DATA: usize = 5;

const OPERATION: &str = "summarize_session";

fn of_session<D: Dialect>(select: &mut SelectStatement, key: &SessionKey) {
    use events::Column;
    select
        .and_where(name::<D>(Column::AppName).eq(key.app_name.as_str()))
        .and_where(name::<D>(Column::UserId).eq(key.user_id.as_str()))
        .and_where(name::<D>(Column::SessionId).eq(key.session_id.as_str()));
}

/// Those of the last events that mention a text, as a table. Not each of them has one: the word also stands in
/// arguments of tools.
fn spoken<D: Dialect>(tables: &Tables, key: &SessionKey) -> SelectStatement {
    use events::Column;
    let columns = [Column::Id, Column::Timestamp];
    let mut recent = Query::select();
    recent
        .columns(columns)
        .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
        .from(tables.table(events::Entity));
    of_session::<D>(&mut recent, key);
    recent
        .order_by(Column::Timestamp, Order::Desc)
        .order_by(Column::Id, Order::Desc)
        .limit(u64::from(SessionSummary::RECENT_EVENTS));
    let text = Func::cust(D::SCHEMA.position_function()).arg(Expr::col(Column::EventData)).arg("\"text\"");
    Query::select()
        .columns(columns)
        .column(Column::EventData)
        .from_subquery(recent, Alias::new("recent"))
        .and_where(Expr::from(text).gt(0))
        .take()
}

fn select_summary<D: Dialect>(tables: &Tables, key: &SessionKey) -> SelectStatement {
    use {events::Column as Event, seabed_sessions::Column as Own, sessions::Column};
    let spoken_events = Alias::new("spoken");
    let mut count = Query::select();
    count.expr(Expr::cust("COUNT(*)")).from(tables.table(events::Entity));
    of_session::<D>(&mut count, key);
    let mut select = Query::select();
    select
        .column((seabed_sessions::Entity, Own::Title))
        .columns([Column::CreateTime, Column::UpdateTime].map(|column| (sessions::Entity, column)))
        .expr_as(Expr::from(count), Alias::new("events"))
        .columns([Event::Id, Event::EventData].map(|column| (spoken_events.clone(), column)))
        .from(tables.aliased(sessions::Entity));
    join_annotations::<D>(&mut select, tables);
    select
        .join_subquery(JoinType::LeftJoin, spoken::<D>(tables, key), spoken_events.clone(), Expr::cust("1 = 1"))
        .and_where(name::<D>((sessions::Entity, Column::AppName)).eq(key.app_name.as_str()))
        .and_where(name::<D>((sessions::Entity, Column::UserId)).eq(key.user_id.as_str()))
        .and_where(name::<D>((sessions::Entity, Column::Id)).eq(key.session_id.as_str()))
        .and_where(is_not_being_deleted((sessions::Entity, Column::CreateTime)))
        .order_by((spoken_events.clone(), Event::Timestamp), Order::Desc)
        .order_by((spoken_events, Event::Id), Order::Desc);
    select
}

pub(crate) async fn summarize_session<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    key: &SessionKey,
) -> Result<Option<SessionSummary>> {
    let rows = on.query_all(D::BACKEND.build(&select_summary::<D>(tables, key))).await;
    let rows = rows.map_err(|error| own_tables_error::<D>(OPERATION, error))?;
    let Some(first) = rows.first() else { return Ok(None) };
    let session = RowDecoder::<D>::new("sessions", key);
    let time = |place, column| session.timestamp(first, place, column);
    let revision = Revision::new(time(CREATE_TIME, "create_time")?, time(UPDATE_TIME, "update_time")?);
    let title = RowDecoder::<D>::new("seabed_sessions", key).text_or_null(first, TITLE, "title")?.map(str::to_owned);
    let events = first.try_get_by_index::<i64>(EVENTS).map_err(|error| session.corrupt("events", error))?;
    // What cannot be decoded is for readers of the session to report.
    let recent = rows.iter().filter_map(|row| decode::<D>(key, row).ok().flatten());
    Ok(Some(SessionSummary::new(key.clone(), title, recent, u64::try_from(events).unwrap_or_default(), revision)))
}

fn decode<D: Dialect>(key: &SessionKey, row: &QueryResult) -> Result<Option<crate::Event>> {
    let id = RowDecoder::<D>::new("events", key).text_or_null(row, EVENT_ID, "id")?;
    id.map(|id| decode_event::<D>(key, id, row, EVENT_DATA)).transpose()
}

/// The statement, which is built for each call, as a sample.
pub(super) fn sample_texts<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let [app_name, user_id, session_id] = ["app", "user", "session"].map(str::to_owned);
    let (user_id, session_id) = (UserId::from_row(user_id), SessionId::from_row(session_id));
    let key = SessionKey::new(crate::AppName::from_row(app_name), user_id, session_id);
    vec![(OPERATION.to_owned(), D::BACKEND.build(&select_summary::<D>(tables, &key)).sql)]
}
