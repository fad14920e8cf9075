//! google-adk's `SqliteSessionService`: schema v1 with times as numbers, in its own database.

use sea_orm::prelude::DateTime;
use sea_orm::{DbErr, QueryResult};
use seabed_core::Timestamp;
use seabed_core::entity::events;

use crate::rows::time_of;
use crate::transfer::{Shape, event_of};

/// The tables of `SqliteSessionService`. Events with equal times are ordered by insertion.
pub(super) struct Numbers;

impl Shape for Numbers {
    /// Reads a number of seconds, or text if a `DatabaseSessionService` has opened the file as its own and written to
    /// it.
    fn time(&self, row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
        let Ok(seconds) = row.try_get::<f64>("", column) else { return time_of(row, column) };
        let moment =
            Timestamp::try_from_seconds(seconds).map_err(|error| DbErr::Custom(format!("{column}: {error}")))?;
        Ok(moment.to_naive_utc())
    }

    fn event_columns(&self) -> Vec<(&str, bool)> {
        vec![("invocation_id", false), ("timestamp", false), ("event_data", true)]
    }

    fn event_order(&self) -> &'static [&'static str] {
        &["timestamp", "rowid"]
    }

    fn event(&self, row: &QueryResult) -> Result<Option<events::Model>, String> {
        let event = || event_of(row, self.time(row, "timestamp")?, row.try_get("", "event_data")?);
        event().map(Some).map_err(|error: DbErr| error.to_string())
    }

    fn spreads_times(&self) -> bool {
        true
    }
}
