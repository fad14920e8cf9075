//! Rewinds and compactions, compared with google-adk's own functions.

mod generate;

use std::borrow::Cow;

use anyhow::{Context as _, ensure};
use seabed::history::{AgentContext, RewindSession, StateHistory, effective_events, live_events};
use seabed::{Event, Json, SessionServiceExt as _, State};
use seabed_tests::{ADK_2_13, AdkEffective, AdkUsed, Peer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::fixture::Fixture;

crate::database_cases! {
    SqliteBesideAdk: [
        effective_events_are_those_of_google_adk,
        lax_spellings_mean_what_they_mean_to_google_adk,
    ],
    BesideAdk: [
        google_adk_reads_a_rewind_as_its_own,
        a_rewind_of_google_adk_is_read_as_ours,
    ],
}

/// How many histories are compared, and how many of them google-adk gets at once.
const HISTORIES: u64 = 10_000;
const AT_ONCE: usize = 500;

/// A history, and what is asked about it, as the peer reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct History {
    events: Vec<Json>,
    agent: Agent,
    /// The state of the session after the events.
    state: State,
    /// The invocation to rewind to.
    before: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Agent {
    name: String,
    branch: Option<String>,
    isolation_scope: Option<String>,
    node_path: Option<String>,
    is_single_turn: bool,
    thoughts: bool,
}

impl Agent {
    fn context(&self) -> AgentContext {
        let mut context = AgentContext::new(&self.name);
        if let Some(branch) = &self.branch {
            context = context.with_branch(branch);
        }
        if let Some(scope) = &self.isolation_scope {
            context = context.with_isolation_scope(scope);
        }
        if let Some(path) = &self.node_path {
            context = context.with_node_path(path);
        }
        if self.is_single_turn {
            context = context.in_single_turn();
        }
        if self.thoughts { context.with_thoughts_of_others() } else { context }
    }
}

/// How often a rule applied, so that no rule goes untested.
#[derive(Debug, Default)]
struct Coverage {
    rewound: u32,
    summaries: u32,
    hidden: u32,
    put_back: u32,
    restored: u32,
}

async fn effective_events_are_those_of_google_adk(fixture: &Fixture) -> anyhow::Result<()> {
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let mut coverage = Coverage::default();
    let seeds: Vec<u64> = (0..HISTORIES).collect();
    for seeds in seeds.chunks(AT_ONCE) {
        let histories = seeds.iter().map(|seed| generate::history(*seed)).collect::<Vec<_>>();
        for ((seed, history), theirs) in seeds.iter().zip(&histories).zip(answers(&adk, &histories).await?) {
            let compared = compare(history, &theirs, &mut coverage);
            compared.with_context(|| format!("seed {seed}: {}", json!(history)))?;
        }
    }
    let Coverage { rewound, summaries, hidden, put_back, restored } = coverage;
    ensure!([rewound, summaries, hidden, put_back, restored].into_iter().all(|count| count > 100), "{coverage:?}");
    adk.stop().await
}

/// Events that differ in one place from a sample of google-adk's, alone in their history. Those that google-adk
/// cannot read mean something too: at least, they do not panic.
async fn lax_spellings_mean_what_they_mean_to_google_adk(fixture: &Fixture) -> anyhow::Result<()> {
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let events = adk.misshapen_events().await?;
    let mut histories = Vec::new();
    for (event, objections) in events.iter().zip(adk.objections(&events).await?) {
        let Ok(event) = event.decode::<Event>() else { continue };
        let event = event.with_id("e").with_timestamp(1e9);
        effective_events(std::slice::from_ref(&event), &AgentContext::default());
        // Seabed reads an event's other names of content and actions as unknown keys.
        let is_renamed = ["message", "state", "route", "node_path"].iter().any(|name| event.extra.contains_key(*name));
        if objections.is_empty() && !is_renamed {
            let (agent, state, before) = (Agent::default(), State::new(), String::new());
            histories.push(History { events: vec![Json::from_serialize(&event)?], agent, state, before });
        }
    }
    ensure!(histories.len() > 2000, "only {} can be read", histories.len());
    for histories in histories.chunks(AT_ONCE) {
        for (history, theirs) in histories.iter().zip(answers(&adk, histories).await?) {
            let events = decoded(history)?;
            let ours: Vec<&str> = live_events(&events).into_iter().map(|event| event.id.as_str()).collect();
            ensure!(ours == theirs.live, "{}", json!(history));
            let ours: Vec<bool> = effective_events(&events, &AgentContext::default())
                .iter()
                .map(|event| matches!(event, Cow::Owned(_)))
                .collect();
            let theirs: Vec<bool> = theirs.used.iter().map(|used| used.id.is_none()).collect();
            ensure!(ours == theirs, "{ours:?} instead of {theirs:?}: {}", json!(history));
        }
    }
    adk.stop().await
}

async fn answers(adk: &Peer, histories: &[History]) -> anyhow::Result<Vec<AdkEffective>> {
    let histories = histories.iter().map(Json::from_serialize).collect::<Result<Vec<_>, _>>()?;
    Ok(adk.effective_events(&histories).await?)
}

fn decoded(history: &History) -> anyhow::Result<Vec<Event>> {
    Ok(history.events.iter().map(Json::decode).collect::<Result<_, _>>()?)
}

fn compare(history: &History, theirs: &AdkEffective, coverage: &mut Coverage) -> anyhow::Result<()> {
    let events = decoded(history)?;
    let live: Vec<&str> = live_events(&events).into_iter().map(|event| event.id.as_str()).collect();
    ensure!(live == theirs.live, "live are {live:?}, not {:?}", theirs.live);
    let ours = effective_events(&events, &history.agent.context());
    let used =
        ours.iter().map(|event| used(event, matches!(event, Cow::Owned(_)))).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(used == theirs.used, "used are {used:?}, not {:?}", theirs.used);

    coverage.rewound += u32::from(live.len() + 1 < events.len());
    if used.iter().any(|used| used.id.is_none()) {
        let raw: Vec<Event> =
            events.iter().filter(|event| !event.actions.extra.contains_key("compaction")).cloned().collect();
        coverage.summaries += 1;
        coverage.hidden += u32::from(effective_events(&raw, &history.agent.context()).len() > used.len());
        // Only a call that is put back stands after what is later.
        coverage.put_back += u32::from(!ours.iter().map(|event| event.timestamp).is_sorted());
    }
    compare_rewind(history, &events, theirs, coverage)
}

/// An event as the peer describes it.
fn used(event: &Event, is_summary: bool) -> anyhow::Result<AdkUsed> {
    if !is_summary {
        return Ok(AdkUsed { id: Some(event.id.clone()), summary: None });
    }
    let content: serde_json::Value = event.content.as_ref().context("no content")?.decode()?;
    let fields = json!([
        event.timestamp,
        event.author,
        event.invocation_id,
        event.branch,
        event.extra.get("isolation_scope"),
        content["parts"][0]["text"],
    ]);
    Ok(AdkUsed { id: None, summary: Some(fields.into()) })
}

/// A session without initial state is rewound to the state to which google-adk rewinds it.
fn compare_rewind(
    history: &History,
    events: &[Event],
    theirs: &AdkEffective,
    coverage: &mut Coverage,
) -> anyhow::Result<()> {
    let initial = State::new();
    let ours = StateHistory::new(events, &history.state).with_initial_state(&initial).rewind_before(&history.before);
    let merged = |delta: Option<State>| {
        delta.map(|delta| {
            let mut state = history.state.clone();
            state.merge(delta);
            state
        })
    };
    let (ours, theirs) = (merged(ours.map(|rewind| rewind.state_delta)), merged(theirs.delta.clone()));
    ensure!(ours == theirs, "rewound to {ours:?}, not {theirs:?}");
    coverage.restored += u32::from(ours.is_some_and(|state| state != history.state));
    Ok(())
}

/// A session with initial state and three invocations; the last two set keys.
async fn session(fixture: &Fixture, name: &str) -> anyhow::Result<(seabed::DynSessionService, seabed::SessionKey)> {
    let service = fixture.migrated().await?;
    let key = seabed::SessionKey::try_new("app", "alice", name)?;
    let initial = State::new().with("language", "no").with("city", "Oslo");
    service
        .create_session(
            seabed::CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(initial),
        )
        .await?;
    for (invocation, delta) in [
        ("a", State::new().with("seats", 2)),
        ("b", State::new().with("seats", 3).with("city", "Bergen")),
        ("c", State::new().with("hotel", json!({"name": "Opus"})).with("seats", serde_json::Value::Null)),
    ] {
        let event = Event::new("agent").with_invocation_id(invocation).with_text(invocation).with_state_delta(delta);
        let any = seabed::ExpectedRevision::Any;
        service.append_event(seabed::AppendEvent::new(key.clone(), event, any)).await?;
    }
    Ok((service, key))
}

/// The fields of a marker by which google-adk knows it, without those that differ from one to the next.
fn marker(event: &Event) -> anyhow::Result<Json> {
    ensure!(event.invocation_id.starts_with("e-"), "{}", event.invocation_id);
    let mut marker = event.clone().with_id("marker").with_invocation_id("e-").with_timestamp(0.0);
    // The empty defaults that google-adk writes.
    marker.actions.extra.retain(|_, value| value.as_str() != "{}");
    marker.extra.retain(|key, value| !(key == "node_info" && value.canonical() == r#"{"path":""}"#));
    Ok(Json::from_serialize(&marker)?)
}

async fn google_adk_reads_a_rewind_as_its_own(fixture: &Fixture) -> anyhow::Result<()> {
    let (service, key) = session(fixture, "ours").await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let rewound = service.rewind(RewindSession::new(key.clone(), "b")).await?;
    ensure!(rewound.unknown.iter().eq(["city", "hotel"]), "{:?}", rewound.unknown);

    let read = adk.get(&key).await?.context("google-adk finds no session")?;
    let live = live_events(&rewound.session.events);
    ensure!(live.len() == 1 && live[0].invocation_id == "a", "{live:?}");
    let state = State::new().with("language", "no").with("seats", 2);
    let state = state.with("city", serde_json::Value::Null).with("hotel", serde_json::Value::Null);
    let history =
        History { events: read.events, agent: Agent::default(), state: read.state.clone(), before: "c".into() };
    let theirs = answers(&adk, &[history]).await?.pop().context("no answer")?;
    ensure!(theirs.live == [live[0].id.clone()], "{theirs:?}");
    ensure!(read.state == state && rewound.session.state == state, "{:?}", read.state);

    // google-adk goes on with the session, and rewinds it too.
    adk.rewind(&key, "a").await?;
    let session = service.get_session(seabed::GetSession::new(key)).await?.context("no session")?;
    ensure!(live_events(&session.events).is_empty() && session.events.len() == 5, "{session:?}");
    adk.stop().await
}

async fn a_rewind_of_google_adk_is_read_as_ours(fixture: &Fixture) -> anyhow::Result<()> {
    let (service, key) = session(fixture, "theirs").await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let before = service.get_session(seabed::GetSession::new(key.clone())).await?.context("no session")?;
    adk.rewind(&key, "b").await?;
    let session = service.get_session(seabed::GetSession::new(key)).await?.context("no session")?;
    ensure!(live_events(&session.events) == [&session.events[0]], "{session:?}");
    let ours = before.state_history()?.rewind_before("b").context("no such invocation")?.into_event();
    let mut theirs = session.events[3].clone();
    // google-adk nulls the initial state.
    let language = theirs.actions.state_delta.get("language").is_some_and(Json::is_null);
    ensure!(language, "adk#4839 is fixed: {:?}", theirs.actions.state_delta);
    theirs.actions.state_delta = theirs
        .actions
        .state_delta
        .iter()
        .filter(|(key, _)| *key != "language")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    ensure!(marker(&ours)? == marker(&theirs)?, "{ours:?} beside {theirs:?}");
    let initial = State::new().with("language", "no").with("city", "Oslo");
    let effective = session.state_history()?.with_initial_state(&initial).effective_state();
    let expected =
        State::new().with("seats", 2).with("language", serde_json::Value::Null).with("city", serde_json::Value::Null);
    ensure!(effective == expected, "{effective:?}");
    adk.stop().await
}
