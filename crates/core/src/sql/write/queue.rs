//! Writes that wait, and the batches in which they run.
//!
//! A write waits while as many batches run as may, or while one of them holds a row that it needs. Writes that have
//! queued up meanwhile are committed together. That is how SQLite's one writer, a hot row, and a busy server serve more
//! callers than they could make commits. An uncontended write starts at once and alone.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::op::{Engine, LockMode, Row};
use super::pending::PendingWrite;
use super::places::{Place, Places};
use super::retry::Retries;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{BackendError, BackendErrorKind, Result};

/// For how long the writes of a row are kept out of the batches of others, after it was at fault for a failure.
const APART_FOR: Duration = Duration::from_secs(5);

/// How many rows are kept apart at once. If there are more, something else is at fault.
const MAX_APART: usize = 64;

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
    /// Whether a batch waits for rows that other connections have locked. If not, one whose writes all change a shared
    /// row that others hold still waits for shared rows.
    pub(crate) lock: LockMode,
    /// Whether writes share transactions and statements, and writes to one row follow each other here already.
    /// Otherwise each write is a transaction of its own, and only the database keeps writers apart.
    pub(crate) batching: bool,
}

pub(super) struct Queue<E> {
    policy: QueuePolicy,
    state: Arc<Mutex<QueueState<E>>>,
    places: Places,
}

pub(super) struct QueueState<E> {
    /// In the order of their numbers.
    pub(super) waiting: VecDeque<Waiting<E>>,
    /// How many writes were accepted.
    pub(super) accepted: u64,
    pub(super) running_batches: usize,
    /// How many of the running batches are slow.
    pub(super) slow_batches: usize,
    /// Whether the batch that began last is slow.
    pub(super) last_is_slow: bool,
    /// The rows that running writes lock, and how many of those writes each row has.
    pub(super) locked_rows: HashMap<Row, usize>,
    /// The rows whose writes are kept out of the batches of others, and until when.
    pub(super) apart: HashMap<Row, Instant>,
}

pub(super) struct Waiting<E> {
    pub(super) number: u64,
    pub(super) write: Box<dyn PendingWrite<E>>,
    /// The rows that it locks; its target first.
    pub(super) rows: Vec<Row>,
    pub(super) bytes: usize,
    pub(super) place: Place,
    pub(super) retries: Retries,
    /// How many batches have left it waiting for its rows.
    pub(super) passed_over: u32,
}

/// A write in a batch. It holds its rows and its place in the queue until it is dropped.
pub(super) struct RunningWrite<E: Engine> {
    pub(super) write: Box<dyn PendingWrite<E>>,
    pub(super) target: Row,
    pub(super) retries: Retries,
    /// Whether it goes back into the queue if its batch ends without an outcome for it.
    pub(super) goes_back: bool,
    number: u64,
    bytes: usize,
    locks: RowLocks<E>,
    place: Place,
}

/// Writes that run together.
pub(super) struct Batch<E: Engine> {
    pub(super) writes: Vec<RunningWrite<E>>,
    /// Whether it waits for shared rows that other connections have locked.
    pub(super) shared: LockMode,
    /// Whether other writes still wait in the queue.
    pub(super) others_wait: bool,
}

impl<E: Engine> RunningWrite<E> {
    /// Lets other writes to its shared rows start; the database still keeps them apart. A write that may wait for its
    /// target must not hold up everybody who shares a state with it.
    pub(super) fn release_shared_rows(&mut self) {
        self.locks.release(|row| matches!(row, Row::Shared(_)) && *row != self.target);
    }

    /// The shared rows that it changes.
    pub(super) fn shared_rows(&self) -> impl Iterator<Item = &Row> {
        self.locks.rows.iter().filter(|row| matches!(row, Row::Shared(_)))
    }

    /// Sends the outcome to the caller. The rows are free by then: the caller's next write must not find them locked.
    pub(super) fn reply(self) {
        drop(self.locks);
        drop(self.place);
        self.write.reply(self.retries.count_so_far());
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
    /// Whether its batch is slow.
    is_slow: bool,
}

/// A caller's hold on its write. Dropping it takes a write that still waits out of the queue.
pub(super) struct Accepted<E> {
    number: u64,
    state: Arc<Mutex<QueueState<E>>>,
    /// Whether a new worker could start the write now.
    pub(super) could_start: bool,
}

impl<E> Drop for Accepted<E> {
    fn drop(&mut self) {
        // It is dropped once the lock is free: that takes locks as well.
        let _left = lock(&self.state).leave(self.number);
    }
}

/// No change of the state can panic halfway, so the state behind a poisoned lock is consistent.
fn lock<E>(state: &Mutex<QueueState<E>>) -> MutexGuard<'_, QueueState<E>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Engine> Queue<E> {
    pub(super) fn new(policy: QueuePolicy) -> Self {
        let state = QueueState {
            waiting: VecDeque::new(),
            accepted: 0,
            running_batches: 0,
            slow_batches: 0,
            last_is_slow: false,
            locked_rows: HashMap::new(),
            apart: HashMap::new(),
        };
        Self { policy, state: Arc::new(Mutex::new(state)), places: Places::new() }
    }

    /// Accepts a write, which waits for a server that is gone as long as `patience` says.
    ///
    /// Dropping the future leaves the write out.
    ///
    /// # Errors
    /// When the queue is closed.
    pub(super) async fn accept(
        &self,
        write: Box<dyn PendingWrite<E>>,
        patience: Option<Duration>,
    ) -> Result<Accepted<E>> {
        let rows = write.rows();
        let (place, _turn) = self.places.take(&rows[0]).await.map_err(|_| {
            let message = format!("{} on a service that was closed", write.name());
            BackendError::new(BackendErrorKind::Unavailable, message)
        })?;
        let mut state = lock(&self.state);
        let could_start = state.running_batches < self.policy.max_concurrent_batches && !state.any_is_locked(&rows);
        let (number, bytes) = (state.accepted, write.bytes());
        state.accepted += 1;
        let retries = Retries::new(patience);
        state.waiting.push_back(Waiting { number, write, rows, bytes, place, retries, passed_over: 0 });
        drop(state);
        Ok(Accepted { number, state: self.state.clone(), could_start })
    }

    /// Accepts no more writes, and returns when every accepted write has its outcome.
    pub(super) async fn close(&self) {
        self.places.close().await;
    }

    /// Keeps the next writes that need `row` out of the batches of others: of a target, because a write to it has failed,
    /// and the next may fail as well; of a shared row, because others hold it, and the batch would wait for it. Writes
    /// to a target run alone then, and those that change the shared row together. Returns false if there are too many
    /// such rows.
    pub(super) fn keep_apart(&self, row: Row) -> bool {
        let apart = &mut lock(&self.state).apart;
        apart.retain(|_, until| Instant::now() < *until);
        let has_room = apart.len() < MAX_APART || apart.contains_key(&row);
        if has_room {
            apart.insert(row, Instant::now() + APART_FOR);
        }
        has_room
    }

    /// Lets writes wait again, in the order in which they arrived.
    pub(super) fn put_back(&self, writes: Vec<RunningWrite<E>>) {
        let mut state = lock(&self.state);
        for RunningWrite { write, retries, number, bytes, mut locks, place, .. } in writes {
            let rows = locks.release_all_in(&mut state);
            let at = state.waiting.partition_point(|waiting| waiting.number < number);
            state.waiting.insert(at, Waiting { number, write, rows, bytes, place, retries, passed_over: 0 });
        }
    }

    /// The permit to run batches; `None` while the largest number of batches runs.
    pub(super) fn batch_permit(&self) -> Option<BatchPermit<'_, E>> {
        let mut state = lock(&self.state);
        (state.running_batches < self.policy.max_concurrent_batches).then(|| {
            state.running_batches += 1;
            BatchPermit { queue: self, is_released: false, is_slow: false }
        })
    }
}

impl<E: Engine> BatchPermit<'_, E> {
    /// The next batch. `None` when no write can start now. The permit is released in the same moment, so whoever accepts
    /// a write after that knows to ask for a permit.
    pub(super) fn next_batch(&mut self) -> Option<Batch<E>> {
        let Queue { policy, state: shared, .. } = self.queue;
        let mut state = lock(shared);
        state.slow_batches -= usize::from(std::mem::take(&mut self.is_slow));
        let batch = state.next_batch(*policy);
        if batch.is_empty() {
            state.running_batches -= 1;
            self.is_released = true;
            return None;
        }
        self.is_slow = batch.iter().any(|waiting| state.is_slow(waiting));
        state.slow_batches += usize::from(self.is_slow);
        state.last_is_slow = self.is_slow;
        let waits = policy.lock == LockMode::Wait || batch.iter().any(|waiting| state.waits_for_shared(waiting));
        let start = |Waiting { number, write, mut rows, bytes, place, retries, .. }: Waiting<E>| {
            let target = rows[0].clone();
            if policy.batching {
                for row in &rows {
                    *state.locked_rows.entry(row.clone()).or_default() += 1;
                }
            } else {
                rows.clear();
            }
            let locks = RowLocks { rows, state: shared.clone() };
            RunningWrite { write, target, retries: retries.begun(), goes_back: false, number, bytes, locks, place }
        };
        let writes = batch.into_iter().map(start).collect();
        let shared = if waits { LockMode::Wait } else { LockMode::SkipLocked };
        Some(Batch { writes, shared, others_wait: !state.waiting.is_empty() })
    }
}

impl<E> QueueState<E> {
    fn unlock(&mut self, row: &Row) {
        if let Some(count) = self.locked_rows.get_mut(row) {
            *count -= 1;
            if *count == 0 {
                self.locked_rows.remove(row);
            }
        }
    }

    /// Takes a write out of the queue, if it still waits.
    fn leave(&mut self, number: u64) -> Option<Waiting<E>> {
        let at = self.waiting.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
        self.waiting.remove(at)
    }
}

impl<E> Drop for BatchPermit<'_, E> {
    fn drop(&mut self) {
        if !self.is_released {
            let mut state = lock(&self.queue.state);
            state.running_batches -= 1;
            state.slow_batches -= usize::from(self.is_slow);
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
        // Whoever has released all of them may hold the lock.
        if self.rows.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        self.rows.extract_if(.., |row| is_released(row)).for_each(|row| state.unlock(&row));
    }

    /// Releases all rows in a state that is locked already, and returns them.
    fn release_all_in(&mut self, state: &mut QueueState<E>) -> Vec<Row> {
        let rows = std::mem::take(&mut self.rows);
        for row in &rows {
            state.unlock(row);
        }
        rows
    }
}
