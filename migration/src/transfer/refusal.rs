//! Rows that the target database cannot store, although the source could.

use seabed_core::{Json, State};

use super::record::{Name, Record, Refused};
use crate::spec::Database;

/// The maximum number of characters of ids and invocation ids, as in google-adk's tables.
const ID_LENGTH: usize = 128;
const INVOCATION_ID_LENGTH: usize = 256;

/// Returns why a database would reject a row, or why it would be no row of google-adk's. `limit` is that of a
/// statement, in bytes.
pub(super) fn refusal(database: Database, limit: Option<u64>, record: &Record) -> Option<Refused> {
    let (name, json) = match record {
        Record::AppState(row) => (Name::AppState(&row.app_name), Some(&row.state)),
        Record::UserState(row) => (Name::UserState(&row.app_name, &row.user_id), Some(&row.state)),
        Record::Session(row) => (Name::Session(&row.app_name, &row.user_id, &row.id), Some(&row.state)),
        Record::Event(row) => (Name::of_event(row), row.event_data.as_ref()),
        Record::Refused(_) => return None,
    };
    let reason = wrong_id(database, record, &name)
        .or_else(|| wrong_size(limit, record))
        .or_else(|| wrong_json(database, record, json?))?;
    Some(name.refused(reason))
}

/// What else is in a statement: its text, keys, times and lengths.
const HEADROOM: u64 = 4096;

fn wrong_size(limit: Option<u64>, record: &Record) -> Option<String> {
    let size = record.size() as u64;
    let limit = limit.filter(|limit| size + HEADROOM >= *limit)?;
    Some(format!("it has {size} bytes, and max_allowed_packet is {limit} in the target"))
}

/// SQLite accepts ids of any length.
fn wrong_id(database: Database, record: &Record, name: &Name<'_>) -> Option<String> {
    if database == Database::Sqlite {
        return None;
    }
    let fits = |text: &str, length: usize| !text.contains('\0') && text.chars().count() <= length;
    let ids = name.ids();
    if !ids.iter().all(|id| fits(id, ID_LENGTH)) {
        return Some(format!("an id is longer than {ID_LENGTH} characters or contains a NUL character"));
    }
    let invocation_id = if let Record::Event(event) = record { &event.invocation_id } else { "" };
    let longest = INVOCATION_ID_LENGTH;
    (!fits(invocation_id, longest))
        .then(|| format!("the invocation id is longer than {longest} characters or contains a NUL character"))
}

/// SQLite and MySQL store JSON as text, and google-adk leaves `NaN` in it.
fn wrong_json(database: Database, record: &Record, text: &str) -> Option<String> {
    if !matches!(record, Record::Event(_)) && State::from_stored(text).is_err() {
        return Some("the state is not a JSON object".to_owned());
    }
    match database {
        Database::Sqlite | Database::MySql => return None,
        Database::Postgres => {}
    }
    let error = Json::parse(text).and_then(|json| json.check_portable()).err()?;
    if Json::from_stored(text).is_ok_and(|json| json.as_str() != text) {
        let advice = "set another value in the source and copy again";
        return Some(format!("PostgreSQL's jsonb has no NaN and no infinities; {advice}"));
    }
    Some(format!("PostgreSQL's jsonb cannot store it: {:?} error, column {}", error.classify(), error.column()))
}
