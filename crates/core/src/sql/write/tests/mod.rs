//! The write path without a database: a fake engine, fake operations, and the cases.

mod batch;
mod doubt;
mod engine;
mod fair;
mod ops;
mod panics;
mod queue;
mod retry;
mod runtimes;
mod shared;
mod time;

use std::time::Duration;

use tokio::task::JoinHandle;

use self::engine::{FakeEngine, error};
use self::ops::{Kind, Outcome, Write};
use super::{LockMode, QueuePolicy, Writer};
use crate::sync::Arc;
use crate::{BackendErrorKind, Result};

/// Several batches of any operations.
const SEVERAL: QueuePolicy = QueuePolicy {
    max_concurrent_batches: 3,
    batch_size: 4,
    homogeneous: false,
    lock: LockMode::SkipLocked,
    batching: true,
};
/// One batch after the other.
const ONE: QueuePolicy = QueuePolicy { max_concurrent_batches: 1, lock: LockMode::Wait, ..SEVERAL };
/// Several batches of one operation each.
const HOMOGENEOUS: QueuePolicy = QueuePolicy { homogeneous: true, ..SEVERAL };
/// Each write is a transaction of its own, and the database alone keeps writers from each other.
const UNBATCHED: QueuePolicy = QueuePolicy { batch_size: 1, batching: false, ..SEVERAL };

/// Longer than any case takes.
const FOREVER: Duration = Duration::MAX;

const AN_HOUR: Duration = Duration::from_hours(1);

type FakeWriter = Arc<Writer<FakeEngine>>;

fn writer(policy: QueuePolicy) -> (FakeWriter, Arc<FakeEngine>) {
    let engine = Arc::new(FakeEngine::default());
    (Writer::new(engine.clone(), policy), engine)
}

/// Submits a write in a task, and returns when it runs, waits, or has its outcome.
async fn submit<K: Kind>(writer: &FakeWriter, write: Write<K>) -> JoinHandle<Result<Outcome>> {
    let writer = writer.clone();
    let caller = tokio::spawn(async move { writer.submit(write, FOREVER).await });
    settle().await;
    caller
}

/// Returns when no task can go on before the clock does. Needs a paused clock.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The outcome that a caller gets, within an hour of the paused clock.
async fn outcome(caller: JoinHandle<Result<Outcome>>) -> Result<Outcome> {
    tokio::time::timeout(AN_HOUR, caller).await.expect("the caller waits for ever").expect("the caller panicked")
}

/// Submits a write, and returns its outcome.
async fn run<K: Kind>(writer: &FakeWriter, write: Write<K>) -> Result<Outcome> {
    outcome(submit(writer, write).await).await
}

async fn close(writer: &FakeWriter) {
    tokio::time::timeout(AN_HOUR, writer.close()).await.expect("closing waits for ever");
}

/// The kind of the backend error that a caller got.
async fn failure(caller: JoinHandle<Result<Outcome>>) -> Option<BackendErrorKind> {
    outcome(caller).await.expect_err("the write succeeded").backend_kind()
}
