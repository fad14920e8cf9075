//! `update_state`: sets state without a message, atomically, and by an event where a session has a history to explain.

use anyhow::{Context as _, ensure};
use seabed_core::{
    Appended, Error, Event, GetSession, Json, NulPolicy, SessionService, State, StateTarget, StateUpdated, UpdateState,
};
use serde_json::json;

use crate::Context;
use crate::context::at_once;

super::case_list![
    needs State:
    app_state_is_set_without_a_session,
    user_state_is_set_for_that_user_only,
    session_state_is_set_by_an_event,
    a_state_update_keeps_other_keys,
    no_key_of_concurrent_state_updates_is_lost,
    updates_and_appends_of_app_state_lose_no_key,
    a_repeated_session_update_is_a_replay,
    a_stale_session_update_conflicts,
    updating_a_session_that_does_not_exist_fails,
    bad_state_updates_are_refused,
];

async fn app_state_is_set_without_a_session(context: Context) -> anyhow::Result<()> {
    let (app_name, delta) = (context.app_name()?, State::new().with("k", json!({"a": null})));
    let updated = context.state()?.update_state(UpdateState::new(app_name.clone(), delta.clone())).await?;
    ensure!(updated == StateUpdated::Shared(delta.clone()), "{updated:?}");
    ensure!(updated.revision().is_none());
    ensure!(context.service.get_app_state(&app_name).await? == delta);
    let session = context.session("alice").await?;
    ensure!(session.state == State::new().with("app:k", json!({"a": null})), "{:?}", session.state);
    ensure!(context.append(&session.key, Event::new("user")).await?.revision().is_some());
    Ok(())
}

async fn user_state_is_set_for_that_user_only(context: Context) -> anyhow::Result<()> {
    let (alice, bob) = (context.user("alice")?, context.user("bob")?);
    let delta = State::new().with("k", 1);
    context.state()?.update_state(UpdateState::new(alice.clone(), delta.clone())).await?;
    ensure!(context.service.get_user_state(&alice).await? == delta);
    ensure!(context.service.get_user_state(&bob).await?.is_empty());
    ensure!(context.service.get_app_state(&context.app_name()?).await?.is_empty());
    ensure!(context.session("alice").await?.state == State::new().with("user:k", 1));
    Ok(())
}

/// As google-adk's PATCH of a session does it, in all three scopes.
async fn session_state_is_set_by_an_event(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let stored = State::new().with("own", 1).with("user:theirs", 2).with("app:ours", 3);
    let update = UpdateState::new(session.key.clone(), stored.clone().with("temp:gone", 4)).with_event_id("update");
    let updated = context.state()?.update_state(update).await?;
    let read = context.get(&session.key).await?;
    ensure!(updated == StateUpdated::Session(Appended::Stored(read.revision)), "{updated:?}");
    ensure!(updated.revision() == Some(read.revision) && read.state == stored, "{:?}", read.state);
    let [event] = &*read.events else { anyhow::bail!("{:?}", read.events) };
    ensure!((event.id.as_str(), event.author.as_str(), event.invocation_id.as_str()) == ("update", "user", "p-update"));
    ensure!(event.actions.state_delta == stored && event.content.is_none());
    Ok(())
}

async fn a_state_update_keeps_other_keys(context: Context) -> anyhow::Result<()> {
    let state = context.state()?;
    let key = context.create(&context.key("alice", "s")?, State::new().with("app:a", 1).with("user:a", 1)).await?.key;
    for target in [StateTarget::App(key.app_name.clone()), StateTarget::User(key.user())] {
        let updated = state.update_state(UpdateState::new(target.clone(), State::new().with("b", 2))).await?;
        ensure!(updated == StateUpdated::Shared(State::new().with("a", 1).with("b", 2)), "{updated:?}");
        let replaced = State::new().with("a", json!({"x": 1}));
        let updated = state.update_state(UpdateState::new(target, replaced)).await?;
        ensure!(updated == StateUpdated::Shared(State::new().with("a", json!({"x": 1})).with("b", 2)), "{updated:?}");
    }
    Ok(())
}

async fn no_key_of_concurrent_state_updates_is_lost(context: Context) -> anyhow::Result<()> {
    const CALLS: usize = 40;
    let key = context.session("alice").await?.key;
    let targets = [key.app_name.clone().into(), key.user().into(), StateTarget::Session(key.clone())];
    let outcomes = at_once(3 * CALLS, |number| {
        let (state, target) = (context.state().cloned(), targets[number % 3].clone());
        let delta = State::new().with(format!("k{}", number / 3), 1);
        async move { anyhow::Ok(state?.update_state(UpdateState::new(target, delta)).await?) }
    })
    .await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(context.service.get_app_state(&key.app_name).await?.len() == CALLS);
    ensure!(context.service.get_user_state(&key.user()).await?.len() == CALLS);
    let session = context.get(&key).await?;
    ensure!(session.state.len() == 3 * CALLS && session.events.len() == CALLS, "{}", session.state.len());
    Ok(())
}

async fn updates_and_appends_of_app_state_lose_no_key(context: Context) -> anyhow::Result<()> {
    const CALLS: usize = 40;
    let key = context.session("alice").await?.key;
    let outcomes = at_once(CALLS, |number| {
        let (state, service, key) = (context.state().cloned(), context.service.clone(), key.clone());
        let name = format!("k{number}");
        async move {
            if number % 2 == 0 {
                state?.update_state(UpdateState::new(key.app_name, State::new().with(name, 1))).await?;
            } else {
                let event = Event::new("user").with_state_delta(State::new().with(format!("app:{name}"), 1));
                let any = seabed_core::ExpectedRevision::Any;
                service.append_event(seabed_core::AppendEvent::new(key, event, any)).await?;
            }
            anyhow::Ok(())
        }
    })
    .await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(context.service.get_app_state(&key.app_name).await?.len() == CALLS);
    Ok(())
}

async fn a_repeated_session_update_is_a_replay(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let update = UpdateState::new(key.clone(), State::new().with("k", 1));
    let first = context.state()?.update_state(update.clone()).await?;
    let again = context.state()?.update_state(update).await?;
    ensure!(first.revision() == again.revision(), "{first:?} {again:?}");
    ensure!(matches!(again, StateUpdated::Session(Appended::Replayed(_))), "{again:?}");
    ensure!(context.get(&key).await?.events.len() == 1);
    Ok(())
}

async fn a_stale_session_update_conflicts(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let update = || UpdateState::new(session.key.clone(), State::new().with("app:k", 1).with("k", 1));
    context.append(&session.key, Event::new("user")).await?;
    let refused = context.state()?.update_state(update().with_expected_revision(session.revision)).await;
    ensure!(matches!(refused, Err(Error::RevisionConflict { .. })), "{refused:?}");
    ensure!(context.get(&session.key).await?.state.is_empty());
    let revision = context.get(&session.key).await?.revision;
    context.state()?.update_state(update().with_expected_revision(revision)).await?;
    ensure!(context.get(&session.key).await?.state.len() == 2);
    Ok(())
}

async fn updating_a_session_that_does_not_exist_fails(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "nothing")?;
    let refused = context.state()?.update_state(UpdateState::new(key.clone(), State::new().with("app:k", 1))).await;
    ensure!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    ensure!(context.service.get_app_state(&key.app_name).await?.is_empty());
    ensure!(context.service.get_session(GetSession::new(key)).await?.is_none());
    Ok(())
}

async fn bad_state_updates_are_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?.key;
    let targets = [session.app_name.clone().into(), session.user().into(), StateTarget::Session(session.clone())];
    let deltas = |target: &StateTarget| {
        let is_shared = !matches!(target, StateTarget::Session(_));
        let prefixed = ["app:k", "user:k", "temp:k"].map(|key| State::new().with(key, 1));
        let bad = [State::new(), State::new().with("k", "a\0b")];
        bad.into_iter().chain(prefixed.into_iter().filter(move |_| is_shared)).collect::<Vec<_>>()
    };
    for target in targets {
        for delta in deltas(&target) {
            let refused = context.state()?.update_state(UpdateState::new(target.clone(), delta.clone())).await;
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "{target:?} {delta:?}: {refused:?}");
        }
        let replaced = UpdateState::new(target, State::new().with("k", "a\0b")).with_nul_policy(NulPolicy::Replace);
        context.state()?.update_state(replaced).await.context("a replaced NUL")?;
    }
    let state = context.get(&session).await?.state;
    let is_replaced = |value: &Json| value.decode::<String>().is_ok_and(|text| text == "a\u{fffd}b");
    ensure!(state.len() == 3 && state.iter().all(|(_, value)| is_replaced(value)), "{state:?}");
    Ok(())
}
