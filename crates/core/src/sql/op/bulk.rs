//! What bulk statements have in common: arrays with one element for each write, and rows that name a write by its
//! number.

use sea_orm::sea_query::ArrayType;
use sea_orm::{DbErr, QueryResult, Value};

use crate::sql::database::Database;
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::statement::SqlText;
use crate::sql::write::BeforeSending;
use crate::{BackendError, BackendErrorKind, Result, SessionKey, State, Timestamp};

/// Runs a bulk statement for `writes` writes, and returns its rows.
pub(super) async fn run<D: Dialect>(
    database: &Database<D>,
    text: &SqlText<D>,
    arrays: impl Iterator<Item = Value> + Send,
    writes: usize,
    operation: &str,
    before_sending: BeforeSending<'_>,
) -> Result<Vec<QueryResult>> {
    let count = Value::from(i64::try_from(writes).unwrap_or(i64::MAX));
    let statement = |deadline| text.bind(arrays.chain([deadline, count]));
    let mut rows = Vec::with_capacity(writes);
    database.autocommit_write(operation, before_sending, statement, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// The number of the write that a row is about. The statement is committed, so an error leaves the writes in doubt.
pub(super) fn number(row: &QueryResult, operation: &str) -> Result<usize> {
    let number: Result<i32, DbErr> = row.try_get_by_index(0);
    Ok(number.ok().and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        BackendError::new(BackendErrorKind::CommitUnknown, format!("{operation}: a row has no number"))
    })?)
}

/// Whether a row is about a write that was left out because another connection has locked its app's or its user's row.
pub(super) fn is_blocked(row: &QueryResult) -> bool {
    matches!(row.try_get("", BulkStatements::BLOCKED), Ok(true))
}

/// The numbers of the writes, and the three parts of their sessions' keys.
pub(super) fn keys<'a>(keys: impl Iterator<Item = &'a SessionKey> + Clone) -> impl Iterator<Item = Value> {
    [
        array(ArrayType::Int, (0_i32..).zip(keys.clone()).map(|(number, _)| number)),
        texts(keys.clone().map(|key| &key.app_name)),
        texts(keys.clone().map(|key| &key.user_id)),
        texts(keys.map(|key| &key.session_id)),
    ]
    .into_iter()
}

pub(super) fn texts(values: impl Iterator<Item = impl AsRef<str>>) -> Value {
    array(ArrayType::String, values.map(|text| text.as_ref().to_owned()))
}

pub(super) fn times(values: impl Iterator<Item = Timestamp>) -> Value {
    array(ArrayType::ChronoDateTime, values.map(Timestamp::to_naive_utc))
}

/// States of the sessions of these keys, or changes to them.
pub(super) fn states<'a>(
    values: impl Iterator<Item = (&'a SessionKey, &'a State)>,
    max_state_bytes: usize,
) -> Result<Value> {
    let texts: Vec<String> = values.map(|(key, state)| state.to_row(max_state_bytes, key)).collect::<Result<_>>()?;
    Ok(array(ArrayType::String, texts.into_iter()))
}

fn array<T: Into<Value>>(of: ArrayType, values: impl Iterator<Item = T>) -> Value {
    Value::Array(of, Some(Box::new(values.map(Into::into).collect())))
}
