//! Reads an entire database in one snapshot.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Alias, Condition, Expr, ExprTrait, Func, Order, Query, SelectStatement};
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel, QueryResult,
    StreamTrait, TransactionOptions, TransactionTrait,
};
use seabed_core::entity::{app_states, seabed_sessions, sessions, user_states};
use seabed_core::{State, sql};

use super::record::{Name, Record, Refused, SessionId};
use super::shape::Shape;
use super::source::{Outlet, Source, Stop};
use super::{Selection, annotations};
use crate::own_tables::{self, Titles};
use crate::rows::{after, json_text};
use crate::spec::{Database, SchemaSpec};

/// How large a JSON text of a SQLite file may be. Servers have a limit of their own, which is about as large; a file
/// may come from anybody, and compute what looks like its rows.
const MAX_JSON: i64 = 64 << 20;
/// How many session rows one query reads.
const SESSIONS_AHEAD: u64 = 20;
/// The keys of the tables. Those of events are read with their sessions.
const KEYS: [(&str, &[&str]); 3] = [
    ("app_states", &["app_name"]),
    ("user_states", &["app_name", "user_id"]),
    ("sessions", &["app_name", "user_id", "id"]),
];

/// Reads all selected rows, as of one instant. `refused` goes first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn read(
    connection: &DatabaseConnection,
    spec: SchemaSpec,
    shape: impl Shape,
    selection: Selection,
    mut refused: Vec<Refused>,
) -> Result<Source, DbErr> {
    let mut options = TransactionOptions::default();
    match spec.database {
        Database::Postgres | Database::MySql => {
            options.isolation_level = Some(IsolationLevel::RepeatableRead);
            options.access_mode = Some(AccessMode::ReadOnly);
        }
        // Its transactions read one snapshot anyway.
        Database::Sqlite => {}
    }
    let transaction = connection.begin_with_options(options).await?;
    let mut count = select(&spec, &shape.table("events"), &selection);
    if let Some(user_id) = &selection.user_id {
        count.and_where(spec.compared("user_id").eq(user_id.as_str()));
    }
    count.expr_as(Expr::cust("COUNT(*)"), "events");
    let row = transaction.query_one(&count).await?;
    let titles = if shape.has_annotations() { own_tables::titles(&transaction, &spec).await? } else { Titles::Absent };
    if titles == Titles::Hidden {
        let row = "the titles and labels of all sessions, if there are any".to_owned();
        refused.push(Refused { row, reason: "this account may not read seabed_sessions".to_owned() });
    }
    let has_annotations = titles == Titles::Readable;
    let events: Option<i64> = row.map(|row| row.try_get("", "events")).transpose()?;
    let events = events.and_then(|count| u64::try_from(count).ok());
    Ok(Source::of(events, |outlet| async move {
        for refused in refused {
            outlet.send(Record::Refused(refused)).await?;
        }
        let reader = Reader { transaction, spec, shape, selection, outlet, has_annotations };
        for (table, key) in KEYS {
            reader.refuse_other_keys(table, key).await?;
        }
        reader.states().await?;
        let read = reader.sessions().await?;
        match events.unwrap_or(read).saturating_sub(read) {
            0 => Ok(()),
            orphans => {
                let reason = "they have no session, or it was skipped".to_owned();
                reader.outlet.send(Record::Refused(Refused { row: format!("{orphans} events"), reason })).await
            }
        }
    }))
}

fn select(spec: &SchemaSpec, table: &str, selection: &Selection) -> SelectStatement {
    let mut select = Query::select();
    select.from(spec.table_ref(table));
    if let Some(app_name) = &selection.app_name {
        select.and_where(spec.compared("app_name").eq(app_name.as_str()));
    }
    select
}

struct Reader<S> {
    transaction: DatabaseTransaction,
    spec: SchemaSpec,
    shape: S,
    selection: Selection,
    outlet: Outlet,
    has_annotations: bool,
}

impl<S: Shape> Reader<S> {
    /// Builds a query on a table that has `state`; its result columns have the names of schema v1.
    fn select_states(&self, table: &'static str, columns: &[&'static str]) -> SelectStatement {
        let key = KEYS.iter().find(|(name, _)| *name == table).map_or_else(Default::default, |(_, key)| *key);
        let mut select = self.select_selected(table, key);
        for column in columns {
            select.expr_as(self.column(table, column), Alias::new(*column));
        }
        select.expr_as(json_or_size(&self.spec, "state"), "state");
        select.cond_where(self.has_text_key(table, key));
        select
    }

    /// Builds a query on the rows of a table with this key that are selected.
    fn select_selected(&self, table: &'static str, key: &[&'static str]) -> SelectStatement {
        let mut select = select(&self.spec, &self.shape.table(table), &self.selection);
        if let Some(user_id) = self.selection.user_id.as_ref().filter(|_| key.contains(&"user_id")) {
            select.and_where(self.spec.compared("user_id").eq(user_id.as_str()));
        }
        select
    }

    /// The condition that a key is text. On SQLite it may be anything.
    fn has_text_key(&self, table: &'static str, key: &[&'static str]) -> Condition {
        let is_text = |column: &&'static str| Func::cust("typeof").arg(self.column(table, column)).eq("text");
        let columns = key.iter().filter(|_| self.spec.database == Database::Sqlite);
        columns.fold(Condition::all(), |all, column| all.add(is_text(column)))
    }

    /// Names rows that the other queries leave out.
    async fn refuse_other_keys(&self, table: &'static str, key: &[&'static str]) -> Result<(), Stop> {
        if self.spec.database != Database::Sqlite {
            return Ok(());
        }
        let mut select = self.select_selected(table, key);
        for column in key {
            select.expr_as(Func::cust("quote").arg(self.column(table, column)), Alias::new(*column));
        }
        select.cond_where(self.has_text_key(table, key).not());
        for row in self.transaction.query_all(&select).await? {
            let parts = key.iter().map(|column| row.try_get::<String>("", column)).collect::<Result<Vec<_>, _>>()?;
            let row = format!("{table} row with the key ({})", parts.join(", "));
            self.outlet.send(Record::Refused(Refused { row, reason: "its key is not text".to_owned() })).await?;
        }
        Ok(())
    }

    fn column(&self, table: &'static str, column: &'static str) -> Expr {
        Expr::col(Alias::new(self.shape.column(table, column)))
    }

    /// Returns a state column as text, or why it is not a state. The reason does not contain the value.
    fn state(&self, table: &'static str, row: &QueryResult, name: &Name<'_>) -> Result<String, Refused> {
        let no_text = || too_large(row, "state").unwrap_or_else(|| "the state is not text".to_owned());
        let text: String = row.try_get("", "state").map_err(|_| name.refused(no_text()))?;
        let state = State::from_stored(&text).map_err(|_| name.refused("the state is not a JSON object"))?;
        let kept = self.shape.state(table, state.clone());
        if kept == state {
            return Ok(text);
        }
        kept.to_stored().map_err(|_| name.refused("the state cannot be written as JSON"))
    }

    async fn states(&self) -> Result<(), Stop> {
        let select = self.select_states("app_states", &["app_name", "update_time"]);
        let mut rows = self.transaction.stream(&select).await?;
        while let Some(row) = rows.try_next().await? {
            let app_name: String = row.try_get("", "app_name")?;
            let name = Name::AppState(&app_name);
            let record = self.state("app_states", &row, &name).and_then(|state| {
                let update_time = self.time(&row, "update_time", &name)?;
                Ok(Record::AppState(app_states::Model { app_name: app_name.clone(), state, update_time }))
            });
            self.outlet.send(record.unwrap_or_else(Record::Refused)).await?;
        }
        drop(rows);
        let select = self.select_states("user_states", &["app_name", "user_id", "update_time"]);
        let mut rows = self.transaction.stream(&select).await?;
        while let Some(row) = rows.try_next().await? {
            let (app_name, user_id): (String, String) = (row.try_get("", "app_name")?, row.try_get("", "user_id")?);
            let name = Name::UserState(&app_name, &user_id);
            let record = self.state("user_states", &row, &name).and_then(|state| {
                let update_time = self.time(&row, "update_time", &name)?;
                let (app_name, user_id) = (app_name.clone(), user_id.clone());
                Ok(Record::UserState(user_states::Model { app_name, user_id, state, update_time }))
            });
            self.outlet.send(record.unwrap_or_else(Record::Refused)).await?;
        }
        Ok(())
    }

    fn time(&self, row: &QueryResult, column: &str, name: &Name<'_>) -> Result<DateTime, Refused> {
        self.shape.time(row, column).map_err(|_| name.refused(format!("{column} is not a valid time")))
    }

    /// Sends the sessions and their events, and returns the number of events.
    async fn sessions(&self) -> Result<u64, Stop> {
        let columns = ["app_name", "user_id", "id", "create_time", "update_time"];
        let key_columns = ["app_name", "user_id", self.shape.column("sessions", "id")];
        let key_columns = key_columns.map(|column| self.spec.compared(column));
        let mut last: Option<[String; 3]> = None;
        let mut events = 0;
        loop {
            let mut select = self.select_states("sessions", &columns);
            if self.shape.has_annotations() {
                select.and_where(sql::is_not_being_deleted("create_time"));
            }
            if let Some(last) = &last {
                select.cond_where(after(&key_columns, last));
            }
            for column in &key_columns {
                select.order_by_expr(column.clone(), Order::Asc);
            }
            let rows = self.transaction.query_all(select.limit(SESSIONS_AHEAD)).await?;
            let mut annotations = self.annotations(&rows).await?;
            for row in &rows {
                let key = session_key(row)?;
                last = Some(key.clone());
                let [app_name, user_id, id] = key.clone();
                let name = Name::Session(&key[0], &key[1], &key[2]);
                let session = self.state("sessions", row, &name).and_then(|state| {
                    let create_time = self.time(row, "create_time", &name)?;
                    let update_time = self.time(row, "update_time", &name)?;
                    Ok(sessions::Model { app_name, user_id, id, state, create_time, update_time })
                });
                match session {
                    Err(refused) => self.outlet.send(Record::Refused(refused)).await?,
                    Ok(session) => {
                        let annotations = annotations.remove(&SessionId::of(&session));
                        events += self.session(session, annotations).await?;
                    }
                }
            }
            if (rows.len() as u64) < SESSIONS_AHEAD {
                return Ok(events);
            }
        }
    }

    /// Reads the annotations of the sessions in `rows`.
    async fn annotations(
        &self,
        rows: &[QueryResult],
    ) -> Result<HashMap<SessionId, Result<seabed_sessions::Model, Refused>>, DbErr> {
        if !self.has_annotations {
            return Ok(HashMap::new());
        }
        let id = |row| session_key(row).map(|[app_name, user_id, id]| SessionId { app_name, user_id, id });
        let sessions: Vec<SessionId> = rows.iter().map(id).collect::<Result<_, DbErr>>()?;
        annotations::read(&self.transaction, &self.spec, &sessions).await
    }

    /// Sends a session and its events, and returns the number of events. If the events get new times, so does the
    /// session, whose time is that of its last event; the events are then read twice.
    async fn session(
        &self,
        mut session: sessions::Model,
        annotations: Option<Result<seabed_sessions::Model, Refused>>,
    ) -> Result<u64, Stop> {
        if self.shape.spreads_times()
            && let (_, Some(last)) = self.events(&session, false).await?
        {
            session.update_time = last;
        }
        self.outlet.send(Record::Session(session.clone())).await?;
        if let Some(annotations) = annotations {
            self.outlet.send(annotations.map_or_else(Record::Refused, Record::Annotations)).await?;
        }
        self.events(&session, true).await.map(|(events, _)| events)
    }

    /// Reads the events of a session, and sends them if `is_sent`. Returns their number and the time of the last one.
    async fn events(&self, session: &sessions::Model, is_sent: bool) -> Result<(u64, Option<DateTime>), Stop> {
        let mut select = Query::select();
        select.from(self.spec.table_ref(&self.shape.table("events"))).columns([
            "id",
            "app_name",
            "user_id",
            "session_id",
        ]);
        for (column, is_json) in self.shape.event_columns() {
            if is_json {
                select.expr_as(json_or_size(&self.spec, column), Alias::new(column));
            } else {
                select.column(Alias::new(column));
            }
        }
        select.cond_where(of_session(&self.spec, session));
        for column in self.shape.event_order() {
            select.order_by(*column, Order::Asc);
        }
        let mut rows = self.transaction.stream(&select).await?;
        let mut last: Option<DateTime> = None;
        let mut events = 0;
        while let Some(row) = rows.try_next().await? {
            events += 1;
            let record = match self.shape.event(&row) {
                Ok(Some(mut event)) => {
                    if let Some(last) = last.filter(|last| self.shape.spreads_times() && *last >= event.timestamp) {
                        event.timestamp = last + Duration::from_micros(1);
                    }
                    last = Some(event.timestamp);
                    // A collation may have matched another spelling of the session's key.
                    event.app_name.clone_from(&session.app_name);
                    event.user_id.clone_from(&session.user_id);
                    event.session_id.clone_from(&session.id);
                    Record::Event(event)
                }
                Ok(None) => continue,
                Err(reason) => {
                    let size = self.shape.event_columns().iter().find_map(|(column, _)| too_large(&row, column));
                    let reason = size.unwrap_or(reason);
                    let id: Result<String, DbErr> = row.try_get("", "id");
                    let reason = if id.is_ok() { reason } else { "its id is not text".to_owned() };
                    let id = id.unwrap_or_else(|_| "(not text)".to_owned());
                    Record::Refused(Name::Event(&id, &session.app_name, &session.user_id, &session.id).refused(reason))
                }
            };
            if is_sent {
                self.outlet.send(record).await?;
            }
        }
        Ok((events, last))
    }
}

/// A JSON column as text, and its size in bytes instead of one that is too large.
fn json_or_size(spec: &SchemaSpec, column: &str) -> Expr {
    let text = json_text(spec, column);
    if spec.database != Database::Sqlite {
        return text;
    }
    let size = || Expr::from(Func::cust("octet_length").arg(Expr::col(Alias::new(column))));
    Expr::case(size().gt(Expr::cust(MAX_JSON.to_string())), size()).finally(text).into()
}

/// The reason why [`json_or_size`] has returned a size, if it has.
fn too_large(row: &QueryResult, column: &str) -> Option<String> {
    let size: Option<i64> = row.try_get("", column).ok()?;
    let size = size.filter(|size| *size > MAX_JSON)?;
    Some(format!("{column} has {size} bytes, and {MAX_JSON} are read at most"))
}

/// The key of a session's row.
fn session_key(row: &QueryResult) -> Result<[String; 3], DbErr> {
    Ok([row.try_get("", "app_name")?, row.try_get("", "user_id")?, row.try_get("", "id")?])
}

/// The condition that an event belongs to the session.
pub(super) fn of_session(spec: &SchemaSpec, session: &sessions::Model) -> Condition {
    let key = [("app_name", &session.app_name), ("user_id", &session.user_id), ("session_id", &session.id)];
    key.into_iter().fold(Condition::all(), |all, (column, part)| all.add(spec.compared(column).eq(part.as_str())))
}
