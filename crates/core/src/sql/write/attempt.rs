//! One attempt at writes: alone, or in one transaction.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;

use async_trait::async_trait;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::op::{Attempt, Engine, LockMode, Row, SharedChanges, SharedKey, SharedStates};
use super::pending::PendingWrite;
use super::queue::RunningWrite;
use super::ticket::Ticket;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sync::Arc;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// One attempt. It finds what an earlier attempt may have committed.
pub(super) async fn attempt_one<E: Engine>(engine: &E, running: &mut RunningWrite<E>) -> Result<()> {
    let (operation, deadline) = (running.write.name(), running.write.ticket().deadline());
    let late = |_: Elapsed| too_late(operation);
    if !running.write.ticket().is_wanted() {
        return Err(too_late(operation));
    }
    timeout_at(deadline, running.write.resolve_unrepeatable(engine)).await.map_err(late)??;
    if !running.write.is_settled() {
        let locks = Locks { targets: LockMode::Wait, shared: LockMode::Wait };
        attempt(engine, std::slice::from_mut(running), locks).await?;
        timeout_at(deadline, running.write.resolve_refused(engine)).await.map_err(late)??;
        running.write.settle();
    }
    Ok(())
}

/// Whether an attempt waits for the rows that other connections have locked: the targets of its writes, and the shared
/// rows that these change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locks {
    pub(super) targets: LockMode,
    pub(super) shared: LockMode,
}

/// Attempts the writes in one transaction. After an error none of them is stored, unless the error says that this is
/// unknown.
pub(super) async fn attempt<E: Engine>(engine: &E, batch: &mut [RunningWrite<E>], locks: Locks) -> Result<()> {
    let operation = match batch {
        [running] => running.write.name(),
        _ => "a batch of writes",
    };
    let tickets = tickets(batch);
    while_wanted(&tickets, operation, async {
        if let [running] = batch
            && running.write.apply_alone(engine).await?
        {
            return Ok(());
        }
        let writes = batch.iter_mut().map(|running| (&running.target, &mut *running.write)).collect();
        let until = last_deadline(&tickets);
        engine.transaction(operation, &mut BatchBody { engine, writes, operation, locks, until }).await
    })
    .await
    .unwrap_or_else(Err)
}

pub(super) fn tickets<E: Engine>(batch: &[RunningWrite<E>]) -> Vec<Arc<Ticket>> {
    batch.iter().map(|running| running.write.ticket().clone()).collect()
}

fn last_deadline(tickets: &[Arc<Ticket>]) -> Instant {
    tickets.iter().map(|ticket| ticket.deadline()).max().unwrap_or_else(Instant::now)
}

/// Runs an attempt. When the last of its callers has given up, and nothing was sent, it ends.
///
/// # Errors
/// That it ended so.
pub(super) async fn while_wanted<T>(
    tickets: &[Arc<Ticket>],
    operation: &str,
    attempt: impl Future<Output = T>,
) -> Result<T> {
    let mut attempt = pin!(attempt);
    match timeout_at(last_deadline(tickets), attempt.as_mut()).await {
        Ok(ended) => Ok(ended),
        Err(_) if tickets.iter().any(|ticket| ticket.is_sent()) => Ok(attempt.await),
        Err(_) => Err(too_late(operation)),
    }
}

/// The error of a write that was not stored before the deadline of its caller.
pub(super) fn too_late(operation: &str) -> Error {
    let message = format!("{operation} was not carried out within the time limit of the call; nothing of it is stored");
    BackendError::new(BackendErrorKind::Unavailable, message).into()
}

/// The statements of a batch.
struct BatchBody<'a, E: Engine> {
    engine: &'a E,
    /// The writes and their targets.
    writes: Vec<(&'a Row, &'a mut dyn PendingWrite<E>)>,
    operation: &'static str,
    locks: Locks,
    /// When the last caller gives up.
    until: Instant,
}

#[async_trait]
impl<E: Engine> TransactionBody for BatchBody<'_, E> {
    async fn run(&mut self, on: &mut dyn Executor) -> Result<bool> {
        self.writes.retain(|(_, write)| write.ticket().send());
        match timeout_at(self.until, self.apply(on)).await {
            Ok(applied) => applied,
            Err(_) => Err(too_late(self.operation)),
        }
    }
}

impl<E: Engine> BatchBody<'_, E> {
    /// The rows of each write alone come first, then app state, then user state, so that locks are taken in one order.
    /// Shared rows come before them in an attempt that waits for none.
    async fn apply(&mut self, on: &mut dyn Executor) -> Result<bool> {
        let held = self.lock_shared(on).await?;
        let mut changes = SharedChanges::default();
        self.apply_together(on, &mut changes).await?;
        let mut prefetched = match self.targets_to_prefetch() {
            targets if targets.is_empty() => HashMap::new(),
            targets => self.engine.prefetch(on, targets, self.operation).await?,
        };
        let mut left_out = None;
        for (target, write) in &mut self.writes {
            // The row may be free by now, and a later write to it would overtake.
            if write.is_attempted() || left_out == Some(*target) {
                continue;
            }
            let attempt = Attempt { on: &mut *on, lock: self.locks.targets, prefetched: prefetched.remove(*target) };
            write.apply(self.engine, attempt, &mut changes).await?;
            if write.is_left_out() {
                left_out = Some(*target);
            }
        }
        let states = self.engine.merge_shared(on, changes, held, self.operation).await?;
        self.writes.iter_mut().for_each(|(_, write)| write.complete(&states));
        Ok(self.writes.iter().any(|(_, write)| write.is_applied()))
    }

    /// Locks the shared rows that no other connection has locked, and leaves out the writes that change another one,
    /// with those that would overtake them.
    async fn lock_shared(&mut self, on: &mut dyn Executor) -> Result<SharedStates> {
        let shared_rows = |write: &dyn PendingWrite<E>| {
            let shared = |row| if let Row::Shared(key) = row { Some(key) } else { None };
            write.rows().into_iter().filter_map(shared).collect::<Vec<SharedKey>>()
        };
        let rows: BTreeSet<SharedKey> = match self.locks.shared {
            LockMode::Wait => BTreeSet::new(),
            LockMode::SkipLocked => self.writes.iter().flat_map(|(_, write)| shared_rows(&**write)).collect(),
        };
        if rows.is_empty() {
            return Ok(SharedStates::default());
        }
        let locks = self.engine.lock_shared(on, rows, self.operation).await?;
        let mut blocked = None;
        for (target, write) in &mut self.writes {
            if blocked == Some(*target) || shared_rows(&**write).iter().any(|row| locks.taken.contains(row)) {
                write.block();
                blocked = Some(*target);
            }
        }
        Ok(locks.held)
    }

    /// Applies writes of one operation together, where it can: those to targets to which the batch has no other write.
    async fn apply_together(&mut self, on: &mut dyn Executor, changes: &mut SharedChanges) -> Result<()> {
        let names: HashSet<&'static str> = self.writes.iter().map(|(_, write)| write.name()).collect();
        for name in names {
            let others = self.writes.iter().filter(|(_, write)| write.name() != name);
            let others: HashSet<&Row> = others.map(|(target, _)| *target).collect();
            let chosen =
                self.writes.iter_mut().filter(|(target, write)| write.name() == name && !others.contains(target));
            let writes: Vec<&mut dyn PendingWrite<E>> = chosen
                .filter(|(_, write)| !write.is_attempted())
                .map(|(_, write)| -> &mut dyn PendingWrite<E> { &mut **write })
                .collect();
            if let [first, _, ..] = &*writes {
                first.together()(self.engine, on, self.locks.targets, writes, changes).await?;
            }
        }
        Ok(())
    }

    /// The targets that the writes read before they write, unless it is one only.
    fn targets_to_prefetch(&self) -> Vec<Row> {
        let reading = self.writes.iter().filter(|(_, write)| write.reads_target());
        let mut targets: Vec<Row> = reading.map(|(target, _)| (*target).clone()).collect();
        // The writes are in the order of their targets.
        targets.dedup();
        if targets.len() > 1 { targets } else { Vec::new() }
    }
}
