//! From rows to values, and errors that name the row when that fails.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use sea_orm::{ColIdx, QueryResult};
use serde::de::DeserializeOwned;

use super::dialect::Dialect;
use super::driver::Driver;
use crate::{BackendError, Event, Json, Result, SessionKey, State, Timestamp};

/// Decodes the columns of one stored row, and names the row in errors.
pub(crate) struct RowDecoder<'a, D> {
    table: &'static str,
    key: &'a (dyn fmt::Display + Sync),
    dialect: PhantomData<fn() -> D>,
}

impl<'a, D: Dialect> RowDecoder<'a, D> {
    /// For a row of `table`; `key` names the row in words.
    pub(crate) fn new(table: &'static str, key: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { table, key, dialect: PhantomData }
    }

    pub(crate) fn corrupt(&self, column: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> crate::Error {
        BackendError::corrupt(self.table, column, &self.key.to_string(), source).into()
    }

    /// The text at `index` (a place, or a name of the query's), which comes from `column`; `None` for null. Places are
    /// looked up faster than names.
    pub(crate) fn text_or_null<'r>(
        &self,
        row: &'r QueryResult,
        index: impl ColIdx,
        column: &str,
    ) -> Result<Option<&'r str>> {
        D::Driver::text(row, index).map_err(|error| self.corrupt(column, error))
    }

    pub(crate) fn text<'r>(&self, row: &'r QueryResult, index: impl ColIdx, column: &str) -> Result<&'r str> {
        self.text_or_null(row, index, column)?.ok_or_else(|| self.corrupt(column, "null"))
    }

    pub(crate) fn timestamp(&self, row: &QueryResult, index: impl ColIdx, column: &str) -> Result<Timestamp> {
        D::Driver::moment(row, index).map_err(|error| self.corrupt(column, error))
    }

    /// serde's message may quote the text, so the error only says what kind of fault it is, and where.
    pub(crate) fn not_json(&self, column: &str, error: &serde_json::Error) -> crate::Error {
        let place = format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
        self.corrupt(column, place)
    }

    fn decode_state(&self, text: &str) -> Result<State> {
        State::from_stored(text).map_err(|error| self.not_json("state", &error))
    }

    /// The state of a row.
    pub(crate) fn state(&self, row: &QueryResult, index: impl ColIdx) -> Result<State> {
        self.decode_state(self.text(row, index, "state")?)
    }

    /// The state of a row that an outer join may have left out: `None` where it did.
    pub(crate) fn state_or_null(&self, row: &QueryResult, index: impl ColIdx) -> Result<Option<State>> {
        self.text_or_null(row, index, "state")?.map(|text| self.decode_state(text)).transpose()
    }

    /// The JSON of an event. Numbers that are not finite are read as `null`.
    pub(crate) fn event_data<T: DeserializeOwned>(&self, row: &QueryResult, index: impl ColIdx) -> Result<T> {
        let text = self.text(row, index, "event_data")?;
        // Almost every text is JSON, and is read in one pass.
        let decoded = serde_json::from_str(text).or_else(|_| Json::from_stored(text)?.decode());
        decoded.map_err(|error| self.not_json("event_data", &error))
    }
}

/// The event in a row of `events`, or an error that names the event. Its id is the row's, as in google-adk: a writer
/// may have left it out of the JSON.
pub(crate) fn decode_event<D: Dialect>(
    session: &SessionKey,
    id: &str,
    row: &QueryResult,
    index: impl ColIdx,
) -> Result<Event> {
    let name = EventName { id, session };
    let event: Event = RowDecoder::<D>::new("events", &name).event_data(row, index)?;
    Ok(if event.id == id { event } else { event.with_id(id) })
}

/// An event in words.
pub(crate) struct EventName<'a> {
    pub(crate) id: &'a str,
    pub(crate) session: &'a SessionKey,
}

impl fmt::Display for EventName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:?} of {}", self.id, self.session)
    }
}
