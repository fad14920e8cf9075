//! Writes that wait, and the groups in which they go on.
//!
//! A write waits here while all the groups that may be under way are, or while one of them holds a row that it needs.
//! What has gathered meanwhile is committed together: that is how SQLite's one writer, a hot row, and a busy server
//! serve more callers than they could make commits. A write that meets nobody goes at once and alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::write::{Row, Write};
use crate::{BackendError, BackendErrorKind, Result};

/// How many writes wait or are under way at most; further callers wait for room.
const ROOM: u32 = 1024;

/// How writes are put into groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// How many groups may be under way at once.
    pub(super) groups: usize,
    /// How many writes a group holds at most.
    pub(super) size: usize,
    /// A group holds writes of one kind, to different sessions.
    pub(super) uniform: bool,
    /// Writes to one row follow each other here, and not only in the database.
    pub(super) claims: bool,
}

pub(super) struct Queue {
    policy: Policy,
    state: Arc<Mutex<State>>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// How many groups are under way.
    groups: usize,
    /// The rows that writes under way lock, and how many of those writes each has.
    claimed: HashMap<Row, usize>,
}

struct Waiting {
    write: Write,
    rows: Vec<Row>,
    room: OwnedSemaphorePermit,
}

/// A write under way. Its rows are claimed until it is dropped, and its room is taken.
pub(super) struct Claimed {
    pub(super) write: Write,
    claim: Claim,
    room: OwnedSemaphorePermit,
}

impl Claimed {
    /// Tells the caller the outcome. The rows are free then: the caller's next write must not find them claimed.
    pub(super) fn tell(self) {
        drop(self.claim);
        drop(self.room);
        self.write.tell();
    }
}

/// Keeps other groups from rows.
pub(super) struct Claim {
    rows: Vec<Row>,
    state: Arc<Mutex<State>>,
}

/// A group that may be under way.
pub(super) struct Slot<'a> {
    queue: &'a Queue,
    released: bool,
}

/// No change of the state can panic halfway, so a poisoned one is whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, state: Arc::default(), room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    /// Accepts a write, and says whether a worker is needed that could take it now.
    ///
    /// When the future is dropped, the write is not accepted.
    ///
    /// # Errors
    /// When the queue is closed.
    pub(super) async fn accept(&self, write: Write) -> Result<bool> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| {
            let message = format!("{} on a service that was closed", write.operation());
            BackendError::new(BackendErrorKind::Unavailable, message)
        })?;
        let rows = if self.policy.claims { write.rows() } else { Vec::new() };
        let mut state = lock(&self.state);
        let could_go = state.groups < self.policy.groups && !rows.iter().any(|row| state.claimed.contains_key(row));
        state.waiting.push_back(Waiting { write, rows, room });
        Ok(could_go)
    }

    /// Accepts no more writes, and returns when those that were accepted have their outcomes.
    pub(super) async fn close(&self) {
        // An error says that it is closed already.
        let _all = self.room.acquire_many(ROOM).await;
        self.room.close();
    }

    /// A place for one more group, unless as many as may be are under way.
    pub(super) fn slot(&self) -> Option<Slot<'_>> {
        let mut state = lock(&self.state);
        (state.groups < self.policy.groups).then(|| {
            state.groups += 1;
            Slot { queue: self, released: false }
        })
    }
}

impl Slot<'_> {
    /// The next group, and whether others still wait. `None` when no write can go now: the slot is given up in the same
    /// moment, so whoever accepts a write after that knows to look for a slot.
    pub(super) fn take(&mut self) -> Option<(Vec<Claimed>, bool)> {
        let mut state = lock(&self.queue.state);
        let group = state.take(self.queue.policy);
        if group.is_empty() {
            state.groups -= 1;
            self.released = true;
            return None;
        }
        for row in group.iter().flat_map(|waiting| &waiting.rows) {
            *state.claimed.entry(row.clone()).or_default() += 1;
        }
        let claimed = group.into_iter().map(|Waiting { write, rows, room }| {
            let claim = Claim { rows, state: self.queue.state.clone() };
            Claimed { write, claim, room }
        });
        Some((claimed.collect(), !state.waiting.is_empty()))
    }
}

impl State {
    fn take(&mut self, policy: Policy) -> Vec<Waiting> {
        self.waiting.retain(|waiting| waiting.write.is_wanted());
        let mut group: Vec<Waiting> = Vec::new();
        let mut held: HashSet<Row> = HashSet::new();
        // Sessions whose turn has not come: a later write to one must not overtake.
        let mut passed: HashSet<Row> = HashSet::new();
        let mut at = 0;
        while at < self.waiting.len() && group.len() < policy.size {
            let Waiting { write, rows, .. } = &self.waiting[at];
            let session = Row::Session(write.key().clone());
            let is_free = !passed.contains(&session) && !rows.iter().any(|row| self.claimed.contains_key(row));
            let joins = group.first().is_none_or(|first| {
                let is_alike = first.write.operation() == write.operation() && !held.contains(&session);
                is_alike || !policy.uniform
            });
            if is_free && joins {
                held.extend(rows.iter().cloned());
                group.extend(self.waiting.remove(at));
            } else {
                passed.insert(session);
                at += 1;
            }
        }
        group
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.released {
            lock(&self.queue.state).groups -= 1;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for row in self.rows.drain(..) {
            if let Some(count) = state.claimed.get_mut(&row) {
                *count -= 1;
                if *count == 0 {
                    state.claimed.remove(&row);
                }
            }
        }
    }
}
