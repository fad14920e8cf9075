//! Which of the writes that wait run in the next batch.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::op::{Engine, Row};
use super::queue::{QueuePolicy, QueueState, Waiting};

/// How often a write is passed over before its rows are reserved for it: otherwise writers who take turns on two hot
/// rows would starve a write that needs both.
const PATIENCE: u32 = 16;

/// How many bytes the writes of a batch bring at most, unless it has one only.
const BATCH_BYTES: usize = 1 << 20;

/// A write that brings more than so many bytes is slow, as is one that waits for a shared row which others hold: the
/// rest go before it after each batch with a slow one, and of the batches that run at once, half may have slow ones.
const LARGE: usize = 256 << 10;

impl<E: Engine> QueueState<E> {
    pub(super) fn any_is_locked(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.locked_rows.contains_key(row))
    }

    fn is_apart(&self, row: &Row) -> bool {
        self.apart.get(row).is_some_and(|until| Instant::now() < *until)
    }

    /// The first of `rows` that is kept apart.
    fn apart_of<'r>(&self, rows: &'r [Row]) -> Option<&'r Row> {
        if self.apart.is_empty() { None } else { rows.iter().find(|row| self.is_apart(row)) }
    }

    /// Whether a write changes a shared row that others hold.
    pub(super) fn waits_for_shared(&self, waiting: &Waiting<E>) -> bool {
        let is_held = |row: &Row| matches!(row, Row::Shared(_)) && self.is_apart(row);
        !self.apart.is_empty() && waiting.rows.iter().any(is_held)
    }

    pub(super) fn is_slow(&self, waiting: &Waiting<E>) -> bool {
        waiting.bytes > LARGE || self.waits_for_shared(waiting)
    }

    /// Slow writes take turns with the others, and leave half of the batches to them.
    pub(super) fn next_batch(&mut self, policy: QueuePolicy) -> Vec<Waiting<E>> {
        self.waiting.retain(|waiting| waiting.write.is_wanted());
        let may_be_slow = self.slow_batches == 0 || self.slow_batches * 2 < policy.max_concurrent_batches;
        let batch = if may_be_slow && !self.last_is_slow { Vec::new() } else { self.take_batch(policy, false) };
        if batch.is_empty() && may_be_slow { self.take_batch(policy, true) } else { batch }
    }

    fn take_batch(&mut self, policy: QueuePolicy, may_be_slow: bool) -> Vec<Waiting<E>> {
        let mut batch = Draft { writes: Vec::new(), bytes: 0, targets: HashMap::new() };
        // Half of a batch is for others, if there are any: the writers of one target may be many.
        let half = (policy.batch_size / 2).max(1);
        self.add_to(&mut batch, half, policy, may_be_slow);
        if batch.writes.len() < policy.batch_size && batch.targets.values().any(|writes| *writes == half) {
            self.add_to(&mut batch, policy.batch_size, policy, may_be_slow);
        }
        batch.writes
    }

    /// Adds writes that may run now, at most so many of a target.
    fn add_to(&mut self, batch: &mut Draft<E>, of_target: usize, policy: QueuePolicy, may_be_slow: bool) {
        // Targets of writes that must wait: a later write to one of them must not overtake. All rows of writes that
        // have waited for long.
        let mut passed: HashSet<Row> = HashSet::new();
        let mut at = 0;
        while at < self.waiting.len() && batch.writes.len() < policy.batch_size {
            let waiting = &self.waiting[at];
            let (rows, target) = (&waiting.rows, &waiting.rows[0]);
            let is_free = !rows.iter().any(|row| passed.contains(row)) && !self.any_is_locked(rows);
            let has_room = batch.targets.get(target).is_none_or(|writes| *writes < of_target)
                && (may_be_slow || !self.is_slow(waiting));
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
    fn fits(&self, Waiting { write, rows, bytes, .. }: &Waiting<E>, batch: &Draft<E>, policy: QueuePolicy) -> bool {
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
struct Draft<E> {
    writes: Vec<Waiting<E>>,
    bytes: usize,
    /// How many writes each target has.
    targets: HashMap<Row, usize>,
}
