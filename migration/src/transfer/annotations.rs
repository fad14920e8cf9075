//! Titles, labels and what else `seabed_sessions` has of a session: read with it, and written with the last of its
//! events.

use std::collections::{BTreeMap, HashMap};

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Alias, Condition, Expr, ExprTrait as _, InsertStatement, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, QueryResult};
use seabed_core::entity::seabed_sessions::Model;
use seabed_core::sql;

use super::record::{ContentHash, Name, Record, Refused, SessionId};
use super::store::Store;
use crate::rows::{json_text, time_of};
use crate::spec::SchemaSpec;

const TABLE: &str = "seabed_sessions";
const LABELS: &str = "seabed_labels";
const KEY: [&str; 3] = ["app_name", "user_id", "session_id"];
const TEXTS: [&str; 3] = ["title", "parent_session_id", "parent_event_id"];
const JSON: [&str; 2] = ["labels", "initial_state"];

impl SessionId {
    /// The rows of a table that belong to the session.
    fn rows(&self, spec: &SchemaSpec) -> Condition {
        let key = KEY.into_iter().zip([&self.app_name, &self.user_id, &self.id]);
        key.fold(Condition::all(), |all, (column, part)| all.add(spec.compared(column).eq(part.as_str())))
    }

    /// The session that a row belongs to.
    pub(super) fn of_annotations(row: &Model) -> Self {
        Self { app_name: row.app_name.clone(), user_id: row.user_id.clone(), id: row.session_id.clone() }
    }
}

/// Reads the rows of sessions, by their sessions: each, or why it cannot be read.
///
/// # Errors
/// Those of the database.
pub(super) async fn read(
    connection: &impl ConnectionTrait,
    spec: &SchemaSpec,
    sessions: &[SessionId],
) -> Result<HashMap<SessionId, Result<Model, Refused>>, DbErr> {
    if sessions.is_empty() {
        return Ok(HashMap::new());
    }
    let any = sessions.iter().fold(Condition::any(), |any, session| any.add(session.rows(spec)));
    let mut select = Query::select();
    select.from(spec.table_ref(TABLE)).columns(KEY.into_iter().chain(TEXTS).chain(["held_since", "update_time"]));
    for column in JSON {
        select.expr_as(json_text(spec, column), Alias::new(column));
    }
    let mut found = HashMap::new();
    for row in connection.query_all(select.cond_where(any)).await? {
        let [app_name, user_id, id] = KEY.map(|column| row.try_get("", column));
        let session = SessionId { app_name: app_name?, user_id: user_id?, id: id? };
        let name = Name::Annotations(&session.app_name, &session.user_id, &session.id);
        let model = model(&row, &session).map_err(|error| name.refused(format!("it cannot be read: {error}")));
        found.insert(session, model);
    }
    Ok(found)
}

fn model(row: &QueryResult, session: &SessionId) -> Result<Model, DbErr> {
    let SessionId { app_name, user_id, id } = session.clone();
    Ok(Model {
        app_name,
        user_id,
        session_id: id,
        title: row.try_get("", "title")?,
        labels: row.try_get("", "labels")?,
        initial_state: row.try_get("", "initial_state")?,
        parent_session_id: row.try_get("", "parent_session_id")?,
        parent_event_id: row.try_get("", "parent_event_id")?,
        held_since: time_or_null(row, "held_since")?,
        update_time: time_of(row, "update_time")?,
    })
}

/// Reads a time that may be null.
fn time_or_null(row: &QueryResult, column: &str) -> Result<Option<DateTime>, DbErr> {
    match time_of(row, column) {
        Ok(time) => Ok(Some(time)),
        Err(error) => match row.try_get::<Option<DateTime>>("", column) {
            Ok(None) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The labels of a row.
pub(super) fn labels(row: &Model) -> Result<BTreeMap<String, String>, serde_json::Error> {
    row.labels.as_deref().map_or_else(|| Ok(BTreeMap::new()), serde_json::from_str)
}

impl Store<'_> {
    /// Takes the row of the session that was taken last.
    pub(super) fn take_annotations(&mut self, row: Model, hash: ContentHash) -> Result<(), Refused> {
        let id = SessionId::of_annotations(&row);
        let open = self.batch.parts.last_mut().filter(|part| !part.is_last);
        let open = open.filter(|part| part.annotations.is_none() && SessionId::of(&part.session) == id);
        let Some(part) = open.filter(|_| self.has_own_tables) else {
            let reason = if self.has_own_tables {
                "its session was skipped, or does not precede it"
            } else {
                "the target lacks the tables for it, which `seabed-migrate up` creates"
            };
            return Err(Name::Annotations(&id.app_name, &id.user_id, &id.id).refused(reason));
        };
        part.annotations = Some(row);
        self.summary.annotations += 1;
        self.annotated.insert(id, hash);
        Ok(())
    }

    /// Leaves out the row of a session that is left out.
    pub(super) fn leave_out_annotations(&mut self, session: &SessionId) {
        if let Some(hash) = self.annotated.remove(session) {
            self.summary.annotations -= 1;
            self.summary.content.toggle(hash);
        }
    }

    /// Writes the row of a session that the transaction has locked, unless there is one that is as new.
    pub(super) async fn write_annotations(&self, transaction: &DatabaseTransaction, row: &Model) -> Result<(), DbErr> {
        let session = SessionId::of_annotations(row);
        let stored = read(transaction, self.spec, std::slice::from_ref(&session)).await?.remove(&session);
        let is_newer = match &stored {
            None => true,
            Some(Ok(stored)) => stored.update_time < row.update_time,
            // A row that cannot be read stays, and is reported when it is read back.
            Some(Err(_)) => false,
        };
        if !is_newer {
            return Ok(());
        }
        for table in [TABLE, LABELS] {
            let delete =
                Query::delete().from_table(self.spec.table_ref(table)).cond_where(session.rows(self.spec)).take();
            transaction.execute(&delete).await?;
        }
        for insert in self.insert_annotations(&session, row)? {
            transaction.execute(&insert).await?;
        }
        Ok(())
    }

    /// Returns the statements that insert the row, and its labels.
    fn insert_annotations(&self, session: &SessionId, row: &Model) -> Result<Vec<InsertStatement>, DbErr> {
        let text = |text: &String| Expr::val(text.as_str());
        let json = |text: &String| self.spec.dialect.write_json(Expr::val(text.as_str()));
        let time = |time: DateTime| Ok::<_, DbErr>(Expr::val(self.spec.dialect.timestamp(sql::in_range(time)?)));
        let key = [&session.app_name, &session.user_id, &session.id].map(text);
        let [title, parent_session_id, parent_event_id] =
            [&row.title, &row.parent_session_id, &row.parent_event_id].map(|value| value.as_ref().map(text));
        let [labels_text, initial_state] = [&row.labels, &row.initial_state].map(|value| value.as_ref().map(json));
        let times = [row.held_since.map(time).transpose()?, Some(time(row.update_time)?)];
        let values = key.iter().cloned().map(Some);
        let values = values.chain([title, parent_session_id, parent_event_id, labels_text, initial_state]).chain(times);
        let columns = KEY.into_iter().chain(TEXTS).chain(JSON).chain(["held_since", "update_time"]);
        // What is left out is null.
        let (columns, values): (Vec<&str>, Vec<Expr>) =
            columns.zip(values).filter_map(|(column, value)| Some((column, value?))).unzip();
        let failed = |error: sea_orm::sea_query::error::Error| DbErr::Custom(error.to_string());
        let mut insert = Query::insert();
        insert.into_table(self.spec.table_ref(TABLE)).columns(columns).values(values).map_err(failed)?;
        let labels = labels(row).map_err(|error| DbErr::Custom(error.to_string()))?;
        if labels.is_empty() {
            return Ok(vec![insert]);
        }
        let mut insert_labels = Query::insert();
        insert_labels.into_table(self.spec.table_ref(LABELS)).columns(KEY.into_iter().chain(["name", "value"]));
        for (name, value) in labels {
            let row = key.iter().cloned().chain([Expr::val(name), Expr::val(value)]);
            insert_labels.values(row).map_err(failed)?;
        }
        Ok(vec![insert, insert_labels])
    }

    /// Compares the row of a session that was written with what is stored.
    pub(super) async fn compare_annotations(&mut self, row: &Model) -> Result<(), DbErr> {
        let session = SessionId::of_annotations(row);
        self.annotated.remove(&session);
        let stored = read(self.connection, self.spec, std::slice::from_ref(&session)).await?.remove(&session);
        let name = Name::Annotations(&session.app_name, &session.user_id, &session.id);
        let problem = match stored {
            Some(Ok(stored)) => {
                let hash = ContentHash::of(&Record::Annotations(stored.clone()));
                self.summary.stored_content.toggle(hash);
                let is_same = hash == ContentHash::of(&Record::Annotations(row.clone()));
                (!is_same && stored.update_time <= row.update_time).then(|| format!("{name} has different content"))
            }
            Some(Err(refused)) => Some(refused.to_string()),
            None => Some(format!("{name} is missing")),
        };
        self.summary.different.extend(problem);
        Ok(())
    }
}
