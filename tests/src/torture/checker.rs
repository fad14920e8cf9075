//! Decides whether the guarantees were kept, from the workers' histories and the final contents of the database.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::history::{Action, Fate, History, Operation, scope_of};

/// The contents of the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) sessions: BTreeMap<String, StoredSession>,
    /// By session, ordered by stored time.
    pub(crate) events: BTreeMap<String, Vec<StoredEvent>>,
    /// App and user states, by `app` and `app/user`.
    pub(crate) shared: BTreeMap<String, Map<String, Value>>,
}

#[derive(Debug, Clone)]
pub(crate) struct StoredSession {
    pub(crate) create_time: i64,
    pub(crate) update_time: i64,
    pub(crate) state: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct StoredEvent {
    pub(crate) id: String,
    pub(crate) timestamp: i64,
    pub(crate) delta: Map<String, Value>,
}

/// The key of session state that only creates write.
pub(crate) const INCARNATION: &str = "incarnation";
/// The key of session state that appends at an exact revision increment.
pub(crate) const COUNTER: &str = "counter";

/// The counts that history and database yield together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged creates, appends and deletes.
    pub acknowledged: usize,
    /// Operations that the service reports as rejected or not executed.
    pub refused: usize,
    /// Operations whose outcome is unknown.
    pub unknown: usize,
    /// Creates and appends among these that are stored.
    pub unknown_and_stored: usize,
    /// Stored events.
    pub events: usize,
    /// Stored sessions.
    pub sessions: usize,
}

/// Returns objections; none if every guarantee was kept.
pub(crate) fn check(history: &History, contents: &Contents) -> (Counts, Vec<String>) {
    let mut checker = Checker { history, contents, objections: history.objections.clone(), deletes: HashMap::new() };
    for operation in history.operations.values().filter(|operation| operation.fate != Fate::Refused) {
        if let Action::Delete { session } = &operation.action {
            checker.deletes.entry(session).or_default().push(operation);
        }
    }
    for (name, session) in &contents.sessions {
        checker.check_session(name, session);
    }
    for name in contents.events.keys().filter(|name| !contents.sessions.contains_key(*name)) {
        checker.object(format!("{name} has events and does not exist"));
    }
    checker.check_nothing_lost();
    checker.check_shared_state();
    checker.check_reads();
    (checker.counts(), checker.objections)
}

struct Checker<'a> {
    history: &'a History,
    contents: &'a Contents,
    objections: Vec<String>,
    /// Deletes that happened or may have happened, by session.
    deletes: HashMap<&'a str, Vec<&'a Operation>>,
}

impl<'a> Checker<'a> {
    fn object(&mut self, objection: String) {
        self.objections.push(objection);
    }

    /// Returns the operation that wrote an event or a value. Objects if that operation cannot have written it.
    fn writer(&mut self, op: &str, what: &str) -> Option<&'a Operation> {
        let operation = self.history.operations.get(op);
        match operation {
            None => self.object(format!("{what} comes from {op}, which nobody called")),
            Some(operation) if operation.fate == Fate::Refused => {
                self.object(format!("{what} comes from {op}, which was refused"));
            }
            Some(operation) => return Some(operation),
        }
        None
    }

    fn events(&self, name: &str) -> &'a [StoredEvent] {
        self.contents.events.get(name).map_or(&[], Vec::as_slice)
    }

    fn check_session(&mut self, name: &str, session: &StoredSession) {
        for scope in ["app:", "user:"].map(|prefix| scope_of(name, prefix).0) {
            if !self.contents.shared.contains_key(&scope) {
                self.object(format!("{name} exists, the state row of {scope} does not"));
            }
        }
        let incarnation = session.state.get(INCARNATION).and_then(Value::as_str).unwrap_or_default();
        let Some(creation) = self.writer(incarnation, name) else { return };
        let Action::Create { session: created, keys } = &creation.action else {
            self.object(format!("{name} was created by {incarnation}, which is no create"));
            return;
        };
        if created != name {
            self.object(format!("{name} was created by {incarnation}, which creates {created}"));
        }
        let mut state: Map<String, Value> = [(INCARNATION.to_owned(), incarnation.into())].into_iter().collect();
        state.extend(session_keys(keys).map(|key| (key.to_owned(), incarnation.into())));
        let mut before = None;
        let mut counter = 0;
        for event in self.events(name) {
            let what = format!("event {} of {name}", event.id);
            if before.is_some_and(|before| before >= event.timestamp) {
                self.object(format!("{what} has no later time than the one before it"));
            }
            before = Some(event.timestamp);
            state.extend(event.delta.iter().filter(|(key, _)| !key.contains(':')).map(|(k, v)| (k.clone(), v.clone())));
            if let Some(counted) = event.delta.get(COUNTER) {
                counter += 1;
                if counted.as_u64() != Some(counter) {
                    self.object(format!("{what} counts {counted}, it is number {counter}: an update was lost"));
                }
            }
            self.check_event(name, event, creation, &what);
        }
        if session.update_time != before.unwrap_or(session.create_time) {
            self.object(format!("{name} was updated at another time than that of its newest event"));
        }
        if session.state != state {
            self.object(format!("the state of {name} is not what its events made: {:?}, {state:?}", session.state));
        }
        self.check_order(name);
    }

    fn check_event(&mut self, name: &str, event: &StoredEvent, creation: &Operation, what: &str) {
        let Some(append) = self.writer(&event.id, what) else { return };
        let Action::Append { session, keys, counter } = &append.action else {
            self.object(format!("{what} was no append"));
            return;
        };
        let mut delta: Map<String, Value> = keys.iter().map(|key| (key.clone(), event.id.as_str().into())).collect();
        delta.extend(counter.map(|counter| (COUNTER.to_owned(), counter.into())));
        if session != name || event.delta != delta {
            self.object(format!("{what} is not what was appended: {:?}, {delta:?} to {session}", event.delta));
        }
        if append.revision.is_some_and(|revision| revision != event.timestamp) {
            self.object(format!("{what} is stored at another revision than was acknowledged"));
        }
        if append.ended < creation.began {
            self.object(format!("{what} was appended before the session was created"));
        }
    }

    /// An event acknowledged before another was sent must be stored before it.
    fn check_order(&mut self, name: &str) {
        let mut earliest_end = (i64::MAX, "");
        for event in self.events(name).iter().rev() {
            let Some(append) = self.history.operations.get(&event.id) else { continue };
            if earliest_end.0 < append.began {
                self.object(format!("{name}: {} is stored after {}, and ended before", earliest_end.1, event.id));
            }
            if append.ended < earliest_end.0 {
                earliest_end = (append.ended, &event.id);
            }
        }
    }

    /// Whether a delete of the session may have removed an operation that began at `began`.
    fn may_be_deleted(&self, session: &str, began: i64) -> bool {
        self.deletes.get(session).is_some_and(|deletes| deletes.iter().any(|delete| delete.ended >= began))
    }

    fn check_nothing_lost(&mut self) {
        let mut stored: HashMap<&str, usize> = HashMap::new();
        for event in self.contents.events.values().flatten() {
            *stored.entry(&event.id).or_default() += 1;
        }
        for (id, times) in stored.iter().filter(|(_, times)| **times > 1) {
            self.object(format!("event {id} is stored {times} times"));
        }
        let mut creations: HashMap<&str, Vec<&Operation>> = HashMap::new();
        for (op, operation) in &self.history.operations {
            if operation.fate != Fate::Acknowledged {
                continue;
            }
            match &operation.action {
                Action::Append { session, .. } => {
                    if !stored.contains_key(op.as_str()) && !self.may_be_deleted(session, operation.began) {
                        self.object(format!("event {op} of {session} was acknowledged and is lost"));
                    }
                }
                Action::Create { session, .. } => {
                    let exists = self.contents.sessions.contains_key(session);
                    if !exists && !self.may_be_deleted(session, operation.began) {
                        self.object(format!("{session} was created by {op} and is lost"));
                    }
                    creations.entry(session).or_default().push(operation);
                }
                Action::Reuse { .. } => self.object(format!("{op} reused an event id and was acknowledged")),
                Action::Delete { .. } => {}
            }
        }
        for (session, mut creations) in creations {
            creations.sort_by_key(|creation| creation.ended);
            let deletes = self.deletes.get(session).map_or(&[][..], Vec::as_slice);
            // Whichever of the two came first, a delete must have come between them.
            let twice = creations.windows(2).any(|pair| {
                let (first, last) = (pair[0].began.min(pair[1].began), pair[0].ended.max(pair[1].ended));
                !deletes.iter().any(|delete| delete.ended >= first && delete.began <= last)
            });
            if twice {
                self.object(format!("{session} was created twice, and not deleted in between"));
            }
        }
    }

    /// The value of a key must be that of its last writer, or of a writer that overlapped it.
    fn check_shared_state(&mut self) {
        // By scope and key: when the last acknowledged writer began.
        let mut last: BTreeMap<(String, &str), (i64, &str)> = BTreeMap::new();
        for (op, operation) in self.history.operations.iter().filter(|(_, o)| o.fate == Fate::Acknowledged) {
            let (Action::Create { session, keys } | Action::Append { session, keys, .. }) = &operation.action else {
                continue;
            };
            for key in keys.iter().filter(|key| key.contains(':')) {
                let (scope, name) = scope_of(session, key);
                let latest = last.entry((scope, name)).or_insert((operation.began, op));
                if latest.0 < operation.began {
                    *latest = (operation.began, op);
                }
            }
        }
        for ((scope, key), (began, op)) in &last {
            let value = self.contents.shared.get(scope).and_then(|state| state.get(*key));
            let Some(value) = value.and_then(Value::as_str) else {
                self.object(format!("key {key} of {scope}, written by {op}, is lost"));
                continue;
            };
            if self.history.operations.get(value).is_some_and(|writer| writer.ended < *began) {
                self.object(format!("key {key} of {scope} has the value of {value}, which {op} overwrote"));
            }
        }
        for (scope, state) in &self.contents.shared {
            for (key, value) in state {
                self.check_value(scope, key, value);
            }
        }
    }

    /// A value must come from an operation that wrote this key and that was not torn.
    fn check_value(&mut self, scope: &str, key: &str, value: &Value) {
        let what = format!("key {key} of {scope}");
        let op = value.as_str().unwrap_or_default();
        let Some(writer) = self.writer(op, &what) else { return };
        let (Action::Create { session, keys } | Action::Append { session, keys, .. }) = &writer.action else {
            self.object(format!("{what} comes from {op}, which writes no state"));
            return;
        };
        if !keys.iter().any(|written| scope_of(session, written) == (scope.to_owned(), key)) {
            self.object(format!("{what} comes from {op}, which does not write it"));
        }
        let is_stored = match &writer.action {
            Action::Append { .. } => self.events(session).iter().any(|event| event.id == op),
            _ => self.contents.sessions.contains_key(session),
        };
        if !is_stored && !self.may_be_deleted(session, writer.began) {
            self.object(format!("{what} comes from {op}, the rest of which is not stored"));
        }
    }

    /// A read that shows an event must show its state, or that of a later writer.
    fn check_reads(&mut self) {
        for [event, scope, key, value] in &self.history.seen {
            let operations = &self.history.operations;
            let (Some(shown), Some(writer)) = (operations.get(event), operations.get(value)) else {
                self.objections.push(format!("a read shows {event} and {value}, which nobody called"));
                continue;
            };
            if writer.ended < shown.began {
                self.objections.push(format!("a read shows {event}, but {key} of {scope} as {value} left it"));
            }
        }
    }

    fn counts(&self) -> Counts {
        let count = |fate| self.history.operations.values().filter(|operation| operation.fate == fate).count();
        let events = self.contents.events.values().flatten();
        let is_unknown =
            |id: &str| self.history.operations.get(id).is_some_and(|operation| operation.fate == Fate::Unknown);
        let creations = self.contents.sessions.values().filter_map(|session| session.state.get(INCARNATION)?.as_str());
        Counts {
            acknowledged: count(Fate::Acknowledged),
            refused: count(Fate::Refused),
            unknown: count(Fate::Unknown),
            unknown_and_stored: events
                .clone()
                .map(|event| event.id.as_str())
                .chain(creations)
                .filter(|id| is_unknown(id))
                .count(),
            events: events.count(),
            sessions: self.contents.sessions.len(),
        }
    }
}

fn session_keys(keys: &[String]) -> impl Iterator<Item = &str> {
    keys.iter().map(String::as_str).filter(|key| !key.contains(':'))
}
