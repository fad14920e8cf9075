//! The state of a session as of any of its events.

use std::collections::{BTreeMap, BTreeSet};

use super::rewinds::first_events;
use super::view::rewind_target;
use crate::{Error, Event, Json, Result, Scope, Session, State};

/// The state of a session over time: that of the session itself, without keys of the app and the user, which other
/// sessions change too.
///
/// Only the initial state and the events change it, so together they decide the state as of every event. google-adk
/// does not keep the initial state. Without it, a key is known from the first event that sets it, and a key of the
/// current state that no event sets has been there from the beginning.
///
/// ```
/// use seabed_core::history::StateHistory;
/// use seabed_core::{Event, State};
///
/// let set = |id: &str, key: &str| Event::new("agent").with_id(id).with_state_delta(State::new().with(key, id));
/// let events = [set("first", "city"), set("second", "hotel")];
/// let now = State::new().with("city", "first").with("hotel", "second").with("currency", "EUR");
///
/// let then = StateHistory::new(&events, &now).state_at("first").unwrap();
/// assert_eq!(then.state, State::new().with("city", "first").with("currency", "EUR"));
/// assert!(then.unknown.contains("hotel"), "the session may have been created with a hotel");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct StateHistory<'a> {
    events: &'a [Event],
    now: &'a State,
    initial: Option<&'a State>,
}

/// The state of a session as of an event.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct StateAt {
    /// The keys that are known, with their values. As in the store, a key that a rewind removed is `null`.
    pub state: State,
    /// The keys of which nobody can say whether they were there, and with which value: later events set them, and the
    /// initial state is unknown.
    pub unknown: BTreeSet<String>,
}

/// What a rewind writes; see [`StateHistory::rewind_before`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rewind {
    /// The invocation that is taken back, with everything after it.
    pub before_invocation_id: String,
    /// Restores the state as of the event before.
    pub state_delta: State,
    /// Keys that `state_delta` sets to `null` although the session may have been created with them.
    pub unknown: BTreeSet<String>,
}

/// What an event or the creation of the session made of a key.
#[derive(Clone, Copy)]
enum Change<'a> {
    Set(&'a Json),
    /// A rewind set it to this `null`, because it was not there.
    Remove(&'a Json),
}

impl<'a> Change<'a> {
    fn stored(self) -> &'a Json {
        let (Self::Set(value) | Self::Remove(value)) = self;
        value
    }

    fn effective(self) -> Option<&'a Json> {
        match self {
            Self::Set(value) => Some(value),
            Self::Remove(_) => None,
        }
    }
}

/// The changes of each key, with the number of events up to and including the one that made it; 0 for the creation.
type Changes<'a> = BTreeMap<&'a str, Vec<(usize, Change<'a>)>>;

impl<'a> StateHistory<'a> {
    /// The history of a session with these events, which must be all of its events, and the state `now`.
    pub fn new(events: &'a [Event], now: &'a State) -> Self {
        Self { events, now, initial: None }
    }

    /// Sets the state with which the session was created.
    pub fn with_initial_state(mut self, initial: &'a State) -> Self {
        self.initial = Some(initial);
        self
    }

    /// Returns the state right after the event with this id; `None` if there is no such event.
    pub fn state_at(&self, event_id: &str) -> Option<StateAt> {
        let index = self.events.iter().position(|event| event.id == event_id)?;
        let mut at = StateAt::default();
        for (key, changes) in self.changes() {
            match last(&changes, index + 1) {
                Some(change) => drop(at.state.insert(key, change.stored().clone())),
                None if self.initial.is_none() => drop(at.unknown.insert(key.to_owned())),
                None => {}
            }
        }
        Some(at)
    }

    /// Returns the current state, with the keys of the app and the user, but without the keys that are `null` only
    /// because a rewind went back to where they were not there.
    ///
    /// Without the initial state, a key that no event had set before is taken for one that was not there.
    pub fn effective_state(&self) -> State {
        let changes = self.changes();
        let removed = |key: &str| matches!(changes.get(key).and_then(|all| all.last()), Some((_, Change::Remove(_))));
        let kept = self.now.iter().filter(|(key, value)| !(value.is_null() && removed(key)));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Returns what a rewind writes that takes back everything from the first event of this invocation on; `None` if
    /// there is no such event.
    ///
    /// Keys that have changed since get their values back. Keys that were not there become `null`, because a state
    /// has no way to remove them. google-adk's own rewind sets every key to `null` that no event had set before, also
    /// those that the session was created with (google-adk issues 4839 and 4933). Here those stay, as far as they are
    /// known: all of them with [`with_initial_state`](Self::with_initial_state), and without it those that no event
    /// has set since.
    pub fn rewind_before(&self, invocation_id: &str) -> Option<Rewind> {
        let count = *first_events(self.events).get(invocation_id)?;
        let mut rewind = Rewind {
            before_invocation_id: invocation_id.to_owned(),
            state_delta: State::new(),
            unknown: BTreeSet::new(),
        };
        let mut absent: BTreeSet<&str> = session_keys(self.now).map(|(key, _)| key).collect();
        for (key, changes) in self.changes() {
            let then = last(&changes, count);
            if then.is_none() && self.initial.is_none() && absent.contains(key) {
                rewind.unknown.insert(key.to_owned());
            }
            if let Some(value) = then.and_then(Change::effective) {
                absent.remove(key);
                if self.now.get(key) != Some(value) {
                    rewind.state_delta.insert(key, value.clone());
                }
            }
        }
        rewind
            .state_delta
            .merge(absent.into_iter().map(|key| (key.to_owned(), serde_json::Value::Null.into())).collect());
        Some(rewind)
    }

    fn changes(&self) -> Changes<'a> {
        let first = first_events(self.events);
        let mut changes = Changes::new();
        for (key, value) in self.initial.into_iter().flat_map(session_keys) {
            changes.entry(key).or_default().push((0, Change::Set(value)));
        }
        for (index, event) in self.events.iter().enumerate().filter(|(_, event)| !event.is_partial()) {
            let target = rewind_target(event).and_then(|invocation| first.get(invocation.as_str()));
            for (key, value) in session_keys(&event.actions.state_delta) {
                let of_key = changes.entry(key).or_default();
                let was_there = |count: &usize| last(of_key, *count).and_then(Change::effective).is_some();
                let removes = value.is_null() && target.is_some_and(|count| *count < index && !was_there(count));
                of_key.push((index + 1, if removes { Change::Remove(value) } else { Change::Set(value) }));
            }
        }
        if self.initial.is_none() {
            for (key, value) in session_keys(self.now) {
                changes.entry(key).or_insert_with(|| vec![(0, Change::Set(value))]);
            }
        }
        changes
    }
}

impl Session {
    /// Returns the history of the session's state.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) unless the session was read with all its events.
    pub fn state_history(&self) -> Result<StateHistory<'_>> {
        let has_none_of_its_events = self.events.is_empty() && self.last_update_time() != self.create_time;
        if self.events_since.is_some() || has_none_of_its_events {
            return Err(Error::invalid("session.events", "the session was not read with all its events"));
        }
        Ok(StateHistory::new(&self.events, &self.state))
    }
}

/// The last change among the first `count` events.
fn last<'a>(changes: &[(usize, Change<'a>)], count: usize) -> Option<Change<'a>> {
    let end = changes.partition_point(|(at, _)| *at <= count);
    changes[..end].last().map(|(_, change)| *change)
}

/// The keys of the session itself.
pub(super) fn session_keys(state: &State) -> impl Iterator<Item = (&str, &Json)> {
    let entries = state.iter().map(|(key, value)| (key.as_str(), value));
    entries.filter(|(key, _)| Scope::of(key).0 == Scope::Session)
}
