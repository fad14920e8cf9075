//! SQL text: key predicates, placeholders, and statements that are built once.

use std::marker::PhantomData;

use sea_orm::sea_query::{DynIden, Expr, ExprTrait, IntoColumnRef, IntoIden};
use sea_orm::{Statement, StatementBuilder, Value};

use super::dialect::Dialect;
use super::error::StatementError;
use crate::SessionKey;
use crate::entity::{events, sessions};

/// A statement whose text is built once. A call binds values to its [`placeholder`]s in the order in which they stand
/// in the text.
pub(crate) struct SqlText<D> {
    sql: String,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> SqlText<D> {
    pub(crate) fn new(statement: &impl StatementBuilder) -> Self {
        Self { sql: D::BACKEND.build(statement).sql, dialect: PhantomData }
    }

    /// `first`, followed by `second`.
    pub(crate) fn joined(first: &Self, second: &Self) -> Self {
        Self { sql: format!("{}; {}", first.sql, second.sql), dialect: PhantomData }
    }

    pub(crate) fn bind(&self, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(D::BACKEND, &self.sql, values)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.sql
    }
}

/// A place in a statement to which [`SqlText::bind`] binds a value.
pub(crate) fn placeholder() -> Expr {
    Expr::value("")
}

/// Whether an insert made by [`Dialect::insert_if_absent`] inserted its row; false when the row was there already.
pub(crate) fn inserted<D: Dialect>(result: Result<u64, StatementError>) -> Result<bool, StatementError> {
    unless_duplicate::<D>(result).map(|changed| changed > 0)
}

/// How many rows such an insert changed: none when the row was there already.
pub(crate) fn unless_duplicate<D: Dialect>(result: Result<u64, StatementError>) -> Result<u64, StatementError> {
    match result {
        // On other databases the violated key is another one: a trigger's, or one that somebody added to the table.
        Err(error) if D::DUPLICATE_IS_ERROR && error.is_duplicate_key() => Ok(0),
        result => result,
    }
}

/// The predicate on a row of `sessions` whose placeholders take [`session_key_values`].
pub(crate) fn session_key_predicate<D: Dialect>() -> Expr {
    key_predicate::<D, _, 3>(session_key_columns())
}

/// The predicate on rows of `events` whose placeholders take [`session_key_values`].
pub(crate) fn event_session_predicate<D: Dialect>() -> Expr {
    use events::Column;
    key_predicate::<D, _, 3>([Column::AppName, Column::UserId, Column::SessionId])
}

/// The columns of the key of `sessions`, in the order of [`session_key_values`].
pub(crate) fn session_key_columns() -> [sessions::Column; 3] {
    use sessions::Column;
    [Column::AppName, Column::UserId, Column::Id]
}

/// The columns of the key of `events`.
pub fn event_key_columns() -> Vec<DynIden> {
    use events::Column;
    [Column::Id, Column::AppName, Column::UserId, Column::SessionId].map(IntoIden::into_iden).into()
}

/// The columns of `events`, in the order in which every insert of an event gives their values.
pub fn event_columns() -> [events::Column; 7] {
    use events::Column;
    [
        Column::AppName,
        Column::UserId,
        Column::SessionId,
        Column::Id,
        Column::InvocationId,
        Column::Timestamp,
        Column::EventData,
    ]
}

/// The predicate that each column of a key equals a placeholder.
pub(crate) fn key_predicate<D: Dialect, C: IntoIden, const N: usize>(columns: [C; N]) -> Expr {
    let equals = |column: C| name::<D>(column.into_iden()).eq(placeholder());
    columns.into_iter().map(equals).reduce(ExprTrait::and).unwrap_or_else(|| Expr::cust("1 = 1"))
}

/// A column of names, in a comparison.
pub(crate) fn name<D: Dialect>(column: impl IntoColumnRef) -> Expr {
    D::SCHEMA.read_name(Expr::col(column))
}

pub(crate) fn session_key_values(key: &SessionKey) -> std::array::IntoIter<Value, 3> {
    [Value::from(key.app_name.as_str()), key.user_id.as_str().into(), key.session_id.as_str().into()].into_iter()
}
