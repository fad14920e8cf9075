//! SQL text that is built once.

use std::marker::PhantomData;

use sea_orm::sea_query::Expr;
use sea_orm::{DbErr, SqlErr, Statement, StatementBuilder, Value};

use super::Dialect;

/// A statement whose text is kept; a call binds values to its [`slot`]s in the order in which they stand in the text.
pub(super) struct Prepared<D> {
    sql: String,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> Prepared<D> {
    pub(super) fn new(statement: &impl StatementBuilder) -> Self {
        Self { sql: D::BACKEND.build(statement).sql, dialect: PhantomData }
    }

    /// `first`, and behind it `second`.
    pub(super) fn both(first: &Self, second: &Self) -> Self {
        Self { sql: format!("{}; {}", first.sql, second.sql), dialect: PhantomData }
    }

    pub(super) fn bind(&self, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(D::BACKEND, &self.sql, values)
    }
}

/// A place in a statement that [`Prepared::bind`] gives a value.
pub(super) fn slot() -> Expr {
    Expr::value("")
}

/// What an insert made by [`Dialect::insert_if_absent`] came to, told by how many rows it changed; false when the row was there
/// already.
pub(super) fn is_new<D: Dialect>(inserted: Result<u64, DbErr>) -> Result<bool, DbErr> {
    match inserted {
        Ok(changed) => Ok(changed > 0),
        // Elsewhere it is of another key: a trigger's, or one that was added to the table.
        Err(error)
            if D::FAILS_WHEN_PRESENT && matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
