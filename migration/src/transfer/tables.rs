//! Reads an entire database in one snapshot.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Alias, Condition, Expr, ExprTrait, Func, Order, Query, SelectStatement};
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel, QueryResult,
    StreamTrait, TransactionOptions, TransactionTrait,
};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::{State, Timestamp, sql};
use tokio::sync::mpsc;

use super::Selection;
use super::record::{Record, Refused};
use crate::spec::{Database, SchemaSpec};

/// How many rows are buffered between reading and writing; each may be several megabytes.
const ROWS_AHEAD: usize = 16;
/// How many session rows one query reads.
const SESSIONS_AHEAD: u64 = 20;

/// A source of rows.
pub(crate) struct Source {
    /// The number of events, if known in advance.
    pub(crate) events: Option<u64>,
    /// `None` marks the end. If it is missing, the reader did not reach the end.
    rows: mpsc::Receiver<Result<Option<Record>, DbErr>>,
}

impl Source {
    /// Starts `read` in its own task; its rows are received here.
    pub(crate) fn of<F>(events: Option<u64>, read: impl FnOnce(Outlet) -> F) -> Self
    where
        F: Future<Output = Result<(), Stop>> + Send + 'static,
    {
        let (sender, rows) = mpsc::channel(ROWS_AHEAD);
        let ending = sender.clone();
        let reading = read(Outlet(sender));
        tokio::spawn(async move {
            let end = match reading.await {
                Ok(()) => Ok(None),
                Err(Stop::Failed(error)) => Err(error),
                Err(Stop::NobodyTakesRows) => return,
            };
            // If nobody receives rows any more, nobody needs the outcome.
            let _: Result<(), _> = ending.send(end).await;
        });
        Self { events, rows }
    }

    /// Returns the next row, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, DbErr> {
        let interrupted = || Err(DbErr::Custom("reading the source was interrupted".to_owned()));
        self.rows.recv().await.unwrap_or_else(interrupted)
    }
}

/// Where a reader sends rows.
pub(crate) struct Outlet(mpsc::Sender<Result<Option<Record>, DbErr>>);

impl Outlet {
    pub(crate) async fn send(&self, record: Record) -> Result<(), Stop> {
        self.0.send(Ok(Some(record))).await.map_err(|_| Stop::NobodyTakesRows)
    }
}

/// Why reading stopped before the end.
pub(crate) enum Stop {
    Failed(DbErr),
    NobodyTakesRows,
}

impl From<DbErr> for Stop {
    fn from(error: DbErr) -> Self {
        Self::Failed(error)
    }
}

/// A table layout: the base names of its tables and columns, and how to read its rows.
pub(crate) trait Shape: Send + Sync + 'static {
    /// Returns the table that corresponds to `table` in google-adk's schema v1.
    fn table(&self, table: &'static str) -> String {
        table.to_owned()
    }

    /// Returns the column that corresponds to `column` of `table` in google-adk's schema v1.
    fn column(&self, table: &'static str, column: &'static str) -> &'static str {
        let _ = table;
        column
    }

    /// Reads a time of a session or a state.
    fn time(&self, row: &QueryResult, column: &str) -> Result<DateTime, DbErr>;

    /// Converts a state of `table` to what schema v1 stores.
    fn state(&self, table: &'static str, state: State) -> State {
        let _ = table;
        state
    }

    /// Returns the columns of `events` besides its keys, and whether each contains JSON.
    fn event_columns(&self) -> Vec<(&str, bool)>;

    /// Returns the columns by which the events of a session are sorted.
    fn event_order(&self) -> &'static [&'static str] {
        &["timestamp", "id"]
    }

    /// Reads an event. Returns `None` for an event to be dropped, and the reason if it cannot be read.
    fn event(&self, row: &QueryResult) -> Result<Option<events::Model>, String>;

    /// Whether the order of a session's events can differ from that of their times and ids. If so, events get new
    /// times, as little later as possible.
    fn spreads_times(&self) -> bool {
        false
    }
}

/// Builds an event from `row`, whose columns `id` and `invocation_id` have the same names in all layouts. The reader
/// fills in the session's key, because it knows how the session spells it.
pub(crate) fn event_of(
    row: &QueryResult,
    timestamp: DateTime,
    event_data: Option<String>,
) -> Result<events::Model, DbErr> {
    Ok(events::Model {
        id: row.try_get("", "id")?,
        app_name: String::new(),
        user_id: String::new(),
        session_id: String::new(),
        invocation_id: row.try_get("", "invocation_id")?,
        timestamp,
        event_data,
    })
}

/// Reads a time, as the service does (on PostgreSQL also a time with a zone, in UTC).
pub(crate) fn time_of(row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
    let moment = match () {
        #[cfg(feature = "postgres")]
        () if row.try_as_pg_row().is_some() => moment::<seabed_postgres::Postgres>(row, column),
        #[cfg(feature = "sqlite")]
        () if row.try_as_sqlite_row().is_some() => moment::<seabed_sqlite::Sqlite>(row, column),
        () => sql::in_range(row.try_get("", column)?),
    };
    moment.map(Timestamp::to_naive_utc)
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn moment<D: sql::Dialect>(row: &QueryResult, column: &str) -> Result<Timestamp, DbErr> {
    <D::Driver as sql::Driver>::moment(row, column)
}

/// google-adk's schema v1, which Seabed shares.
pub(crate) struct V1;

impl Shape for V1 {
    fn time(&self, row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
        time_of(row, column)
    }

    fn event_columns(&self) -> Vec<(&str, bool)> {
        vec![("invocation_id", false), ("timestamp", false), ("event_data", true)]
    }

    fn event(&self, row: &QueryResult) -> Result<Option<events::Model>, String> {
        let event = || {
            Ok(events::Model {
                app_name: row.try_get("", "app_name")?,
                user_id: row.try_get("", "user_id")?,
                session_id: row.try_get("", "session_id")?,
                ..event_of(row, time_of(row, "timestamp")?, row.try_get("", "event_data")?)?
            })
        };
        event().map(Some).map_err(|error: DbErr| error.to_string())
    }
}

/// Reads all selected rows, as of one instant. `refused` goes first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn read(
    connection: &DatabaseConnection,
    spec: SchemaSpec,
    shape: impl Shape,
    selection: Selection,
    refused: Vec<Refused>,
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
        count.and_where(Expr::col("user_id").eq(user_id.as_str()));
    }
    count.expr_as(Func::count(Expr::val(1)), "events");
    let row = transaction.query_one(&count).await?;
    let events: Option<i64> = row.map(|row| row.try_get("", "events")).transpose()?;
    let events = events.and_then(|count| u64::try_from(count).ok());
    Ok(Source::of(events, |outlet| async move {
        for refused in refused {
            outlet.send(Record::Refused(refused)).await?;
        }
        let reader = Reader { transaction, spec, shape, selection, outlet };
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
        select.and_where(Expr::col("app_name").eq(app_name.as_str()));
    }
    select
}

/// Selects a JSON column as text.
pub(super) fn json_text(spec: &SchemaSpec, column: &str) -> Expr {
    spec.dialect.read_json(Expr::col(Alias::new(column)))
}

struct Reader<S> {
    transaction: DatabaseTransaction,
    spec: SchemaSpec,
    shape: S,
    selection: Selection,
    outlet: Outlet,
}

impl<S: Shape> Reader<S> {
    /// Builds a query on a table that has `state`; its result columns have the names of schema v1.
    fn select_states(&self, table: &'static str, columns: &[&'static str]) -> SelectStatement {
        let mut select = select(&self.spec, &self.shape.table(table), &self.selection);
        for column in columns {
            select.expr_as(self.column(table, column), Alias::new(*column));
        }
        select.expr_as(json_text(&self.spec, "state"), "state");
        if let Some(user_id) = self.selection.user_id.as_ref().filter(|_| columns.contains(&"user_id")) {
            select.and_where(Expr::col("user_id").eq(user_id.as_str()));
        }
        select
    }

    fn column(&self, table: &'static str, column: &'static str) -> Expr {
        Expr::col(Alias::new(self.shape.column(table, column)))
    }

    /// Returns a state column as text, or why it is not a state. The reason does not contain the value.
    fn state(&self, table: &'static str, row: &QueryResult, name: &str) -> Result<String, Refused> {
        let refused = |reason: &str| Refused { row: name.to_owned(), reason: reason.to_owned() };
        let text: String = row.try_get("", "state").map_err(|_| refused("the state is not text"))?;
        let state: State = serde_json::from_str(&text).map_err(|_| refused("the state is not a JSON object"))?;
        let kept = self.shape.state(table, state.clone());
        if kept == state {
            return Ok(text);
        }
        serde_json::to_string(&kept).map_err(|_| refused("the state cannot be written as JSON"))
    }

    async fn states(&self) -> Result<(), Stop> {
        let select = self.select_states("app_states", &["app_name", "update_time"]);
        let mut rows = self.transaction.stream(&select).await?;
        while let Some(row) = rows.try_next().await? {
            let app_name: String = row.try_get("", "app_name")?;
            let name = format!("app_states row of app {app_name:?}");
            let record = self.state("app_states", &row, &name).and_then(|state| {
                let update_time = self.time(&row, "update_time", &name)?;
                Ok(Record::AppState(app_states::Model { app_name, state, update_time }))
            });
            self.outlet.send(record.unwrap_or_else(Record::Refused)).await?;
        }
        drop(rows);
        let select = self.select_states("user_states", &["app_name", "user_id", "update_time"]);
        let mut rows = self.transaction.stream(&select).await?;
        while let Some(row) = rows.try_next().await? {
            let (app_name, user_id): (String, String) = (row.try_get("", "app_name")?, row.try_get("", "user_id")?);
            let name = format!("user_states row of user {user_id:?} of app {app_name:?}");
            let record = self.state("user_states", &row, &name).and_then(|state| {
                let update_time = self.time(&row, "update_time", &name)?;
                Ok(Record::UserState(user_states::Model { app_name, user_id, state, update_time }))
            });
            self.outlet.send(record.unwrap_or_else(Record::Refused)).await?;
        }
        Ok(())
    }

    fn time(&self, row: &QueryResult, column: &str, name: &str) -> Result<DateTime, Refused> {
        self.shape
            .time(row, column)
            .map_err(|_| Refused { row: name.to_owned(), reason: format!("{column} is not a valid time") })
    }

    /// Sends the sessions and their events, and returns the number of events.
    async fn sessions(&self) -> Result<u64, Stop> {
        let columns = ["app_name", "user_id", "id", "create_time", "update_time"];
        let (app, user, id) = (Expr::col("app_name"), Expr::col("user_id"), self.column("sessions", "id"));
        let mut after: Option<[String; 3]> = None;
        let mut events = 0;
        loop {
            let mut select = self.select_states("sessions", &columns);
            if let Some([last_app, last_user, last_id]) = &after {
                let later_id =
                    Condition::all().add(user.clone().eq(last_user.as_str())).add(id.clone().gt(last_id.as_str()));
                let later_user = Condition::any().add(user.clone().gt(last_user.as_str())).add(later_id);
                let same_app = Condition::all().add(app.clone().eq(last_app.as_str())).add(later_user);
                // The first condition lets the database search an index.
                select.and_where(app.clone().gte(last_app.as_str()));
                select.cond_where(Condition::any().add(app.clone().gt(last_app.as_str())).add(same_app));
            }
            for column in [&app, &user, &id] {
                select.order_by_expr(column.clone(), Order::Asc);
            }
            let rows = self.transaction.query_all(select.limit(SESSIONS_AHEAD)).await?;
            for row in &rows {
                let key: [String; 3] =
                    [row.try_get("", "app_name")?, row.try_get("", "user_id")?, row.try_get("", "id")?];
                after = Some(key.clone());
                let [app_name, user_id, id] = key;
                let name = format!("session {id:?} of user {user_id:?} of app {app_name:?}");
                let session = self.state("sessions", row, &name).and_then(|state| {
                    let create_time = self.time(row, "create_time", &name)?;
                    let update_time = self.time(row, "update_time", &name)?;
                    Ok(sessions::Model { app_name, user_id, id, state, create_time, update_time })
                });
                match session {
                    Err(refused) => self.outlet.send(Record::Refused(refused)).await?,
                    Ok(session) => events += self.session(session).await?,
                }
            }
            if (rows.len() as u64) < SESSIONS_AHEAD {
                return Ok(events);
            }
        }
    }

    /// Sends a session and its events, and returns the number of events. If the events get new times, so does the
    /// session, whose time is that of its last event; the events are then read twice.
    async fn session(&self, mut session: sessions::Model) -> Result<u64, Stop> {
        if self.shape.spreads_times()
            && let (_, Some(last)) = self.events(&session, false).await?
        {
            session.update_time = last;
        }
        self.outlet.send(Record::Session(session.clone())).await?;
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
                select.expr_as(json_text(&self.spec, column), Alias::new(column));
            } else {
                select.column(Alias::new(column));
            }
        }
        select
            .and_where(Expr::col("app_name").eq(session.app_name.as_str()))
            .and_where(Expr::col("user_id").eq(session.user_id.as_str()))
            .and_where(Expr::col("session_id").eq(session.id.as_str()));
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
                    let id: String = row.try_get("", "id")?;
                    Record::Refused(Refused { row: format!("event {id:?} of session {:?}", session.id), reason })
                }
            };
            if is_sent {
                self.outlet.send(record).await?;
            }
        }
        Ok((events, last))
    }
}
