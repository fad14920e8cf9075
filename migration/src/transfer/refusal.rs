//! Rows that the target database cannot store, although the source could, or that no service could read there.

use seabed_core::entity::{app_states, seabed_sessions, sessions, user_states};
use seabed_core::{Event, Json, State};

use super::annotations::labels;
use super::record::{Name, Record, Refused};
use crate::spec::Database;

/// The maximum number of characters of ids and invocation ids, as in google-adk's tables.
const ID_LENGTH: usize = 128;
const INVOCATION_ID_LENGTH: usize = 256;
/// Those of titles, and of the names and values of labels.
const TITLE_LENGTH: usize = 256;
const LABEL_NAME_LENGTH: usize = 64;
const LABEL_VALUE_LENGTH: usize = 128;

/// Returns why a database would reject a row, or why it would be no row of google-adk's. `limit` is that of a
/// statement, in bytes.
pub(super) fn refusal(database: Database, limit: Option<u64>, record: &Record) -> Option<Refused> {
    let name = Name::of(record)?;
    let reason = wrong_id(database, record, &name)
        .or_else(|| too_large(limit, record.size()))
        .or_else(|| wrong_json(database, record))?;
    Some(name.refused(reason))
}

/// What else is in a statement: its text, keys, times and lengths.
const HEADROOM: u64 = 4096;

/// Returns why a statement with `size` bytes of JSON would be rejected.
pub(super) fn too_large(limit: Option<u64>, size: usize) -> Option<String> {
    let limit = limit.filter(|limit| size as u64 + HEADROOM >= *limit)?;
    Some(format!("it has {size} bytes, and max_allowed_packet is {limit} in the target"))
}

/// SQLite accepts any id. No service does, but what it reads may have an invocation id of any length.
fn wrong_id(database: Database, record: &Record, name: &Name<'_>) -> Option<String> {
    let fits = |text: &str, length: usize| !text.contains('\0') && text.chars().count() <= length;
    let ids = name.ids();
    if ids.iter().any(|id| id.is_empty()) {
        return Some("an id is empty".to_owned());
    }
    if !ids.iter().all(|id| fits(id, ID_LENGTH)) {
        return Some(format!("an id is longer than {ID_LENGTH} characters or contains a NUL character"));
    }
    let invocation_id = if let Record::Event(event) = record { &event.invocation_id } else { "" };
    if database == Database::Sqlite {
        return None;
    }
    let longest = INVOCATION_ID_LENGTH;
    (!fits(invocation_id, longest))
        .then(|| format!("the invocation id is longer than {longest} characters or contains a NUL character"))
}

fn wrong_json(database: Database, record: &Record) -> Option<String> {
    let text = match record {
        Record::AppState(app_states::Model { state, .. })
        | Record::UserState(user_states::Model { state, .. })
        | Record::Session(sessions::Model { state, .. }) => {
            if State::from_stored(state).is_err() {
                return Some("the state is not a JSON object".to_owned());
            }
            state
        }
        Record::Event(event) => match event.event_data.as_deref().filter(|text| is_event(text)) {
            Some(text) => text,
            None => return Some("it is not the JSON of an event, and its session could not be read".to_owned()),
        },
        Record::Annotations(row) => return wrong_annotations(database, row),
        Record::Refused(_) => return None,
    };
    match database {
        // They store JSON as text, and google-adk leaves `NaN` in it.
        Database::Sqlite | Database::MySql => None,
        Database::Postgres => wrong_jsonb(text),
    }
}

fn wrong_annotations(database: Database, row: &seabed_sessions::Model) -> Option<String> {
    let fits = |text: &str, length: usize| !text.contains('\0') && text.chars().count() <= length;
    let Ok(labels) = labels(row) else { return Some("the labels are not a JSON object of strings".to_owned()) };
    let mut labels = labels.iter();
    if !labels.all(|(name, value)| fits(name, LABEL_NAME_LENGTH) && fits(value, LABEL_VALUE_LENGTH)) {
        return Some("a label is too long or contains a NUL character".to_owned());
    }
    if !row.title.as_deref().is_none_or(|title| fits(title, TITLE_LENGTH)) {
        return Some(format!("the title is longer than {TITLE_LENGTH} characters or contains a NUL character"));
    }
    let initial_state = row.initial_state.as_deref()?;
    if State::from_stored(initial_state).is_err() {
        return Some("the initial state is not a JSON object".to_owned());
    }
    match database {
        Database::Sqlite | Database::MySql => None,
        Database::Postgres => wrong_jsonb(initial_state),
    }
}

/// Whether a service can decode the text.
fn is_event(text: &str) -> bool {
    Json::from_stored(text).is_ok_and(|json| json.decode::<Event>().is_ok())
}

fn wrong_jsonb(text: &str) -> Option<String> {
    let error = Json::parse(text).and_then(|json| json.check_portable()).err()?;
    if Json::from_stored(text).is_ok_and(|json| json.as_str() != text) {
        let advice = "set another value in the source and copy again";
        return Some(format!("PostgreSQL's jsonb has no NaN and no infinities; {advice}"));
    }
    Some(format!("PostgreSQL's jsonb cannot store it: {:?} error, column {}", error.classify(), error.column()))
}
