//! Writes rows into google-adk's schema v1, and reads back what is then stored.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, Query};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _, Value,
};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::sql;

use super::record::{ContentHash, Name, Record, SessionId};
use super::refusal::refusal;
use super::states::{APP_STATES, Found, SESSIONS, StateRow, StateTable, USER_STATES, merged};
use super::tables::{Source, of_session};
use super::{Progress, Summary};
use crate::rows::json_text;
use crate::spec::{Database, SchemaSpec};

/// A transaction holds no more rows than this, and no more than this much text, unless one row has more: enough to make
/// the cost of a commit negligible, and far below what a server accepts in one statement.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// Concurrent writers of the same rows, or of a row in between, can make a transaction fail. It then changes nothing,
/// and is repeated.
const TRIES: u32 = 10;

/// Some events of a session.
struct Part {
    session: sessions::Model,
    events: Vec<events::Model>,
    /// Whether these are the last.
    is_last: bool,
}

/// What the next transaction writes.
#[derive(Default)]
struct Batch {
    app_states: Vec<app_states::Model>,
    user_states: Vec<user_states::Model>,
    parts: Vec<Part>,
    rows: usize,
    bytes: usize,
}

/// A database to write rows to.
pub(crate) struct Store<'a> {
    pub(super) connection: &'a DatabaseConnection,
    pub(super) spec: &'a SchemaSpec,
    batch: Batch,
    /// Hashes of the events of the session being written, until they are read back.
    pub(super) sent: HashMap<SessionId, HashMap<String, ContentHash>>,
    pub(super) summary: Summary,
    /// Whether to compare only, and write nothing.
    only_compares: bool,
    /// The limit on the size of a statement, if there is one.
    limit: Option<u64>,
}

impl<'a> Store<'a> {
    pub(crate) fn new(connection: &'a DatabaseConnection, spec: &'a SchemaSpec) -> Self {
        Self {
            connection,
            spec,
            batch: Batch::default(),
            sent: HashMap::new(),
            summary: Summary::default(),
            only_compares: false,
            limit: None,
        }
    }

    /// Makes the store compare only: missing rows are reported as differences.
    pub(crate) fn only_comparing(self) -> Self {
        Self { only_compares: true, ..self }
    }

    /// Writes all rows of `source` that do not exist. Each transaction leaves the database consistent: a session exists
    /// with its first events, up to some point.
    pub(crate) async fn write(mut self, mut source: Source, progress: &mut Progress<'_>) -> Result<Summary, DbErr> {
        self.summary.expected_events = source.events;
        self.limit = self.spec.statement_limit(self.connection).await?;
        while let Some(record) = source.next().await? {
            let is_full = self.batch.bytes + record.size() > BATCH_BYTES && self.batch.bytes > 0;
            if self.batch.rows >= BATCH_ROWS || is_full {
                self.flush().await?;
                progress(&self.summary);
            }
            self.take(record);
        }
        self.end_session();
        self.flush().await?;
        progress(&self.summary);
        Ok(self.summary)
    }

    fn take(&mut self, record: Record) {
        if let Record::Refused(refused) = record {
            self.summary.refused.push(refused);
            return;
        }
        let hash = ContentHash::of(&record);
        if let Some(refused) = refusal(self.spec.database, self.limit, &record) {
            if matches!(record, Record::Session(_)) {
                self.end_session();
            }
            self.summary.refused.push(refused);
            return;
        }
        let size = record.size();
        self.batch.rows += 1;
        match record {
            Record::AppState(row) => {
                self.summary.app_states += 1;
                self.batch.app_states.push(row);
            }
            Record::UserState(row) => {
                self.summary.user_states += 1;
                self.batch.user_states.push(row);
            }
            Record::Session(session) => {
                self.end_session();
                self.summary.sessions += 1;
                self.sent.insert(SessionId::of(&session), HashMap::new());
                self.batch.parts.push(Part { session, events: Vec::new(), is_last: false });
            }
            Record::Event(event) => {
                let open = self.batch.parts.last_mut().filter(|part| !part.is_last);
                let Some(part) = open.filter(|part| SessionId::of(&part.session).has(&event)) else {
                    let reason = "its session was skipped, or does not precede it";
                    self.summary.refused.push(Name::of_event(&event).refused(reason));
                    return;
                };
                self.summary.events += 1;
                self.sent.entry(SessionId::of(&part.session)).or_default().insert(event.id.clone(), hash);
                part.events.push(event);
            }
            Record::Refused(_) => {}
        }
        self.batch.bytes += size;
        self.summary.content.toggle(hash);
    }

    fn end_session(&mut self) {
        if let Some(part) = self.batch.parts.last_mut() {
            part.is_last = true;
        }
    }

    /// Writes the batch, reads back complete sessions, and keeps the unfinished part of the last one.
    async fn flush(&mut self) -> Result<(), DbErr> {
        let mut tries = 1;
        let written = loop {
            if self.only_compares {
                break Written::default();
            }
            match self.write_batch().await {
                Ok(written) => break written,
                Err(error) if tries == TRIES || !self.spec.database.may_repeat(&error) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100) * tries).await,
            }
            tries += 1;
        };
        self.summary.new_sessions += written.sessions;
        self.summary.new_events += written.events;
        self.summary.changed_states += written.states;
        let Batch { app_states, user_states, parts, .. } = std::mem::take(&mut self.batch);
        let rows: Vec<StateRow> = app_states.iter().map(StateRow::from).collect();
        for (row, found) in self.found(&APP_STATES, &rows).await? {
            self.compare_state(&APP_STATES, &row, found);
        }
        let rows: Vec<StateRow> = user_states.iter().map(StateRow::from).collect();
        for (row, found) in self.found(&USER_STATES, &rows).await? {
            self.compare_state(&USER_STATES, &row, found);
        }
        let complete: Vec<StateRow> =
            parts.iter().filter(|part| part.is_last).map(|part| StateRow::from(&part.session)).collect();
        for (row, found) in self.found(&SESSIONS, &complete).await? {
            self.compare_state(&SESSIONS, &row, found);
        }
        for part in parts {
            if part.is_last {
                self.compare_events(&part.session).await?;
            } else {
                self.batch.parts.push(Part { events: Vec::new(), ..part });
            }
        }
        Ok(())
    }

    async fn write_batch(&self) -> Result<Written, DbErr> {
        // On SQLite this takes the write lock here; other databases ignore the option.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connection.begin_with_options(options).await?;
        let mut written = Written::default();
        // Locks rows in the same order as services do.
        let rows: Vec<StateRow> = self.batch.parts.iter().map(Part::row).collect();
        let there = self.merge(&transaction, &SESSIONS, &rows, &mut written).await?;
        let rows: Vec<StateRow> = self.batch.app_states.iter().map(StateRow::from).collect();
        self.merge(&transaction, &APP_STATES, &rows, &mut written).await?;
        let rows: Vec<StateRow> = self.batch.user_states.iter().map(StateRow::from).collect();
        self.merge(&transaction, &USER_STATES, &rows, &mut written).await?;
        let mut new_events = Vec::new();
        for part in &self.batch.parts {
            let known = if there.contains(&StateRow::from(&part.session).key) {
                self.known_events(&transaction, part).await?
            } else {
                HashSet::new()
            };
            new_events.extend(part.events.iter().filter(|event| !known.contains(&event.id)));
        }
        self.insert_events(&transaction, &new_events).await?;
        written.events += new_events.len() as u64;
        transaction.commit().await?;
        Ok(written)
    }

    /// Inserts rows that do not exist. Merges the states of existing rows key by key: the row updated later wins, and
    /// the stored row wins a tie. Returns the keys that existed.
    async fn merge(
        &self,
        transaction: &DatabaseTransaction,
        table: &StateTable,
        rows: &[StateRow],
        written: &mut Written,
    ) -> Result<HashSet<Vec<String>>, DbErr> {
        let there = self.select_rows(transaction, table, rows, false).await?;
        let mut insert = Query::insert();
        insert.into_table(self.spec.table_ref(table.name)).columns(table.columns());
        let mut inserts = 0;
        for row in rows.iter().filter(|row| !there.contains_key(&row.key)) {
            let mut values: Vec<Expr> = row.key.iter().map(|part| Expr::val(part.as_str())).collect();
            values.push(self.json(&row.state));
            values.extend(row.create_time.map(|time| self.time(time)).transpose()?);
            values.push(self.time(row.update_time)?);
            insert.values(values).map_err(|error| DbErr::Custom(error.to_string()))?;
            inserts += 1;
        }
        if inserts > 0 {
            transaction.execute(&insert).await?;
            if table.name == SESSIONS.name {
                written.sessions += inserts;
            } else {
                written.states += inserts;
            }
        }
        // Selects all of them, because another writer may have changed one in the meantime.
        let stored = self.select_rows(transaction, table, rows, true).await?;
        for row in rows {
            // A stored row that cannot be read stays, and is reported when it is read back.
            let Some(Ok(stored)) = stored.get(&row.key) else { continue };
            let Some(merged) = merged(row, stored)? else { continue };
            let update = Query::update()
                .table(self.spec.table_ref(table.name))
                .value("state", self.json(&merged.state))
                .value("update_time", self.time(merged.update_time)?)
                .cond_where(table.is(self.spec, &row.key))
                .take();
            transaction.execute(&update).await?;
            written.states += u64::from(merged.has_other_state);
        }
        Ok(there.into_keys().collect())
    }

    /// Returns the stored rows with the same keys.
    pub(super) async fn select_rows(
        &self,
        connection: &impl ConnectionTrait,
        table: &StateTable,
        rows: &[StateRow],
        lock: bool,
    ) -> Result<HashMap<Vec<String>, Found>, DbErr> {
        if rows.is_empty() {
            return Ok(HashMap::new());
        }
        let any = rows.iter().fold(Condition::any(), |any, row| any.add(table.is(self.spec, &row.key)));
        let mut select = Query::select();
        let columns = table.columns().into_iter().filter(|column| *column != "state");
        select.from(self.spec.table_ref(table.name)).columns(columns);
        select.expr_as(json_text(self.spec, "state"), "state").cond_where(any);
        // On SQLite the transaction holds the write lock.
        if lock && self.spec.database != Database::Sqlite {
            select.lock(LockType::Update);
        }
        let found = connection.query_all(&select).await?;
        found.iter().map(|row| table.row(row)).collect()
    }

    async fn known_events(&self, transaction: &DatabaseTransaction, part: &Part) -> Result<HashSet<String>, DbErr> {
        if part.events.is_empty() {
            return Ok(HashSet::new());
        }
        let select = Query::select()
            .from(self.spec.tables.table(events::Entity))
            .column("id")
            .cond_where(of_session(self.spec, &part.session))
            .and_where(self.spec.compared("id").is_in(part.events.iter().map(|event| event.id.as_str())))
            .take();
        transaction.query_all(&select).await?.iter().map(|row| row.try_get("", "id")).collect()
    }

    async fn insert_events(&self, transaction: &DatabaseTransaction, new: &[&events::Model]) -> Result<(), DbErr> {
        if new.is_empty() {
            return Ok(());
        }
        let mut insert = Query::insert();
        insert.into_table(self.spec.tables.table(events::Entity)).columns([
            "id",
            "app_name",
            "user_id",
            "session_id",
            "invocation_id",
            "timestamp",
            "event_data",
        ]);
        for event in new {
            let keys = [&event.id, &event.app_name, &event.user_id, &event.session_id, &event.invocation_id];
            let mut values: Vec<Expr> = keys.map(|part| Expr::val(part.as_str())).into();
            values.push(self.time(event.timestamp)?);
            values.push(
                event.event_data.as_deref().map_or_else(|| Expr::val(Value::String(None)), |json| self.json(json)),
            );
            insert.values(values).map_err(|error| DbErr::Custom(error.to_string()))?;
        }
        transaction.execute(&insert).await.map(drop)
    }

    fn json(&self, text: &str) -> Expr {
        self.spec.dialect.write_json(Expr::val(text))
    }

    fn time(&self, time: DateTime) -> Result<Expr, DbErr> {
        Ok(Expr::val(self.spec.dialect.timestamp(sql::in_range(time)?)))
    }
}

/// How many rows a batch has added or changed.
#[derive(Default)]
struct Written {
    sessions: u64,
    events: u64,
    states: u64,
}

impl Part {
    /// Returns the session's row as it is once this part is stored: the state arrives with the last event.
    fn row(&self) -> StateRow {
        let row = StateRow::from(&self.session);
        let newest = self.events.last().map(|event| event.timestamp);
        match newest {
            _ if self.is_last => row,
            Some(update_time) => StateRow { state: "{}".to_owned(), update_time, ..row },
            None => StateRow { state: "{}".to_owned(), update_time: self.session.create_time, ..row },
        }
    }
}
