//! The tables that have a state column: their keys, their rows, and how two versions of a row are merged.

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Condition, ExprTrait as _};
use sea_orm::{DbErr, QueryResult};
use seabed_core::State;
use seabed_core::entity::{app_states, sessions, user_states};

use super::record::Record;
use super::shape::{Shape as _, V1};
use crate::spec::SchemaSpec;

/// A table with a state column, and its key columns.
pub(super) struct StateTable {
    pub(super) name: &'static str,
    pub(super) key: &'static [&'static str],
}

pub(super) const APP_STATES: StateTable = StateTable { name: "app_states", key: &["app_name"] };
pub(super) const USER_STATES: StateTable = StateTable { name: "user_states", key: &["app_name", "user_id"] };
pub(super) const SESSIONS: StateTable = StateTable { name: "sessions", key: &["app_name", "user_id", "id"] };

/// A stored row, or what is wrong with it, in words that follow its name.
pub(super) type Found = Result<StateRow, &'static str>;

/// A row of such a table.
#[derive(Clone)]
pub(super) struct StateRow {
    pub(super) key: Vec<String>,
    pub(super) state: String,
    /// Only sessions have one.
    pub(super) create_time: Option<DateTime>,
    pub(super) update_time: DateTime,
}

impl StateRow {
    /// Returns the time by which two versions of a row are ordered; `None` for a session without events. The first
    /// event of a session may be earlier than its creation.
    pub(super) fn version(&self) -> Option<DateTime> {
        (self.create_time != Some(self.update_time)).then_some(self.update_time)
    }
}

impl From<&app_states::Model> for StateRow {
    fn from(row: &app_states::Model) -> Self {
        let key = vec![row.app_name.clone()];
        Self { key, state: row.state.clone(), create_time: None, update_time: row.update_time }
    }
}

impl From<&user_states::Model> for StateRow {
    fn from(row: &user_states::Model) -> Self {
        let key = vec![row.app_name.clone(), row.user_id.clone()];
        Self { key, state: row.state.clone(), create_time: None, update_time: row.update_time }
    }
}

impl From<&sessions::Model> for StateRow {
    fn from(row: &sessions::Model) -> Self {
        let key = vec![row.app_name.clone(), row.user_id.clone(), row.id.clone()];
        Self { key, state: row.state.clone(), create_time: Some(row.create_time), update_time: row.update_time }
    }
}

impl StateTable {
    pub(super) fn columns(&self) -> Vec<&'static str> {
        let create_time: &[&str] = if self.name == "sessions" { &["create_time"] } else { &[] };
        [self.key, &["state"], create_time, &["update_time"]].concat()
    }

    pub(super) fn is(&self, spec: &SchemaSpec, key: &[String]) -> Condition {
        let parts = self.key.iter().zip(key);
        parts.fold(Condition::all(), |all, (column, part)| all.add(spec.compared(*column).eq(part.as_str())))
    }

    /// Returns the key of a stored row, and the row.
    pub(super) fn row(&self, row: &QueryResult) -> Result<(Vec<String>, Found), DbErr> {
        let key: Vec<String> = self.key.iter().map(|column| row.try_get("", column)).collect::<Result<_, _>>()?;
        let found = || -> Result<StateRow, DbErr> {
            Ok(StateRow {
                key: key.clone(),
                state: row.try_get("", "state")?,
                create_time: if self.name == "sessions" { Some(V1.time(row, "create_time")?) } else { None },
                update_time: V1.time(row, "update_time")?,
            })
        };
        let found = found().map_err(|_| "has a time that cannot be read, and was left as it is");
        Ok((key, found))
    }

    pub(super) fn record(&self, row: StateRow) -> Record {
        let StateRow { key, state, create_time, update_time } = row;
        let mut key = key.into_iter();
        let mut part = || key.next().unwrap_or_default();
        match (self.name, create_time) {
            ("app_states", _) => Record::AppState(app_states::Model { app_name: part(), state, update_time }),
            ("sessions", Some(create_time)) => {
                let (app_name, user_id, id) = (part(), part(), part());
                Record::Session(sessions::Model { app_name, user_id, id, state, create_time, update_time })
            }
            _ => Record::UserState(user_states::Model { app_name: part(), user_id: part(), state, update_time }),
        }
    }
}

/// The new content of a stored row.
pub(super) struct Merged {
    pub(super) state: String,
    pub(super) update_time: DateTime,
    /// Whether the state changes, or only the time.
    pub(super) has_other_state: bool,
}

/// Merges `row` into a stored row; returns `None` if nothing changes, also for a stored state that is not a JSON
/// object.
pub(super) fn merged(row: &StateRow, stored: &StateRow) -> Result<Option<Merged>, DbErr> {
    let (Ok(sent), Ok(old)) = (State::from_stored(&row.state), State::from_stored(&stored.state)) else {
        return Ok(None);
    };
    let is_later = row.version() > stored.version();
    let (mut older, newer) = if is_later { (old.clone(), sent) } else { (sent, old.clone()) };
    older.merge(newer);
    let has_other_state = older != old;
    if !has_other_state && !is_later {
        return Ok(None);
    }
    let update_time = if is_later { row.update_time } else { stored.update_time };
    let state = older.to_stored().map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(Some(Merged { state, update_time, has_other_state }))
}
