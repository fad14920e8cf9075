//! Writes rows into google-adk's schema v1, and reads back what is then stored.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, Query};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _, Value,
};
use seabed_core::entity::events;
use seabed_core::sql;

use super::batch::{Batch, Part};
use super::record::{ContentHash, Name, Record, SessionId};
use super::refusal::{refusal, too_large};
use super::rejection::Failure;
use super::source::Source;
use super::states::{APP_STATES, Found, SESSIONS, StateRow, StateTable, USER_STATES, merged};
use super::tables::of_session;
use super::{Progress, Summary};
use crate::own_tables;
use crate::rows::json_text;
use crate::spec::{Database, SchemaSpec, is_duplicate};

/// Concurrent writers of the same rows, or of a row in between, can make a transaction fail. It then changes nothing,
/// and is repeated.
const TRIES: u32 = 10;
/// A row that another writer has inserted meanwhile is found by the next try. One that no further try finds violates a
/// key which others added.
const TRIES_OF_DUPLICATES: u32 = 3;

/// A database to write rows to.
pub(crate) struct Store<'a> {
    pub(super) connection: &'a DatabaseConnection,
    pub(super) spec: &'a SchemaSpec,
    pub(super) batch: Batch,
    /// Hashes of the events of the session being written, until they are read back.
    pub(super) sent: HashMap<SessionId, HashMap<String, ContentHash>>,
    /// Hashes of the annotations of sessions being written, until they are read back.
    pub(super) annotated: HashMap<SessionId, ContentHash>,
    pub(super) summary: Summary,
    /// Whether to compare only, and write nothing.
    only_compares: bool,
    /// The limit on the size of a statement, if there is one.
    limit: Option<u64>,
    /// Whether the target has a place for annotations.
    pub(super) has_own_tables: bool,
}

impl<'a> Store<'a> {
    pub(crate) fn new(connection: &'a DatabaseConnection, spec: &'a SchemaSpec) -> Self {
        Self {
            connection,
            spec,
            batch: Batch::default(),
            sent: HashMap::new(),
            annotated: HashMap::new(),
            summary: Summary::default(),
            only_compares: false,
            limit: None,
            has_own_tables: false,
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
        self.has_own_tables = !own_tables::is_missing(self.connection, self.spec).await?;
        while let Some(record) = source.next().await? {
            if matches!(record, Record::Session(_)) {
                self.end_session();
            }
            if self.batch.must_precede(&record, self.limit) {
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
                self.summary.sessions += 1;
                self.sent.insert(SessionId::of(&session), HashMap::new());
                self.batch.parts.push(Part::new(session));
            }
            Record::Annotations(row) => {
                if let Err(refused) = self.take_annotations(row, hash) {
                    self.summary.refused.push(refused);
                    return;
                }
            }
            Record::Event(event) => {
                let open = self.batch.parts.last_mut().filter(|part| !part.is_last);
                let Some(part) = open.filter(|part| SessionId::of(&part.session).has(&event)) else {
                    let reason = "its session was skipped, or does not precede it";
                    self.summary.refused.push(Name::of_event(&event).refused(reason));
                    return;
                };
                let sent = self.sent.entry(SessionId::of(&part.session)).or_default();
                if sent.contains_key(&event.id) {
                    let reason = "an event before it has the same id";
                    self.summary.refused.push(Name::of_event(&event).refused(reason));
                    return;
                }
                self.summary.events += 1;
                sent.insert(event.id.clone(), hash);
                part.push(event);
            }
            Record::Refused(_) => {}
        }
        self.batch.bytes += size;
        self.summary.content.toggle(hash);
    }

    /// Ends the session whose events were read last. It gets the time of its newest event if it has an earlier one,
    /// because its next event would be sorted before that.
    fn end_session(&mut self) {
        let Some(part) = self.batch.parts.last_mut() else { return };
        part.is_last = true;
        if let Some(newest) = part.newest.filter(|newest| *newest > part.session.update_time) {
            let content = &mut self.summary.content;
            content.toggle(ContentHash::of(&Record::Session(part.session.clone())));
            part.session.update_time = newest;
            content.toggle(ContentHash::of(&Record::Session(part.session.clone())));
        }
    }

    /// Writes the batch, reads back complete sessions, and keeps the unfinished part of the last one.
    async fn flush(&mut self) -> Result<(), DbErr> {
        let batch = std::mem::take(&mut self.batch);
        self.batch.parts.extend(batch.unfinished());
        let written = if self.only_compares { vec![batch] } else { self.write_rows(batch).await? };
        for batch in written {
            self.compare(batch).await?;
        }
        Ok(())
    }

    /// Writes the batch, and returns what was written. If the database rejects a row, the batch is divided until that
    /// row is found and left out.
    async fn write_rows(&mut self, batch: Batch) -> Result<Vec<Batch>, DbErr> {
        let (mut pending, mut written) = (vec![batch], Vec::new());
        while let Some(batch) = pending.pop() {
            let reason = match self.write_patiently(&batch).await {
                Ok(()) => {
                    written.push(batch);
                    continue;
                }
                Err(Failure::Rejected(reason)) => reason,
                Err(Failure::Database(error)) => return Err(error),
            };
            match batch.divide() {
                Ok((first, second)) => pending.extend([second, first]),
                Err(row) => row.into_iter().for_each(|row| self.leave_out(*row, &reason, &mut pending)),
            }
        }
        Ok(written)
    }

    /// Writes the batch in one transaction, which is repeated while that may succeed.
    async fn write_patiently(&mut self, batch: &Batch) -> Result<(), Failure> {
        let (mut tries, mut duplicates) = (0, 0);
        let written = loop {
            let error = match self.write_batch(batch).await {
                Ok(written) => break written,
                Err(Failure::Database(error)) => error,
                Err(rejected) => return Err(rejected),
            };
            if is_duplicate(&error) {
                duplicates += 1;
            } else if self.spec.database.may_repeat(&error) {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100) * tries).await;
            } else {
                tries = TRIES;
            }
            if tries == TRIES || duplicates == TRIES_OF_DUPLICATES {
                return Err(Failure::of(self.spec.database, error));
            }
        };
        self.summary.new_sessions += written.sessions;
        self.summary.new_events += written.events;
        self.summary.changed_states += written.states;
        Ok(())
    }

    /// Leaves out a row that was taken. With a session go its events that are not yet written.
    fn leave_out(&mut self, row: Record, reason: &str, pending: &mut [Batch]) {
        self.summary.refused.extend(Name::of(&row).map(|name| name.refused(reason)));
        self.summary.content.toggle(ContentHash::of(&row));
        let summary = &mut self.summary;
        match row {
            Record::AppState(_) => summary.app_states -= 1,
            Record::UserState(_) => summary.user_states -= 1,
            Record::Event(event) => {
                summary.events -= 1;
                let session = self.sent.iter_mut().find(|(session, _)| session.has(&event));
                session.map(|(_, sent)| sent.remove(&event.id));
            }
            Record::Session(session) => {
                summary.sessions -= 1;
                let id = SessionId::of(&session);
                self.batch.remove(&id);
                let events: Vec<_> = pending.iter_mut().flat_map(|batch| batch.remove(&id)).collect();
                for event in events {
                    self.leave_out(Record::Event(event), "its session was skipped", pending);
                }
                // What was written of it is not compared.
                for hash in self.sent.remove(&id).unwrap_or_default().into_values() {
                    self.summary.content.toggle(hash);
                }
                self.leave_out_annotations(&id);
            }
            Record::Annotations(row) => {
                summary.annotations -= 1;
                self.annotated.remove(&SessionId::of_annotations(&row));
            }
            Record::Refused(_) => {}
        }
    }

    async fn write_batch(&self, batch: &Batch) -> Result<Written, Failure> {
        // On SQLite this takes the write lock here; other databases ignore the option.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connection.begin_with_options(options).await?;
        let mut written = Written::default();
        // Locks rows in the same order as services do.
        let rows: Vec<StateRow> = batch.parts.iter().chain(&batch.annotated).map(Part::row).collect();
        let there = self.merge(&transaction, &SESSIONS, &rows, &mut written).await?;
        let rows: Vec<StateRow> = batch.app_states.iter().map(StateRow::from).collect();
        self.merge(&transaction, &APP_STATES, &rows, &mut written).await?;
        let rows: Vec<StateRow> = batch.user_states.iter().map(StateRow::from).collect();
        self.merge(&transaction, &USER_STATES, &rows, &mut written).await?;
        let mut new_events = Vec::new();
        for part in &batch.parts {
            let known = if there.contains(&StateRow::from(&part.session).key) {
                self.known_events(&transaction, part).await?
            } else {
                HashSet::new()
            };
            let known = self.without_redacted(&transaction, part, known).await?;
            new_events.extend(part.events.iter().filter(|event| !known.contains(&event.id)));
        }
        self.insert_events(&transaction, &new_events).await?;
        for annotations in batch.all_annotations() {
            self.write_annotations(&transaction, annotations).await?;
        }
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
    ) -> Result<HashSet<Vec<String>>, Failure> {
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
            if let Some(reason) = too_large(self.limit, merged.state.len()) {
                return Err(Failure::Rejected(format!("merged with the state in the target, {reason}")));
            }
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
