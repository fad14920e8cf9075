//! Seabed under adk-rust, on SQLite and with nothing to install:
//! `cargo run -p seabed-adk-rust --example two_users --features migrate,sqlite`.

use std::sync::Arc;

use adk_core::identity::AdkIdentity;
use adk_core::{Content, Part};
use adk_session::{AppendEventRequest, CreateRequest, Event, Session, SessionService};
use seabed_adk_rust::{SeabedSessionService, seabed};
use serde_json::json;
use tokio::task::JoinSet;

const APP: &str = "travel";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("agents.db").display());
    let database = seabed::open(&url).await?;
    seabed::migrate(&database).await?;
    let store = seabed::from_connection(database).await?;
    // What a runner takes.
    let sessions: Arc<dyn SessionService> = Arc::new(SeabedSessionService::new(store));

    println!("1. 100 tasks create a session at the same time, each with an app key of its own.");
    let mut racers = JoinSet::new();
    for number in 0..100 {
        let sessions = sessions.clone();
        let key = format!("app:key{number}");
        racers.spawn(async move { create(&*sessions, &format!("user{number}"), &key).await.map(drop) });
    }
    let created = racers.join_all().await.into_iter().flatten().count();
    let alice = create(&*sessions, "alice", "app:last").await?;
    let keys = alice.state().all().keys().filter(|key| key.starts_with("app:")).count();
    println!("   {created} of 100 sessions were created, and {keys} of 101 app keys are there.\n");
    anyhow::ensure!(created == 100 && keys == 101, "the race was lost");

    println!("2. Two users talk at the same time, and each sees only what is theirs.");
    let bob = create(&*sessions, "bob", "user:likes").await?;
    for (session, city) in [(&alice, "Naples"), (&bob, "Oslo")] {
        let identity = session.try_identity()?;
        for event in turn(city) {
            append(&*sessions, &identity, event).await?;
        }
    }
    for session in [alice, bob] {
        let session = sessions.get_for_identity(&session.try_identity()?).await?;
        println!(
            "   {}: {} events, to = {}",
            session.user_id(),
            session.events().len(),
            session.state().get("to").unwrap_or_default()
        );
    }
    println!("\nThe tables are google-adk's: a Python agent goes on in these sessions.");
    Ok(())
}

async fn create(sessions: &dyn SessionService, user: &str, key: &str) -> adk_core::Result<Box<dyn Session>> {
    let state = [(key.to_owned(), json!(true))].into();
    sessions.create(CreateRequest { app_name: APP.to_owned(), user_id: user.to_owned(), session_id: None, state }).await
}

async fn append(sessions: &dyn SessionService, identity: &AdkIdentity, event: Event) -> adk_core::Result<()> {
    sessions.append_event_for_identity(AppendEventRequest { identity: identity.clone(), event }).await
}

/// The events of a run: a question, a call of a tool, and its result, which changes the state.
fn turn(city: &str) -> [Event; 3] {
    let run = format!("to-{city}");
    let event = |author: &str, content: Content| {
        let mut event = Event::new(run.as_str());
        author.clone_into(&mut event.author);
        event.set_content(content);
        event
    };
    let mut call = Content::new("model");
    call.parts.push(Part::FunctionCall {
        name: "book".to_owned(),
        args: json!({"to": city}),
        id: Some("call-1".to_owned()),
        thought_signature: None,
    });
    let mut result = Content::new("function");
    result.parts.push(Part::FunctionResponse {
        function_response: adk_core::FunctionResponseData::new("book", json!({"booked": true})),
        id: Some("call-1".to_owned()),
        annotations: None,
    });
    let mut booked = event("planner", result);
    booked.actions.state_delta.insert("to".to_owned(), json!(city));
    [event("user", Content::new("user").with_text(format!("Book me to {city}."))), event("planner", call), booked]
}
