//! From rows to values, and errors that name the row when that fails.

use std::error::Error as StdError;
use std::fmt;

use sea_orm::prelude::DateTime;
use sea_orm::{QueryResult, TryGetable};
use serde::de::DeserializeOwned;

use crate::{BackendError, Event, Result, SessionKey, State, Timestamp};

/// A stored row that is being decoded: where it comes from, for errors.
pub(super) struct RowOf<'a> {
    table: &'static str,
    key: &'a (dyn fmt::Display + Sync),
}

impl<'a> RowOf<'a> {
    /// A row of `table`; `key` names the row in words.
    pub(super) fn new(table: &'static str, key: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { table, key }
    }

    pub(super) fn corrupt(&self, column: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> crate::Error {
        BackendError::corrupt(self.table, column, &self.key.to_string(), source).into()
    }

    /// The value that the query names `alias`, which comes from `column`.
    pub(super) fn get<T: TryGetable>(&self, row: &QueryResult, alias: &str, column: &str) -> Result<T> {
        row.try_get("", alias).map_err(|error| self.corrupt(column, error))
    }

    pub(super) fn timestamp(&self, row: &QueryResult, alias: &str, column: &str) -> Result<Timestamp> {
        self.get::<DateTime>(row, alias, column).map(Timestamp::from_naive_utc)
    }

    /// The value of JSON text. What serde says of it may quote it, so only the kind and the place of the fault are told.
    pub(super) fn decode<T: DeserializeOwned>(&self, text: &str, column: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| {
            let place = format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
            self.corrupt(column, place)
        })
    }

    /// A state column.
    pub(super) fn state(&self, row: &QueryResult, alias: &str) -> Result<State> {
        let column = "state";
        let text: String = self.get(row, alias, column)?;
        self.decode(&text, column)
    }

    /// The event of a row of `events`.
    pub(super) fn event(&self, row: &QueryResult, alias: &str, id: &str) -> Result<Event> {
        let column = "event_data";
        let text: String = self.get(row, alias, column)?;
        let mut event: Event = self.decode(&text, column)?;
        // The column is the key, as in google-adk: a writer may have left it out of the JSON.
        id.clone_into(&mut event.id);
        Ok(event)
    }
}

/// An event in words.
pub(super) struct EventName<'a> {
    pub(super) id: &'a str,
    pub(super) session: &'a SessionKey,
}

impl fmt::Display for EventName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:?} of {}", self.id, self.session)
    }
}
