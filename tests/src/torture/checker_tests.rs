//! The checker objects to every kind of broken history, and to no correct one.

use serde_json::{Map, Value, json};

use super::checker::{COUNTER, Contents, INCARNATION, StoredEvent, StoredSession, check};
use super::history::{Action, History, Outcome, Record, Refusal};

const SESSION: &str = "app/user/session";

fn began(op: &str, at: i64, action: &Action) -> Record {
    Record::Began { op: op.to_owned(), at, action: action.clone() }
}

fn ended(op: &str, at: i64, outcome: Outcome) -> Record {
    Record::Ended { op: op.to_owned(), at, outcome }
}

fn append(keys: &[&str], counter: Option<u64>) -> Action {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Action::Append { session: SESSION.to_owned(), keys, counter }
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn event(id: &str, timestamp: i64, delta: Value) -> StoredEvent {
    StoredEvent { id: id.to_owned(), timestamp, delta: object(delta) }
}

/// A session with three appends, two of which increment the counter, a conflict, and a killed worker.
fn records() -> Vec<Record> {
    let create = Action::Create { session: SESSION.to_owned(), keys: vec!["user:a".to_owned()] };
    let (one, two) = (append(&["k", "app:a"], None), append(&[], Some(1)));
    let (three, killed, late) = (append(&["app:a"], Some(2)), append(&["app:b"], None), append(&["k"], Some(2)));
    vec![
        began("create", 1, &create),
        ended("create", 2, Outcome::Stored(1000)),
        began("one", 3, &one),
        ended("one", 4, Outcome::Stored(1001)),
        began("two", 5, &two),
        ended("two", 6, Outcome::Unknown),
        began("two", 7, &two),
        ended("two", 8, Outcome::Replayed(1002)),
        began("late", 8, &late),
        began("three", 9, &three),
        ended("three", 10, Outcome::Stored(1003)),
        ended("late", 11, Outcome::Refused(Refusal::RevisionConflict)),
        began("killed", 12, &killed),
    ]
}

fn contents() -> Contents {
    let mut contents = Contents::default();
    let state = object(json!({ INCARNATION: "create", "k": "one", COUNTER: 2 }));
    contents.sessions.insert(SESSION.to_owned(), StoredSession { create_time: 1000, update_time: 1003, state });
    let events = vec![
        event("one", 1001, json!({ "k": "one", "app:a": "one" })),
        event("two", 1002, json!({ COUNTER: 1 })),
        event("three", 1003, json!({ "app:a": "three", COUNTER: 2 })),
    ];
    contents.events.insert(SESSION.to_owned(), events);
    contents.shared.insert("app".to_owned(), object(json!({ "a": "three" })));
    contents.shared.insert("app/user".to_owned(), object(json!({ "a": "create" })));
    contents
}

fn objections(records: Vec<Record>, contents: &Contents) -> Vec<String> {
    let mut history = History::default();
    for record in records {
        history.add(record);
    }
    history.finish();
    check(&history, contents).1
}

/// Asserts that after `change` the checker raises an objection that contains `expected`.
fn objects(expected: &str, change: impl FnOnce(&mut Vec<Record>, &mut Contents)) {
    let (mut records, mut contents) = (records(), contents());
    change(&mut records, &mut contents);
    let objections = objections(records, &contents);
    assert!(objections.iter().any(|objection| objection.contains(expected)), "{expected}: {objections:?}");
}

fn events(contents: &mut Contents) -> &mut Vec<StoredEvent> {
    contents.events.get_mut(SESSION).expect("the session has events")
}

fn session(contents: &mut Contents) -> &mut StoredSession {
    contents.sessions.get_mut(SESSION).expect("the session is there")
}

#[test]
fn a_sound_history_is_sound() {
    assert_eq!(objections(records(), &contents()), Vec::<String>::new());
}

#[test]
fn an_unknown_write_may_be_stored_whole() {
    let mut contents = contents();
    events(&mut contents).push(event("killed", 1004, json!({ "app:b": "killed" })));
    session(&mut contents).update_time = 1004;
    contents.shared.get_mut("app").expect("a row").insert("b".to_owned(), "killed".into());
    assert_eq!(objections(records(), &contents), Vec::<String>::new());
}

#[test]
fn a_lost_event_is_noticed() {
    objects("event three of app/user/session was acknowledged and is lost", |_, contents| {
        events(contents).pop();
    });
}

#[test]
fn a_lost_session_is_noticed() {
    objects("was created by create and is lost", |_, contents| {
        contents.sessions.clear();
        contents.events.clear();
    });
}

#[test]
fn a_lost_key_is_noticed() {
    objects("key a of app, written by three, is lost", |_, contents| {
        contents.shared.insert("app".to_owned(), Map::new());
    });
}

#[test]
fn an_overwritten_key_is_noticed() {
    objects("has the value of one, which three overwrote", |_, contents| {
        contents.shared.get_mut("app").expect("a row").insert("a".to_owned(), "one".into());
    });
}

#[test]
fn a_doubled_event_is_noticed() {
    objects("event one is stored 2 times", |_, contents| {
        events(contents).push(event("one", 1004, json!({ "k": "one", "app:a": "one" })));
    });
}

#[test]
fn a_write_acknowledged_twice_is_noticed() {
    objects("was acknowledged as new twice", |records, _| {
        records.push(began("one", 20, &append(&["k", "app:a"], None)));
        records.push(ended("one", 21, Outcome::Stored(1001)));
    });
}

#[test]
fn reordered_events_are_noticed() {
    objects("two is stored after three, and ended before", |_, contents| {
        events(contents).swap(1, 2);
    });
}

#[test]
fn a_time_that_does_not_increase_is_noticed() {
    objects("has no later time", |_, contents| events(contents)[2].timestamp = 1002);
}

#[test]
fn a_lost_update_is_noticed() {
    objects("an update was lost", |records, contents| {
        events(contents)[2].delta.insert(COUNTER.to_owned(), 1.into());
        records.retain(|record| !matches!(record, Record::Began { op, .. } if op == "three"));
        records.insert(0, began("three", 9, &append(&["app:a"], Some(1))));
    });
}

#[test]
fn a_torn_event_is_noticed() {
    objects("is not what its events made", |_, contents| {
        session(contents).state.insert(COUNTER.to_owned(), 1.into());
    });
}

#[test]
fn a_torn_unknown_write_is_noticed() {
    objects("comes from killed, the rest of which is not stored", |_, contents| {
        contents.shared.get_mut("app").expect("a row").insert("b".to_owned(), "killed".into());
    });
}

#[test]
fn what_a_refused_write_left_is_noticed() {
    objects("comes from late, which was refused", |_, contents| {
        session(contents).update_time = 1004;
        session(contents).state.insert("k".to_owned(), "late".into());
        events(contents).push(event("late", 1004, json!({ "k": "late", COUNTER: 2 })));
    });
}

#[test]
fn an_event_without_session_is_noticed() {
    objects("has events and does not exist", |_, contents| {
        contents.sessions.clear();
    });
}

#[test]
fn a_session_without_state_rows_is_noticed() {
    objects("the state row of app/user does not", |_, contents| {
        contents.shared.remove("app/user");
    });
}

#[test]
fn an_event_of_a_former_incarnation_is_noticed() {
    objects("was appended before the session was created", |records, contents| {
        let again = Action::Create { session: SESSION.to_owned(), keys: Vec::new() };
        let delete = Action::Delete { session: SESSION.to_owned() };
        records.extend([began("delete", 20, &delete), ended("delete", 21, Outcome::Stored(0))]);
        records.extend([began("again", 22, &again), ended("again", 23, Outcome::Stored(1000))]);
        session(contents).state.insert(INCARNATION.to_owned(), "again".into());
    });
}

#[test]
fn a_session_created_twice_is_noticed() {
    objects("was created twice, and not deleted in between", |records, _| {
        let again = Action::Create { session: SESSION.to_owned(), keys: Vec::new() };
        records.extend([began("again", 22, &again), ended("again", 23, Outcome::Stored(1000))]);
    });
}

#[test]
fn a_torn_read_is_noticed() {
    objects("a read shows three, but a of app as one left it", |records, _| {
        let [event, scope, key, value] = ["three", "app", "a", "one"].map(str::to_owned);
        records.push(Record::Saw { event, scope, key, value });
    });
}

#[test]
fn another_revision_than_was_acknowledged_is_noticed() {
    objects("is stored at another revision", |_, contents| {
        events(contents)[2].timestamp = 1009;
        session(contents).update_time = 1009;
    });
}
