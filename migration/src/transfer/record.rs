//! One stored row, from any database or file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sea_orm::prelude::DateTime;
use seabed_core::Json;
use seabed_core::entity::{app_states, events, seabed_sessions, sessions, user_states};
use sha2::{Digest as _, Sha256};

/// A stored row. A source sends the state rows first, then each session followed by its annotations, if it has any, and
/// its events, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    AppState(app_states::Model),
    UserState(user_states::Model),
    Session(sessions::Model),
    Event(events::Model),
    Annotations(seabed_sessions::Model),
    /// A row that cannot be read, or that no backend could store: which, and why.
    Refused(Refused),
}

impl Record {
    /// The size of its JSON, which makes up nearly all of a large row, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::AppState(row) => row.state.len(),
            Self::UserState(row) => row.state.len(),
            Self::Session(row) => row.state.len(),
            Self::Event(row) => row.event_data.as_ref().map_or(0, String::len),
            Self::Annotations(row) => [&row.labels, &row.initial_state].into_iter().flatten().map(String::len).sum(),
            Self::Refused(_) => 0,
        }
    }
}

/// A row that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The row's table and key, in words.
    pub row: String,
    /// Why it was skipped.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.row, self.reason)
    }
}

/// A row, by its table and key.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    /// Of an app.
    AppState(&'a str),
    /// Of an app and a user.
    UserState(&'a str, &'a str),
    /// An app, a user and an id.
    Session(&'a str, &'a str, &'a str),
    /// Its id, then the session's key.
    Event(&'a str, &'a str, &'a str, &'a str),
    /// The session's key.
    Annotations(&'a str, &'a str, &'a str),
}

impl<'a> Name<'a> {
    /// The name of a row that was not skipped.
    pub(crate) fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::AppState(row) => Self::AppState(&row.app_name),
            Record::UserState(row) => Self::UserState(&row.app_name, &row.user_id),
            Record::Session(row) => Self::of_session(row),
            Record::Event(row) => Self::of_event(row),
            Record::Annotations(row) => Self::Annotations(&row.app_name, &row.user_id, &row.session_id),
            Record::Refused(_) => return None,
        })
    }

    pub(crate) fn of_session(session: &'a sessions::Model) -> Self {
        Self::Session(&session.app_name, &session.user_id, &session.id)
    }

    pub(crate) fn of_event(event: &'a events::Model) -> Self {
        Self::Event(&event.id, &event.app_name, &event.user_id, &event.session_id)
    }

    /// The ids of the key.
    pub(crate) fn ids(&self) -> Vec<&'a str> {
        match *self {
            Self::AppState(app) => vec![app],
            Self::UserState(app, user) => vec![app, user],
            Self::Session(app, user, id) | Self::Annotations(app, user, id) => vec![app, user, id],
            Self::Event(id, app, user, session) => vec![id, app, user, session],
        }
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Refused {
        Refused { row: self.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppState(app) => write!(f, "app_states row of app {app:?}"),
            Self::UserState(app, user) => write!(f, "user_states row of user {user:?} of app {app:?}"),
            Self::Session(app, user, id) => write!(f, "session {id:?} of user {user:?} of app {app:?}"),
            Self::Annotations(app, user, id) => {
                write!(f, "seabed_sessions row of session {id:?} of user {user:?} of app {app:?}")
            }
            Self::Event(id, app, user, session) => {
                write!(f, "event {id:?} of session {session:?} of user {user:?} of app {app:?}")
            }
        }
    }
}

/// The primary key of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionId {
    pub(crate) app_name: String,
    pub(crate) user_id: String,
    pub(crate) id: String,
}

impl SessionId {
    pub(crate) fn of(session: &sessions::Model) -> Self {
        Self { app_name: session.app_name.clone(), user_id: session.user_id.clone(), id: session.id.clone() }
    }

    pub(crate) fn has(&self, event: &events::Model) -> bool {
        (&self.app_name, &self.user_id, &self.id) == (&event.app_name, &event.user_id, &event.session_id)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::Session(&self.app_name, &self.user_id, &self.id).fmt(f)
    }
}

/// A SHA-256 hash of a row's content, or of a set of rows. The hash of a set is the exclusive or of its rows' hashes,
/// so the order in which databases sort keys does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hashes a row. JSON is hashed by value, because databases change its spelling. The order of a set does not
    /// matter.
    pub(crate) fn of(record: &Record) -> Self {
        let time = |time: &DateTime| time.and_utc().timestamp_micros().to_string();
        let json = |json: &str| Json::parse(json).map_or_else(|_| json.to_owned(), |json| json.canonical());
        let event = |text: &str| sorted_event(text).map_or_else(|| json(text), |event| event.canonical());
        let (table, keys, content): (&str, Vec<&str>, Vec<String>) = match record {
            Record::AppState(row) => ("app_state", vec![&row.app_name], vec![json(&row.state), time(&row.update_time)]),
            Record::UserState(row) => {
                ("user_state", vec![&row.app_name, &row.user_id], vec![json(&row.state), time(&row.update_time)])
            }
            Record::Session(row) => (
                "session",
                vec![&row.app_name, &row.user_id, &row.id],
                vec![json(&row.state), time(&row.create_time), time(&row.update_time)],
            ),
            Record::Event(row) => (
                "event",
                vec![&row.app_name, &row.user_id, &row.session_id, &row.id, &row.invocation_id],
                vec![time(&row.timestamp), row.event_data.as_deref().map_or_else(|| "none".to_owned(), event)],
            ),
            Record::Annotations(row) => {
                ("annotations", vec![&row.app_name, &row.user_id, &row.session_id], annotations(row, json, time))
            }
            Record::Refused(refused) => ("refused", vec![&refused.row, &refused.reason], Vec::new()),
        };
        let mut hash = Sha256::new();
        for part in [table].into_iter().chain(keys).chain(content.iter().map(String::as_str)) {
            // Each part is preceded by its length, so that different rows never hash the same bytes.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Adds a row to the set, or removes it if the set contains it.
    pub(crate) fn toggle(&mut self, row: Self) {
        self.0.iter_mut().zip(row.0).for_each(|(byte, other)| *byte ^= other);
    }
}

/// The content of a row. What is null differs from any text.
fn annotations(
    row: &seabed_sessions::Model,
    json: impl Fn(&str) -> String,
    time: impl Fn(&DateTime) -> String,
) -> Vec<String> {
    let text = |text: &Option<String>| text.as_ref().map_or_else(|| "none".to_owned(), |text| format!("={text}"));
    let json = |text: &Option<String>| text.as_ref().map_or_else(|| "none".to_owned(), |text| json(text));
    let held_since = row.held_since.as_ref().map_or_else(|| "none".to_owned(), &time);
    let texts = [&row.title, &row.parent_session_id, &row.parent_event_id].map(text);
    let jsons = [&row.labels, &row.initial_state].map(json);
    texts.into_iter().chain(jsons).chain([held_since, time(&row.update_time)]).collect()
}

/// The field of an event that is a set, which google-adk writes in any order.
const SET: &str = "long_running_tool_ids";

/// Returns an event with its set sorted; `None` if it has none.
fn sorted_event(text: &str) -> Option<Json> {
    if !text.contains(SET) {
        return None;
    }
    let mut fields: BTreeMap<String, Json> = Json::parse(text).ok()?.decode().ok()?;
    let set = fields.get_mut(SET)?;
    *set = Json::from_serialize(&set.decode::<BTreeSet<String>>().ok()?).ok()?;
    Json::from_serialize(&fields).ok()
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
