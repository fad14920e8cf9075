//! Running writes: in tasks of their own, in batches that share a commit, and again after a conflict with other
//! writers.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{self, Poll, ready};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;

use super::op::{Attempt, Engine, LockMode, Row, SharedChanges, WriteOp};
use super::pending::{PendingWrite, Reply, pending};
use super::queue::{Queue, QueuePolicy, RunningWrite};
use super::retry::Retries;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sync::Arc;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// The write path of one service.
pub(crate) struct Writer<E: Engine> {
    engine: Arc<E>,
    queue: Queue<E>,
    lock: LockMode,
    /// Whether writes share transactions and statements. Otherwise each is a transaction of its own.
    batches: bool,
    /// Tells one of those who wait that a task ended with its runtime, and left its work undone.
    abandoned: Notify,
}

/// The work of a task, which its runtime may drop at any time, also before it has begun.
struct Work<E: Engine> {
    /// Dropped before the others hear of it, so that its rows and its place are free by then.
    work: BoxFuture<'static, ()>,
    unfinished: Unfinished<E>,
}

/// Work that is not done.
struct Unfinished<E: Engine>(Option<Arc<Writer<E>>>);

impl<E: Engine> Future for Work<E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        ready!(self.work.as_mut().poll(context));
        self.unfinished.0 = None;
        Poll::Ready(())
    }
}

impl<E: Engine> Drop for Unfinished<E> {
    fn drop(&mut self) {
        if let Some(writer) = &self.0 {
            writer.abandoned.notify_one();
        }
    }
}

impl<E: Engine> Writer<E> {
    pub(crate) fn new(engine: Arc<E>, policy: QueuePolicy) -> Arc<Self> {
        let (queue, abandoned) = (Queue::new(policy), Notify::new());
        Arc::new(Self { engine, queue, lock: policy.lock, batches: policy.batching, abandoned })
    }

    /// Queues a write, and waits for its outcome. A write whose caller is gone before its turn is dropped. One that has
    /// begun continues.
    pub(crate) async fn submit<O: WriteOp<E>>(self: &Arc<Self>, op: O) -> Result<O::Outcome> {
        let (write, outcome) = pending(op);
        if self.wait_for(pin!(self.queue.accept(write))).await? {
            self.spawn(worker(self.clone()));
        }
        let Reply { outcome, retries } =
            self.wait_for(outcome).await.map_err(|oneshot::error::RecvError { .. }| {
                let message =
                    format!("{} was interrupted, because its runtime is shutting down or because of a bug", O::NAME);
                BackendError::new(BackendErrorKind::CommitUnknown, message)
            })?;
        tracing::Span::current().record("retries", retries);
        outcome
    }

    /// Accepts no more writes, and returns when every accepted write has its outcome.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.wait_for(pin!(self.queue.close())).await;
    }

    /// Waits for what other tasks bring about. When one of them ends with its runtime, a worker on this runtime goes on.
    async fn wait_for<F: Future + Unpin>(self: &Arc<Self>, mut end: F) -> F::Output {
        loop {
            match select(end, pin!(self.abandoned.notified())).await {
                Either::Left((output, _)) => return output,
                Either::Right(((), waiting)) => end = waiting,
            }
            self.spawn(worker(self.clone()));
            // A runtime that is shutting down drops the worker at once, and this caller when it yields.
            yield_now().await;
        }
    }

    fn spawn(self: &Arc<Self>, work: BoxFuture<'static, ()>) {
        tokio::spawn(Work { work, unfinished: Unfinished(Some(self.clone())) });
    }

    async fn run_batch(self: &Arc<Self>, mut batch: Vec<RunningWrite<E>>) {
        // Rows are locked in one order everywhere. The order of arrival stays within a target.
        batch.sort_by(|left, right| left.target.cmp(&right.target));
        let mut retries = Retries::new();
        if self.batches {
            self.attempt_batch(&mut batch, &mut retries).await;
        }
        let mut deferred: Vec<Vec<RunningWrite<E>>> = Vec::new();
        for mut running in batch {
            if running.write.is_settled() {
                running.reply(0);
                continue;
            }
            running.release_shared_rows();
            let is_next_to = |writes: &&mut Vec<RunningWrite<E>>| writes[0].target == running.target;
            match deferred.last_mut().filter(|writes| self.lock == LockMode::Wait || is_next_to(writes)) {
                Some(writes) => writes.push(running),
                None => deferred.push(vec![running]),
            }
        }
        for writes in deferred {
            if self.lock == LockMode::Wait {
                self.run_in_turn(writes, retries).await;
            } else {
                // These writes may have to wait. The next batch need not.
                self.spawn(Box::pin(run_deferred(self.clone(), writes, retries)));
            }
        }
    }

    /// Runs each write by itself, in their order. Once a write has used up its retries, those behind it that would only
    /// wait for the same server, or for the same row, end with it.
    async fn run_in_turn(&self, writes: Vec<RunningWrite<E>>, retries: Retries) {
        let mut given_up: Option<(Row, Error)> = None;
        for (number, mut running) in writes.into_iter().enumerate() {
            let retries = if number == 0 { retries } else { retries.restarted() };
            let is_unavailable = |error: &Error| error.backend_kind() == Some(BackendErrorKind::Unavailable);
            if let Some((target, error)) = &given_up
                && (*target == running.target || is_unavailable(error))
            {
                running.write.fail(error.without_source());
                running.reply(retries.count_so_far());
                continue;
            }
            contain_panic(async {
                if self.batches && self.lock == LockMode::SkipLocked {
                    running.write.diagnose(&self.engine).await;
                }
                if running.write.is_settled() {
                    running.reply(retries.count_so_far());
                } else {
                    let target = running.target.clone();
                    given_up = run_with_retries(&*self.engine, running, retries).await.map(|error| (target, error));
                }
            })
            .await;
        }
    }

    /// Attempts a batch, in one statement if its operation has one, else in one transaction.
    async fn attempt_batch(&self, batch: &mut [RunningWrite<E>], retries: &mut Retries) {
        let Some(bulk) = batch.first().map(|first| first.write.bulk()) else { return };
        let writes = batch.iter_mut().map(|running| &mut *running.write).collect();
        match bulk(&self.engine, writes).await {
            Some(Ok(())) => {}
            Some(Err(error)) => on_batch_error(batch, error, retries, true),
            None if self.lock == LockMode::SkipLocked && !batch.iter().any(|running| running.write.skips_locked()) => {}
            None => match attempt(&*self.engine, batch, self.lock).await {
                Ok(()) => batch.iter_mut().for_each(|running| running.write.settle()),
                Err(error) => on_batch_error(batch, error, retries, false),
            },
        }
    }
}

/// Runs batch after batch until none can start. Boxed, because its type would contain itself, and because tokio moves
/// the future of a task several times.
fn worker<E: Engine>(writer: Arc<Writer<E>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let Some(mut permit) = writer.queue.batch_permit() else { return };
        while let Some((batch, others_wait)) = permit.next_batch() {
            if others_wait {
                writer.spawn(worker(writer.clone()));
            }
            contain_panic(writer.run_batch(batch)).await;
        }
    })
}

/// Runs `work`. A panic in it ends the writes in it, and their callers learn that they were interrupted. Whoever runs
/// the work continues: other writes may wait for the rows, or for the place of the batch, that are free now.
async fn contain_panic(work: impl Future<Output = ()>) {
    // The panic hook has reported it.
    let _: std::thread::Result<()> = AssertUnwindSafe(work).catch_unwind().await;
}

/// Handles the failure of a batch. One write may be the cause, so each is then retried by itself, except when it was
/// alone in its transaction and would fail the same way again, or when the server is gone.
fn on_batch_error<E: Engine>(batch: &mut [RunningWrite<E>], error: Error, retries: &mut Retries, is_bulk: bool) {
    let (is_unknown, is_lone) = (error.backend_kind() == Some(BackendErrorKind::CommitUnknown), batch.len() == 1);
    // A lone write in a bulk statement is not final: the portable algorithm names the row at fault.
    let is_final = !retries.are_left(&error) && (error.is_retryable() || is_lone && !is_bulk);
    if !is_final {
        retries.count(&error);
    }
    let mut first = Some(error);
    for RunningWrite { write, .. } in batch {
        // The driver's error stays with the first.
        let Some(error) = first.take() else { continue };
        first = Some(error.without_source());
        if is_final {
            write.fail(error);
        } else if is_unknown && (is_bulk || is_lone || write.is_applied()) {
            write.doubt(error);
        } else {
            write.discard_attempt();
        }
    }
}

/// Runs writes to one target that their batch left out, beside the batches. Then runs what waited for the target.
async fn run_deferred<E: Engine>(writer: Arc<Writer<E>>, deferred: Vec<RunningWrite<E>>, retries: Retries) {
    writer.run_in_turn(deferred, retries).await;
    worker(writer).await;
}

/// Runs a write in a transaction of its own, retries it while it conflicts with other writers and its caller waits, and
/// replies. Returns the error that used up the retries.
async fn run_with_retries<E: Engine>(engine: &E, mut running: RunningWrite<E>, mut retries: Retries) -> Option<Error> {
    let mut given_up = None;
    if !running.write.is_wanted() {
        return given_up;
    }
    while let Err(error) = attempt_one(engine, &mut running).await {
        if !(running.write.is_wanted() && retries.wait(&error).await) {
            given_up = error.is_retryable().then(|| error.without_source());
            running.write.fail(error);
            break;
        }
        if error.backend_kind() == Some(BackendErrorKind::CommitUnknown) {
            running.write.doubt(error);
        }
    }
    running.reply(retries.count_so_far());
    given_up
}

/// One attempt. It finds what an earlier attempt may have committed.
async fn attempt_one<E: Engine>(engine: &E, running: &mut RunningWrite<E>) -> Result<()> {
    running.write.resolve_unrepeatable(engine).await?;
    if !running.write.is_settled() {
        attempt(engine, std::slice::from_mut(running), LockMode::Wait).await?;
        running.write.resolve_refused(engine).await?;
        running.write.settle();
    }
    Ok(())
}

/// Attempts the writes in one transaction. After an error none of them is stored, unless the error says that this is
/// unknown.
async fn attempt<E: Engine>(engine: &E, batch: &mut [RunningWrite<E>], lock: LockMode) -> Result<()> {
    let operation = match batch {
        [running] => running.write.name(),
        _ => "a batch of writes",
    };
    if let [running] = batch
        && running.write.apply_alone(engine).await?
    {
        return Ok(());
    }
    let writes = batch.iter_mut().map(|running| (&running.target, &mut *running.write)).collect();
    engine.transaction(operation, &mut BatchBody { engine, writes, operation, lock }).await
}

/// The statements of a batch.
struct BatchBody<'a, E: Engine> {
    engine: &'a E,
    /// The writes and their targets.
    writes: Vec<(&'a Row, &'a mut dyn PendingWrite<E>)>,
    operation: &'static str,
    lock: LockMode,
}

#[async_trait]
impl<E: Engine> TransactionBody for BatchBody<'_, E> {
    /// The rows of each write alone come first, then app state, then user state, so that locks are taken in one order.
    async fn run(&mut self, on: &mut dyn Executor) -> Result<bool> {
        let mut changes = SharedChanges::default();
        let mut prefetched = match self.targets_to_prefetch() {
            targets if targets.is_empty() => HashMap::new(),
            targets => self.engine.prefetch(on, targets, self.operation).await?,
        };
        let mut left_out = None;
        for (target, write) in &mut self.writes {
            // The row may be free by now, and a later write to it would overtake.
            if left_out == Some(*target) {
                continue;
            }
            let attempt = Attempt { on: &mut *on, lock: self.lock, prefetched: prefetched.remove(*target) };
            write.apply(self.engine, attempt, &mut changes).await?;
            if write.is_left_out() {
                left_out = Some(*target);
            }
        }
        let states = self.engine.merge_shared(on, changes, self.operation).await?;
        self.writes.iter_mut().for_each(|(_, write)| write.complete(&states));
        Ok(self.writes.iter().any(|(_, write)| write.is_applied()))
    }
}

impl<E: Engine> BatchBody<'_, E> {
    /// The targets that the writes read before they write, unless it is one only.
    fn targets_to_prefetch(&self) -> Vec<Row> {
        let reading = self.writes.iter().filter(|(_, write)| write.reads_target());
        let mut targets: Vec<Row> = reading.map(|(target, _)| (*target).clone()).collect();
        // The writes are in the order of their targets.
        targets.dedup();
        if targets.len() > 1 { targets } else { Vec::new() }
    }
}
