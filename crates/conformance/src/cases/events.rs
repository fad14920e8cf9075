//! Law 2: an acknowledged event is durable, stored once, and read back in append order.

use anyhow::{Context as _, ensure};
use seabed_core::{Appended, Error, Event, EventActions, Json, State, Timestamp};
use serde_json::json;

use crate::Context;
use crate::context::event_ids;

super::case_list![
    events_with_one_timestamp_keep_append_order,
    skewed_clocks_keep_append_order,
    events_come_back_as_they_were_written,
    keys_without_a_field_are_carried_through,
    numbers_survive_unrounded,
    imported_events_keep_their_own_times,
    a_replay_is_acknowledged_and_stored_once,
    a_replay_is_told_by_content_not_by_spelling,
    a_replay_succeeds_after_later_events,
    an_event_id_with_other_content_is_refused,
    an_event_that_is_built_again_is_a_replay,
    one_event_id_may_serve_two_sessions,
    partial_events_are_not_stored,
    five_megabyte_events_are_stored,
    deep_json_is_stored_or_refused_but_never_unreadable,
    appending_to_no_session_is_not_found,
];

async fn events_with_one_timestamp_keep_append_order(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let mut revisions = Vec::new();
    for number in 0..200 {
        let event = Event::new("user").with_id(format!("{:03}", 999 - number)).with_timestamp(1_763_900_000.5);
        revisions.push(context.append(&key, event).await?.revision().context("not stored")?);
    }
    let session = context.get(&key).await?;
    let expected: Vec<_> = (0..200).map(|number| format!("{:03}", 999 - number)).collect();
    ensure!(event_ids(&session) == expected);
    ensure!(session.events.iter().all(|event| event.timestamp.to_bits() == 1_763_900_000.5_f64.to_bits()));
    ensure!(revisions.is_sorted_by(|left, right| left < right), "a revision does not increase");
    ensure!(revisions.last() == Some(&session.revision));
    Ok(())
}

async fn skewed_clocks_keep_append_order(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let now = Event::new("user").timestamp;
    let mut expected = Vec::new();
    for number in 0..60 {
        let skew = [0.0, 0.005, -0.005][number % 3];
        let id = format!("e{number}");
        context.append(&key, Event::new("user").with_id(&id).with_timestamp(now + skew)).await?;
        expected.push(id);
    }
    ensure!(event_ids(&context.get(&key).await?) == expected);
    Ok(())
}

async fn events_come_back_as_they_were_written(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let full = Event {
        id: "e1".to_owned(),
        invocation_id: "invocation".to_owned(),
        author: "agent 🤖".to_owned(),
        timestamp: 1_763_900_000.123_456_7,
        branch: Some("root.child".to_owned()),
        content: Some(json!({"role": "model", "parts": [{"text": "ünïcødé \u{1F600} \u{0001}"}]}).into()),
        partial: Some(false),
        turn_complete: Some(true),
        error_code: Some("SAFETY".to_owned()),
        error_message: Some(String::new()),
        interrupted: Some(false),
        long_running_tool_ids: Some(["b".to_owned(), "a".to_owned()].into()),
        actions: EventActions {
            state_delta: State::new().with("k", json!({"nested": [1, null]})),
            artifact_delta: [("report.pdf".to_owned(), 3)].into(),
            transfer_to_agent: Some("other".to_owned()),
            escalate: Some(true),
            skip_summarization: Some(false),
            ..EventActions::default()
        },
        ..Event::default()
    };
    let bare = Event::new("user");
    context.append(&key, full.clone()).await?;
    context.append(&key, bare.clone()).await?;
    let events = context.get(&key).await?.events;
    ensure!(events == [full, bare], "{events:#?}");
    Ok(())
}

async fn keys_without_a_field_are_carried_through(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let mut event = Event::new("agent");
    for (name, value) in [
        ("usage_metadata", json!({"total_token_count": 12})),
        ("custom_metadata", json!({"a": null})),
        ("node_info", json!({"path": ""})),
        ("unknown", json!(null)),
    ] {
        event.extra.insert(name.to_owned(), value.into());
    }
    event.actions.extra.insert("end_of_agent".to_owned(), true.into());
    event.actions.extra.insert("requested_auth_configs".to_owned(), json!({}).into());
    context.append(&key, event.clone()).await?;
    ensure!(context.get(&key).await?.events == [event]);
    Ok(())
}

async fn numbers_survive_unrounded(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let numbers = [
        "123456789012345678901234567890",
        "-9223372036854775809",
        "0.1234567890123456789012345",
        "18446744073709551615",
        "9007199254740993",
        "1.0",
    ];
    let mut state = State::new();
    for (index, number) in numbers.iter().enumerate() {
        for scope in ["", "user:", "app:"] {
            state.insert(format!("{scope}n{index}"), Json::parse(*number)?);
        }
    }
    let event = Event::new("user").with_state_delta(state.clone());
    context.append(&key, event.clone()).await?;
    // A second delta makes the merge read and write the numbers once more.
    context.append(&key, Event::new("user").with_state_delta(State::new().with("x", 1).with("app:x", 1))).await?;
    let session = context.get(&key).await?;
    ensure!(session.events[0] == event);
    for (name, value) in &state {
        let stored = session.state.get(name).context("a key is lost")?;
        ensure!(stored.as_str() == value.as_str(), "{name}: {stored} is not {value}");
    }
    Ok(())
}

async fn imported_events_keep_their_own_times(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let mut last = None;
    for number in 0..5 {
        let seconds = 946_684_800.0 + f64::from(number);
        let appended = context.append(&key, Event::new("user").with_timestamp(seconds)).await?;
        let stored = appended.revision().context("not stored")?.timestamp();
        ensure!(stored == Timestamp::try_from_seconds(seconds)?, "an event of the year 2000 is stored at {stored}");
        last = Some(stored);
    }
    ensure!(Some(context.get(&key).await?.last_update_time()) == last);
    Ok(())
}

async fn a_replay_is_acknowledged_and_stored_once(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let delta = State::new().with("k", 1).with("temp:t", 1);
    let event = Event::new("user").with_content(json!({"parts": [{"text": "hi"}]})).with_state_delta(delta);
    let first = context.append_at(&session.key, event.clone(), session.revision).await?;
    let again = context.append_at(&session.key, event.clone(), session.revision).await?;
    ensure!(matches!(first, Appended::Stored(_)) && matches!(again, Appended::Replayed(_)));
    ensure!(first.revision() == again.revision());
    ensure!(context.get(&session.key).await?.events.len() == 1);
    Ok(())
}

async fn a_replay_is_told_by_content_not_by_spelling(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let spelled = |text: &str| {
        Json::parse(text).map(|json| Event::new("user").with_id("e").with_timestamp(1e9).with_content(json))
    };
    context.append(&key, spelled(r#"{"parts": [{"part_metadata": {"a": 1e2}}], "role": "é"}"#)?).await?;
    let again = spelled(r#"{"role":"\u00e9","parts":[{"part_metadata":{"a":100}}]}"#)?;
    ensure!(context.append(&key, again).await?.is_replayed());
    Ok(())
}

async fn a_replay_succeeds_after_later_events(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let event = Event::new("user").with_state_delta(State::new().with("k", "old"));
    let first = context.append_at(&session.key, event.clone(), session.revision).await?;
    context.append(&session.key, Event::new("user").with_state_delta(State::new().with("k", "new"))).await?;
    let again = context.append_at(&session.key, event, session.revision).await?;
    ensure!(again.is_replayed() && again.revision() == first.revision());
    let stored = context.get(&session.key).await?;
    ensure!(stored.state.decode::<String>("k")?.as_deref() == Some("new"), "the replay was merged once more");
    Ok(())
}

async fn an_event_id_with_other_content_is_refused(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let event = Event::new("user").with_id("e").with_state_delta(State::new().with("k", 1));
    context.append(&key, event.clone()).await?;
    for other in [
        event.clone().with_state_delta(State::new().with("k", 2)),
        event.clone().with_content(json!({})),
        event.clone().with_invocation_id("other"),
    ] {
        let refused = context.append(&key, other).await;
        ensure!(matches!(&refused, Err(Error::EventIdReused { event_id, .. }) if event_id == "e"), "{refused:?}");
    }
    let session = context.get(&key).await?;
    ensure!(session.events == [event] && session.state == State::new().with("k", 1));
    Ok(())
}

/// Two requests of a client that repeats itself: one id, and the time of each.
async fn an_event_that_is_built_again_is_a_replay(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let first = Event::new("user").with_id("request").with_text("Make it Naples.");
    context.append(&key, first.clone()).await?;
    let mut again = Event::new("user").with_id("request").with_text("Make it Naples.").with_timestamp(1e9);
    // As google-adk writes fields that say nothing.
    again.extra.insert("output".to_owned(), json!(null).into());
    again.actions.extra.insert("requested_auth_configs".to_owned(), json!({}).into());
    ensure!(context.append(&key, again).await?.is_replayed());
    ensure!(context.get(&key).await?.events == [first]);
    Ok(())
}

async fn one_event_id_may_serve_two_sessions(context: Context) -> anyhow::Result<()> {
    let event = Event::new("user").with_id("e");
    for user in ["alice", "bob"] {
        let key = context.session(user).await?.key;
        ensure!(!context.append(&key, event.clone().with_content(json!({"role": user}))).await?.is_replayed());
    }
    Ok(())
}

async fn partial_events_are_not_stored(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let mut event = Event::new("agent").with_state_delta(State::new().with("k", 1).with("app:k", 1));
    event.partial = Some(true);
    ensure!(context.append(&session.key, event).await? == Appended::Partial);
    ensure!(context.get(&session.key).await? == session);
    Ok(())
}

async fn five_megabyte_events_are_stored(context: Context) -> anyhow::Result<()> {
    let text: String = "0123456789abcdéf".chars().cycle().take(5_000_000).collect();
    let event = Event::new("agent").with_content(json!({"parts": [{"text": text}]}));
    for knows_revision in [false, true] {
        let session = context.session("alice").await?;
        let key = session.key;
        let appended = if knows_revision {
            context.append_at(&key, event.clone(), session.revision).await?
        } else {
            context.append(&key, event.clone()).await?
        };
        ensure!(context.append(&key, event.clone()).await?.is_replayed());
        let stored = context.get(&key).await?;
        ensure!(stored.events == [event.clone()] && appended.revision() == Some(stored.revision));
    }
    Ok(())
}

async fn deep_json_is_stored_or_refused_but_never_unreadable(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    for depth in [10, 100, 120, 125, 130, 1000, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let json = Json::parse(open.repeat(depth) + "1" + &close.repeat(depth))?;
            let mut event = Event::new("agent").with_state_delta(State::new().with("k", json.clone()));
            event.extra.insert("output".to_owned(), json);
            match context.append(&session.key, event).await {
                Ok(_) => ensure!(depth < 127, "{depth} levels were stored"),
                Err(Error::Invalid { field: "event", .. }) => ensure!(depth > 120, "{depth} levels were refused"),
                Err(other) => return Err(other.into()),
            }
            let stored = context.get(&session.key).await?;
            for value in stored.events.iter().filter_map(|event| event.extra.get("output")) {
                value.decode::<serde_json::Value>().context("what was stored cannot be read")?;
            }
        }
    }
    Ok(())
}

async fn appending_to_no_session_is_not_found(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "nothing")?;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
    let refused = context.append(&key, event).await;
    ensure!(matches!(&refused, Err(Error::NotFound { key: missing }) if **missing == key), "{refused:?}");
    ensure!(context.service.get_app_state(&key.app_name).await?.is_empty());
    Ok(())
}
