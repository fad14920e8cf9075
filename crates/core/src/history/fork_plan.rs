//! What of a session's history decides whether it can be forked at an event, and with which state.

use std::collections::{BTreeSet, HashMap};

use super::fork::{Fork, NewFork, Parent};
use super::state::session_keys;
use super::view::{Function, View, rewind_target};
use crate::{Error, Event, Result, State, Timestamp};

/// An event that decides whether a fork is possible.
struct Node {
    /// The event of this kind that was live before it.
    before: Option<usize>,
    calls: Vec<String>,
    responses: Vec<String>,
}

/// Reads the history of a session, event by event, and keeps of it only what a fork depends on.
///
/// Events are added in order, all of them: a later one may have taken the event back, or have changed a key of which
/// only the current state tells the initial value.
pub struct ForkPlan {
    new: NewFork,
    /// The session's own state, no older than its events are new.
    now: State,
    initial: Option<State>,
    state: State,
    set_later: BTreeSet<String>,
    added: u64,
    nodes: Vec<Node>,
    /// The last live node.
    head: Option<usize>,
    /// The last live node before the first event of each invocation.
    heads: HashMap<String, Option<usize>>,
    found: Option<Found>,
}

struct Found {
    node: usize,
    events: u64,
    stored: Timestamp,
}

impl ForkPlan {
    /// Begins with the session's own state: `now`, which must be read before the events, and `initial`, if it was kept.
    pub fn new(new: NewFork, now: State, initial: Option<State>) -> Self {
        Self {
            new,
            now,
            state: initial.clone().unwrap_or_default(),
            initial,
            set_later: BTreeSet::new(),
            added: 0,
            nodes: Vec::new(),
            head: None,
            heads: HashMap::new(),
            found: None,
        }
    }

    /// Adds the next event, and the time at which it is stored.
    pub fn add(&mut self, event: &Event, stored: Timestamp) {
        self.added += 1;
        if self.found.is_none() {
            self.state.merge(own_keys(&event.actions.state_delta));
        } else {
            self.set_later.extend(session_keys(&event.actions.state_delta).map(|(key, _)| key.to_owned()));
        }
        if !event.invocation_id.is_empty() && !self.heads.contains_key(&event.invocation_id) {
            self.heads.insert(event.invocation_id.clone(), self.head);
        }
        if let Some(head) = rewind_target(event).and_then(|invocation| self.heads.get(&invocation)) {
            self.head = *head;
        }
        let is_wanted = self.found.is_none() && event.id == self.new.event_id;
        let (calls, responses) = calls_and_responses(event);
        if is_wanted || !calls.is_empty() || !responses.is_empty() {
            self.nodes.push(Node { before: self.head, calls, responses });
            self.head = Some(self.nodes.len() - 1);
        }
        if is_wanted {
            self.found = Some(Found { node: self.nodes.len() - 1, events: self.added, stored });
        }
    }

    /// The live nodes up to and including this one, the last first.
    fn live(&self, from: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(from, |node| self.nodes[*node].before)
    }

    fn count_open_calls(&self, at: usize) -> usize {
        let mut responses = BTreeSet::new();
        let mut open = 0;
        for node in self.live(Some(at)).map(|node| &self.nodes[node]) {
            responses.extend(node.responses.iter().map(String::as_str));
            // An id may be used again, so a response belongs to the last call before it.
            open += node.calls.iter().filter(|call| !responses.remove(call.as_str())).count();
        }
        open
    }

    /// Returns what the fork writes.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) naming `event_id` if the session has no such event, if a rewind has taken it back,
    /// and if a function call has no response at that point, unless that is allowed.
    pub fn finish(mut self) -> Result<Fork> {
        let invalid = |reason: &str| Error::invalid("event_id", reason);
        let Found { node, events, stored } =
            self.found.take().ok_or_else(|| invalid("no event of the session has it"))?;
        if !self.live(self.head).any(|live| live == node) {
            return Err(invalid("a rewind has taken the event back"));
        }
        let open = self.count_open_calls(node);
        if open > 0 && !self.new.allows_open_calls {
            return Err(invalid(&format!("{open} function calls have no response there")));
        }
        let Self { new, now, initial, mut state, set_later, .. } = self;
        let mut unknown = BTreeSet::new();
        if initial.is_none() {
            // What no event sets was there from the beginning.
            let is_set = |key: &String| state.get(key).is_some() || set_later.contains(key);
            let untouched = own_keys(&now).into_iter().filter(|(key, _)| !is_set(key)).collect();
            state.merge(untouched);
            unknown = set_later.into_iter().filter(|key| state.get(key).is_none()).collect();
        }
        // Equal times would say that the session has no events.
        let create_time = if new.create_time == stored { stored.next() } else { Some(new.create_time) };
        Ok(Fork {
            key: new.key,
            state,
            initial_state: initial,
            parent: Parent::new(new.source.session_id, new.event_id),
            create_time: create_time.ok_or_else(|| invalid("it is stored at the end of the year 9999"))?,
            update_time: stored,
            events,
            unknown,
        })
    }
}

/// The keys of the session itself, with their values.
fn own_keys(state: &State) -> State {
    session_keys(state).map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// The function calls and responses of an event, by their ids, or by their names where they have none.
fn calls_and_responses(event: &Event) -> (Vec<String>, Vec<String>) {
    let view = View::of(event);
    let name = |function: &Function| match function.id.as_str() {
        "" => function.name.clone(),
        id => id.to_owned(),
    };
    (view.calls().map(name).collect(), view.responses().map(name).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::{ForkSession, StateHistory, live_events};
    use crate::{Json, SessionKey, SystemClock, UuidV7};

    fn key() -> SessionKey {
        SessionKey::try_new("app", "user", "s").unwrap()
    }

    fn plan(events: &[Event], at: &str, now: &State, initial: Option<&State>) -> Result<Fork> {
        let new = NewFork::try_prepare(&ForkSession::new(key(), at), &SystemClock, &UuidV7)?;
        let mut plan = ForkPlan::new(new, now.clone(), initial.cloned());
        for (index, event) in events.iter().enumerate() {
            plan.add(event, Timestamp::clamped(i64::try_from(index).unwrap()));
        }
        plan.finish()
    }

    /// Few invocations, which are rewound often, also past other rewinds.
    fn history(rng: &mut fastrand::Rng) -> Vec<Event> {
        let mut events = Vec::new();
        for number in 0..rng.usize(1..14) {
            let mut event = Event::new("agent").with_id(number.to_string()).with_invocation_id(rng.u8(..6).to_string());
            if rng.u8(..3) == 0 {
                let target = rng.u8(..7).to_string();
                event.actions.extra.insert("rewind_before_invocation_id".to_owned(), target.into());
            }
            for key in ["a", "b", "c"].into_iter().filter(|_| rng.u8(..4) == 0) {
                event.actions.state_delta.insert(key, number.to_string());
            }
            events.push(event);
        }
        events
    }

    #[test]
    fn a_fork_agrees_with_the_live_events_and_the_history_of_the_state() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut forks, mut taken_back) = (0, 0);
        for _ in 0..3000 {
            let events = history(&mut rng);
            let initial = State::new().with("a", "initial").with("d", "initial");
            let mut now = initial.clone();
            for event in &events {
                now.merge(event.actions.state_delta.clone());
            }
            let at = rng.choice(&events).unwrap();
            let is_rewind = at.actions.extra.contains_key("rewind_before_invocation_id");
            let is_live = live_events(&events).iter().any(|event| event.id == at.id);
            match plan(&events, &at.id, &now, Some(&initial)) {
                Ok(fork) => {
                    assert!(is_live || is_rewind, "{events:?} at {}", at.id);
                    let history = StateHistory::new(&events, &now);
                    let expected = history.with_initial_state(&initial).state_at(&at.id).unwrap();
                    assert_eq!((fork.state, fork.unknown), (expected.state, expected.unknown));
                    let known = plan(&events, &at.id, &now, None).unwrap();
                    let expected = history.state_at(&at.id).unwrap();
                    assert_eq!((known.state, known.unknown), (expected.state, expected.unknown));
                    assert_eq!(fork.events, at.id.parse::<u64>().unwrap() + 1);
                    forks += 1;
                }
                Err(error) => {
                    assert!(!is_live && error.to_string().contains("taken the event back"), "{error}: {events:?}");
                    taken_back += 1;
                }
            }
        }
        assert!(forks > 1000 && taken_back > 300, "{forks} and {taken_back}");
    }

    fn of_parts(id: &str, invocation: &str, parts: &serde_json::Value) -> Event {
        let content: Json = json!({"role": "model", "parts": parts}).into();
        Event::new("agent").with_id(id).with_invocation_id(invocation).with_content(content)
    }

    #[test]
    fn a_call_is_open_until_its_own_response() {
        let call = |id: &str, call: &str| of_parts(id, id, &json!([{"function_call": {"id": call, "name": "f"}}]));
        let response = |id: &str, to: &str| of_parts(id, id, &json!([{"function_response": {"id": to, "name": "f"}}]));
        let mut marker = Event::new("user").with_id("marker");
        marker.actions.extra.insert("rewind_before_invocation_id".to_owned(), "2".into());
        let events = [call("1", "x"), response("2", "x"), call("3", "x"), response("4", "x"), marker];
        let is_rest = |events: &[Event], at: &str| plan(events, at, &State::new(), None).is_ok();
        assert!(!is_rest(&events[..4], "1") && is_rest(&events[..4], "2"));
        assert!(!is_rest(&events[..4], "3"), "the second call has the id of the first, which is answered");
        assert!(is_rest(&events[..4], "4"));
        assert!(!is_rest(&events, "marker"), "the rewind has taken the response back");
        // Without ids, by name.
        let unnamed = |id: &str, kind: &str| of_parts(id, id, &json!([{kind: {"name": "f"}}]));
        let events = [unnamed("1", "function_call"), unnamed("2", "function_response")];
        assert!(!is_rest(&events, "1") && is_rest(&events, "2"));
    }
}
