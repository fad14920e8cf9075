//! From rows to values, and errors that name the row when that fails.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use sea_orm::{ColIdx, QueryResult};
use serde::de::DeserializeOwned;

use super::Dialect;
use crate::{BackendError, Event, Result, SessionKey, State, Timestamp};

/// A stored row that is being decoded: where it comes from, for errors.
pub(super) struct RowOf<'a, D> {
    table: &'static str,
    key: &'a (dyn fmt::Display + Sync),
    dialect: PhantomData<fn() -> D>,
}

impl<'a, D: Dialect> RowOf<'a, D> {
    /// A row of `table`; `key` names the row in words.
    pub(super) fn new(table: &'static str, key: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { table, key, dialect: PhantomData }
    }

    pub(super) fn corrupt(&self, column: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> crate::Error {
        BackendError::corrupt(self.table, column, &self.key.to_string(), source).into()
    }

    /// The text at `index` (a place, or a name of the query's), which comes from `column`; `None` for null. Places are found
    /// faster.
    pub(super) fn text_or_null<'r>(
        &self,
        row: &'r QueryResult,
        index: impl ColIdx,
        column: &str,
    ) -> Result<Option<&'r str>> {
        D::text(row, index).map_err(|error| self.corrupt(column, error))
    }

    pub(super) fn text<'r>(&self, row: &'r QueryResult, index: impl ColIdx, column: &str) -> Result<&'r str> {
        self.text_or_null(row, index, column)?.ok_or_else(|| self.corrupt(column, "null"))
    }

    pub(super) fn timestamp(&self, row: &QueryResult, index: impl ColIdx, column: &str) -> Result<Timestamp> {
        D::moment(row, index).map_err(|error| self.corrupt(column, error))
    }

    /// The value of JSON text. What serde says of it may quote it, so only the kind and the place of the fault are told.
    pub(super) fn decode<T: DeserializeOwned>(&self, text: &str, column: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| {
            let place = format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
            self.corrupt(column, place)
        })
    }

    /// A state column.
    pub(super) fn state(&self, row: &QueryResult, index: impl ColIdx) -> Result<State> {
        let column = "state";
        self.decode(self.text(row, index, column)?, column)
    }

    /// The event of a row of `events`. Its id is the row's, as in google-adk: a writer may have left it out of the JSON.
    pub(super) fn event(&self, row: &QueryResult, index: impl ColIdx) -> Result<Event> {
        let column = "event_data";
        self.decode(self.text(row, index, column)?, column)
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
