//! A write on its way from its caller to its outcome.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::op::{Applied, Attempt, Engine, LockMode, Row, SharedChanges, SharedStates, WriteOp};
use super::ticket::Ticket;
use crate::sql::executor::Executor;
use crate::sync::Arc;
use crate::{Error, Result};

/// What a caller gets: the outcome, and how often the write was retried before.
pub(super) struct Reply<T> {
    pub(super) outcome: Result<T>,
    pub(super) retries: u32,
}

/// Where a write stands.
enum Fate<T> {
    /// Nothing of it is stored.
    Waiting,
    /// An earlier attempt may have been committed; the error says why that is unknown.
    InDoubt(Error),
    /// It has its outcome.
    Settled(Result<T>),
}

/// A write of one operation, and the caller who waits for it.
struct Pending<E: Engine, O: WriteOp<E>> {
    op: O,
    fate: Fate<O::Outcome>,
    /// The outcome of the current attempt. It counts once it is committed.
    attempt: Option<Result<Applied<O::Outcome>>>,
    /// Whether the last attempt left it out because of a shared row.
    is_blocked: bool,
    caller: oneshot::Sender<Reply<O::Outcome>>,
    ticket: Arc<Ticket>,
}

/// A pending write of any operation.
#[async_trait]
pub(super) trait PendingWrite<E: Engine>: Any + Send {
    /// The name of the operation.
    fn name(&self) -> &'static str;

    /// The rows that it locks; its target first.
    fn rows(&self) -> Vec<Row>;

    /// Whether the operation can leave out a row that is locked.
    fn skips_locked(&self) -> bool;

    /// Whether the operation may have a bulk statement.
    fn has_bulk(&self) -> bool;

    /// About how many bytes it brings.
    fn bytes(&self) -> usize;

    /// What the caller and the work on the write agree on.
    fn ticket(&self) -> &Arc<Ticket>;

    /// Whether the caller still waits for the outcome.
    fn is_wanted(&self) -> bool;

    /// Whether the outcome is known.
    fn is_settled(&self) -> bool;

    /// Whether the current attempt has something to commit.
    fn is_applied(&self) -> bool;

    /// Whether the next attempt reads the target before it writes.
    fn reads_target(&self) -> bool;

    /// Whether the current attempt left the write out, because of a row that may be locked.
    fn is_left_out(&self) -> bool;

    /// Whether the last attempt left the write out because of a shared row that another connection has locked, or an
    /// earlier write to its target. True once for each such attempt: what is not attempted again must not go back again.
    fn take_blocked(&mut self) -> bool;

    /// Leaves the write out of the current attempt because of such a row.
    fn block(&mut self);

    /// Attempts the write in a transaction, and adds what it does to shared rows to `changes`.
    ///
    /// # Errors
    /// The backend's, which end the transaction. A refusal is an outcome.
    async fn apply(&mut self, engine: &E, attempt: Attempt<'_, E>, changes: &mut SharedChanges) -> Result<()>;

    /// Completes the current attempt with the states of shared rows.
    fn complete(&mut self, shared: &SharedStates);

    /// Attempts the write without a transaction; false where it takes one.
    async fn apply_alone(&mut self, engine: &E) -> Result<bool>;

    /// Attempts a batch of writes of this operation as one statement, which waits for shared rows or not.
    fn bulk(&self) -> Bulk<E>;

    /// Attempts writes of this operation together, where it can.
    fn together(&self) -> Together<E>;

    /// Whether the current attempt has come to this write.
    fn is_attempted(&self) -> bool;

    /// Settles the write if there is a reason to refuse it. An error of the backend leaves it as it was: the next
    /// attempt meets the error again, if it is about this write. So does a doubt: only a commit ends it.
    async fn diagnose(&mut self, engine: &E);

    /// Prepares a write that is in doubt for its next attempt. One that cannot be repeated is settled.
    async fn resolve_unrepeatable(&mut self, engine: &E) -> Result<()>;

    /// Looks again at a write in doubt whose repeated attempt was refused: the refusal may be due to the earlier
    /// attempt, or to a server that does not know of it. Returns the doubt as an error if that cannot be known.
    async fn resolve_refused(&mut self, engine: &E) -> Result<()>;

    /// The current attempt was committed: it decides the outcome.
    fn settle(&mut self);

    /// The current attempt was not committed.
    fn discard_attempt(&mut self);

    /// Settles the write with `error`, or with the doubt about an earlier attempt, which the error of a backend does
    /// not end.
    fn fail(&mut self, error: Error);

    /// The current attempt may have been committed, and `error` says why that is unknown.
    fn doubt(&mut self, error: Error);

    /// Sends the outcome to the caller.
    fn reply(self: Box<Self>, retries: u32);
}

/// Attempts a batch as one statement; `None` where the operation has no such statement.
pub(super) type Bulk<E> =
    for<'a> fn(&'a E, LockMode, Vec<&'a mut dyn PendingWrite<E>>) -> BoxFuture<'a, Option<Result<()>>>;

/// Attempts writes of a batch, sorted by target, together; leaves them unattempted where the operation cannot do that.
/// Adds what they do to shared rows to the changes.
pub(super) type Together<E> = for<'a> fn(
    &'a E,
    &'a mut dyn Executor,
    LockMode,
    Vec<&'a mut dyn PendingWrite<E>>,
    &'a mut SharedChanges,
) -> BoxFuture<'a, Result<()>>;

/// Where the outcome of a write arrives.
pub(super) type Outcome<T> = oneshot::Receiver<Reply<T>>;

/// A pending write of `op`, and where its outcome arrives, for which the caller waits until `deadline`.
pub(super) fn pending<E: Engine, O: WriteOp<E>>(
    op: O,
    deadline: Instant,
) -> (Box<dyn PendingWrite<E>>, Outcome<O::Outcome>) {
    let (caller, outcome) = oneshot::channel();
    let ticket = Arc::new(Ticket::new(deadline));
    let pending = Pending::<E, O> { op, fate: Fate::Waiting, attempt: None, is_blocked: false, caller, ticket };
    (Box::new(pending), outcome)
}

impl<E: Engine, O: WriteOp<E>> Pending<E, O> {
    fn is_in_doubt(&self) -> bool {
        matches!(self.fate, Fate::InDoubt(_))
    }

    /// Nothing of the current attempt is stored. An earlier one may be.
    fn take_back(&self) {
        if !self.is_in_doubt() {
            self.ticket.take_back();
        }
    }

    /// The one place where a write gets its outcome.
    fn settle_with(&mut self, outcome: Result<O::Outcome>) {
        self.attempt = None;
        self.fate = Fate::Settled(outcome);
    }

    /// The writes, all of which are of this operation.
    fn of_this_operation<'a>(writes: Vec<&'a mut dyn PendingWrite<E>>) -> Vec<&'a mut Self> {
        let of_this_operation = |write: &'a mut dyn PendingWrite<E>| {
            let write: &mut dyn Any = write;
            write.downcast_mut()
        };
        writes.into_iter().filter_map(of_this_operation).collect()
    }

    /// Keeps the outcome of an attempt, and adds what the write does to shared rows to `changes`.
    fn keep_attempt(&mut self, attempt: Result<Applied<O::Outcome>>, changes: &mut SharedChanges) -> Result<()> {
        let attempt = refusal_as_attempt(attempt)?;
        if matches!(attempt, Ok(Applied::Written(_))) {
            self.op.shared().into_iter().for_each(|change| changes.add(change));
        }
        self.attempt = Some(attempt);
        Ok(())
    }

    async fn apply_together(
        engine: &E,
        on: &mut dyn Executor,
        lock: LockMode,
        writes: Vec<&mut dyn PendingWrite<E>>,
        changes: &mut SharedChanges,
    ) -> Result<()> {
        let writes = Self::of_this_operation(writes);
        let ops: Vec<&O> = writes.iter().map(|write| &write.op).collect();
        let results = O::apply_together(engine, on, lock, &ops).await?;
        let mut results = writes.into_iter().zip(results).filter_map(|(write, result)| Some((write, result?)));
        results.try_for_each(|(write, result)| write.keep_attempt(result, changes))
    }

    async fn apply_bulk(engine: &E, shared: LockMode, writes: Vec<&mut dyn PendingWrite<E>>) -> Option<Result<()>> {
        let mut writes = Self::of_this_operation(writes);
        let results = loop {
            let ops: Vec<&O> = writes.iter().map(|write| &write.op).collect();
            let tickets: Vec<Arc<Ticket>> = writes.iter().map(|write| write.ticket.clone()).collect();
            let is_late = AtomicBool::new(false);
            let send = || {
                let all = tickets.iter().all(|ticket| ticket.send());
                is_late.store(!all, Ordering::Relaxed);
                all
            };
            match O::apply_bulk(engine, shared, &ops, &send).await? {
                // It was not sent, because it is too late for some: the others still share it.
                Ok(_) if is_late.load(Ordering::Relaxed) => {
                    for write in &writes {
                        write.take_back();
                    }
                    writes.retain(|write| write.ticket.is_wanted());
                }
                Ok(results) => break results,
                Err(error) => return Some(Err(error)),
            }
            if writes.is_empty() {
                return Some(Ok(()));
            }
        };
        for (write, result) in writes.iter_mut().zip(results) {
            match result {
                Err(error) if error.backend_kind().is_some() => write.doubt(error),
                attempt => {
                    write.attempt = Some(attempt);
                    write.settle();
                }
            }
        }
        Some(Ok(()))
    }
}

/// Whether a refusal means that no earlier attempt was committed. The server that refuses may be another one, and
/// behind the one that gave no answer: it may know nothing of the session, or only an earlier state. One that knows a
/// later state knows of every write before it.
pub(super) fn ends_doubt(refusal: &Error) -> bool {
    match refusal {
        Error::RevisionConflict { expected, actual, .. } => actual > expected,
        Error::NotFound { .. } => false,
        _ => true,
    }
}

/// A refusal is the outcome of an attempt; the backend's errors are errors.
fn refusal_as_attempt<T>(result: Result<Applied<T>>) -> Result<Result<Applied<T>>> {
    match result {
        Err(error) if error.backend_kind().is_some() => Err(error),
        attempt => Ok(attempt),
    }
}

#[async_trait]
impl<E: Engine, O: WriteOp<E>> PendingWrite<E> for Pending<E, O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn rows(&self) -> Vec<Row> {
        let target = self.op.target();
        let mut rows = vec![target];
        for row in self.op.changed_rows().into_iter().map(Row::Shared) {
            if row != rows[0] {
                rows.push(row);
            }
        }
        rows
    }

    fn skips_locked(&self) -> bool {
        O::SKIPS_LOCKED
    }

    fn has_bulk(&self) -> bool {
        O::HAS_BULK
    }

    fn reads_target(&self) -> bool {
        self.op.reads_target()
    }

    fn bytes(&self) -> usize {
        self.op.bytes()
    }

    fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }

    fn is_wanted(&self) -> bool {
        !self.caller.is_closed()
    }

    fn is_settled(&self) -> bool {
        matches!(self.fate, Fate::Settled(_))
    }

    fn is_applied(&self) -> bool {
        matches!(self.attempt, Some(Ok(Applied::Written(_) | Applied::Unchanged(_))))
    }

    fn is_left_out(&self) -> bool {
        matches!(self.attempt, Some(Ok(Applied::Locked | Applied::SharedLocked)))
    }

    fn take_blocked(&mut self) -> bool {
        std::mem::take(&mut self.is_blocked)
    }

    fn block(&mut self) {
        self.attempt = Some(Ok(Applied::SharedLocked));
    }

    async fn apply(&mut self, engine: &E, attempt: Attempt<'_, E>, changes: &mut SharedChanges) -> Result<()> {
        let attempt = self.op.apply(engine, attempt).await;
        self.keep_attempt(attempt, changes)
    }

    fn complete(&mut self, shared: &SharedStates) {
        self.attempt = match self.attempt.take() {
            Some(Ok(Applied::Written(outcome))) => Some(Ok(Applied::Written(self.op.complete(outcome, shared)))),
            attempt => attempt,
        };
    }

    async fn apply_alone(&mut self, engine: &E) -> Result<bool> {
        let applied = match self.op.apply_alone(engine, &|| self.ticket.send()).await {
            Ok(None) => return Ok(false),
            Ok(Some(applied)) => Ok(applied),
            Err(error) => Err(error),
        };
        self.attempt = Some(refusal_as_attempt(applied)?);
        Ok(true)
    }

    fn bulk(&self) -> Bulk<E> {
        |engine, shared, writes| Box::pin(Self::apply_bulk(engine, shared, writes))
    }

    fn together(&self) -> Together<E> {
        |engine, on, lock, writes, changes| Box::pin(Self::apply_together(engine, on, lock, writes, changes))
    }

    fn is_attempted(&self) -> bool {
        self.attempt.is_some()
    }

    async fn diagnose(&mut self, engine: &E) {
        if !self.is_in_doubt()
            && let Err(refusal) = self.op.diagnose(engine).await
            && refusal.backend_kind().is_none()
        {
            self.settle_with(Err(refusal));
        }
    }

    async fn resolve_unrepeatable(&mut self, engine: &E) -> Result<()> {
        if O::REPEATABLE || !self.is_in_doubt() {
            return Ok(());
        }
        let resolved = self.op.resolve(engine).await?;
        let Fate::InDoubt(doubt) = std::mem::replace(&mut self.fate, Fate::Waiting) else { return Ok(()) };
        self.settle_with(resolved.ok_or(doubt));
        Ok(())
    }

    async fn resolve_refused(&mut self, engine: &E) -> Result<()> {
        let (Fate::InDoubt(_), Some(Err(refusal))) = (&self.fate, &self.attempt) else { return Ok(()) };
        let is_final = ends_doubt(refusal);
        if let Some(outcome) = self.op.resolve(engine).await? {
            self.settle_with(Ok(outcome));
        } else if !is_final && let Fate::InDoubt(doubt) = std::mem::replace(&mut self.fate, Fate::Waiting) {
            return Err(doubt);
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.is_blocked = matches!(self.attempt, Some(Ok(Applied::SharedLocked)));
        match self.attempt.take() {
            Some(Ok(Applied::Written(outcome) | Applied::Unchanged(outcome))) => self.settle_with(Ok(outcome)),
            Some(Err(refusal)) => self.settle_with(Err(refusal)),
            Some(Ok(Applied::Locked | Applied::SharedLocked)) | None => self.take_back(),
        }
    }

    fn discard_attempt(&mut self) {
        (self.attempt, self.is_blocked) = (None, false);
        self.take_back();
    }

    fn fail(&mut self, error: Error) {
        let fate = std::mem::replace(&mut self.fate, Fate::Waiting);
        self.settle_with(Err(match fate {
            Fate::InDoubt(doubt) if error.backend_kind().is_some() => doubt,
            _ => error,
        }));
    }

    fn doubt(&mut self, error: Error) {
        (self.attempt, self.is_blocked) = (None, false);
        self.fate = Fate::InDoubt(error);
    }

    fn reply(self: Box<Self>, retries: u32) {
        if let Fate::Settled(outcome) = self.fate {
            // Nobody receives it when the caller is gone.
            let _: Result<(), Reply<O::Outcome>> = self.caller.send(Reply { outcome, retries });
        }
    }
}
