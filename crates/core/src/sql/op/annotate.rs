//! `annotate_session`: the session's row in `seabed_sessions`, and its labels as rows to find it by.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{DeleteStatement, Expr, ExprTrait, InsertStatement, Query};
use sea_orm::{QueryResult, Value};

use super::context::Context;
use crate::entity::{seabed_labels, seabed_sessions};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::error::{StatementError, classify, statement_error};
use crate::sql::executor::Executor;
use crate::sql::statement::{SqlText, key_predicate, name, placeholder, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::validate::NewAnnotations;
use crate::{Annotations, BackendError, BackendErrorKind, Error, Json, Result, SessionKey, Timestamp};

const OPERATION: &str = "annotate_session";

/// The statements of `annotate_session` whose text does not depend on the labels.
pub(crate) struct AnnotateSql<D> {
    select: SqlText<D>,
    insert: SqlText<D>,
    update: SqlText<D>,
}

impl<D: Dialect> AnnotateSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use seabed_sessions::Column;
        let table = || tables.table(seabed_sessions::Entity);
        let of_session = || key_predicate::<D, _, 3>([Column::AppName, Column::UserId, Column::SessionId]);
        // The lock reads the row as it is now, also in an old snapshot of a caller's transaction.
        let select = Query::select()
            .columns([Column::Title, Column::UpdateTime])
            .expr_as(D::SCHEMA.read_json(Expr::col(Column::Labels)), Column::Labels)
            .from(table())
            .and_where(of_session())
            .lock_exclusive()
            .take();
        let columns =
            [Column::Title, Column::Labels, Column::UpdateTime, Column::AppName, Column::UserId, Column::SessionId];
        let value = |column: &Column| match column {
            Column::Labels => D::SCHEMA.write_json(placeholder()),
            _ => placeholder(),
        };
        let insert =
            Query::insert().into_table(table()).columns(columns).values_panic(columns.iter().map(value)).take();
        let changed = columns.iter().take(3).map(|column| (*column, value(column)));
        let update = Query::update().table(table()).values(changed).and_where(of_session()).take();
        Self { select: SqlText::new(&select), insert: SqlText::new(&insert), update: SqlText::new(&update) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("select", &self.select), ("insert", &self.insert), ("update", &self.update)]
    }

    /// The annotations of a session, and when they were changed; `None` if it has no row.
    async fn read(&self, on: &mut dyn Executor, key: &SessionKey) -> Result<Option<(Annotations, Timestamp)>> {
        let row = on.query_one(self.select.bind(session_key_values(key))).await;
        let row = row.map_err(|error| own_tables_error::<D>(OPERATION, error))?;
        let stored = RowDecoder::<D>::new("seabed_sessions", key);
        let updated = |row: &QueryResult| stored.timestamp(row, "update_time", "update_time");
        row.map(|row| Ok((annotations::<D>(key, &row)?, updated(&row)?))).transpose()
    }

    /// Stores the annotations of a session that has a row, or none yet.
    async fn write(
        &self,
        on: &mut dyn Executor,
        key: &SessionKey,
        annotations: &Annotations,
        now: Timestamp,
        has_row: bool,
    ) -> Result<()> {
        let labels = Json::from_serialize(&annotations.labels);
        let labels = labels.map_err(|error| Error::invalid("labels", error.to_string()))?;
        let values = [annotations.title.clone().into(), labels.as_str().into(), D::SCHEMA.timestamp(now)];
        let statement = if has_row { &self.update } else { &self.insert };
        let written = on.execute(statement.bind(values.into_iter().chain(session_key_values(key)))).await;
        written.map(drop).map_err(|error| own_tables_error::<D>(OPERATION, error))
    }
}

/// The annotations in a row with the columns `title` and `labels`, which an outer join may have left out.
pub(super) fn annotations<D: Dialect>(key: &SessionKey, row: &QueryResult) -> Result<Annotations> {
    let stored = RowDecoder::<D>::new("seabed_sessions", key);
    let title = stored.text_or_null(row, "title", "title")?.map(str::to_owned);
    let labels = stored.text_or_null(row, "labels", "labels")?;
    let labels = labels.map(serde_json::from_str).transpose().map_err(|error| stored.not_json("labels", &error))?;
    Ok(Annotations { title, labels: labels.unwrap_or_default() })
}

/// The error of a statement on Seabed's own tables, which a database may lack.
pub(super) fn own_tables_error<D: Dialect>(operation: &str, error: StatementError) -> Error {
    if classify::<D>(&error) != BackendErrorKind::Schema {
        return statement_error::<D>(operation, error);
    }
    let missing = format!(
        "{operation} needs the tables seabed_sessions and seabed_labels; create them with `seabed-migrate up` or \
         `seabed::migrate`"
    );
    BackendError::new(BackendErrorKind::Schema, missing).with_source(error.into_source()).into()
}

/// Deletes a session's label rows.
fn delete_labels<D: Dialect>(tables: &Tables, key: &SessionKey) -> DeleteStatement {
    Query::delete().from_table(tables.table(seabed_labels::Entity)).cond_where(is_of::<D>(key)).take()
}

fn is_of<D: Dialect>(key: &SessionKey) -> Expr {
    use seabed_labels::Column;
    let columns = [Column::AppName, Column::UserId, Column::SessionId];
    let equals = |(column, value): (Column, Value)| name::<D>(column).eq(value);
    let parts = columns.into_iter().zip(session_key_values(key)).map(equals);
    parts.reduce(ExprTrait::and).unwrap_or_else(|| Expr::cust("1 = 1"))
}

/// Inserts the labels of a session; `None` if it has none.
fn insert_labels(tables: &Tables, key: &SessionKey, labels: &BTreeMap<String, String>) -> Option<InsertStatement> {
    use seabed_labels::Column;
    if labels.is_empty() {
        return None;
    }
    let mut insert = Query::insert();
    insert.into_table(tables.table(seabed_labels::Entity)).columns([
        Column::AppName,
        Column::UserId,
        Column::SessionId,
        Column::Name,
        Column::Value,
    ]);
    for (name, value) in labels {
        let row = session_key_values(key).chain([name.as_str().into(), value.as_str().into()]);
        insert.values_panic(row.map(Expr::val));
    }
    Some(insert)
}

/// The statements on labels, which are built for each call, as samples.
pub(super) fn sample_texts<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let owned = |text: &str| text.to_owned();
    let [app_name, user_id, session_id] = ["app", "user", "session"];
    let Ok(key) = SessionKey::try_new(app_name, user_id, session_id) else { return Vec::new() };
    let labels = BTreeMap::from([("name".to_owned(), "value".to_owned())]);
    let delete = D::BACKEND.build(&delete_labels::<D>(tables, &key)).sql;
    let insert = insert_labels(tables, &key, &labels).map(|insert| D::BACKEND.build(&insert).sql).unwrap_or_default();
    vec![(owned("annotate_session.delete_labels"), delete), (owned("annotate_session.insert_labels"), insert)]
}

/// A change of a session's title and labels.
pub(crate) struct AnnotateOp<D: Dialect> {
    pub(crate) sql: Arc<AnnotateSql<D>>,
    pub(crate) new: NewAnnotations,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for AnnotateOp<D> {
    type Outcome = Annotations;

    const NAME: &'static str = OPERATION;

    /// Setting the title and labels again would undo what others have set since.
    const REPEATABLE: bool = false;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.new.request.key.clone())
    }

    /// The lock on the session's row keeps others who change its annotations waiting, whether it has a row of them yet
    /// or not, and keeps the session from being deleted.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Annotations>> {
        let Self { sql, new: NewAnnotations { request, now } } = self;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let (on, key) = (attempt.on, &request.key);
        let actual = context.revision(on, key, OPERATION).await?.ok_or_else(|| Error::not_found(key))?;
        request.check_revision(actual)?;
        let stored = sql.read(on, key).await?;
        // Of two copies the later one wins, so the time never goes back.
        let after = stored.as_ref().and_then(|(_, updated)| updated.next());
        let time = after.map_or(*now, |after| after.max(*now));
        let has_row = stored.is_some();
        let changed = request.apply_to(stored.map(|(stored, _)| stored).unwrap_or_default())?;
        sql.write(on, key, &changed, time, has_row).await?;
        if request.labels.is_empty() {
            return Ok(Applied::Written(changed));
        }
        // All of them, also rows that somebody else has left there.
        let delete = D::BACKEND.build(&delete_labels::<D>(&context.tables, key));
        let insert = insert_labels(&context.tables, key, &changed.labels).map(|insert| D::BACKEND.build(&insert));
        for statement in [delete].into_iter().chain(insert) {
            on.execute(statement).await.map_err(|error| own_tables_error::<D>(OPERATION, error))?;
        }
        Ok(Applied::Written(changed))
    }

    /// The change was committed if the session has all of it. The read waits for the lock of the session's row, which
    /// an undecided first attempt still holds.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<Annotations>> {
        let (mut on, request) = (context.database.autocommit(), &self.new.request);
        if context.revision(&mut on, &request.key, OPERATION).await?.is_none() {
            return Ok(None);
        }
        let stored = self.sql.read(&mut on, &request.key).await?.map(|(stored, _)| stored);
        Ok(stored.filter(|stored| request.is_met_by(stored)))
    }
}
