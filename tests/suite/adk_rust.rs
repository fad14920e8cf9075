//! adk-rust on Seabed, and google-adk on the same tables.

use std::collections::HashMap;

use adk_core::identity::AdkIdentity;
use adk_core::{
    BlobResourceContents, Content, EmbeddedResource, EventCompaction, FunctionResponseData, InlineDataPart, Part,
    TextResourceContents, ToolConfirmationRequest, UsageMetadata,
};
use adk_session::{
    AppendEventRequest, CreateRequest, EncryptedSession, Event, GetRequest, InMemorySessionService, Session,
    SessionService,
};
use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::try_join_all;
use seabed::{Json, MemorySessionService, SessionKey, State};
use seabed_adk_rust::SeabedSessionService;
use seabed_tests::ADK_2_13;
use serde_json::{Value, json};

use self::contract::assert_session_contract;
use crate::fixture::Fixture;

/// adk-session's own, compiled from the published package.
#[allow(
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "it is not our code"
)]
mod contract {
    include!(env!("ADK_SESSION_CONTRACT"));
}

crate::database_cases! {
    Everywhere: [
        adk_rust_s_contract_holds,
        adk_rust_s_encrypting_wrapper_works,
        events_of_adk_rust_come_back_equal,
        adk_rust_loses_no_app_state,
    ],
    Sqlite: [
        adk_rust_s_contract_holds_in_memory,
    ],
    BesideAdk: [
        google_adk_goes_on_in_a_session_of_adk_rust_and_back,
        adk_rust_reads_all_that_google_adk_writes,
    ],
}

async fn service(fixture: &Fixture) -> anyhow::Result<SeabedSessionService> {
    Ok(SeabedSessionService::new(fixture.migrated().await?))
}

async fn create(service: &dyn SessionService, session_id: &str) -> anyhow::Result<Box<dyn Session>> {
    let [app_name, user_id, session_id] = ["travel", "alice", session_id].map(str::to_owned);
    let state = HashMap::from([("user:home".to_owned(), "Bergen".into())]);
    Ok(service.create(CreateRequest { app_name, user_id, session_id: Some(session_id), state }).await?)
}

async fn append(service: &dyn SessionService, identity: &AdkIdentity, event: Event) -> anyhow::Result<()> {
    Ok(service.append_event_for_identity(AppendEventRequest { identity: identity.clone(), event }).await?)
}

fn key(session_id: &str) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::try_new("travel", "alice", session_id)?)
}

/// Events that together have every kind of part, and every field without a place in google-adk.
fn events() -> anyhow::Result<Vec<Event>> {
    let now = "2026-01-02T03:04:05.123456789Z".parse::<DateTime<Utc>>()?;
    let mut events = Vec::new();
    for (number, part) in (0_u32..).zip(parts()?) {
        let role = match part {
            Part::Text { .. } => "user",
            Part::FunctionResponse { .. } => "function",
            _ => "model",
        };
        let mut event = Event::with_id(format!("event-{number}"), "run");
        event.author = if role == "user" { "user" } else { "planner" }.into();
        event.timestamp = now + TimeDelta::seconds(number.into());
        event.set_content(Content { role: role.to_owned(), parts: vec![part] });
        events.push(event);
    }
    let mut event = Event::with_id("rest", "run");
    event.author = "planner".into();
    event.timestamp = now + TimeDelta::hours(1);
    event.branch = "root.planner".into();
    event.long_running_tool_ids = vec!["b".to_owned(), "a".to_owned(), "b".to_owned()];
    event.provider_metadata.insert("region".to_owned(), "eu".to_owned());
    event.llm_response.turn_complete = true;
    event.llm_response.provider_metadata = Some(json!({"cached": [1, null]}));
    event.llm_response.usage_metadata =
        Some(UsageMetadata { prompt_token_count: 3, cost: Some(0.001), ..UsageMetadata::default() });
    event.actions.state_delta =
        HashMap::from([("app:currency".to_owned(), json!("EUR")), ("to".to_owned(), json!([1]))]);
    event.actions.route = Some(vec!["next".to_owned()]);
    event.actions.tool_confirmation = Some(ToolConfirmationRequest {
        tool_name: "book".to_owned(),
        function_call_id: Some("call-1".to_owned()),
        args: json!({"to": "Oslo"}),
    });
    event.actions.compaction = Some(EventCompaction {
        start_timestamp: now,
        end_timestamp: event.timestamp,
        compacted_content: Content::new("model").with_text("They went to Oslo."),
    });
    events.push(event);
    Ok(events)
}

fn parts() -> anyhow::Result<Vec<Part>> {
    let annotations = Some(json!({"audience": ["user"]}));
    let data = InlineDataPart {
        mime_type: "image/png".to_owned(),
        data: (0..=255).collect(),
        uri: Some("file:///a.png".to_owned()),
        annotations: None,
    };
    let InlineDataPart { mime_type, data: bytes, uri, .. } = data.clone();
    let call = |args: Value| Part::FunctionCall {
        name: "book".to_owned(),
        args,
        id: Some("call-1".to_owned()),
        thought_signature: Some("c2lnbg==".to_owned()),
    };
    let response = |response: Value| Part::FunctionResponse {
        function_response: FunctionResponseData::with_multimodal("book", response, vec![data.clone()], Vec::new()),
        id: Some("call-1".to_owned()),
        annotations: annotations.clone(),
    };
    let text = TextResourceContents::new("file:///a.rs", Some("text/x-rust".to_owned()), "fn main() {}");
    Ok(vec![
        Part::text_part("é 🐢 \u{2028}"),
        Part::Thinking { thinking: "hm".to_owned(), signature: Some("not Base64".to_owned()) },
        Part::InlineData { mime_type, data: bytes, uri, annotations: annotations.clone() },
        Part::FileData {
            mime_type: "text/csv".to_owned(),
            file_uri: "gs://a/b".to_owned(),
            annotations: annotations.clone(),
        },
        call(json!({"to": "Oslo"})),
        call(json!(["Oslo"])),
        call(Value::Null),
        response(json!({"booked": true})),
        response(json!("booked")),
        Part::ServerToolCall { server_tool_call: json!({"toolType": "GOOGLE_SEARCH", "args": {"q": "Oslo"}, "x": 1}) },
        Part::ServerToolResponse { server_tool_response: json!("found") },
        Part::EmbeddedResource { resource: EmbeddedResource::Text(text) },
        Part::EmbeddedResource {
            resource: EmbeddedResource::Blob(BlobResourceContents::new("file:///b", None, vec![0, 255])?),
        },
    ])
}

fn expect_equal(expected: &[Event], found: &[Event]) -> anyhow::Result<()> {
    ensure!(expected.len() == found.len(), "{} events became {}", expected.len(), found.len());
    for (expected, found) in expected.iter().zip(found) {
        let (expected, found) = (serde_json::to_value(expected)?, serde_json::to_value(found)?);
        ensure!(expected == found, "{expected:#} became {found:#}");
    }
    Ok(())
}

async fn adk_rust_s_contract_holds(fixture: &Fixture) -> anyhow::Result<()> {
    assert_session_contract(&service(fixture).await?, "app", "other app").await;
    Ok(())
}

async fn adk_rust_s_contract_holds_in_memory(_: &Fixture) -> anyhow::Result<()> {
    assert_session_contract(&InMemorySessionService::new(), "app", "other app").await;
    assert_session_contract(&SeabedSessionService::new(MemorySessionService::default()), "app", "other app").await;
    Ok(())
}

async fn adk_rust_s_encrypting_wrapper_works(fixture: &Fixture) -> anyhow::Result<()> {
    let store = fixture.migrated().await?;
    let plain = SeabedSessionService::new(store.clone());
    let key = adk_session::EncryptionKey::generate();
    let encrypted = EncryptedSession::new(SeabedSessionService::new(store), key, Vec::new());
    let session = create(&encrypted, "s").await?;
    let identity = session.try_identity()?;
    let mut event = Event::new("run");
    event.author = "user".into();
    event.set_content(Content::new("user").with_text("secret"));
    event.actions.state_delta.insert("to".to_owned(), "Oslo".into());
    append(&encrypted, &identity, event.clone()).await?;

    let found = encrypted.get_for_identity(&identity).await?;
    expect_equal(&[event], &found.events().all())?;
    ensure!(found.state().get("to") == Some("Oslo".into()) && found.state().get("user:home") == Some("Bergen".into()));
    let stored = plain.get_for_identity(&identity).await?;
    ensure!(!format!("{:?} {:?}", stored.events().all(), stored.state().all()).contains("secret"));
    Ok(())
}

async fn events_of_adk_rust_come_back_equal(fixture: &Fixture) -> anyhow::Result<()> {
    let service = service(fixture).await?;
    let identity = create(&service, "s").await?.try_identity()?;
    let events = events()?;
    for event in &events {
        append(&service, &identity, event.clone()).await?;
    }
    let session = service.get_for_identity(&identity).await?;
    expect_equal(&events, &session.events().all())?;

    // By the events' own times, which have nanoseconds.
    let GetRequest { app_name, user_id, session_id, .. } = request("s");
    let after = events.iter().rev().nth(2).map(|event| event.timestamp);
    let read = GetRequest { app_name, user_id, session_id, num_recent_events: Some(5), after };
    ensure!(service.get(read).await?.events().len() == 3);
    Ok(())
}

fn request(session_id: &str) -> GetRequest {
    let [app_name, user_id, session_id] = ["travel", "alice", session_id].map(str::to_owned);
    GetRequest { app_name, user_id, session_id, num_recent_events: None, after: None }
}

/// Of adk-rust's own services, those on databases lose most of these keys.
async fn adk_rust_loses_no_app_state(fixture: &Fixture) -> anyhow::Result<()> {
    const CALLERS: usize = 30;
    let service = service(fixture).await?;
    let race = (0..CALLERS).map(|number| {
        let service = &service;
        async move {
            let state = HashMap::from([(format!("app:created{number}"), json!(number))]);
            let [app_name, user_id] = ["travel".to_owned(), format!("user{number}")];
            let session = service.create(CreateRequest { app_name, user_id, session_id: None, state }).await?;
            let mut event = Event::new("run");
            event.actions.state_delta.insert(format!("app:appended{number}"), json!(number));
            service.append_event(session.id(), event).await
        }
    });
    try_join_all(race).await?;
    let state = create(&service, "s").await?.state().all();
    let keys = state.keys().filter(|key| key.starts_with("app:")).count();
    ensure!(keys == 2 * CALLERS, "{keys} of {} keys are left", 2 * CALLERS);
    Ok(())
}

async fn google_adk_goes_on_in_a_session_of_adk_rust_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let service = service(fixture).await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let identity = create(&service, "s").await?.try_identity()?;
    let events = events()?;
    for event in &events {
        append(&service, &identity, event.clone()).await?;
    }
    let found = adk.get(&key("s")?).await?.context("google-adk finds no session")?;
    ensure!(found.events.len() == events.len(), "google-adk reads {} of {}", found.events.len(), events.len());
    ensure!(found.state.decode::<String>("app:currency")?.as_deref() == Some("EUR"));

    let answer = seabed::Event::new("python").with_id("answer").with_text("On it.");
    adk.reload_and_append(&key("s")?, &Json::from_serialize(&answer)?).await?;
    let mut last = Event::with_id("last", "run 2");
    last.author = "planner".into();
    last.timestamp = Utc::now();
    append(&service, &identity, last.clone()).await?;

    let session = service.get_for_identity(&identity).await?;
    let mut found = session.events().all();
    let answered = found.remove(events.len());
    ensure!(answered.id == "answer" && answered.author == "python", "{answered:?}");
    ensure!(answered.content().is_some_and(|content| content.parts == [Part::text_part("On it.")]), "{answered:?}");
    expect_equal(&events.into_iter().chain([last]).collect::<Vec<_>>(), &found)?;
    ensure!(adk.get(&key("s")?).await?.context("no session")?.events.len() == found.len() + 1);
    adk.stop().await
}

/// The parts of google-adk's that adk-rust has a place for. In the samples, a part has one field.
const KNOWN_PARTS: [&str; 7] = [
    "part.file_data",
    "part.function_call",
    "part.function_response",
    "part.inline_data",
    "part.text",
    "part.tool_call",
    "part.tool_response",
];

async fn adk_rust_reads_all_that_google_adk_writes(fixture: &Fixture) -> anyhow::Result<()> {
    let service = service(fixture).await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    adk.create(&key("s")?, &State::new()).await?;
    let samples = adk.sample_events().await?;
    for sample in &samples {
        adk.append(&key("s")?, sample).await?;
    }
    let session = service.get(request("s")).await?;
    let found = session.events().all();
    ensure!(found.len() == samples.len(), "{} of {} events are read", found.len(), samples.len());
    for (sample, event) in samples.iter().zip(&found) {
        let sample: Value = sample.decode()?;
        ensure!(sample["id"] == json!(event.id) && sample["author"] == json!(event.author), "{event:?}");
        let parts = event.content().map_or(0, |content| content.parts.len());
        let is_known = KNOWN_PARTS.iter().any(|name| event.id.ends_with(name));
        ensure!(!is_known || parts == 1, "{}: {parts} parts", event.id);
    }
    // And goes on.
    append(&service, &session.try_identity()?, Event::new("run")).await?;
    ensure!(adk.get(&key("s")?).await?.context("no session")?.events.len() == samples.len() + 1);
    adk.stop().await
}
