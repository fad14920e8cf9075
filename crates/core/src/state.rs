//! State: a flat map from key to JSON, in scopes distinguished by the key's prefix.

use std::collections::{BTreeMap, btree_map};
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::json::finite;
use crate::{BackendError, BackendErrorKind, Error, Json, Result};

/// The default limit on the JSON text of a state. Every server can read a session with its app's and its user's state
/// with its default settings: MariaDB sends at most 16 MiB.
pub(crate) const DEFAULT_MAX_STATE_BYTES: usize = 4 << 20;

/// Prefix of the keys shared by all users of an app.
const APP_PREFIX: &str = "app:";
/// Prefix of the keys shared by all sessions of a user.
const USER_PREFIX: &str = "user:";
/// Prefix of the keys that live for one invocation and are never stored.
const TEMP_PREFIX: &str = "temp:";

/// Who shares a state key. As in google-adk, the key's prefix decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `app:`: all users of the app.
    App,
    /// `user:`: all sessions of the user.
    User,
    /// No prefix: this session.
    Session,
    /// `temp:`: nobody; never stored.
    Temp,
}

impl Scope {
    /// Returns the scope of a key, and the key without its prefix, as that scope stores it.
    pub fn of(key: &str) -> (Self, &str) {
        for (prefix, scope) in [(APP_PREFIX, Self::App), (USER_PREFIX, Self::User), (TEMP_PREFIX, Self::Temp)] {
            if let Some(rest) = key.strip_prefix(prefix) {
                return (scope, rest);
            }
        }
        (Self::Session, key)
    }
}

/// A map from key to JSON value; also a change to such a map.
///
/// Merging is shallow: a new value, whether an object or `null`, replaces the entire old value of its key. As in
/// google-adk, keys cannot be deleted.
///
/// google-adk stores `NaN` and infinities on SQLite and MySQL, which JSON does not have. They are read as `null`, and
/// [`unreadable_keys`](Self::unreadable_keys) names their keys. In the store they stay until the key is set again.
///
/// ```
/// use seabed_core::State;
///
/// let mut state = State::new().with("city", "Bergen").with("visits", 1);
/// state.merge(State::new().with("visits", 2));
/// assert_eq!(state.decode::<u32>("visits")?, Some(2));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State {
    values: BTreeMap<String, Json>,
    /// The texts of stored values that are no JSON, to write them back unchanged.
    #[serde(skip)]
    unreadable: BTreeMap<String, String>,
}

impl State {
    /// Creates an empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` and returns the state.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.insert(key, value);
        self
    }

    /// Sets `key` and returns the value that it replaces.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Json>) -> Option<Json> {
        let key = key.into();
        self.unreadable.remove(&key);
        self.values.insert(key, value.into())
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key)
    }

    /// Deserializes the value of `key`; `None` when the key is absent.
    ///
    /// # Errors
    /// If the value does not fit `T`.
    pub fn decode<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, serde_json::Error> {
        self.get(key).map(Json::decode).transpose()
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Iterates over keys and values, sorted by key.
    pub fn iter(&self) -> btree_map::Iter<'_, String, Json> {
        self.values.iter()
    }

    /// Sets every key of `delta`, replacing entire values.
    pub fn merge(&mut self, delta: Self) {
        self.unreadable.retain(|key, _| !delta.values.contains_key(key));
        self.values.extend(delta.values);
        self.unreadable.extend(delta.unreadable);
    }

    /// Returns the keys whose stored values are no JSON (`NaN`, infinities), and were read with `null` in their place.
    pub fn unreadable_keys(&self) -> impl Iterator<Item = &str> {
        self.unreadable.keys().map(String::as_str)
    }

    /// Reads the text of a column, in which other programs may have left `NaN` and infinities.
    ///
    /// # Errors
    /// If the text is not a JSON object even if these are taken for numbers.
    pub fn from_stored(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).or_else(|error| {
            let mut state = Self::new();
            for (key, value, original) in finite::entries(text).ok_or(error)? {
                state.unreadable.extend(original.map(|original| (key.clone(), original)));
                state.values.insert(key, value);
            }
            Ok(state)
        })
    }

    /// Returns the text for a column, with the original texts of [`unreadable_keys`](Self::unreadable_keys).
    ///
    /// # Errors
    /// Those of serde.
    pub fn to_stored(&self) -> Result<String, serde_json::Error> {
        if self.unreadable.is_empty() {
            return serde_json::to_string(self);
        }
        let mut entries = Vec::with_capacity(self.len());
        for (key, value) in self {
            let text = self.unreadable.get(key).map_or(value.as_str(), String::as_str);
            entries.push(format!("{}:{text}", serde_json::to_string(key)?));
        }
        Ok(format!("{{{}}}", entries.join(",")))
    }

    /// The JSON text to store in the row of `row`.
    ///
    /// # Errors
    /// A backend error of kind [`TooLarge`](BackendErrorKind::TooLarge) if it takes more than `max_bytes`. What the
    /// operation wrote before is then rolled back.
    pub(crate) fn to_row(&self, max_bytes: usize, row: &dyn fmt::Display) -> Result<String> {
        let text = self.to_stored().map_err(|error| Error::invalid("state", error.to_string()))?;
        match text.len() {
            bytes if bytes > max_bytes => {
                let message = format!("the state of {row} would take {bytes} bytes; the limit is {max_bytes}");
                Err(BackendError::new(BackendErrorKind::TooLarge, message).into())
            }
            _ => Ok(text),
        }
    }

    /// About how many bytes of JSON text it has.
    pub(crate) fn bytes(&self) -> usize {
        self.values.iter().map(|(key, value)| key.len() + value.as_str().len()).sum()
    }

    /// About how much memory it takes, without what it shares with others.
    pub(crate) fn memory(&self) -> usize {
        /// The map's entry, and the allocations of its key and value.
        const ENTRY: usize = 100;
        self.values.iter().map(|(key, value)| ENTRY + key.len() + value.own_bytes()).sum()
    }

    /// The same state, whose clones share the texts of its values.
    pub(crate) fn into_shared(self) -> Self {
        let values = self.values.into_iter().map(|(key, value)| (key, value.into_shared())).collect();
        Self { values, ..self }
    }

    /// Returns the part that is stored: all but the `temp:` keys.
    pub(crate) fn without_temp(&self) -> Self {
        self.filtered(|scope| scope != Scope::Temp)
    }

    /// Returns the `temp:` keys, which live only in memory.
    pub(crate) fn only_temp(&self) -> Self {
        self.filtered(|scope| scope == Scope::Temp)
    }

    fn filtered(&self, keep: impl Fn(Scope) -> bool) -> Self {
        let mut kept = self.clone();
        kept.values.retain(|key, _| keep(Scope::of(key).0));
        kept.unreadable.retain(|key, _| keep(Scope::of(key).0));
        kept
    }
}

impl FromIterator<(String, Json)> for State {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(entries: I) -> Self {
        Self { values: entries.into_iter().collect(), unreadable: BTreeMap::new() }
    }
}

impl IntoIterator for State {
    type Item = (String, Json);
    type IntoIter = btree_map::IntoIter<String, Json>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

impl<'a> IntoIterator for &'a State {
    type Item = (&'a String, &'a Json);
    type IntoIter = btree_map::Iter<'a, String, Json>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A state split into the part that each scope stores. Keys have no prefixes, and `temp:` keys are dropped.
#[derive(Debug, Clone, Default)]
pub struct ScopedState {
    /// What all users of the app share.
    pub app: State,
    /// What all sessions of the user share.
    pub user: State,
    /// The session's own.
    pub session: State,
}

impl ScopedState {
    /// Splits `state` by scope.
    pub fn split(state: &State) -> Self {
        let mut scoped = Self::default();
        for (key, value) in state {
            let (scope, stored_key) = Scope::of(key);
            let target = match scope {
                Scope::App => &mut scoped.app,
                Scope::User => &mut scoped.user,
                Scope::Session => &mut scoped.session,
                Scope::Temp => continue,
            };
            target.insert(stored_key, value.clone());
        }
        scoped
    }

    /// Merges the scopes, as a [`Session`](crate::Session) shows them.
    pub fn merged(self) -> State {
        let mut merged = self.session;
        for (prefix, state) in [(APP_PREFIX, self.app), (USER_PREFIX, self.user)] {
            let prefixed = |key: String| format!("{prefix}{key}");
            merged.values.extend(state.values.into_iter().map(|(key, value)| (prefixed(key), value)));
            merged.unreadable.extend(state.unreadable.into_iter().map(|(key, text)| (prefixed(key), text)));
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_told_by_prefix_and_put_together_again() {
        let state = State::new().with("app:a", 1).with("user:b", 2).with("c", 3).with("temp:d", 4).with("app:", 5);
        let scoped = ScopedState::split(&state);
        assert_eq!(scoped.app, State::new().with("a", 1).with("", 5));
        assert_eq!(scoped.user, State::new().with("b", 2));
        assert_eq!(scoped.session, State::new().with("c", 3));
        assert_eq!(scoped.merged(), state.without_temp());
    }

    #[test]
    fn what_is_no_json_is_read_as_null_and_written_back_until_it_is_set() {
        let mut state = State::from_stored(r#"{"a":NaN,"b":1,"app:c":[Infinity]}"#).unwrap();
        assert_eq!((state.get("a").unwrap().as_str(), state.get("app:c").unwrap().as_str()), ("null", "[null]"));
        assert!(state.unreadable_keys().eq(["a", "app:c"]));
        state.merge(State::new().with("b", 2));
        assert_eq!(state.to_stored().unwrap(), r#"{"a":NaN,"app:c":[Infinity],"b":2}"#);
        state.merge(State::new().with("a", 3));
        assert_eq!(state.to_stored().unwrap(), r#"{"a":3,"app:c":[Infinity],"b":2}"#);
        let app = ScopedState::split(&state).app;
        assert!(app.unreadable_keys().next().is_none(), "a delta brings JSON");
        assert!(State::from_stored(r#"{"a":Nothing}"#).is_err() && State::from_stored("[NaN]").is_err());
    }

    #[test]
    fn merging_is_shallow_and_keeps_null() {
        let mut state = State::new().with("k", serde_json::json!({"x": 1}));
        state.merge(State::new().with("k", serde_json::json!({"y": null})));
        assert_eq!(state.get("k").unwrap().as_str(), r#"{"y":null}"#);
    }
}
