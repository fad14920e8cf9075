//! Rewinds, and the state as of an event.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use seabed_core::history::{AgentContext, RewindSession, StateHistory, live_events};
use seabed_core::{
    AppendEvent, Error, Event, ExpectedRevision, Scope, Session, SessionKey, SessionService, SessionServiceExt, State,
};
use serde_json::{Value, json};

use crate::Context;
use crate::context::{at_once, event_ids};

super::case_list![
    a_rewind_takes_back_events_and_state_and_keeps_the_initial_state,
    without_the_initial_state_a_rewind_tells_which_keys_it_may_have_lost,
    a_rewind_that_cannot_be_is_refused_and_writes_nothing,
    a_rewind_takes_back_only_what_it_has_read,
    the_state_as_of_each_event_is_what_was_stored_then,
    the_effective_events_are_those_of_a_model_request,
];

/// An event of an invocation with the same name as its id.
fn turn(id: &str, delta: State) -> Event {
    Event::new("agent").with_id(id).with_invocation_id(id).with_text(id).with_state_delta(delta)
}

async fn a_rewind_takes_back_events_and_state_and_keeps_the_initial_state(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let initial = State::new().with("language", "no").with("city", "Oslo").with("user:name", "Alice");
    context.create(&key, initial.clone()).await?;
    context.append(&key, turn("a", State::new().with("seats", 2))).await?;
    let delta = State::new().with("city", "Bergen").with("hotel", "Opus").with("user:name", "Bob").with("seats", 3);
    context.append(&key, turn("b", delta)).await?;

    let request = RewindSession::new(key.clone(), "b").with_initial_state(initial.clone());
    let rewound = context.service.rewind(request).await?;
    ensure!(rewound.unknown.is_empty(), "{:?}", rewound.unknown);
    let stored = context.get(&key).await?;
    ensure!(rewound.session == stored, "{:?} instead of {stored:?}", rewound.session);
    let expected = initial.clone().with("user:name", "Bob").with("seats", 2).with("hotel", Value::Null);
    ensure!(stored.state == expected, "{:?}", stored.state);
    ensure!(live_events(&stored.events) == [&stored.events[0]]);

    let history = stored.state_history()?.with_initial_state(&initial);
    ensure!(history.effective_state() == initial.clone().with("user:name", "Bob").with("seats", 2));

    // To before the first event, and on from there.
    let request = RewindSession::new(key.clone(), "a").with_initial_state(initial.clone());
    let mut session = context.service.rewind(request).await?.session;
    ensure!(live_events(&session.events).is_empty());
    ensure!(session.state == initial.with("user:name", "Bob").with("seats", Value::Null).with("hotel", Value::Null));
    context.service.append(&mut session, turn("c", State::new())).await?;
    ensure!(live_events(&session.events) == [&session.events[4]], "{:?}", event_ids(&session));
    Ok(())
}

async fn without_the_initial_state_a_rewind_tells_which_keys_it_may_have_lost(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    context.create(&key, State::new().with("language", "no").with("city", "Oslo")).await?;
    context.append(&key, turn("a", State::new().with("city", "Bergen").with("hotel", "Opus"))).await?;
    let rewound = context.service.rewind(RewindSession::new(key.clone(), "a")).await?;
    ensure!(rewound.unknown.iter().eq(["city", "hotel"]), "{:?}", rewound.unknown);
    let expected = State::new().with("language", "no").with("city", Value::Null).with("hotel", Value::Null);
    ensure!(context.get(&key).await?.state == expected && rewound.session.state == expected);
    Ok(())
}

async fn a_rewind_that_cannot_be_is_refused_and_writes_nothing(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let gone = context.service.rewind(RewindSession::new(key.clone(), "a")).await;
    ensure!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    // Nothing is read for an id that no invocation can have.
    let empty = context.service.rewind(RewindSession::new(key.clone(), "")).await;
    ensure!(matches!(empty, Err(Error::Invalid { field: "before_invocation_id", .. })), "{empty:?}");
    context.create(&key, State::new()).await?;
    context.append(&key, Event::new("user").with_id("a").with_invocation_id("a")).await?;
    context.append(&key, Event::new("user").with_id("without invocation")).await?;
    let before = context.get(&key).await?;
    for invocation in ["", "b", "\0", &"x".repeat(257)] {
        let refused = context.service.rewind(RewindSession::new(key.clone(), invocation)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "before_invocation_id", .. })), "{refused:?}");
    }
    ensure!(context.get(&key).await? == before);
    Ok(())
}

/// Writers and rewinds at once. Whatever was appended before a rewind was read by it: right after it, no key has a
/// value.
async fn a_rewind_takes_back_only_what_it_has_read(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    context.append(&key, turn("a", State::new().with("k", 0))).await?;
    let outcomes = at_once(8, |task| {
        let (service, key) = (context.service.clone(), key.clone());
        async move {
            if task % 2 == 0 {
                return rewind_at_times(&*service, &key).await;
            }
            for number in 0..10 {
                let event = turn(&format!("{task}-{number}"), State::new().with(format!("k{task}"), number));
                service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
            }
            Ok(0)
        }
    })
    .await;
    let rewinds: u32 = outcomes.into_iter().sum::<Result<u32, Error>>()?;
    ensure!(rewinds > 0, "every rewind met a conflict");
    let mut state = State::new();
    for event in context.get(&key).await?.events {
        state.merge(event.actions.state_delta.clone());
        let is_rewind = event.actions.extra.contains_key("rewind_before_invocation_id");
        let left = state.iter().find(|(_, value)| is_rewind && !value.is_null());
        ensure!(left.is_none(), "{left:?} was written between the read and the write of {}", event.id);
    }
    Ok(())
}

/// Goes on after the writers are done, when of the rewinds that meet each other one succeeds.
async fn rewind_at_times(service: &dyn SessionService, key: &SessionKey) -> Result<u32, Error> {
    let mut rewinds = 0;
    for _ in 0..20 {
        match service.rewind(RewindSession::new(key.clone(), "a")).await {
            Ok(_) => rewinds += 1,
            Err(Error::RevisionConflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rewinds)
}

/// The keys of the session itself.
fn own(state: &State) -> State {
    let entries = state.iter().filter(|(key, _)| Scope::of(key).0 == Scope::Session);
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

async fn the_state_as_of_each_event_is_what_was_stored_then(context: Context) -> anyhow::Result<()> {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let key = context.key("alice", &format!("s{seed}"))?;
        let initial = random_state(&mut rng);
        let mut session = context.create(&key, initial.clone()).await?;
        let mut stored = BTreeMap::new();
        for number in 0..12 {
            if number > 0 && rng.u8(..4) == 0 {
                let before = format!("i{}", rng.usize(..number));
                let request = RewindSession::new(key.clone(), before.clone()).with_initial_state(initial.clone());
                match context.service.rewind(request).await {
                    Ok(rewound) => session = rewound.session,
                    // Where it would have been, there is a rewind.
                    Err(Error::Invalid { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            } else {
                let event = Event::new("agent").with_invocation_id(format!("i{number}"));
                context.service.append(&mut session, event.with_state_delta(random_state(&mut rng))).await?;
            }
            let id = session.events.last().context("no event")?.id.clone();
            stored.insert(id, own(&context.get(&key).await?.state));
        }
        expect_states(seed, &context.get(&key).await?, &initial, &stored)?;
    }
    Ok(())
}

/// A few of a few keys, so that many are set again.
fn random_state(rng: &mut fastrand::Rng) -> State {
    let values = [json!(null), json!(1), json!({"nested": [1, null]})];
    let keys = ["a", "b", "c", "d", "user:u"].into_iter().filter(|_| rng.u8(..3) == 0).collect::<Vec<_>>();
    keys.into_iter().map(|key| (key.to_owned(), rng.choice(&values).cloned().unwrap_or_default().into())).collect()
}

fn expect_states(
    seed: u64,
    session: &Session,
    initial: &State,
    stored: &BTreeMap<String, State>,
) -> anyhow::Result<()> {
    let without = session.state_history()?;
    for (id, stored) in stored {
        let at = |history: StateHistory<'_>| history.state_at(id).with_context(|| format!("no event {id}"));
        let exact = at(without.with_initial_state(initial))?;
        ensure!(exact.state == *stored && exact.unknown.is_empty(), "seed {seed}: {exact:?} instead of {stored:?}");
        // What is known without the initial state is right, and what is missing is named.
        let known = at(without)?;
        for key in stored.iter().chain(&known.state).map(|(key, _)| key) {
            let is_right = known.state.get(key) == stored.get(key) || known.unknown.contains(key);
            ensure!(is_right, "seed {seed}: {key} of {known:?} instead of {stored:?}");
        }
        ensure!(known.unknown.iter().all(|key| known.state.get(key).is_none()), "seed {seed}: {known:?}");
    }
    let all = stored.values().flat_map(State::iter).filter(|(_, value)| value.is_null()).count();
    ensure!(seed > 0 || all > 0, "nothing was null");
    Ok(())
}

async fn the_effective_events_are_those_of_a_model_request(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for (id, seconds) in [("a", 1e9), ("b", 1e9 + 1.0), ("c", 1e9 + 2.0), ("d", 1e9 + 3.0)] {
        context.append(&key, turn(id, State::new()).with_timestamp(seconds)).await?;
    }
    let mut compaction = Event::new("user").with_id("summary").with_invocation_id("summary");
    let summary = json!({"role": "model", "parts": [{"text": "a and b"}]});
    let range = json!({"start_timestamp": 1e9, "end_timestamp": 1e9 + 1.0, "compacted_content": summary});
    compaction.actions.extra.insert("compaction".to_owned(), range.into());
    context.append(&key, compaction).await?;
    context.append(&key, turn("e", State::new())).await?;
    context.service.rewind(RewindSession::new(key.clone(), "e")).await?;

    let events = context.service.effective_events(key.clone(), &AgentContext::new("agent")).await?;
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    ensure!(ids == ["summary", "c", "d"], "{ids:?}");
    ensure!(events[0].content == Some(summary.into()) && events[0].author == "agent");
    let gone = context.service.effective_events(context.key("alice", "gone")?, &AgentContext::default()).await;
    ensure!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    Ok(())
}
