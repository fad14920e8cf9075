//! Rows that the target database cannot store, although the source could.

use seabed_core::Json;

use super::record::{Record, Refused};
use crate::spec::Database;

/// The maximum number of characters of ids and invocation ids, as in google-adk's tables.
const ID_LENGTH: usize = 128;
const INVOCATION_ID_LENGTH: usize = 256;

/// Returns why a database would reject a row. SQLite accepts any text. `limit` is that of a statement, in bytes.
pub(super) fn refusal(database: Database, limit: Option<u64>, record: &Record) -> Option<Refused> {
    let checks_json = match database {
        Database::Sqlite => return None,
        // It stores JSON as text.
        Database::MySql => false,
        Database::Postgres => true,
    };
    let (table, ids, invocation_id, json): (&str, Vec<&str>, &str, Option<&str>) = match record {
        Record::AppState(row) => ("app_states", vec![&row.app_name], "", Some(&row.state)),
        Record::UserState(row) => ("user_states", vec![&row.app_name, &row.user_id], "", Some(&row.state)),
        Record::Session(row) => ("session", vec![&row.app_name, &row.user_id, &row.id], "", Some(&row.state)),
        Record::Event(row) => ("event", vec![&row.id], &row.invocation_id, row.event_data.as_deref()),
        Record::Refused(_) => return None,
    };
    let refused = |reason: String| Some(Refused { row: format!("{table} {ids:?}"), reason });
    let fits = |text: &str, length: usize| !text.contains('\0') && text.chars().count() <= length;
    if !ids.iter().all(|id| fits(id, ID_LENGTH)) {
        return refused(format!("an id is longer than {ID_LENGTH} characters or contains a NUL character"));
    }
    if !fits(invocation_id, INVOCATION_ID_LENGTH) {
        return refused(format!(
            "the invocation id is longer than {INVOCATION_ID_LENGTH} characters or contains a NUL character"
        ));
    }
    if let Some(limit) = limit.filter(|limit| record.size() as u64 >= *limit) {
        return refused(format!("it has {} bytes, and max_allowed_packet is {limit} in the target", record.size()));
    }
    if !checks_json {
        return None;
    }
    let portable = json.map_or(Ok(()), |json| Json::parse(json).and_then(|json| json.check_portable()));
    let error = portable.err()?;
    refused(format!("PostgreSQL's jsonb cannot store it: {:?} error, column {}", error.classify(), error.column()))
}
