//! Table layouts: what their tables and columns are called, and how to read their rows.

use sea_orm::prelude::DateTime;
use sea_orm::{DbErr, QueryResult};
use seabed_core::State;
use seabed_core::entity::events;

use crate::rows::time_of;

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

    /// Whether Seabed's own tables may stand beside these.
    fn has_annotations(&self) -> bool {
        false
    }

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

/// google-adk's schema v1, which Seabed shares.
pub(crate) struct V1;

impl Shape for V1 {
    fn has_annotations(&self) -> bool {
        true
    }

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
