//! `redact_event`: replaces the event's row, and appends the event that reports it. The row is deleted and inserted, so
//! that the account of a service needs no right to change events.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::Value;
use sea_orm::sea_query::{Expr, LockBehavior, LockType, Query};

use super::append::AppendOp;
use super::context::Context;
use crate::entity::events;
use crate::history::Redacted;
use crate::history::redact::NewRedaction;
use crate::sql::decode::{RowDecoder, decode_event};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::statement::{SqlText, event_columns, event_key_predicate, placeholder, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, WriteOp};
use crate::{Error, Event, Json, Result};

const OPERATION: &str = "redact_event";

/// The statements of `redact_event`.
pub(crate) struct RedactSql<D> {
    select: SqlText<D>,
    delete: SqlText<D>,
    insert: SqlText<D>,
}

impl<D: Dialect> RedactSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use events::Column;
        // google-adk deletes a session's events before it locks the session. Who waits for the other here is this one,
        // which tries again.
        let select = Query::select()
            .columns([Column::InvocationId, Column::Timestamp])
            .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
            .from(tables.table(events::Entity))
            .and_where(event_key_predicate::<D>())
            .lock_with_behavior(LockType::Update, LockBehavior::Nowait)
            .take();
        let delete =
            Query::delete().from_table(tables.table(events::Entity)).and_where(event_key_predicate::<D>()).take();
        let values = event_columns().map(|column| match column {
            Column::EventData => D::SCHEMA.write_json(placeholder()),
            _ => placeholder(),
        });
        let insert = Query::insert()
            .into_table(tables.table(events::Entity))
            .columns(event_columns())
            .values_panic(values)
            .take();
        Self { select: SqlText::new(&select), delete: SqlText::new(&delete), insert: SqlText::new(&insert) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("select", &self.select), ("delete", &self.delete), ("insert", &self.insert)]
    }
}

/// An event to redact.
pub(crate) struct RedactOp<D: Dialect> {
    pub(crate) sql: Arc<RedactSql<D>>,
    pub(crate) new: NewRedaction,
    /// Reports it.
    pub(crate) notice: AppendOp<D>,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for RedactOp<D> {
    type Outcome = Redacted;

    const NAME: &'static str = OPERATION;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Session(self.new.key.clone())
    }

    /// The lock on the session's row keeps appends waiting, which might find the event that is replaced to be their own.
    /// The event that reports it comes first, so that nothing is written should that be refused.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Redacted>> {
        let Self { sql, new, notice } = self;
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let failed = |error| statement_error::<D>(OPERATION, error);
        let on = attempt.on;
        let revision = context.revision(on, &new.key, OPERATION).await?.ok_or_else(|| Error::not_found(&new.key))?;
        let of_event = || session_key_values(&new.key).chain([Value::from(new.event_id.as_str())]);
        let row = on.query_one(sql.select.bind(of_event())).await.map_err(failed)?;
        let row = row.ok_or_else(NewRedaction::no_such_event)?;
        let stored: Event = decode_event::<D>(&new.key, &new.event_id, &row, "event_data")?;
        let Some(redacted) = new.apply_to(&stored) else {
            return Ok(Applied::Unchanged(Redacted::new(stored, revision)));
        };
        let data = Json::from_serialize(&redacted).map_err(|error| Error::invalid("event", error.to_string()))?;
        let decoder = RowDecoder::<D>::new("events", &new.key);
        let invocation = decoder.text(&row, "invocation_id", "invocation_id")?;
        let time = D::SCHEMA.timestamp(decoder.timestamp(&row, "timestamp", "timestamp")?);
        let values: Vec<_> = of_event().chain([invocation.into(), time, data.as_str().into()]).collect();
        let append = Attempt { on: &mut *on, lock: LockMode::Wait, prefetched: None };
        let appended = match notice.apply(context, append).await? {
            Applied::Written(appended) => appended.revision(),
            // The report is there, so this was carried out before, and somebody has redacted the event otherwise since.
            Applied::Unchanged(_) => return Ok(Applied::Unchanged(Redacted::new(stored, revision))),
            Applied::Locked | Applied::SharedLocked => return Ok(Applied::Locked),
        };
        on.execute(sql.delete.bind(of_event())).await.map_err(failed)?;
        on.execute(sql.insert.bind(values)).await.map_err(failed)?;
        Ok(Applied::Written(Redacted::new(redacted, appended.unwrap_or(revision))))
    }
}
