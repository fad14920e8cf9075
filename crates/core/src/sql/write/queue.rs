//! Writes that wait, and the batches in which they run.
//!
//! A write waits while as many batches run as may, or while one of them holds a row that it needs. Writes that have
//! queued up meanwhile are committed together. That is how SQLite's one writer, a hot row, and a busy server serve more
//! callers than they could make commits. An uncontended write starts at once and alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::op::{Engine, LockMode, Row};
use super::pending::PendingWrite;
use super::places::{Place, Places};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{BackendError, BackendErrorKind, Result};

/// How often a write is passed over before its rows are reserved for it: otherwise writers who take turns on two hot
/// rows would starve a write that needs both.
const PATIENCE: u32 = 16;

/// How many bytes the writes of a batch bring at most, unless it has one only.
const BATCH_BYTES: usize = 1 << 20;

/// A write that brings more than so many bytes is large: small ones go before it after each batch with a large one, and
/// of the batches that run at once, half may have large ones.
const LARGE: usize = 256 << 10;

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
    /// Whether a batch waits for rows that other connections have locked.
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

struct QueueState<E> {
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<E>>,
    /// How many writes were accepted.
    accepted: u64,
    running_batches: usize,
    /// How many of the running batches have a large write.
    large_batches: usize,
    /// Whether the batch that began last has a large write.
    last_is_large: bool,
    /// The rows that running writes lock, and how many of those writes each row has.
    locked_rows: HashMap<Row, usize>,
    /// The rows whose writes are kept out of the batches of others, and until when.
    apart: HashMap<Row, Instant>,
}

struct Waiting<E> {
    number: u64,
    write: Box<dyn PendingWrite<E>>,
    /// The rows that it locks; its target first.
    rows: Vec<Row>,
    bytes: usize,
    place: Place,
    /// How many batches have left it waiting for its rows.
    passed_over: u32,
}

/// A write in a batch. It holds its rows and its place in the queue until it is dropped.
pub(super) struct RunningWrite<E: Engine> {
    pub(super) write: Box<dyn PendingWrite<E>>,
    pub(super) target: Row,
    locks: RowLocks<E>,
    place: Place,
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
    pub(super) fn reply(self, retries: u32) {
        drop(self.locks);
        drop(self.place);
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
    /// Whether its batch has a large write.
    is_large: bool,
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
            large_batches: 0,
            last_is_large: false,
            locked_rows: HashMap::new(),
            apart: HashMap::new(),
        };
        Self { policy, state: Arc::new(Mutex::new(state)), places: Places::new() }
    }

    /// Accepts a write.
    ///
    /// Dropping the future leaves the write out.
    ///
    /// # Errors
    /// When the queue is closed.
    pub(super) async fn accept(&self, write: Box<dyn PendingWrite<E>>) -> Result<Accepted<E>> {
        let rows = write.rows();
        let place = self.places.take(&rows[0]).await.map_err(|_| {
            let message = format!("{} on a service that was closed", write.name());
            BackendError::new(BackendErrorKind::Unavailable, message)
        })?;
        let mut state = lock(&self.state);
        let could_start = state.running_batches < self.policy.max_concurrent_batches && !state.any_is_locked(&rows);
        let (number, bytes) = (state.accepted, write.bytes());
        state.accepted += 1;
        state.waiting.push_back(Waiting { number, write, rows, bytes, place, passed_over: 0 });
        drop(state);
        Ok(Accepted { number, state: self.state.clone(), could_start })
    }

    /// Accepts no more writes, and returns when every accepted write has its outcome.
    pub(super) async fn close(&self) {
        self.places.close().await;
    }

    /// Keeps the next writes that need `row` out of the batches of others: of a target, because a write to it has failed,
    /// and the next may fail as well; of a shared row, because others hold it, and the batch would wait for it. Writes
    /// to a target run alone then, and those that change the shared row together.
    pub(super) fn keep_apart(&self, row: Row) {
        let apart = &mut lock(&self.state).apart;
        apart.retain(|_, until| Instant::now() < *until);
        if apart.len() < MAX_APART {
            apart.insert(row, Instant::now() + APART_FOR);
        }
    }

    /// The permit to run batches; `None` while the largest number of batches runs.
    pub(super) fn batch_permit(&self) -> Option<BatchPermit<'_, E>> {
        let mut state = lock(&self.state);
        (state.running_batches < self.policy.max_concurrent_batches).then(|| {
            state.running_batches += 1;
            BatchPermit { queue: self, is_released: false, is_large: false }
        })
    }
}

impl<E: Engine> BatchPermit<'_, E> {
    /// The next batch, and whether other writes still wait. `None` when no write can start now. The permit is released
    /// in the same moment, so whoever accepts a write after that knows to ask for a permit.
    pub(super) fn next_batch(&mut self) -> Option<(Vec<RunningWrite<E>>, bool)> {
        let Queue { policy, state: shared, .. } = self.queue;
        let mut state = lock(shared);
        state.large_batches -= usize::from(std::mem::take(&mut self.is_large));
        let batch = state.next_batch(*policy);
        if batch.is_empty() {
            state.running_batches -= 1;
            self.is_released = true;
            return None;
        }
        self.is_large = batch.iter().any(Waiting::is_large);
        state.large_batches += usize::from(self.is_large);
        state.last_is_large = self.is_large;
        let start = |Waiting { write, mut rows, place, .. }: Waiting<E>| {
            let target = rows[0].clone();
            if policy.batching {
                for row in &rows {
                    *state.locked_rows.entry(row.clone()).or_default() += 1;
                }
            } else {
                rows.clear();
            }
            RunningWrite { write, target, locks: RowLocks { rows, state: shared.clone() }, place }
        };
        let batch = batch.into_iter().map(start).collect();
        Some((batch, !state.waiting.is_empty()))
    }
}

impl<E> Waiting<E> {
    fn is_large(&self) -> bool {
        self.bytes > LARGE
    }
}

impl<E> QueueState<E> {
    /// Takes a write out of the queue, if it still waits.
    fn leave(&mut self, number: u64) -> Option<Waiting<E>> {
        let at = self.waiting.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
        self.waiting.remove(at)
    }
}

impl<E: Engine> QueueState<E> {
    fn any_is_locked(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.locked_rows.contains_key(row))
    }

    fn is_apart(&self, row: &Row) -> bool {
        self.apart.get(row).is_some_and(|until| Instant::now() < *until)
    }

    /// The first of `rows` that is kept apart.
    fn apart_of<'r>(&self, rows: &'r [Row]) -> Option<&'r Row> {
        if self.apart.is_empty() { None } else { rows.iter().find(|row| self.is_apart(row)) }
    }

    /// Large writes take turns with small ones, and leave half of the batches to them.
    fn next_batch(&mut self, policy: QueuePolicy) -> Vec<Waiting<E>> {
        self.waiting.retain(|waiting| waiting.write.is_wanted());
        let may_be_large = self.large_batches == 0 || self.large_batches * 2 < policy.max_concurrent_batches;
        let batch = if may_be_large && !self.last_is_large { Vec::new() } else { self.take_batch(policy, false) };
        if batch.is_empty() && may_be_large { self.take_batch(policy, true) } else { batch }
    }

    fn take_batch(&mut self, policy: QueuePolicy, may_be_large: bool) -> Vec<Waiting<E>> {
        let mut batch = Batch { writes: Vec::new(), bytes: 0, targets: HashMap::new() };
        // Half of a batch is for others, if there are any: the writers of one target may be many.
        let half = (policy.batch_size / 2).max(1);
        self.add_to(&mut batch, half, policy, may_be_large);
        if batch.writes.len() < policy.batch_size && batch.targets.values().any(|writes| *writes == half) {
            self.add_to(&mut batch, policy.batch_size, policy, may_be_large);
        }
        batch.writes
    }

    /// Adds writes that may run now, at most so many of a target.
    fn add_to(&mut self, batch: &mut Batch<E>, of_target: usize, policy: QueuePolicy, may_be_large: bool) {
        // Targets of writes that must wait: a later write to one of them must not overtake. All rows of writes that
        // have waited for long.
        let mut passed: HashSet<Row> = HashSet::new();
        let mut at = 0;
        while at < self.waiting.len() && batch.writes.len() < policy.batch_size {
            let waiting = &self.waiting[at];
            let (rows, target) = (&waiting.rows, &waiting.rows[0]);
            let is_free = !rows.iter().any(|row| passed.contains(row)) && !self.any_is_locked(rows);
            let has_room = batch.targets.get(target).is_none_or(|writes| *writes < of_target)
                && (may_be_large || !waiting.is_large());
            if is_free && has_room && self.fits(waiting, batch, policy) {
                *batch.targets.entry(target.clone()).or_default() += 1;
                batch.bytes += waiting.bytes;
                batch.writes.extend(self.waiting.remove(at));
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
    }

    /// Whether a write may run together with those of a batch.
    fn fits(&self, Waiting { write, rows, bytes, .. }: &Waiting<E>, batch: &Batch<E>, policy: QueuePolicy) -> bool {
        let Some(first) = batch.writes.first() else { return true };
        let (target, of_first) = (&rows[0], &first.rows[0]);
        let is_light = batch.bytes + bytes <= BATCH_BYTES;
        let is_alike = !policy.homogeneous
            || first.write.name() == write.name() && !(write.has_bulk() && batch.targets.contains_key(target));
        // The batch waits for a shared row that others have locked, and no other write should wait with it.
        let waits_alone = of_first == target || matches!((of_first, target), (Row::Session(_), Row::Session(_)));
        // Writes that are kept apart share a batch if they are so for the same shared row.
        let apart = self.apart_of(rows);
        let is_apart_alike = apart == self.apart_of(&first.rows) && !matches!(apart, Some(Row::Session(_)));
        is_light && is_alike && waits_alone && is_apart_alike
    }
}

/// A batch in the making.
struct Batch<E> {
    writes: Vec<Waiting<E>>,
    bytes: usize,
    /// How many writes each target has.
    targets: HashMap<Row, usize>,
}

impl<E> Drop for BatchPermit<'_, E> {
    fn drop(&mut self) {
        if !self.is_released {
            let mut state = lock(&self.queue.state);
            state.running_batches -= 1;
            state.large_batches -= usize::from(self.is_large);
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
