//! What the statement of `append_event` returns: the events that it stored, and the conflicts that it met.

use sea_orm::sea_query::{Asterisk, Expr, ExprTrait, JoinType, Query, SelectStatement, UnionType};
use seabed_core::entity::{events, sessions};
use seabed_core::sql::{BulkStatements, Tables};

use super::{
    EVENT, EXPECTED, EXPECTED_LIFE, INPUT, MOVED, NUMBER, is_of_session, is_readable, name, of, session_key,
    session_of_event,
};

/// A row for each write that is stored, and one for each that is refused, which spares it a round trip. The others are
/// left to the portable algorithm.
pub(super) fn stored_or_refused(tables: &Tables) -> SelectStatement {
    Query::select()
        .column((MOVED, Asterisk))
        .expr_as(Expr::cust("FALSE"), BulkStatements::REFUSED)
        .expr_as(Expr::cust("NULL").cast_as("text"), events::Column::Id)
        .from(MOVED)
        .union(UnionType::All, refused(tables))
        .take()
}

/// The writes whose sessions are not at the expected revision, with the revision where they are, and the event's id if
/// an event is stored under it: it may be the same one. Reads nothing if every write is stored.
fn refused(tables: &Tables) -> SelectStatement {
    use {events::Column as Event, sessions::Column as Session};
    let of_row = |column| Expr::col((sessions::Entity, column));
    let is_at_another_revision = of(INPUT, EXPECTED)
        .ne(of_row(Session::UpdateTime))
        .or(of(INPUT, EXPECTED_LIFE).ne(of_row(Session::CreateTime)));
    let is_event = is_of_session(session_of_event().map(|column| (events::Entity, column)), INPUT)
        .and(name((events::Entity, Event::Id)).eq(of(INPUT, EVENT)));
    Query::select()
        .expr(of(INPUT, NUMBER))
        .exprs([of_row(Session::CreateTime), of_row(Session::UpdateTime)])
        .exprs([Expr::cust("NULL"), Expr::cust("TRUE")])
        .column((events::Entity, Event::Id))
        .from(INPUT)
        .join(JoinType::InnerJoin, tables.aliased(sessions::Entity), is_of_session(session_key(), INPUT))
        .join(JoinType::LeftJoin, tables.aliased(events::Entity), is_event)
        .and_where(Expr::cust("(SELECT count(*) FROM moved) < (SELECT count(*) FROM input)"))
        .and_where(is_at_another_revision)
        .and_where(is_readable())
        .take()
}
