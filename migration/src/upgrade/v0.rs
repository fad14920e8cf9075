//! google-adk's schema v0: one column for each field of an event, and actions pickled by Python.

use std::collections::BTreeSet;

use chrono::{Offset as _, TimeZone as _};
use chrono_tz::Tz;
use sea_orm::prelude::DateTime;
use sea_orm::{DbErr, QueryResult};
use seabed_core::entity::events;
use seabed_core::{Json, sql};

use super::object::Object;
use super::pickle::decode_actions;
use crate::rows::time_of;
use crate::transfer::{Shape, event_of};

/// Event fields that v0 stores in JSON columns; releases before 1.17 lack some of them.
const JSON_FIELDS: [&str; 7] = [
    "content",
    "grounding_metadata",
    "custom_metadata",
    "usage_metadata",
    "citation_metadata",
    "input_transcription",
    "output_transcription",
];
const TEXT_FIELDS: [&str; 3] = ["branch", "error_code", "error_message"];
const BOOLEAN_FIELDS: [&str; 3] = ["partial", "turn_complete", "interrupted"];
/// A list stored as text, even where other JSON is `jsonb`.
const LONG_RUNNING: &str = "long_running_tool_ids_json";

const EMPTY_ACTIONS: &str =
    r#"{"state_delta":{},"artifact_delta":{},"requested_auth_configs":{},"requested_tool_confirmations":{}}"#;

/// The tables of schema v0.
pub(super) struct V0 {
    /// The prefix of the table names.
    pub(super) prefix: &'static str,
    /// The columns that `events` has.
    pub(super) columns: Vec<String>,
    /// The time zone of the agents: up to 2.6, google-adk stored the times of events in local time.
    pub(super) zone: Tz,
}

impl V0 {
    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|found| found == column)
    }

    /// Converts a local time of the zone to UTC. Picks the earlier of two possible moments; for a time in a gap, uses
    /// the offset that would apply without the gap.
    fn moment(&self, shown: DateTime) -> DateTime {
        match self.zone.from_local_datetime(&shown).earliest() {
            Some(moment) => moment.naive_utc(),
            None => shown.checked_sub_offset(self.zone.offset_from_utc_datetime(&shown).fix()).unwrap_or(shown),
        }
    }

    fn event_data(&self, row: &QueryResult, timestamp: DateTime) -> Result<String, String> {
        let unreadable = |error: DbErr| error.to_string();
        let mut data = Object::default();
        let text = |column: &str| row.try_get::<Option<String>>("", column).map_err(unreadable);
        data.text("id", &row.try_get::<String>("", "id").map_err(unreadable)?);
        data.text("invocation_id", &row.try_get::<String>("", "invocation_id").map_err(unreadable)?);
        data.text("author", &text("author")?.unwrap_or_else(|| "agent".to_owned()));
        for column in TEXT_FIELDS.into_iter().filter(|column| self.has(column)) {
            if let Some(text) = text(column)? {
                data.text(column, &text);
            }
        }
        for column in BOOLEAN_FIELDS.into_iter().filter(|column| self.has(column)) {
            if let Some(value) = row.try_get::<Option<bool>>("", column).map_err(unreadable)? {
                data.json(column, if value { "true" } else { "false" });
            }
        }
        for column in JSON_FIELDS.into_iter().filter(|column| self.has(column)) {
            // SQLAlchemy writes Python's `None` as JSON's `null`.
            if let Some(text) = text(column)?.filter(|text| text != "null") {
                // What is stored may have `NaN`, which stays.
                Json::from_stored(&text).map_err(|_| format!("{column} is not JSON"))?;
                data.json(column, &text);
            }
        }
        let long_running = if self.has(LONG_RUNNING) { text(LONG_RUNNING)? } else { None };
        // A set, which google-adk writes in any order.
        let long_running: BTreeSet<String> = match long_running {
            Some(text) => serde_json::from_str(&text).map_err(|_| format!("{LONG_RUNNING} is not a list"))?,
            None => BTreeSet::new(),
        };
        data.value("long_running_tool_ids", &long_running);
        let actions: Option<Vec<u8>> = row.try_get("", "actions").map_err(unreadable)?;
        let actions = match actions {
            Some(pickle) => decode_actions(&pickle).map_err(|error| format!("actions: {error}"))?,
            None => EMPTY_ACTIONS.to_owned(),
        };
        data.json("actions", &actions);
        data.json("node_info", r#"{"path":""}"#);
        data.value("timestamp", &sql::in_range(timestamp).map_err(unreadable)?.as_seconds());
        Ok(data.finish())
    }
}

impl Shape for V0 {
    fn table(&self, table: &'static str) -> String {
        format!("{}{table}", self.prefix)
    }

    fn time(&self, row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
        time_of(row, column)
    }

    fn event_columns(&self) -> Vec<(&str, bool)> {
        let others = self.columns.iter().map(String::as_str);
        let keys = ["id", "app_name", "user_id", "session_id"];
        others.filter(|column| !keys.contains(column)).map(|column| (column, JSON_FIELDS.contains(&column))).collect()
    }

    /// With a time zone set, session times come from a different clock than event times; a session then gets the time
    /// of its last event.
    fn spreads_times(&self) -> bool {
        self.zone != Tz::UTC
    }

    fn event(&self, row: &QueryResult) -> Result<Option<events::Model>, String> {
        let unreadable = |error: DbErr| error.to_string();
        let timestamp = self.moment(time_of(row, "timestamp").map_err(unreadable)?);
        let event_data = self.event_data(row, timestamp)?;
        event_of(row, timestamp, Some(event_data)).map(Some).map_err(unreadable)
    }
}
