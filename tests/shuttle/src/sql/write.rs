//! The write path of seabed-core: its modules without its unit tests, which need tokio itself.

#[path = "../../../../crates/core/src/sql/write/attempt.rs"]
mod attempt;
#[path = "../../../../crates/core/src/sql/write/batch.rs"]
mod batch;
#[path = "../../../../crates/core/src/sql/write/op.rs"]
mod op;
#[path = "../../../../crates/core/src/sql/write/pending.rs"]
mod pending;
#[path = "../../../../crates/core/src/sql/write/places.rs"]
mod places;
#[path = "../../../../crates/core/src/sql/write/queue.rs"]
mod queue;
#[path = "../../../../crates/core/src/sql/write/retry.rs"]
mod retry;
#[path = "../../../../crates/core/src/sql/write/selection.rs"]
mod selection;
#[path = "../../../../crates/core/src/sql/write/ticket.rs"]
mod ticket;

pub(crate) use batch::Writer;
pub(crate) use op::{
    Applied, Attempt, BeforeSending, BulkResults, Engine, LockMode, Row, SharedChange, SharedChanges, SharedKey,
    SharedLocks, SharedStates, WriteOp,
};
pub(crate) use queue::QueuePolicy;
