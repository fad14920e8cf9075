//! Writes that wait, and the batches in which they run.
//!
//! A write waits while as many batches run as may, or while one of them holds a row that it needs. Writes that have
//! queued up meanwhile are committed together. That is how SQLite's one writer, a hot row, and a busy server serve more
//! callers than they could make commits. An uncontended write starts at once and alone.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::op::{Engine, LockMode, Row};
use super::pending::PendingWrite;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{BackendError, BackendErrorKind, Result};

/// How many writes may wait or run; further callers wait for a place.
const CAPACITY: u32 = 1024;

/// How often a write is passed over before its rows are reserved for it: otherwise writers who take turns on two hot
/// rows would starve a write that needs both.
const PATIENCE: u32 = 16;

/// How writes are put into batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueuePolicy {
    /// How many batches may run at once.
    pub(crate) max_concurrent_batches: usize,
    /// How many writes a batch holds at most.
    pub(crate) batch_size: usize,
    /// Whether a batch holds writes of one operation only, and takes each target once if that operation has a bulk
    /// statement.
    pub(crate) homogeneous: bool,
    /// Whether a batch waits for rows that other connections have locked.
    pub(crate) lock: LockMode,
    /// Whether writes share transactions and statements, and writes to one row follow each other here already.
    /// Otherwise each write is a transaction of its own, and only the database keeps writers apart.
    pub(crate) batching: bool,
}

pub(super) struct Queue<E> {
    policy: QueuePolicy,
    state: Arc<Mutex<QueueState<E>>>,
    capacity: Arc<Semaphore>,
}

struct QueueState<E> {
    waiting: VecDeque<Waiting<E>>,
    running_batches: usize,
    /// The rows that running writes lock, and how many of those writes each row has.
    locked_rows: HashMap<Row, usize>,
}

struct Waiting<E> {
    write: Box<dyn PendingWrite<E>>,
    /// The rows that it locks; its target first.
    rows: Vec<Row>,
    capacity: OwnedSemaphorePermit,
    /// How many batches have left it waiting for its rows.
    passed_over: u32,
}

/// A write in a batch. It holds its rows and its place in the queue until it is dropped.
pub(super) struct RunningWrite<E: Engine> {
    pub(super) write: Box<dyn PendingWrite<E>>,
    pub(super) target: Row,
    locks: RowLocks<E>,
    capacity: OwnedSemaphorePermit,
}

impl<E: Engine> RunningWrite<E> {
    /// Lets other writes to its shared rows start; the database still keeps them apart. A write that may wait for its
    /// target must not hold up everybody who shares a state with it.
    pub(super) fn release_shared_rows(&mut self) {
        self.locks.release(|row| matches!(row, Row::Shared(_)) && *row != self.target);
    }

    /// Sends the outcome to the caller. The rows are free by then: the caller's next write must not find them locked.
    pub(super) fn reply(self, retries: u32) {
        drop(self.locks);
        drop(self.capacity);
        self.write.reply(retries);
    }
}

/// Keeps other batches from rows.
struct RowLocks<E> {
    rows: Vec<Row>,
    state: Arc<Mutex<QueueState<E>>>,
}

/// The permit to run batches, one after the other.
pub(super) struct BatchPermit<'a, E> {
    queue: &'a Queue<E>,
    is_released: bool,
}

/// No change of the state can panic halfway, so the state behind a poisoned lock is consistent.
fn lock<E>(state: &Mutex<QueueState<E>>) -> MutexGuard<'_, QueueState<E>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Engine> Queue<E> {
    pub(super) fn new(policy: QueuePolicy) -> Self {
        let state = QueueState { waiting: VecDeque::new(), running_batches: 0, locked_rows: HashMap::new() };
        Self { policy, state: Arc::new(Mutex::new(state)), capacity: Arc::new(Semaphore::new(CAPACITY as usize)) }
    }

    /// Accepts a write, and returns whether a new worker could start it now.
    ///
    /// Dropping the future leaves the write out.
    ///
    /// # Errors
    /// When the queue is closed.
    pub(super) async fn accept(&self, write: Box<dyn PendingWrite<E>>) -> Result<bool> {
        let capacity = self.capacity.clone().acquire_owned().await.map_err(|_| {
            let message = format!("{} on a service that was closed", write.name());
            BackendError::new(BackendErrorKind::Unavailable, message)
        })?;
        let rows = write.rows();
        let mut state = lock(&self.state);
        let could_start = state.running_batches < self.policy.max_concurrent_batches && !state.any_is_locked(&rows);
        state.waiting.push_back(Waiting { write, rows, capacity, passed_over: 0 });
        Ok(could_start)
    }

    /// Accepts no more writes, and returns when every accepted write has its outcome.
    pub(super) async fn close(&self) {
        // An error means that it is closed already.
        let _all = self.capacity.acquire_many(CAPACITY).await;
        self.capacity.close();
    }

    /// The permit to run batches; `None` while the largest number of batches runs.
    pub(super) fn batch_permit(&self) -> Option<BatchPermit<'_, E>> {
        let mut state = lock(&self.state);
        (state.running_batches < self.policy.max_concurrent_batches).then(|| {
            state.running_batches += 1;
            BatchPermit { queue: self, is_released: false }
        })
    }
}

impl<E: Engine> BatchPermit<'_, E> {
    /// The next batch, and whether other writes still wait. `None` when no write can start now. The permit is released
    /// in the same moment, so whoever accepts a write after that knows to ask for a permit.
    pub(super) fn next_batch(&mut self) -> Option<(Vec<RunningWrite<E>>, bool)> {
        let Queue { policy, state: shared, .. } = self.queue;
        let mut state = lock(shared);
        let batch = state.take_batch(*policy);
        if batch.is_empty() {
            state.running_batches -= 1;
            self.is_released = true;
            return None;
        }
        let start = |Waiting { write, mut rows, capacity, .. }: Waiting<E>| {
            let target = rows[0].clone();
            if policy.batching {
                for row in &rows {
                    *state.locked_rows.entry(row.clone()).or_default() += 1;
                }
            } else {
                rows.clear();
            }
            RunningWrite { write, target, locks: RowLocks { rows, state: shared.clone() }, capacity }
        };
        let batch = batch.into_iter().map(start).collect();
        Some((batch, !state.waiting.is_empty()))
    }
}

impl<E: Engine> QueueState<E> {
    fn any_is_locked(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.locked_rows.contains_key(row))
    }

    fn take_batch(&mut self, policy: QueuePolicy) -> Vec<Waiting<E>> {
        self.waiting.retain(|waiting| waiting.write.is_wanted());
        let mut batch: Vec<Waiting<E>> = Vec::new();
        let mut targets: HashSet<Row> = HashSet::new();
        // Targets of writes that must wait: a later write to one of them must not overtake. All rows of writes that
        // have waited for long.
        let mut passed: HashSet<Row> = HashSet::new();
        let mut at = 0;
        while at < self.waiting.len() && batch.len() < policy.batch_size {
            let Waiting { write, rows, .. } = &self.waiting[at];
            let target = &rows[0];
            let is_free = !rows.iter().any(|row| passed.contains(row)) && !self.any_is_locked(rows);
            let fits = batch.first().is_none_or(|first| {
                let is_alike = first.write.name() == write.name() && !(write.has_bulk() && targets.contains(target));
                // The batch waits for a shared row that others have locked, and no other write should wait with it.
                let waits_alone =
                    matches!((&first.rows[0], target), (Row::Session(_), Row::Session(_))) || first.rows[0] == *target;
                waits_alone && (is_alike || !policy.homogeneous)
            });
            if is_free && fits {
                targets.insert(target.clone());
                batch.extend(self.waiting.remove(at));
            } else {
                passed.insert(target.clone());
                let waiting = &mut self.waiting[at];
                waiting.passed_over += u32::from(!is_free);
                if waiting.passed_over > PATIENCE {
                    passed.extend(waiting.rows.iter().cloned());
                }
                at += 1;
            }
        }
        batch
    }
}

impl<E> Drop for BatchPermit<'_, E> {
    fn drop(&mut self) {
        if !self.is_released {
            lock(&self.queue.state).running_batches -= 1;
        }
    }
}

impl<E> Drop for RowLocks<E> {
    fn drop(&mut self) {
        self.release(|_| true);
    }
}

impl<E> RowLocks<E> {
    fn release(&mut self, is_released: impl Fn(&Row) -> bool) {
        let mut state = lock(&self.state);
        for row in self.rows.extract_if(.., |row| is_released(row)) {
            if let Some(count) = state.locked_rows.get_mut(&row) {
                *count -= 1;
                if *count == 0 {
                    state.locked_rows.remove(&row);
                }
            }
        }
    }
}
