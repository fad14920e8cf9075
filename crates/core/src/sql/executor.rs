//! Where statements run: on the pool, in Seabed's own transaction, or in the caller's.

use std::marker::PhantomData;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult, Statement, Value};

use super::dialect::Dialect;
use super::error::StatementError;

/// No server has a limit below this in earnest, so smaller statements are sent without asking for it. Larger ones take
/// longer than the question.
const ACCEPTED_EVERYWHERE: u64 = 256 * 1024;

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

/// What else is in a statement: its text, the other values, and lengths.
const HEADROOM: u64 = 4096;

/// Rejects a statement that the server would not accept. A server that closes the connection instead of answering would
/// seem to be down, and the statement would be repeated in vain. The limit is that of the connection, which `on` uses.
pub(crate) async fn check_size<D: Dialect>(on: &mut dyn Executor, statement: &Statement) -> Result<(), StatementError> {
    let Some(query) = D::STATEMENT_LIMIT else { return Ok(()) };
    let size = size_of_values(statement);
    if size < ACCEPTED_EVERYWHERE {
        return Ok(());
    }
    let row = on.query_one(Statement::from_string(D::BACKEND, query)).await?;
    match row.map(|row| row.try_get_by_index::<u64>(0)).transpose()? {
        Some(limit) if size + HEADROOM >= limit => Err(StatementError::TooLarge { size, limit }),
        _ => Ok(()),
    }
}

/// The bytes of the texts among the values, which make up nearly all of a large statement.
fn size_of_values(statement: &Statement) -> u64 {
    let values = statement.values.iter().flat_map(|values| &values.0);
    let size = |value: &Value| if let Value::String(Some(text)) = value { text.len() as u64 } else { 0 };
    values.map(size).sum()
}

/// A transaction that the caller began, and will end.
pub(crate) struct CallerTransaction<'a, D> {
    transaction: &'a DatabaseTransaction,
    dialect: PhantomData<fn() -> D>,
}

impl<'a, D: Dialect> CallerTransaction<'a, D> {
    pub(crate) fn new(transaction: &'a DatabaseTransaction) -> Self {
        Self { transaction, dialect: PhantomData }
    }
}

#[async_trait]
impl<D: Dialect> Executor for CallerTransaction<'_, D> {
    /// Of the statements that run here, none that returns rows changes any.
    async fn run(
        &mut self,
        statement: Statement,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        check_size::<D>(self, &statement).await?;
        self.transaction.query_all_raw(statement).await?.into_iter().for_each(on_row);
        Ok(0)
    }

    async fn execute(&mut self, statement: Statement) -> Result<u64, StatementError> {
        check_size::<D>(self, &statement).await?;
        Ok(self.transaction.execute_raw(statement).await?.rows_affected())
    }
}

/// What runs inside Seabed's own transaction.
#[async_trait]
pub(crate) trait TransactionBody: Send {
    /// Runs the statements. Returns whether to commit: a transaction that wrote nothing is rolled back.
    async fn run(&mut self, on: &mut dyn Executor) -> crate::Result<bool>;
}
