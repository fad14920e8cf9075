//! `create_session` and `append_event` as one statement each.
//!
//! PostgreSQL runs the parts of a `WITH` that change tables on one snapshot and as one statement: all or nothing.
//! Reading what another part wrote goes through its `RETURNING`; that also decides the order in which they run and
//! lock: sessions, then app state, then user state.

mod free;
mod refused;
mod shared_state;

use sea_orm::EntityName;
use sea_orm::sea_query::{
    Asterisk, CommonTableExpression, Expr, ExprTrait, Func, InsertStatement, IntoColumnRef, IntoIden, JoinType,
    LockBehavior, LockType, Query, Returning, SelectStatement, SubQueryStatement, TableRef, UpdateStatement, WithQuery,
};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::sql::{Dialect, SchemaDialect, Tables, event_columns, event_key_columns, is_not_being_deleted};

use self::free::{Shared, with_blocked};
use self::refused::stored_or_refused;
use self::shared_state::{app_state, user_state};
use crate::Postgres;

/// The parts of the statements.
const INPUT: &str = "input";
const LOCKED: &str = "locked";
const MOVED: &str = "moved";
const STORED: &str = "stored";
const CREATED: &str = "created";
const MERGED_APP: &str = "merged_app";
const MADE_APP: &str = "made_app";
const MERGED_USER: &str = "merged_user";
const MADE_USER: &str = "made_user";

/// What a write brings; the columns of `input`.
const NUMBER: &str = "number";
const APP: &str = "app";
const USER: &str = "user";
const SESSION: &str = "session";
const EVENT: &str = "event";
const INVOCATION: &str = "invocation";
const OWN_TIME: &str = "own_time";
const EVENT_DATA: &str = "event_data";
const EXPECTED_LIFE: &str = "expected_life";
const EXPECTED: &str = "expected";
const STATE: &str = "state";
const APP_DELTA: &str = "app_delta";
const USER_DELTA: &str = "user_delta";
const NOW: &str = "now";
/// The stored time of the event, before the step past the creation of its session.
const TIME: &str = "time";

/// The first time that can be read; see `Timestamp` in seabed-core.
const START_OF_TIME: &str = "timestamp '0001-01-01'";
/// The last time of all: a session's clock that is there cannot move on.
const END_OF_TIME: &str = "timestamp '9999-12-31 23:59:59.999999'";

/// How many bytes of text a byte of `jsonb` stands for at most: a number of 1000 digits, the longest that is accepted,
/// takes 12 or more.
const MAX_TEXT_GROWTH: usize = 84;

/// How a column of the input comes out of an array.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Text,
    Json,
    Time,
    /// Text of a timestamp, empty for none.
    TimeOrNone,
}

/// The columns that every input has first.
const KEY: [(&str, Kind); 4] = [(NUMBER, Kind::Integer), (APP, Kind::Text), (USER, Kind::Text), (SESSION, Kind::Text)];

/// The writes, a row each; none from the deadline on.
///
/// The limit is their number and cuts nothing off. It makes the planner expect one row, and so look each session up in
/// the index. If the planner expected as many rows as arrays usually have, it would read all of a table that was small
/// when it planned.
fn input<const N: usize>(columns: [(&'static str, Kind); N]) -> SelectStatement {
    let mut select = Query::select();
    for (name, kind) in KEY.into_iter().chain(columns) {
        let elements =
            |array: &'static str| Expr::from(Func::cust("pg_catalog.unnest").arg(Expr::value("").cast_as(array)));
        let column = match kind {
            Kind::Integer => elements("int[]"),
            Kind::Text => elements("text[]"),
            Kind::Json => elements("text[]").cast_as("jsonb"),
            Kind::Time => elements("timestamp[]"),
            Kind::TimeOrNone => {
                Expr::from(Func::cust("nullif").arg(elements("text[]")).arg(Expr::cust("''"))).cast_as("timestamp")
            }
        };
        select.expr_as(column, name);
    }
    select.and_where(Postgres.current_time().lt(Expr::value("")));
    // Any number: it becomes a parameter.
    select.limit(0);
    select.take()
}

fn part(name: &'static str, statement: impl Into<SubQueryStatement>) -> CommonTableExpression {
    CommonTableExpression::new().table_name(name).query(statement).to_owned()
}

fn of(part: &'static str, column: &'static str) -> Expr {
    Expr::col((part, column))
}

/// A column of names, in a comparison.
fn name(column: impl IntoColumnRef) -> Expr {
    Postgres.read_name(Expr::col(column))
}

/// Whether a row of `sessions` or `events` is of the session that a write of `part` is about.
fn is_of_session<C: IntoColumnRef>([app_name, user_id, session_id]: [C; 3], part: &'static str) -> Expr {
    let is = |column: C, written| name(column).eq(of(part, written));
    is(app_name, APP).and(is(user_id, USER)).and(is(session_id, SESSION))
}

/// Inserts what `from` selects, an expression for each column.
fn insert_from<C: IntoIden>(
    table: TableRef,
    columns: impl IntoIterator<Item = (C, Expr)>,
    mut from: SelectStatement,
) -> InsertStatement {
    let (columns, expressions): (Vec<C>, Vec<Expr>) = columns.into_iter().unzip();
    let mut insert = Query::insert();
    insert.into_table(table).columns(columns);
    insert.select_from(from.exprs(expressions).take()).expect("an expression for each column");
    insert
}

/// A state, checked to be an object, because `||` merges only objects key by key. Anything else fails the statement,
/// and the portable algorithm then names the row. The message, which the server's log shows, contains no value.
fn object(state: impl Fn() -> Expr) -> Expr {
    let kind = || Expr::from(Func::cust("pg_catalog.jsonb_typeof").arg(state()));
    let fail = Expr::cust_with_exprs("pg_catalog.to_jsonb(CAST($1 || ' is no object' AS integer))", [kind()]);
    Expr::case(kind().eq(Expr::cust("'object'")), state()).finally(fail).into()
}

/// Null if the text of `state` takes at most so many bytes; otherwise the statement fails, and the portable algorithm
/// names the row. Where a state is small even if all of it were numbers of the longest text, the text is not written.
fn within_limit(state: impl Fn() -> Expr, max_bytes: usize) -> Expr {
    let size = Expr::from(Func::cust("pg_catalog.pg_column_size").arg(state()));
    let text = || Expr::from(Func::cust("pg_catalog.octet_length").arg(state().cast_as("text")));
    let is_small = size.lte(Expr::cust((max_bytes / MAX_TEXT_GROWTH).to_string()));
    let is_within = text().lte(Expr::cust(max_bytes.to_string()));
    let fail = Expr::cust_with_exprs("CAST($1 || ' bytes of state' AS integer)", [text()]);
    Expr::case(is_small, Expr::cust("NULL")).case(is_within, Expr::cust("NULL")).finally(fail).into()
}

fn a_microsecond_after(time: Expr) -> Expr {
    time.add(Expr::cust("interval '1 microsecond'"))
}

/// Appends events to the sessions that are free, at the expected revision, and without an event of that id.
///
/// Sessions that another connection holds are left out, so that the writes of a batch do not wait for each other's
/// sessions.
pub(crate) fn append(tables: &Tables, max_state_bytes: usize) -> WithQuery {
    append_with(stored(), Shared::Wait, tables, max_state_bytes)
}

/// A row for each write that is stored.
fn stored() -> SelectStatement {
    Query::select().column((MOVED, Asterisk)).from(MOVED).take()
}

/// The same, and tells of those whose sessions are at another revision.
pub(crate) fn append_or_refuse(tables: &Tables, max_state_bytes: usize) -> WithQuery {
    append_with(stored_or_refused(tables), Shared::Wait, tables, max_state_bytes)
}

/// As [`append`], without those that change an app's or user's row which another connection has locked.
pub(crate) fn append_free(tables: &Tables, max_state_bytes: usize) -> WithQuery {
    append_with(with_blocked(stored(), 3), Shared::Free, tables, max_state_bytes)
}

fn append_with(outcome: SelectStatement, shared: Shared, tables: &Tables, max_state_bytes: usize) -> WithQuery {
    let input = input([
        (EVENT, Kind::Text),
        (INVOCATION, Kind::Text),
        (OWN_TIME, Kind::Time),
        (EVENT_DATA, Kind::Json),
        (EXPECTED_LIFE, Kind::TimeOrNone),
        (EXPECTED, Kind::TimeOrNone),
        (STATE, Kind::Json),
        (APP_DELTA, Kind::Json),
        (USER_DELTA, Kind::Json),
        (NOW, Kind::Time),
    ]);
    let of_moved = || Query::select().from(MOVED).from(LOCKED).and_where(is_same_write(MOVED, LOCKED)).take();
    shared
        .input(tables, input)
        .cte(part(LOCKED, lock_sessions(tables)))
        .cte(part(STORED, store_events(tables)))
        .cte(part(MOVED, move_sessions(tables, max_state_bytes)))
        .cte(part(MERGED_APP, app_state(tables).merge(of_moved(), LOCKED, max_state_bytes)))
        .cte(part(MERGED_USER, user_state(tables).merge(after(MERGED_APP, of_moved()), LOCKED, max_state_bytes)))
        .to_owned()
        .query(outcome)
}

/// The key of a session in its own table.
fn session_key() -> [(sessions::Entity, sessions::Column); 3] {
    use sessions::Column;
    [Column::AppName, Column::UserId, Column::Id].map(|column| (sessions::Entity, column))
}

/// The columns of `events` that name a session.
fn session_of_event() -> [events::Column; 3] {
    use events::Column;
    [Column::AppName, Column::UserId, Column::SessionId]
}

/// Whether a session is not being deleted, its times can be read, and its clock can move on.
fn is_readable() -> Expr {
    let of_row = |column| Expr::col((sessions::Entity, column));
    let created = of_row(sessions::Column::CreateTime).between(Expr::cust(START_OF_TIME), Expr::cust(END_OF_TIME));
    let created = is_not_being_deleted((sessions::Entity, sessions::Column::CreateTime)).and(created);
    created.and(of_row(sessions::Column::UpdateTime).lt(Expr::cust(END_OF_TIME)))
}

/// The writes whose sessions are free and at the expected revision. Locks these sessions, and runs the first half of
/// the clock of a session (`stored_timestamp` in seabed-core).
///
/// Only what the inner query selects is locked. A lock is a write, so a refused append would cost a commit.
fn lock_sessions(tables: &Tables) -> SelectStatement {
    use sessions::Column;
    let of_row = |column| Expr::col((sessions::Entity, column));
    let is_at_revision =
        of(INPUT, EXPECTED).eq(of_row(Column::UpdateTime)).and(of(INPUT, EXPECTED_LIFE).eq(of_row(Column::CreateTime)));
    let session = Query::select()
        .columns([Column::CreateTime, Column::UpdateTime])
        .from(tables.aliased(sessions::Entity))
        .and_where(is_of_session(session_key(), INPUT))
        .and_where(of(INPUT, EXPECTED).is_null().or(is_at_revision))
        .and_where(is_readable())
        .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)
        .take();
    let (created, updated) = (|| Expr::col((SESSION, Column::CreateTime)), || Expr::col((SESSION, Column::UpdateTime)));
    let has_later_events = updated().ne(created()).and(of(INPUT, OWN_TIME).lte(updated()));
    let time = Expr::case(has_later_events, a_microsecond_after(updated())).finally(of(INPUT, OWN_TIME));
    Query::select()
        .expr(Expr::cust("input.*"))
        .expr(created())
        .expr_as(time, TIME)
        .from(INPUT)
        .join_lateral(JoinType::InnerJoin, session, SESSION, Expr::cust("true"))
        .take()
}

/// Inserts the events, unless their ids are taken, after the second half of the clock.
///
/// The insert itself finds an event that exists, by the primary key. For a separate lookup the planner would use the
/// index on times, and read all events of the session, as long as it expects few.
fn store_events(tables: &Tables) -> InsertStatement {
    let created = || Expr::col((LOCKED, sessions::Column::CreateTime));
    let time = Expr::case(of(LOCKED, TIME).eq(created()), a_microsecond_after(created())).finally(of(LOCKED, TIME));
    let mut stored = insert_from(
        tables.table(events::Entity),
        event_columns().into_iter().zip([
            of(LOCKED, APP),
            of(LOCKED, USER),
            of(LOCKED, SESSION),
            of(LOCKED, EVENT),
            of(LOCKED, INVOCATION),
            time.into(),
            of(LOCKED, EVENT_DATA),
        ]),
        Query::select().from(LOCKED).take(),
    );
    Postgres::insert_if_absent(&mut stored, event_key_columns());
    stored
        .returning(Returning::new().columns(session_of_event().into_iter().chain([events::Column::Timestamp])))
        .to_owned()
}

/// Moves the clocks of the sessions on to their events, and merges their states. A state that stays is not written
/// again: it may be large, and then stored apart from the row.
fn move_sessions(tables: &Tables, max_state_bytes: usize) -> UpdateStatement {
    use sessions::Column;
    let stored = || Expr::col((sessions::Entity, Column::State));
    let is_unchanged = || of(LOCKED, STATE).eq(Expr::cust("'{}'"));
    let state = Expr::case(is_unchanged(), stored())
        .finally(Expr::cust_with_exprs("$1 || $2", [object(stored), of(LOCKED, STATE)]));
    Query::update()
        .table(tables.aliased(sessions::Entity))
        .value(Column::UpdateTime, Expr::col((STORED, events::Column::Timestamp)))
        .value(Column::State, state)
        .from(LOCKED)
        .from(STORED)
        .and_where(is_of_session(session_of_event().map(|column| (STORED, column)), LOCKED))
        .and_where(is_of_session(session_key(), LOCKED))
        .returning(Returning::new().exprs([
            of(LOCKED, NUMBER),
            Expr::col((sessions::Entity, Column::CreateTime)),
            Expr::col((sessions::Entity, Column::UpdateTime)),
            Expr::case(is_unchanged(), Expr::cust("NULL")).finally(within_limit(stored, max_state_bytes)).into(),
        ]))
        .take()
}

fn is_same_write(left: &'static str, right: &'static str) -> Expr {
    of(left, NUMBER).eq(of(right, NUMBER))
}

/// `writes`, once part `before` has locked the rows of apps.
fn after(before: &str, mut writes: SelectStatement) -> SelectStatement {
    writes.and_where(Expr::cust(format!("(SELECT count(*) FROM {before}) >= 0"))).take()
}

/// Creates the sessions whose ids are free, and the rows of their apps and users where these are missing.
pub(crate) fn create(tables: &Tables, max_state_bytes: usize) -> WithQuery {
    create_with(Shared::Wait, tables, max_state_bytes)
}

/// The same, without those that change an app's or user's row which another connection has locked.
pub(crate) fn create_free(tables: &Tables, max_state_bytes: usize) -> WithQuery {
    create_with(Shared::Free, tables, max_state_bytes)
}

fn create_with(shared: Shared, tables: &Tables, max_state_bytes: usize) -> WithQuery {
    use {app_states::Column as App, sessions::Column as Session, user_states::Column as User};
    let input = input([(STATE, Kind::Json), (APP_DELTA, Kind::Json), (USER_DELTA, Kind::Json), (NOW, Kind::Time)]);
    let session_key = [Session::AppName, Session::UserId, Session::Id];
    let mut created = insert_from(
        tables.table(sessions::Entity),
        [
            (Session::AppName, of(INPUT, APP)),
            (Session::UserId, of(INPUT, USER)),
            (Session::Id, of(INPUT, SESSION)),
            (Session::State, of(INPUT, STATE)),
            (Session::CreateTime, of(INPUT, NOW)),
            (Session::UpdateTime, of(INPUT, NOW)),
        ],
        Query::select().from(INPUT).take(),
    );
    Postgres::insert_or_ignore(&mut created, session_key.map(IntoIden::into_iden).into());
    created.returning(Returning::new().columns(session_key));
    let is_created = || is_of_session(session_key.map(|column| (CREATED, column)), INPUT);
    let of_created = || Query::select().from(CREATED).from(INPUT).and_where(is_created()).take();
    // The other parts do not see in the table what a part wrote. So: the merged state, otherwise the one that the table
    // had, otherwise none yet.
    let (app_table, user_table) = (app_states::Entity.table_name(), user_states::Entity.table_name());
    let app = |part: &'static str| name((part, App::AppName)).eq(of(INPUT, APP));
    let user = |part: &'static str| {
        name((part, User::AppName)).eq(of(INPUT, APP)).and(name((part, User::UserId)).eq(of(INPUT, USER)))
    };
    let select = of_created()
        .expr(of(INPUT, NUMBER))
        .expr(seen([(MERGED_APP, App::State), (app_table, App::State), (MADE_APP, App::State)]))
        .expr(seen([(MERGED_USER, User::State), (user_table, User::State), (MADE_USER, User::State)]))
        .left_join(MERGED_APP, app(MERGED_APP))
        .left_join(MADE_APP, app(MADE_APP))
        .left_join(tables.aliased(app_states::Entity), app(app_table))
        .left_join(MERGED_USER, user(MERGED_USER))
        .left_join(MADE_USER, user(MADE_USER))
        .left_join(tables.aliased(user_states::Entity), user(user_table))
        .take();
    let select = match shared {
        Shared::Wait => select,
        Shared::Free => with_blocked(select, 2),
    };
    shared
        .input(tables, input)
        .cte(part(CREATED, created))
        .cte(part(MERGED_APP, app_state(tables).merge(of_created(), INPUT, max_state_bytes)))
        .cte(part(MADE_APP, app_state(tables).make(of_created(), MERGED_APP)))
        .cte(part(MERGED_USER, user_state(tables).merge(after(MADE_APP, of_created()), INPUT, max_state_bytes)))
        .cte(part(MADE_USER, user_state(tables).make(of_created(), MERGED_USER)))
        .to_owned()
        .query(select)
}

/// The first of these states that exists, as text.
fn seen<C: IntoIden + Copy>(states: [(&'static str, C); 3]) -> Expr {
    object(|| Func::coalesce(states.map(|(part, state)| Expr::col((part, state)))).into()).cast_as("text")
}

#[cfg(test)]
mod tests {
    use sea_orm::sea_query::{PostgresQueryBuilder, WithQuery};
    use seabed_core::sql::Tables;

    /// The parameters are bound by their order, which is that of the input; a literal among them would shift them.
    #[test]
    fn the_parameters_are_those_of_the_input_the_deadline_and_their_number() {
        let tables = Tables::new();
        for (statement, columns) in
            [(super::append(&tables, 1000), 14), (super::create(&tables, 1000), 8)] as [(WithQuery, usize); 2]
        {
            let (sql, values) = statement.build(PostgresQueryBuilder);
            assert_eq!(values.0.len(), columns + 2, "{sql}");
            let end = format!("< ${} LIMIT ${}) ", columns + 1, columns + 2);
            let (input, _) = sql.split_once(&end).expect(&sql);
            assert!(input.contains(&format!("${columns} ")) && !sql.contains(&format!("${} ", columns + 3)), "{sql}");
        }
    }

    /// The planner may read all events of a session to find one, as long as it expects few. So they are looked at only
    /// for writes that are refused.
    #[test]
    fn an_append_that_is_stored_reads_no_events() {
        let (sql, _) = super::append_or_refuse(&Tables::new(), 1000).build(PostgresQueryBuilder);
        let (stored, refused) = sql.split_once(" UNION ALL ").expect(&sql);
        assert!(!stored.contains(r#"FROM "events""#) && !stored.contains(r#"JOIN "events""#), "{sql}");
        assert!(refused.contains(r#"JOIN "events""#) && refused.contains("FROM moved) < "), "{sql}");
    }
}
