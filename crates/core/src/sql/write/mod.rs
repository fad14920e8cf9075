//! The write path: a queue of writes, batches that share a commit, retries, and what happens when a commit gets no
//! answer.
//!
//! It knows what a [`WriteOp`] is, and no operation.
//!
//! [`Writer::submit`] queues a write (`queue.rs`) and waits for its outcome. A worker takes a batch from the queue
//! (`selection.rs`) and runs it in one transaction, or in one statement where the operation has one (`batch.rs`). A
//! write that the batch left out, or that failed with others, is retried by itself (`retry.rs`). Each write runs in a
//! task that is not its caller's: dropping the caller's future does not interrupt it.

mod attempt;
mod batch;
mod op;
mod pending;
mod places;
mod queue;
mod retry;
mod selection;
#[cfg(test)]
mod tests;
mod ticket;

pub(crate) use batch::Writer;
pub(crate) use op::{
    Applied, Attempt, BeforeSending, BulkResults, Engine, GroupResults, LockMode, Row, SharedChange, SharedChanges,
    SharedKey, SharedLocks, SharedStates, WriteOp,
};
pub(crate) use queue::QueuePolicy;
pub(crate) use retry::retry;
