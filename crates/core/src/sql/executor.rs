//! Where statements run: on the pool, in Seabed's own transaction, or in the caller's.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult, Statement};

use super::error::StatementError;

/// Runs statements, one after the other.
#[async_trait]
pub(crate) trait Executor: Send {
    /// Runs a statement, calls `on_row` with each row as it arrives, and returns the number of rows it changed.
    async fn run(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError>;

    /// Runs a statement that returns no rows, and returns the number of rows it changed.
    async fn execute(&mut self, statement: Statement) -> Result<u64, StatementError> {
        self.run(statement, &mut |_| {}).await
    }

    /// Runs a statement, and returns its first row, if it has one.
    async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, StatementError> {
        let mut first = None;
        self.run(statement, &mut |row| _ = first.get_or_insert(row)).await?;
        Ok(first)
    }

    /// Runs a statement, and returns all its rows.
    async fn query_all(&mut self, statement: Statement) -> Result<Vec<QueryResult>, StatementError> {
        let mut rows = Vec::new();
        self.run(statement, &mut |row| rows.push(row)).await?;
        Ok(rows)
    }
}

/// A transaction that the caller began, and will end.
pub(crate) struct CallerTransaction<'a>(pub(crate) &'a DatabaseTransaction);

#[async_trait]
impl Executor for CallerTransaction<'_> {
    /// Of the statements that run here, none that returns rows changes any.
    async fn run(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        self.0.query_all_raw(statement).await?.into_iter().for_each(on_row);
        Ok(0)
    }

    async fn execute(&mut self, statement: Statement) -> Result<u64, StatementError> {
        Ok(self.0.execute_raw(statement).await?.rows_affected())
    }
}

/// What runs inside Seabed's own transaction.
#[async_trait]
pub(crate) trait TransactionBody: Send {
    /// Runs the statements. Returns whether to commit: a transaction that wrote nothing is rolled back.
    async fn run(&mut self, on: &mut dyn Executor) -> crate::Result<bool>;
}
