//! Law 3: merges are shallow and key by key, in three scopes; a null is a value; `temp:` is never stored.

use anyhow::ensure;
use seabed_core::{AppendEvent, CreateSession, Event, ExpectedRevision, Json, NulPolicy, SessionKey, State};
use serde_json::json;

use crate::Context;

super::case_list![
    state_is_shared_by_its_scope,
    initial_state_merges_into_what_is_there,
    nested_values_replace_and_nulls_stay,
    odd_keys_are_kept_apart,
    temp_keys_are_never_stored,
    untouched_state_stays_as_it_is,
    unknown_users_and_apps_have_empty_state,
    nul_is_refused_or_replaced,
];

async fn state_is_shared_by_its_scope(context: Context) -> anyhow::Result<()> {
    let delta = State::new().with("own", 1).with("user:theirs", 2).with("app:ours", 3);
    let alice = context.session("alice").await?.key;
    context.append(&alice, Event::new("user").with_state_delta(delta.clone())).await?;
    ensure!(context.get(&alice).await?.state == delta);
    let alices_other = context.session("alice").await?;
    ensure!(alices_other.state == State::new().with("user:theirs", 2).with("app:ours", 3));
    let bobs = context.session("bob").await?;
    ensure!(bobs.state == State::new().with("app:ours", 3));
    let other_app = SessionKey::try_new(format!("{}-other", context.app), "alice", "s")?;
    ensure!(context.create(&other_app, State::new()).await?.state.is_empty());
    ensure!(context.service.get_user_state(&alice.user()).await? == State::new().with("theirs", 2));
    ensure!(context.service.get_app_state(&alice.app_name).await? == State::new().with("ours", 3));
    Ok(())
}

async fn initial_state_merges_into_what_is_there(context: Context) -> anyhow::Result<()> {
    let first = State::new().with("app:a", 1).with("app:b", 1).with("user:a", 1).with("own", 1);
    context.create(&context.key("alice", "first")?, first).await?;
    let second = State::new().with("app:b", 2).with("user:b", 2);
    let created = context.create(&context.key("alice", "second")?, second).await?;
    let expected = State::new().with("app:a", 1).with("app:b", 2).with("user:a", 1).with("user:b", 2);
    ensure!(created.state == expected, "{:?}", created.state);
    ensure!(context.get(&created.key).await?.state == expected);
    Ok(())
}

async fn nested_values_replace_and_nulls_stay(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for prefix in ["", "user:", "app:"] {
        let k = format!("{prefix}k");
        for value in [
            json!({"a": {"b": 1}, "c": null}),
            json!({"a": {"d": null}}),
            json!(null),
            json!([1, [2, null]]),
            json!(""),
            json!({}),
            json!(false),
        ] {
            let value = Json::from(value);
            context.append(&key, Event::new("user").with_state_delta(State::new().with(&k, value.clone()))).await?;
            let stored = context.get(&key).await?.state;
            ensure!(stored.get(&k) == Some(&value), "{k} is {:?}, not {value}", stored.get(&k));
        }
    }
    Ok(())
}

const ODD_KEYS: [&str; 20] = [
    "", "-", "a.b", "a", "A", "a ", "$", "$.a", "[0]", "*", "\"", "'", "\\", "`", "a\"b", "ключ", "é", "e\u{301}",
    "🤖", "\n",
];

async fn odd_keys_are_kept_apart(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let mut expected = State::new();
    for (number, odd) in ODD_KEYS.iter().enumerate() {
        for prefix in ["", "user:", "app:"] {
            let delta = State::new().with(format!("{prefix}{odd}"), number as u64);
            expected.merge(delta.clone());
            context.append(&key, Event::new("user").with_state_delta(delta)).await?;
        }
    }
    ensure!(context.get(&key).await?.state == expected);
    // All values together, and as initial state.
    let at_once = context.create(&context.key("bob", "s")?, expected.clone()).await?;
    ensure!(at_once.state == expected && context.get(&at_once.key).await?.state == expected);
    Ok(())
}

async fn temp_keys_are_never_stored(context: Context) -> anyhow::Result<()> {
    let state = State::new().with("temp:t", 1).with("kept", 1);
    let session = context.create(&context.key("alice", "s")?, state.clone()).await?;
    ensure!(session.state == State::new().with("kept", 1));
    context.append(&session.key, Event::new("user").with_state_delta(state)).await?;
    let stored = context.get(&session.key).await?;
    ensure!(stored.state == State::new().with("kept", 1));
    ensure!(stored.events[0].actions.state_delta == State::new().with("kept", 1));
    Ok(())
}

async fn untouched_state_stays_as_it_is(context: Context) -> anyhow::Result<()> {
    let state = State::new().with("app:k", 1).with("user:k", 2).with("k", 3);
    let session = context.create(&context.key("alice", "s")?, state.clone()).await?;
    context.append(&session.key, Event::new("user")).await?;
    ensure!(context.get(&session.key).await?.state == state);
    Ok(())
}

async fn unknown_users_and_apps_have_empty_state(context: Context) -> anyhow::Result<()> {
    ensure!(context.service.get_app_state(&context.app_name()?).await?.is_empty());
    ensure!(context.service.get_user_state(&context.user("nobody")?).await?.is_empty());
    Ok(())
}

async fn nul_is_refused_or_replaced(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let with_nul = State::new().with("k", "a\0b").with("user:\0", 1);
    let event = Event::new("user").with_state_delta(with_nul.clone());
    ensure!(matches!(
        context.append(&key, event.clone()).await,
        Err(seabed_core::Error::Invalid { field: "event", .. })
    ));
    let create = CreateSession::new(key.user()).with_state(with_nul);
    let refused = context.service.create_session(create.clone()).await;
    ensure!(matches!(refused, Err(seabed_core::Error::Invalid { field: "state", .. })), "{refused:?}");

    let expected = State::new().with("k", "a\u{fffd}b").with("user:\u{fffd}", 1);
    let append = AppendEvent::new(key.clone(), event, ExpectedRevision::Any).with_nul_policy(NulPolicy::Replace);
    context.service.append_event(append.clone()).await?;
    ensure!(context.get(&key).await?.state == expected);
    ensure!(context.service.append_event(append).await?.is_replayed());
    let created = context.service.create_session(create.with_nul_policy(NulPolicy::Replace)).await?;
    ensure!(created.state == expected);
    Ok(())
}
