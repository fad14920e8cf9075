//! A map that forgets what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many entries are kept: more than a process has conversations at one time.
const CAPACITY: usize = 1 << 16;

pub(crate) struct Recent<K, V>(Mutex<Entries<K, V>>);

struct Entries<K, V> {
    /// Each value with the time of its last use.
    values: HashMap<K, (u64, V)>,
    keys: BTreeMap<u64, K>,
    now: u64,
    capacity: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    pub(crate) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self(Mutex::new(Entries { values: HashMap::new(), keys: BTreeMap::new(), now: 0, capacity }))
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.lock();
        let (_, value) = entries.values.get(key)?.clone();
        entries.insert(key.clone(), value.clone());
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.lock().insert(key, value);
    }

    /// Removes the value of `key` if `is_stale` says so.
    pub(crate) fn remove_if(&self, key: &K, is_stale: impl FnOnce(&V) -> bool) {
        let mut entries = self.lock();
        if entries.values.get(key).is_some_and(|(_, value)| is_stale(value)) {
            entries.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V> Entries<K, V> {
    fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        self.now += 1;
        self.keys.insert(self.now, key.clone());
        self.values.insert(key, (self.now, value));
        if self.values.len() > self.capacity
            && let Some((_, oldest)) = self.keys.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.values.remove(key) {
            self.keys.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let recent = Recent::with_capacity(2);
        recent.insert("a", 1);
        recent.insert("b", 2);
        assert_eq!(recent.get(&"a"), Some(1));
        recent.insert("c", 3);
        assert_eq!((recent.get(&"a"), recent.get(&"b"), recent.get(&"c")), (Some(1), None, Some(3)));
        recent.remove_if(&"a", |value| *value != 1);
        recent.remove_if(&"c", |value| *value == 3);
        assert_eq!((recent.get(&"a"), recent.get(&"c")), (Some(1), None));
    }
}
