//! One rule of google-adk's a test. The suite compares all of them together with google-adk itself.

use serde_json::{Value, json};

use super::{AgentContext, StateHistory, effective_events, live_events};
use crate::{Event, Json, State};

/// An event of invocation `inv`, at second `time`, with these keys besides.
fn event(id: &str, invocation: &str, time: f64, keys: Value) -> Event {
    let mut event: Event = Json::from(keys).decode().expect("an event");
    event.id = id.to_owned();
    event.invocation_id = invocation.to_owned();
    event.timestamp = time;
    event
}

fn text(id: &str, invocation: &str, time: f64) -> Event {
    event(id, invocation, time, said(&json!([{"text": id}])))
}

fn said(parts: &Value) -> Value {
    json!({"author": "root", "content": {"role": "model", "parts": parts}})
}

fn rewind(id: &str, before: &str) -> Event {
    event(id, id, 0.0, json!({"author": "user", "actions": {"rewind_before_invocation_id": before}}))
}

fn compaction(id: &str, start: f64, end: f64) -> Event {
    let content = json!({"role": "model", "parts": [{"text": id}]});
    let compaction = json!({"start_timestamp": start, "end_timestamp": end, "compacted_content": content});
    event(id, id, 99.0, json!({"author": "user", "actions": {"compaction": compaction}}))
}

fn call(id: &str, time: f64, calls: &[&str]) -> Event {
    let calls = calls.iter().map(|id| json!({"function_call": {"id": id, "name": "f"}}));
    event(id, "", time, said(&calls.collect()))
}

fn response(id: &str, time: f64, to: &str) -> Event {
    event(id, "", time, said(&json!([{"function_response": {"id": to, "name": "f"}}])))
}

#[track_caller]
fn expect_live(events: &[Event], expected: &[&str]) {
    let live = live_events(events);
    assert_eq!(live.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), expected);
}

#[track_caller]
fn expect(events: &[Event], agent: &AgentContext, expected: &[&str]) {
    let effective = effective_events(events, agent);
    assert_eq!(effective.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), expected);
}

/// What an agent called root sees of one event with these keys.
fn is_seen_by(agent: &AgentContext, keys: Value) -> bool {
    effective_events(&[event("e", "", 0.0, keys)], agent).len() == 1
}

fn is_seen(keys: Value) -> bool {
    is_seen_by(&AgentContext::new("root"), keys)
}

#[test]
fn a_rewind_takes_back_all_from_the_first_event_of_its_invocation() {
    expect_live(
        &[text("1", "a", 0.0), text("2", "b", 0.0), text("3", "c", 0.0), text("4", "b", 0.0), rewind("r", "b")],
        &["1"],
    );
}

#[test]
fn a_rewind_that_is_taken_back_takes_nothing_back() {
    let events = [text("1", "a", 0.0), text("2", "b", 0.0), rewind("r", "a"), text("3", "c", 0.0), rewind("s", "r")];
    expect_live(&events, &["1", "2"]);
}

#[test]
fn a_rewind_to_an_unknown_or_later_invocation_takes_back_only_itself() {
    expect_live(&[text("1", "a", 0.0), rewind("r", "none"), text("2", "b", 0.0)], &["1", "2"]);
    expect_live(&[text("1", "a", 0.0), rewind("r", "b"), text("2", "b", 0.0)], &["1", "2"]);
    expect_live(&[text("1", "", 0.0), rewind("r", "")], &["1", "r"]);
    expect_live(&[event("1", "a", 0.0, json!({"actions": {"rewind_before_invocation_id": [7]}}))], &["1"]);
}

#[test]
fn an_event_without_anything_for_a_model_is_left_out() {
    let signature = json!([{"thought": true, "thought_signature": "YQ=="}]);
    for parts in [json!([{"text": "hi"}]), json!([{}, {"toolCall": {}}]), json!([{"inlineData": {}}]), signature] {
        assert!(is_seen(said(&parts)), "{parts}");
    }
    for parts in [json!([]), json!([{}]), json!([{"text": ""}]), json!([{"text": "hm", "thought": "yes"}]), json!(7)] {
        assert!(!is_seen(said(&parts)), "{parts}");
    }
    assert!(!is_seen(json!({"content": {"parts": [{"text": "hi"}]}})), "no role");
    assert!(!is_seen(json!({})) && !is_seen(json!({"content": "hi"})));
    assert!(is_seen(json!({"outputTranscription": {}})));
}

#[test]
fn thoughts_of_other_agents_are_seen_where_that_is_asked_for() {
    let thought = |author: &str| json!({"author": author, "content": {"role": "model", "parts": [{"text": "hm", "thought": true}]}});
    let agent = AgentContext::new("root").with_thoughts_of_others();
    assert!(is_seen_by(&agent, thought("helper")));
    assert!(
        !is_seen_by(&agent, thought("root")) && !is_seen_by(&agent, thought("user")) && !is_seen(thought("helper"))
    );
}

#[test]
fn an_agent_sees_its_branch_and_those_that_it_comes_from() {
    let agent = AgentContext::new("root").with_branch("root.helper");
    let on = |branch: &str| {
        is_seen_by(&agent, json!({"branch": branch, "content": {"role": "user", "parts": [{"text": "hi"}]}}))
    };
    assert!(on("") && on("root") && on("root.helper"));
    assert!(!on("root.other") && !on("root.help") && !on("root.helper.deeper") && !on("helper"));
}

#[test]
fn an_agent_sees_only_its_own_scope_and_node() {
    let mut keys = said(&json!([{"text": "hi"}]));
    keys["isolation_scope"] = "call-1".into();
    assert!(!is_seen(keys.clone()));
    let scoped = AgentContext::new("root").with_isolation_scope("call-1");
    assert!(is_seen_by(&scoped, keys) && !is_seen_by(&scoped, said(&json!([{"text": "hi"}]))));

    let mut keys = said(&json!([{"text": "hi"}]));
    keys["nodeInfo"] = json!({"path": "flow@1/a@1"});
    assert!(is_seen(keys.clone()), "what agents say is seen");
    keys["author"] = "user".into();
    assert!(!is_seen(keys.clone()));
    assert!(is_seen_by(&AgentContext::new("root").with_node_path("flow@1/a@1"), keys));
}

#[test]
fn a_single_turn_is_confined_to_its_nodes() {
    let at = |path: &str| {
        let mut keys = said(&json!([{"text": "hi"}]));
        keys["node_info"] = json!({"path": path});
        is_seen_by(&AgentContext::new("root").with_node_path("flow@1/a@1").in_single_turn(), keys)
    };
    assert!(at("") && at("flow@1") && at("flow@1/a@1") && at("flow@1/a@1/x@1"));
    assert!(!at("flow@1/b@1") && !at("flow@1/a@12"));
}

#[test]
fn requests_to_the_user_are_left_out() {
    for name in ["adk_request_credential", "adk_request_confirmation", "adk_framework"] {
        for kind in ["function_call", "functionResponse"] {
            assert!(!is_seen(said(&json!([{"text": "hi"}, {kind: {"name": name}}]))), "{name}");
        }
    }
}

#[test]
fn what_a_tool_publishes_for_the_user_is_left_out() {
    let mut published = text("2", "", 0.0);
    let mut expect_on = |branch: &str, agent: &AgentContext, expected: &[&str]| {
        published.branch = Some(branch.to_owned());
        expect(&[call("1", 0.0, &["c1"]), published.clone()], agent, expected);
    };
    let (top, root) = (AgentContext::new("root"), AgentContext::new("root").with_branch("root@c1"));
    expect_on("search@c1", &top, &["1"]);
    expect_on("search@c1.node@2", &top, &["1"]);
    expect_on("search@other", &top, &["1", "2"]);
    // The agent's own branch.
    expect_on("root@c1", &top, &["1", "2"]);
    expect_on("root@c1", &root, &["1", "2"]);
}

#[test]
fn a_summary_hides_the_events_of_its_time_and_stands_at_its_end() {
    let agent = AgentContext::new("root");
    let times = [1.0, 2.0, 3.0, 4.0, 5.0];
    let mut events: Vec<Event> = times.into_iter().map(|time| text(&format!("{time}"), "", time)).collect();
    events.push(compaction("c", 2.0, 4.0));
    expect(&events, &agent, &["1", "c", "5"]);
    let effective = effective_events(&events, &agent);
    let summary = &effective[1];
    assert_eq!((summary.author.as_str(), summary.timestamp), ("root", 4.0));
    assert_eq!(summary.content, Some(json!({"role": "model", "parts": [{"text": "c"}]}).into()));
    assert_eq!(effective_events(&events, &AgentContext::default())[1].author, "model");
}

#[test]
fn events_are_sorted_by_time_once_there_is_a_compaction() {
    let late = [text("2", "", 2.0), text("1", "", 1.0), text("also 1", "", 1.0)];
    expect(&late, &AgentContext::default(), &["2", "1", "also 1"]);
    let compacted: Vec<Event> = late.into_iter().chain([compaction("c", 8.0, 9.0)]).collect();
    expect(&compacted, &AgentContext::default(), &["1", "also 1", "2", "c"]);
}

#[test]
fn a_range_inside_another_is_superseded() {
    let agent = AgentContext::default();
    expect(
        &[compaction("inner", 2.0, 3.0), compaction("outer", 1.0, 4.0), compaction("same end", 3.0, 4.0)],
        &agent,
        &["outer"],
    );
    expect(&[compaction("old", 1.0, 4.0), compaction("new", 1.0, 4.0)], &agent, &["new"]);
    let overlapping =
        [compaction("late", 2.0, 4.0), text("3.5", "", 3.5), compaction("early", 1.0, 3.0), text("2", "", 2.0)];
    expect(&overlapping, &agent, &["early", "late"]);
}

#[test]
fn a_compaction_of_another_branch_and_one_that_is_taken_back_hide_nothing() {
    let mut elsewhere = compaction("c", 0.0, 9.0);
    elsewhere.branch = Some("other".to_owned());
    expect(&[text("1", "a", 1.0), elsewhere], &AgentContext::new("root").with_branch("root"), &["1"]);
    expect(&[text("1", "a", 1.0), compaction("c", 0.0, 9.0), rewind("r", "c")], &AgentContext::default(), &["1"]);
}

#[test]
fn a_compaction_without_bounds_or_summary_hides_nothing() {
    for broken in [
        json!({}),
        json!({"start_timestamp": "soon", "end_timestamp": 9}),
        json!({"start_timestamp": 0, "end_timestamp": 9}),
    ] {
        let broken = event("c", "", 0.0, json!({"actions": {"compaction": broken}}));
        expect(&[text("1", "", 1.0), broken], &AgentContext::default(), &["1"]);
    }
    expect(&[text("1", "", 1.0), compaction("c", 3.0, 0.0)], &AgentContext::default(), &["c", "1"]);
}

#[test]
fn a_hidden_call_comes_back_before_its_response_with_the_responses_to_its_siblings() {
    let agent = AgentContext::default();
    let events = [
        call("calls", 1.0, &["c1", "c2", "c3"]),
        response("early 2", 2.0, "c2"),
        response("2", 3.0, "c2"),
        response("waits", 3.0, "c1"),
        compaction("c", 1.0, 3.0),
        response("1", 5.0, "c1"),
        response("again 1", 6.0, "c1"),
    ];
    expect(&events, &agent, &["c", "calls", "2", "1", "again 1"]);
}

#[test]
fn a_response_belongs_to_the_latest_call_before_it() {
    let agent = AgentContext::default();
    let events = [
        call("first", 1.0, &["c1"]),
        call("second", 2.0, &["c1"]),
        compaction("c", 1.0, 2.0),
        response("1", 5.0, "c1"),
        call("third", 6.0, &["c1"]),
        response("no call", 7.0, ""),
        response("3", 8.0, "c1"),
    ];
    expect(&events, &agent, &["c", "second", "1", "third", "no call", "3"]);
}

fn set(id: &str, delta: State) -> Event {
    Event::new("agent").with_id(id).with_invocation_id(id).with_state_delta(delta)
}

/// Appends a rewind, and merges its delta into the state.
fn rewound(events: &mut Vec<Event>, now: &mut State, initial: Option<&State>, before: &str) -> Vec<String> {
    let history = StateHistory::new(events, now);
    let rewind = initial.map_or(history, |initial| history.with_initial_state(initial)).rewind_before(before).unwrap();
    let unknown = rewind.unknown.iter().cloned().collect();
    now.merge(rewind.state_delta.clone());
    events.push(rewind.into_event());
    unknown
}

#[test]
fn a_rewind_restores_the_state_and_keeps_the_initial_state() {
    let initial = State::new().with("language", "no").with("city", "Oslo").with("app:shared", 1);
    let mut now = initial.clone().with("city", "Bergen").with("hotel", "Opus").with("app:shared", 2).with("temp:t", 1);
    let mut events = vec![set("a", State::new().with("city", "Bergen")), set("b", State::new().with("hotel", "Opus"))];
    assert!(rewound(&mut events, &mut now, Some(&initial), "a").is_empty());
    let delta = State::new().with("city", "Oslo").with("hotel", Value::Null);
    assert_eq!(events[2].actions.state_delta, delta, "neither the language nor what others share");
    let history = StateHistory::new(&events, &now).with_initial_state(&initial);
    assert_eq!(history.effective_state(), initial.clone().with("app:shared", 2).with("temp:t", 1));
}

#[test]
fn without_the_initial_state_a_rewind_keeps_what_no_event_has_set() {
    let mut now = State::new().with("language", "no").with("city", "Bergen");
    let mut events = vec![set("a", State::new().with("city", "Bergen"))];
    assert_eq!(rewound(&mut events, &mut now, None, "a"), ["city"]);
    assert_eq!(now, State::new().with("language", "no").with("city", Value::Null));
    assert_eq!(StateHistory::new(&events, &now).effective_state(), State::new().with("language", "no"));
}

#[test]
fn a_null_that_was_there_stays_and_a_key_that_is_set_again_is_there() {
    let initial = State::new().with("null", Value::Null);
    let mut now = initial.clone();
    let mut events = Vec::new();
    for (id, key, value) in [("a", "null", json!(1)), ("b", "new", json!(1))] {
        now.insert(key, value.clone());
        events.push(set(id, State::new().with(key, value)));
    }
    rewound(&mut events, &mut now, Some(&initial), "a");
    let effective =
        |events: &[Event], now: &State| StateHistory::new(events, now).with_initial_state(&initial).effective_state();
    assert_eq!(effective(&events, &now), initial);
    // Back to where the key was gone: it is gone again.
    events.push(set("c", State::new().with("new", 2)));
    now.insert("new", 2);
    assert_eq!(effective(&events, &now), now);
    rewound(&mut events, &mut now, Some(&initial), "c");
    assert_eq!(effective(&events, &now), initial);
    // An event that sets null says so.
    events.push(set("d", State::new().with("new", Value::Null)));
    assert_eq!(effective(&events, &now), now);
}

#[test]
fn a_rewind_may_bring_back_what_another_took_back() {
    let (initial, mut now) = (State::new(), State::new().with("a", 1).with("b", 1));
    let mut events = vec![set("a", State::new().with("a", 1)), set("b", State::new().with("b", 1))];
    rewound(&mut events, &mut now, Some(&initial), "a");
    assert_eq!(now, State::new().with("a", Value::Null).with("b", Value::Null));
    rewound(&mut events, &mut now, Some(&initial), "b");
    let history = StateHistory::new(&events, &now).with_initial_state(&initial);
    assert_eq!(history.effective_state(), State::new().with("a", 1));
    expect_live(&events, &["a"]);
}

#[test]
fn the_state_is_known_as_far_as_the_events_decide_it() {
    let mut events = vec![set("a", State::new().with("a", 1)), set("b", State::new().with("b", 1).with("a", 2))];
    let mut fragment = set("fragment", State::new().with("a", 9));
    fragment.partial = Some(true);
    events.push(fragment);
    let now = State::new().with("a", 2).with("b", 1).with("c", 1).with("user:u", 1);
    let history = StateHistory::new(&events, &now);
    let then = history.state_at("a").unwrap();
    assert_eq!((then.state, then.unknown), (State::new().with("a", 1).with("c", 1), ["b".to_owned()].into()));
    let initial = State::new().with("c", 1).with("b", 0);
    let then = history.with_initial_state(&initial).state_at("a").unwrap();
    assert_eq!((then.state, then.unknown), (initial.with("a", 1), [].into()));
    assert_eq!(history.state_at("fragment").unwrap().state, State::new().with("a", 2).with("b", 1).with("c", 1));
    assert!(history.state_at("none").is_none() && history.rewind_before("none").is_none());
}

#[test]
fn a_session_that_was_read_in_part_has_no_history() {
    let key = crate::SessionKey::try_new("app", "user", "session").unwrap();
    let mut session = crate::Session::new(key, crate::Timestamp::try_from_seconds(1.0).unwrap());
    assert!(session.state_history().is_ok());
    session.events_since = Some(session.create_time);
    assert!(session.state_history().is_err());
    session.events_since = None;
    session.revision = crate::Revision::new(session.create_time, session.revision.following());
    assert!(session.state_history().is_err(), "a listing reads no events");
}
