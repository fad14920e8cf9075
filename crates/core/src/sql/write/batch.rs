//! Running writes: in tasks of their own, in batches that share a commit, and again after a conflict with other
//! writers.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{self, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::attempt::{Locks, attempt, attempt_one, tickets, too_late, while_wanted};
use super::op::{Engine, LockMode, Row, WriteOp};
use super::pending::{Outcome, Reply, pending};
use super::queue::{Batch, Queue, QueuePolicy, RunningWrite};
use super::ticket::Ticket;
use crate::sync::Arc;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How many writes of a batch are found to be at fault by halves. If there are more, something else may be at fault,
/// and the rest of the batch runs one by one.
const MAX_CULPRITS: usize = 4;

/// How much longer than its limit a caller waits for the end of an attempt that may have stored its write. Attempts
/// keep the same limit, so they end about now, and know more than that it has passed.
const GRACE: Duration = Duration::from_millis(500);

/// Longer limits make no difference.
const LONGEST: Duration = Duration::from_hours(24 * 365);

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

    /// Queues a write, and waits for its outcome, not much longer than `within`. A write whose caller is gone before its
    /// turn is dropped. One that has begun continues.
    ///
    /// # Errors
    /// When the time is up, [`Unavailable`](BackendErrorKind::Unavailable) if nothing is stored, and
    /// [`CommitUnknown`](BackendErrorKind::CommitUnknown) if that is unknown.
    pub(crate) async fn submit<O: WriteOp<E>>(self: &Arc<Self>, op: O, within: Duration) -> Result<O::Outcome> {
        let deadline = Instant::now() + within.min(LONGEST);
        let (write, outcome) = pending(op, deadline);
        let ticket = write.ticket().clone();
        let accepted =
            timeout_at(deadline, self.wait_for(pin!(self.queue.accept(write, self.engine.failover_patience())))).await;
        let accepted = accepted.map_err(|_| too_late(O::NAME))??;
        if accepted.could_start {
            self.spawn(worker(self.clone()));
        }
        let Reply { outcome, retries } = self.wait_in_time(outcome, &ticket, O::NAME).await?;
        tracing::Span::current().record("retries", retries);
        outcome
    }

    async fn wait_in_time<T>(
        self: &Arc<Self>,
        mut outcome: Outcome<T>,
        ticket: &Ticket,
        operation: &str,
    ) -> Result<Reply<T>> {
        let unknown = |why: &str| BackendError::new(BackendErrorKind::CommitUnknown, format!("{operation} {why}"));
        let replied = match timeout_at(ticket.deadline(), self.wait_for(&mut outcome)).await {
            Err(_) if ticket.give_up() => return Err(too_late(operation)),
            // The attempt ends at about the same time.
            Err(_) => match timeout_at(ticket.deadline() + GRACE, self.wait_for(&mut outcome)).await {
                // It was taken back, and nothing is sent after the deadline.
                Err(_) if ticket.give_up() => return Err(too_late(operation)),
                replied => replied,
            },
            replied => replied,
        };
        let replied = replied.map_err(|_| unknown("got no answer within the time limit of the call"))?;
        Ok(replied.map_err(|oneshot::error::RecvError { .. }| {
            unknown("was interrupted, because its runtime is shutting down or because of a bug")
        })?)
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

    async fn run_batch(self: &Arc<Self>, Batch { writes: mut batch, shared, .. }: Batch<E>) {
        // Rows are locked in one order everywhere. The order of arrival stays within a target.
        batch.sort_by(|left, right| left.target.cmp(&right.target));
        if self.batches {
            batch = self.attempt_batch(batch, shared).await;
        }
        let mut left: Vec<Vec<RunningWrite<E>>> = Vec::new();
        for running in batch {
            let is_next_to = |writes: &&mut Vec<RunningWrite<E>>| writes[0].target == running.target;
            match left.last_mut().filter(|writes| self.lock == LockMode::Wait || is_next_to(writes)) {
                Some(writes) => writes.push(running),
                None => left.push(vec![running]),
            }
        }
        // What waits for a shared row does so in a batch of that row, and takes one connection.
        let (go_back, deferred): (Vec<_>, Vec<_>) = left.into_iter().partition(|writes| writes[0].goes_back);
        self.queue.put_back(go_back.into_iter().flatten().collect());
        for mut writes in deferred {
            writes.iter_mut().for_each(RunningWrite::release_shared_rows);
            if self.lock == LockMode::Wait {
                self.run_in_turn(writes).await;
            } else {
                // These writes may have to wait. The next batch need not.
                self.spawn(Box::pin(run_deferred(self.clone(), writes)));
            }
        }
    }

    /// Runs each write by itself, in their order. Once a write has used up its retries, those behind it that would only
    /// wait for the same server, or for the same row, end with it.
    async fn run_in_turn(&self, writes: Vec<RunningWrite<E>>) {
        let mut given_up: Option<(Row, Error)> = None;
        for (number, mut running) in writes.into_iter().enumerate() {
            if number > 0 {
                running.retries = running.retries.restarted();
            }
            let is_unavailable = |error: &Error| error.backend_kind() == Some(BackendErrorKind::Unavailable);
            if let Some((target, error)) = &given_up
                && (*target == running.target || is_unavailable(error))
            {
                running.write.fail(error.without_source());
                running.reply();
                continue;
            }
            let ticket = running.write.ticket().clone();
            if !ticket.is_wanted() {
                let late = too_late(running.write.name());
                running.write.fail(late);
                running.reply();
                continue;
            }
            contain_panic(async {
                if self.batches && self.lock == LockMode::SkipLocked {
                    // If that takes too long, the attempt finds that nobody waits.
                    let _: Result<(), Elapsed> =
                        timeout_at(ticket.deadline(), running.write.diagnose(&self.engine)).await;
                }
                if running.write.is_settled() {
                    running.reply();
                } else {
                    let target = running.target.clone();
                    match run_with_retries(&*self.engine, running).await {
                        // Others may have read from the same server as this one.
                        Some(error) if error.is_behind() => {}
                        Some(error) if error.is_retryable() => given_up = Some((target, error)),
                        Some(_) => self.keep_target_apart(target),
                        None => {}
                    }
                }
            })
            .await;
        }
    }

    /// Attempts a batch, and returns the writes that still have no outcome. If one of the writes may be to blame for a
    /// failure, finds that write by halves, so that the others still share commits.
    async fn attempt_batch(&self, batch: Vec<RunningWrite<E>>, shared: LockMode) -> Vec<RunningWrite<E>> {
        let (mut parts, mut left, mut culprits) = (vec![batch], Vec::<RunningWrite<E>>::new(), 0);
        while let Some(mut part) = parts.pop() {
            // An earlier write to their target has no outcome yet.
            let is_behind = |running: &&RunningWrite<E>| left.last().is_some_and(|left| left.target == running.target);
            let behind = part.iter().take_while(is_behind).count();
            left.extend(part.drain(..behind));
            if let Err((error, is_bulk)) = self.attempt_part(&mut part, shared).await {
                let may_be_one = !error.is_retryable();
                if may_be_one && part.len() > 1 && culprits < MAX_CULPRITS {
                    for running in &mut part {
                        running.write.discard_attempt();
                    }
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                    continue;
                }
                if let [culprit] = &*part
                    && may_be_one
                {
                    self.keep_target_apart(culprit.target.clone());
                    culprits += 1;
                }
                let is_conflict = error.backend_kind() == Some(BackendErrorKind::Contention);
                on_batch_error(&mut part, error, is_bulk);
                if is_conflict {
                    self.after_conflict(&mut part, shared).await;
                }
            }
            for mut running in part {
                if running.write.take_blocked() {
                    running.goes_back = self.keep_shared_rows_apart(&running);
                }
                if running.write.is_settled() {
                    running.reply();
                } else {
                    left.push(running);
                }
            }
        }
        left
    }

    /// Keeps the next writes to a session out of the batches of others, after one that failed. The target may also be a
    /// shared row, which many writes change that have nothing to do with that one.
    fn keep_target_apart(&self, target: Row) {
        if matches!(target, Row::Session(_)) {
            self.queue.keep_apart(target);
        }
    }

    /// Keeps the shared rows of a part out of the batches of others. If the part has waited for them, it goes back into
    /// the queue, to wait again in one transaction.
    async fn after_conflict(&self, part: &mut [RunningWrite<E>], shared: LockMode) {
        for running in &mut *part {
            let are_apart = self.keep_shared_rows_apart(running);
            running.goes_back = are_apart && self.lock == LockMode::SkipLocked && shared == LockMode::Wait;
        }
        if let Some(again) = part.iter_mut().find(|running| running.goes_back && !running.write.is_settled()) {
            again.retries.pause().await;
        }
    }

    /// Keeps the shared rows that a write changes out of the batches of others; false if there are too many such rows.
    fn keep_shared_rows_apart(&self, running: &RunningWrite<E>) -> bool {
        let are_apart: Vec<bool> = running.shared_rows().map(|row| self.queue.keep_apart(row.clone())).collect();
        !are_apart.contains(&false)
    }

    /// Attempts writes in one statement if their operation has one, else in one transaction. An error says whether it
    /// was the statement's.
    async fn attempt_part(&self, part: &mut [RunningWrite<E>], shared: LockMode) -> Result<(), (Error, bool)> {
        let Some(first) = part.first() else { return Ok(()) };
        let (bulk, operation, tickets) = (first.write.bulk(), first.write.name(), tickets(part));
        let writes = part.iter_mut().map(|running| &mut *running.write).collect();
        let ended = while_wanted(&tickets, operation, bulk(&self.engine, shared, writes)).await;
        match ended.unwrap_or_else(|late| Some(Err(late))) {
            Some(ended) => ended.map_err(|error| (error, true)),
            None if self.lock == LockMode::SkipLocked && !part.iter().any(|running| running.write.skips_locked()) => {
                Ok(())
            }
            None => {
                let locks = Locks { targets: self.lock, shared };
                attempt(&*self.engine, part, locks).await.map_err(|error| (error, false))?;
                for running in part {
                    running.write.settle();
                }
                Ok(())
            }
        }
    }
}

/// Runs batch after batch until none can start. Boxed, because its type would contain itself, and because tokio moves
/// the future of a task several times.
fn worker<E: Engine>(writer: Arc<Writer<E>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let Some(mut permit) = writer.queue.batch_permit() else { return };
        while let Some(batch) = permit.next_batch() {
            if batch.others_wait {
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

/// Handles the failure of a batch, or of a part of one. Each write is then retried by itself, except when it was alone
/// in its transaction and would fail the same way again, or when the server is gone. Each has retries of its own: it
/// may have shared its batch with writes that have failed before.
fn on_batch_error<E: Engine>(batch: &mut [RunningWrite<E>], error: Error, is_bulk: bool) {
    let (is_unknown, is_lone) = (error.backend_kind() == Some(BackendErrorKind::CommitUnknown), batch.len() == 1);
    // A lone write in a bulk statement is not final: the portable algorithm names the row at fault.
    let may_be_final = error.is_retryable() || is_lone && !is_bulk;
    let is_final = |running: &RunningWrite<E>| !running.retries.are_left(&error) && may_be_final;
    let finals: Vec<bool> = batch.iter().map(is_final).collect();
    if let Some((again, _)) = batch.iter().zip(&finals).find(|(_, is_final)| !**is_final) {
        again.retries.log(&error);
    }
    let mut first = Some(error);
    for (RunningWrite { write, retries, .. }, is_final) in batch.iter_mut().zip(finals) {
        // The driver's error stays with the first.
        let Some(error) = first.take() else { continue };
        first = Some(error.without_source());
        if is_final {
            write.fail(error);
            continue;
        }
        retries.count();
        if is_unknown && (is_bulk || is_lone || write.is_applied()) {
            write.doubt(error);
        } else {
            write.discard_attempt();
        }
    }
}

/// Runs writes to one target that their batch left out, beside the batches. Then runs what waited for the target.
async fn run_deferred<E: Engine>(writer: Arc<Writer<E>>, deferred: Vec<RunningWrite<E>>) {
    writer.run_in_turn(deferred).await;
    worker(writer).await;
}

/// Runs a write in a transaction of its own, retries it while it conflicts with other writers and its caller waits, and
/// replies. Returns the error in which it ended, if the database is at fault.
async fn run_with_retries<E: Engine>(engine: &E, mut running: RunningWrite<E>) -> Option<Error> {
    if !running.write.is_wanted() {
        return None;
    }
    let mut failed = None;
    while let Err(error) = attempt_one(engine, &mut running).await {
        let is_in_time = Instant::now() < running.write.ticket().deadline();
        if !(running.write.is_wanted() && is_in_time && running.retries.wait(&error).await) {
            // That this caller has no more time says nothing about the writes of others.
            failed = (is_in_time && error.backend_kind().is_some()).then(|| error.without_source());
            running.write.fail(error);
            break;
        }
        if error.backend_kind() == Some(BackendErrorKind::CommitUnknown) {
            running.write.doubt(error);
        } else {
            running.write.discard_attempt();
        }
    }
    running.reply();
    failed
}
