//! Transactions, of which the write path needs no more than that there are some: it hands them on to its operations.

use async_trait::async_trait;

use super::write::Row;

/// A transaction of the fake database.
pub(crate) trait Executor: Send {
    /// Adds a write to the transaction. One that may be repeated is left out, and false returned, when it is stored
    /// already.
    fn store(&mut self, id: usize, target: &Row, is_repeatable: bool) -> bool;
}

/// What runs inside a transaction.
#[async_trait]
pub(crate) trait TransactionBody: Send {
    /// Runs the statements. Returns whether to commit.
    async fn run(&mut self, on: &mut dyn Executor) -> crate::Result<bool>;
}
