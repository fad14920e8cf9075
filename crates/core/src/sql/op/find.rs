//! `find_sessions` and `count_sessions`: the listing of sessions, with a filter, titles and labels.

use sea_orm::sea_query::{Expr, ExprTrait, Func, Query, SelectStatement};
use sea_orm::{QueryResult, Statement};

use super::annotate::{annotations, own_tables_error};
use super::list::{CREATE_TIME, app_of, of_scope, session_cursor, sort_sessions, with_states};
use super::page::{PageRow, PageRows, PageStates};
use crate::entity::{seabed_labels, seabed_sessions, sessions};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::error::{StatementError, statement_error};
use crate::sql::executor::Executor;
use crate::sql::statement::name;
use crate::sql::tables::Tables;
use crate::{
    AppName, FindCursor, FindSessions, FoundSession, Page, Result, Revision, SessionCursor, SessionFilter, SessionId,
    SessionKey, SessionScope, State, UserId,
};

/// Joins each session's row of annotations, if it has one.
pub(super) fn join_annotations<D: Dialect>(select: &mut SelectStatement, tables: &Tables) {
    use {seabed_sessions::Column as Own, sessions::Column};
    let same =
        |own: Own, column: Column| name::<D>((seabed_sessions::Entity, own)).eq(name::<D>((sessions::Entity, column)));
    select.left_join(
        tables.aliased(seabed_sessions::Entity),
        same(Own::AppName, Column::AppName)
            .and(same(Own::UserId, Column::UserId))
            .and(same(Own::SessionId, Column::Id)),
    );
}

/// The condition that a session has a label: with a value, or with any.
fn has_label<D: Dialect>(tables: &Tables, app_name: &AppName, label: &str, value: Option<&str>) -> Expr {
    use {seabed_labels::Column as Label, sessions::Column};
    let of_label = |column| name::<D>((seabed_labels::Entity, column));
    let same = |own, column: Column| of_label(own).eq(name::<D>((sessions::Entity, column)));
    let select = Query::select()
        .expr(Expr::cust("1"))
        .from(tables.aliased(seabed_labels::Entity))
        .and_where(of_label(Label::AppName).eq(app_name.as_str()))
        .and_where(of_label(Label::Name).eq(label))
        .and_where_option(value.map(|value| of_label(Label::Value).eq(value)))
        .and_where(same(Label::UserId, Column::UserId))
        .and_where(same(Label::SessionId, Column::Id))
        .take();
    Expr::exists(select)
}

/// Adds all conditions of the filter but those on state.
fn add_filter<D: Dialect>(select: &mut SelectStatement, tables: &Tables, app_name: &AppName, filter: &SessionFilter) {
    use {seabed_sessions::Column as Own, sessions::Column};
    let time = |column: Column| Expr::col((sessions::Entity, column));
    let moment = |time| D::SCHEMA.timestamp(time);
    let position = |text: Expr, part: &str| Expr::from(Func::cust(D::SCHEMA.position_function()).arg(text).arg(part));
    select
        .and_where_option(filter.updated_since.map(|since| time(Column::UpdateTime).gte(moment(since))))
        .and_where_option(filter.updated_until.map(|until| time(Column::UpdateTime).lt(moment(until))))
        .and_where_option(filter.created_since.map(|since| time(Column::CreateTime).gte(moment(since))))
        .and_where_option(filter.created_until.map(|until| time(Column::CreateTime).lt(moment(until))))
        .and_where_option(
            filter.title.as_deref().map(|text| position(name::<D>((seabed_sessions::Entity, Own::Title)), text).gt(0)),
        )
        .and_where_option(
            filter.id_prefix.as_deref().map(|prefix| position(name::<D>((sessions::Entity, Column::Id)), prefix).eq(1)),
        );
    for (label, value) in &filter.labels {
        select.and_where(has_label::<D>(tables, app_name, label, value.as_deref()));
    }
}

/// The query for a page of sessions, and one row more.
fn select_page<D: Dialect>(tables: &Tables, request: &FindSessions) -> SelectStatement {
    use {seabed_sessions::Column as Own, sessions::Column};
    let mut select = of_scope::<D>(tables, &request.scope);
    select.columns([Column::UserId, Column::Id, Column::CreateTime, Column::UpdateTime].map(|c| (sessions::Entity, c)));
    join_annotations::<D>(&mut select, tables);
    select
        .column((seabed_sessions::Entity, Own::Title))
        .expr_as(D::SCHEMA.read_json(Expr::col((seabed_sessions::Entity, Own::Labels))), Own::Labels)
        .limit(u64::from(request.examined()) + 1);
    add_filter::<D>(&mut select, tables, app_of(&request.scope), &request.filter);
    sort_sessions::<D>(&mut select, request.order, request.cursor.as_ref().map(FindCursor::session));
    if request.reads_state() {
        select = with_states::<D>(select, tables, app_of(&request.scope), request.order, &["title", "labels"]);
    }
    select
}

pub(crate) async fn find_sessions<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    request: &FindSessions,
) -> Result<Page<FoundSession, FindCursor>> {
    let app_name = app_of(&request.scope);
    let mut states = request.reads_state().then(PageStates::<D>::new);
    let decode = |row: &QueryResult| {
        let kept = states.as_mut().map_or(0, |states| states.keep(app_name, row));
        Some(match session_cursor::<D>(app_name, row) {
            Ok(place) => {
                let after = Some(request.cursor_after(place.clone()));
                let item = decode::<D>(app_name, place, row, states.as_ref());
                let state = item.as_ref().ok().and_then(|found| found.state.as_ref());
                PageRow { after, bytes: kept + state.map_or(0, State::memory), item }
            }
            Err(error) => PageRow { after: None, item: Err(error), bytes: kept },
        })
    };
    let page = PageRows::read(on, D::BACKEND.build(&select_page::<D>(tables, request)), decode).await;
    let page = page.map_err(|error| own_tables_error::<D>("find_sessions", error))?;
    let examined = page.limit(request.examined());
    request.page_of(page.rows, examined)
}

fn decode<D: Dialect>(
    app_name: &AppName,
    place: SessionCursor,
    row: &QueryResult,
    states: Option<&PageStates<D>>,
) -> Result<FoundSession> {
    let SessionCursor { update_time, user_id, session_id } = place;
    let key = SessionKey::new(app_name.clone(), user_id, session_id);
    let create_time = RowDecoder::<D>::new("sessions", &key).timestamp(row, CREATE_TIME, "create_time")?;
    let state = states.map(|states| states.merged(&key, row)).transpose()?;
    let annotations = annotations::<D>(&key, row)?;
    Ok(FoundSession::new(key, annotations, Revision::new(create_time, update_time), state))
}

/// The query for the number of sessions, or with a condition on state for the sessions with their states.
fn select_count<D: Dialect>(tables: &Tables, scope: &SessionScope, filter: &SessionFilter) -> SelectStatement {
    use sessions::Column;
    let mut select = of_scope::<D>(tables, scope);
    if filter.needs_state() {
        select
            .columns([Column::UserId, Column::Id].map(|column| (sessions::Entity, column)))
            .expr_as(D::SCHEMA.read_json(Expr::col((sessions::Entity, Column::State))), Column::State);
    } else {
        select.expr(Expr::cust("COUNT(*)"));
    }
    if filter.title.is_some() {
        join_annotations::<D>(&mut select, tables);
    }
    add_filter::<D>(&mut select, tables, app_of(scope), filter);
    select
}

pub(crate) async fn count_sessions<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    scope: &SessionScope,
    filter: &SessionFilter,
) -> Result<u64> {
    const OPERATION: &str = "count_sessions";
    let statement = D::BACKEND.build(&select_count::<D>(tables, scope, filter));
    let failed = |error| own_tables_error::<D>(OPERATION, error);
    if filter.needs_state() {
        return count_matching::<D>(on, statement, app_of(scope), filter, failed).await;
    }
    let row = on.query_one(statement).await.map_err(failed)?;
    let count = row.map(|row| row.try_get_by_index::<i64>(0)).transpose();
    let count = count.map_err(|error| statement_error::<D>(OPERATION, error))?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
}

/// Counts the sessions whose states match, as their rows arrive.
async fn count_matching<D: Dialect>(
    on: &mut dyn Executor,
    statement: Statement,
    app_name: &AppName,
    filter: &SessionFilter,
    failed: impl FnOnce(StatementError) -> crate::Error,
) -> Result<u64> {
    let mut count = Ok(0);
    let mut add = |row: QueryResult| {
        if let Ok(so_far) = &mut count {
            match matches::<D>(app_name, filter, &row) {
                Ok(matches) => *so_far += u64::from(matches),
                Err(error) => count = Err(error),
            }
        }
    };
    on.run(statement, &mut add).await.map_err(failed)?;
    count
}

/// Whether the state of a row of [`select_count`] matches.
fn matches<D: Dialect>(app_name: &AppName, filter: &SessionFilter, row: &QueryResult) -> Result<bool> {
    let any = RowDecoder::<D>::new("sessions", app_name);
    let user_id = UserId::from_row(any.text(row, 0, "user_id")?.to_owned());
    let key = SessionKey::new(app_name.clone(), user_id, SessionId::from_row(any.text(row, 1, "id")?.to_owned()));
    Ok(filter.matches_state(&RowDecoder::<D>::new("sessions", &key).state(row, 2)?))
}

/// The statements, which are built for each call, as samples.
pub(super) fn sample_texts<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let (app_name, user_id) = (AppName::from_row("app".to_owned()), UserId::from_row("user".to_owned()));
    let session_id = SessionId::from_row("session".to_owned());
    let time = crate::Timestamp::clamped(0);
    let of_app = || SessionScope::App(app_name.clone());
    let place = SessionCursor::new(time, user_id, session_id);
    let filter = || SessionFilter::new().with_label("name", "value").with_any_label("other");
    let filtered = filter()
        .with_title_containing("title")
        .with_id_prefix("prefix")
        .with_updated_since(time)
        .with_updated_until(time)
        .with_created_since(time)
        .with_created_until(time);
    let page = FindSessions::new(of_app());
    let later = FindSessions::new(of_app()).with_filter(filtered.clone()).with_state();
    let cursor = later.cursor_after(place);
    let text = |select: SelectStatement| D::BACKEND.build(&select).sql;
    [
        ("find_sessions.first_page", text(select_page::<D>(tables, &page))),
        ("find_sessions.filtered_after_cursor", text(select_page::<D>(tables, &later.with_cursor(cursor)))),
        ("count_sessions", text(select_count::<D>(tables, &of_app(), &filter()))),
        ("count_sessions.by_state", text(select_count::<D>(tables, &of_app(), &filtered.with_state("key", 1)))),
    ]
    .map(|(sample, text)| (sample.to_owned(), text))
    .into()
}
