//! Callers who write at the same time, and what must hold for them in any order of events.

use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{JoinHandle, yield_now};

use crate::fake::{Append, Bulk, Database, Delete, Kind, Write};
use crate::sql::write::{LockMode, QueuePolicy, Writer};
use crate::sync::Arc;
use crate::{BackendErrorKind, Result};

/// How many writes a caller submits at once, at most.
const WRITES: usize = 3;
const TARGETS: usize = 2;

/// How writes share commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One batch after the other.
    One,
    /// Several batches at once.
    Several,
    /// Several batches at once, each with writes of one operation to different targets.
    Homogeneous,
}

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A write that may be repeated.
    Append,
    /// A write that may not be repeated.
    Delete,
    /// A write that has a bulk statement.
    Bulk,
}

/// Callers who write at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// How many callers there are.
    pub callers: usize,
    /// How many writes each submits at once: up to three.
    pub writes: usize,
    /// How writes share commits.
    pub policy: Policy,
    /// What the callers do.
    pub operation: Operation,
    /// Whether commits meet contention or get no answer, and rows are locked by others.
    pub fails: bool,
    /// Whether a caller drops its writes at some time.
    pub drops: bool,
    /// Whether the service closes while the callers write.
    pub closes: bool,
}

/// A write, and what its caller got.
type Reply = (usize, Result<()>);

impl Scenario {
    /// Runs the scenario in the order that shuttle chooses.
    ///
    /// # Panics
    /// When the write path breaks a promise.
    pub fn run(self) {
        shuttle::future::block_on(async move {
            match self.operation {
                Operation::Append => self.run_with::<Append>().await,
                Operation::Delete => self.run_with::<Delete>().await,
                Operation::Bulk => self.run_with::<Bulk>().await,
            }
        });
    }

    fn queue_policy(self) -> QueuePolicy {
        let max_concurrent_batches = if self.policy == Policy::One { 1 } else { 2 };
        let homogeneous = self.policy == Policy::Homogeneous;
        let lock = if self.policy == Policy::One { LockMode::Wait } else { LockMode::SkipLocked };
        QueuePolicy { max_concurrent_batches, batch_size: 3, homogeneous, lock, batching: true }
    }

    async fn run_with<K: Kind>(self) {
        let database = Arc::new(Database::new(self.fails));
        let writer = Writer::new(database.clone(), self.queue_policy());
        let mut callers: Vec<JoinHandle<Vec<Reply>>> =
            (0..self.callers).map(|caller| tokio::spawn(call::<K>(writer.clone(), caller, self.writes))).collect();
        if self.drops
            && let Some(dropped) = callers.pop()
        {
            dropped.abort();
        }
        if !self.closes {
            let replies = join_all(callers.drain(..)).await;
            check(self, &database, replies.into_iter().flat_map(|replies| replies.expect("a caller ends")));
        }
        writer.close().await;
        database.lock().is_closed = true;
        let replies = join_all(callers).await;
        check(self, &database, replies.into_iter().flat_map(|replies| replies.expect("a caller ends")));
        // Workers end as well. Each holds the writer.
        while Arc::strong_count(&writer) > 1 {
            yield_now().await;
        }
    }
}

/// Submits writes, the first before the second, and so on, and waits for their outcomes.
async fn call<K: Kind>(writer: Arc<Writer<Database>>, caller: usize, count: usize) -> Vec<Reply> {
    let submitted = (0..count).map(|number| {
        let id = caller * WRITES + number;
        let (target, changes_app) = (target(id), number == 0 && count > 1);
        let write = Write::<K> { id, target, changes_app, is_refused: is_refused(id), kind: PhantomData };
        let writer = writer.clone();
        async move { (id, writer.submit(write, Duration::MAX).await) }
    });
    join_all(submitted).await
}

/// The target of a write: each caller writes to one of them twice.
fn target(id: usize) -> usize {
    (id / WRITES + id % WRITES) % TARGETS
}

fn is_refused(id: usize) -> bool {
    id == 4
}

fn check(scenario: Scenario, database: &Database, replies: impl Iterator<Item = Reply>) {
    let stored = database.lock().ids.clone();
    for (id, reply) in replies {
        let copies = stored.iter().filter(|stored| **stored == id).count();
        match reply.map_err(|error| error.backend_kind()) {
            Ok(()) => assert_eq!(copies, 1, "write {id} was acknowledged"),
            Err(None) => assert!(copies == 0 && is_refused(id), "write {id} was refused"),
            Err(Some(BackendErrorKind::CommitUnknown)) => assert!(copies <= 1 && scenario.fails, "write {id}"),
            Err(Some(BackendErrorKind::Contention)) => assert!(copies == 0 && scenario.fails, "write {id}"),
            Err(Some(BackendErrorKind::Unavailable)) => assert!(copies == 0 && scenario.closes, "write {id}"),
            Err(kind) => panic!("write {id} failed: {kind:?}"),
        }
    }
    for (at, first) in stored.iter().enumerate() {
        for second in &stored[at + 1..] {
            let (is_one_caller, is_one_target) = (first / WRITES == second / WRITES, target(*first) == target(*second));
            assert!(!(is_one_caller && is_one_target) || first < second, "{second} was before {first}: {stored:?}");
        }
    }
}
