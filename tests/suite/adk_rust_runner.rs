//! Agents of adk-rust in its own Runner, with a model that follows a script.

use std::collections::BTreeMap;
use std::sync::Arc;

use adk_agent::LlmAgentBuilder;
use adk_core::{AdkError, Content, Llm, LlmRequest, LlmResponse, LlmResponseStream, Part, Result, Tool, ToolContext};
use adk_runner::Runner;
use adk_session::{CreateRequest, Event, GetRequest, InMemorySessionService, Session, SessionService};
use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use seabed::SessionKey;
use seabed_adk_rust::SeabedSessionService;
use seabed_tests::ADK_2_13;
use serde_json::{Value, json};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_runner_of_adk_rust_says_the_same_as_in_memory,
        a_run_of_adk_rust_that_another_overtakes_ends,
    ],
    BesideAdk: [
        google_adk_reads_what_a_runner_of_adk_rust_wrote,
    ],
}

const APP: &str = "travel";
const TURNS: usize = 8;

/// Calls `book` for each thing that a user says, then says how often that user has asked. So it shows whether the
/// history that it is given is whole.
struct ScriptedModel;

#[async_trait]
impl Llm for ScriptedModel {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn generate_content(&self, request: LlmRequest, _stream: bool) -> Result<LlmResponseStream> {
        let said = request.contents.iter().filter(|content| content.role == "user").flat_map(|content| &content.parts);
        let said = said.filter_map(|part| part.text()).collect::<Vec<_>>();
        let last = request.contents.last().and_then(|content| content.parts.last());
        let part = match last {
            Some(Part::FunctionResponse { function_response, .. }) => {
                Part::text_part(format!("{}, of {} wishes", function_response.response["booked"], said.len()))
            }
            _ => Part::FunctionCall {
                name: "book".to_owned(),
                args: json!({"to": said.last()}),
                id: Some(format!("call-{}", said.len())),
                thought_signature: None,
            },
        };
        let content = Content { role: "model".to_owned(), parts: vec![part] };
        Ok(stream::iter([Ok(LlmResponse::new(content))]).boxed())
    }
}

/// Writes the booking into each scope of the state.
struct Book;

#[async_trait]
impl Tool for Book {
    fn name(&self) -> &'static str {
        "book"
    }

    fn description(&self) -> &'static str {
        "Books a trip."
    }

    async fn execute(&self, context: Arc<dyn ToolContext>, args: Value) -> Result<Value> {
        let to = args["to"].as_str().ok_or_else(|| AdkError::tool("no destination"))?.to_owned();
        let mut actions = context.actions();
        actions.state_delta.insert("to".to_owned(), json!(to));
        actions.state_delta.insert(format!("user:{to}"), json!(true));
        actions.state_delta.insert(format!("app:{}:{to}", context.user_id()), json!(true));
        context.set_actions(actions);
        Ok(json!({"booked": to}))
    }
}

fn runner(service: Arc<dyn SessionService>) -> anyhow::Result<Runner> {
    let agent = LlmAgentBuilder::new("planner").model(Arc::new(ScriptedModel)).tool(Arc::new(Book)).build()?;
    Ok(Runner::builder().app_name(APP).agent(Arc::new(agent)).session_service(service).build()?)
}

async fn create(service: &dyn SessionService, user: &str) -> anyhow::Result<()> {
    let [app_name, user_id, session_id] = [APP, user, "s"].map(str::to_owned);
    let state = [("user:home".to_owned(), json!(user))].into();
    service.create(CreateRequest { app_name, user_id, session_id: Some(session_id), state }).await?;
    Ok(())
}

async fn get(service: &dyn SessionService, user: &str) -> anyhow::Result<Box<dyn Session>> {
    let [app_name, user_id, session_id] = [APP, user, "s"].map(str::to_owned);
    Ok(service.get(GetRequest { app_name, user_id, session_id, num_recent_events: None, after: None }).await?)
}

async fn say(runner: &Runner, user: &str, text: String) -> Result<Vec<Event>> {
    runner.run_str(user, "s", Content::new("user").with_text(text)).await?.try_collect().await
}

/// Two users talk with the agent at the same time, each in a session of the same id.
async fn talk(service: &Arc<dyn SessionService>) -> anyhow::Result<()> {
    let runner = runner(service.clone())?;
    let talks = ["alice", "bob"].map(|user| {
        let runner = &runner;
        async move {
            create(&**service, user).await?;
            for turn in 0..TURNS {
                say(runner, user, format!("{user}'s wish {turn}")).await?;
            }
            anyhow::Ok(())
        }
    });
    try_join_all(talks).await?;
    Ok(())
}

/// What was said and done, without ids and times.
fn transcript(session: &dyn Session) -> anyhow::Result<Vec<Value>> {
    let events = session.events().all();
    let told = events.iter().map(|event| {
        let state = event.actions.state_delta.iter().collect::<BTreeMap<_, _>>();
        Ok(json!([event.author, serde_json::to_value(event.content())?, state]))
    });
    told.collect()
}

async fn a_runner_of_adk_rust_says_the_same_as_in_memory(fixture: &Fixture) -> anyhow::Result<()> {
    let in_memory: Arc<dyn SessionService> = Arc::new(InMemorySessionService::new());
    talk(&in_memory).await?;
    let store = fixture.migrated().await?;
    let stored: Arc<dyn SessionService> = Arc::new(SeabedSessionService::new(store.clone()));
    talk(&stored).await?;

    // As another process reads it.
    let stored = SeabedSessionService::new(store);
    for user in ["alice", "bob"] {
        let expected = transcript(&*get(&*in_memory, user).await?)?;
        let found = get(&stored, user).await?;
        let told = transcript(&*found)?;
        ensure!(told == expected, "{user} was told\n{told:#?}\nand in memory\n{expected:#?}");
        ensure!(told.len() == 4 * TURNS, "{} events", told.len());
        let last = told.last().context("no event")?.to_string();
        ensure!(last.contains(&format!("of {TURNS} wishes")), "{last}");
        let state = found.state().all();
        let of_app = state.keys().filter(|key| key.starts_with("app:")).count();
        let of_user = state.keys().filter(|key| key.starts_with("user:")).count();
        ensure!((of_app, of_user) == (2 * TURNS, TURNS + 1), "{of_app} and {of_user} keys: {state:?}");
    }
    Ok(())
}

/// With exclusive runs: of two runs that meet in a session, one ends with a conflict, and stores nothing after it.
async fn a_run_of_adk_rust_that_another_overtakes_ends(fixture: &Fixture) -> anyhow::Result<()> {
    let service = SeabedSessionService::new(fixture.migrated().await?).with_exclusive_runs();
    let service: Arc<dyn SessionService> = Arc::new(service);
    create(&*service, "alice").await?;
    let runner = runner(service.clone())?;
    let mut overtaken = runner.run_str("alice", "s", Content::new("user").with_text("Oslo")).await?;
    let called = overtaken.try_next().await?.context("no event")?;
    ensure!(say(&runner, "alice", "Bergen".to_owned()).await.is_ok());
    let error = overtaken.try_collect::<Vec<_>>().await.err().context("both runs ended well")?;
    ensure!(error.code == "session.revision_conflict", "{error:?}");

    let session = get(&*service, "alice").await?;
    let runs = session.events().all().into_iter().map(|event| event.invocation_id).collect::<Vec<_>>();
    let of_overtaken = runs.iter().filter(|run| **run == called.invocation_id).count();
    // The message and the call of the first run, and all of the second.
    ensure!(of_overtaken == 2 && runs.len() == 6, "{runs:?}");
    ensure!(session.state().get("to") == Some(json!("Bergen")));
    Ok(())
}

async fn google_adk_reads_what_a_runner_of_adk_rust_wrote(fixture: &Fixture) -> anyhow::Result<()> {
    let service: Arc<dyn SessionService> = Arc::new(SeabedSessionService::new(fixture.migrated().await?));
    talk(&service).await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let found = adk.get(&SessionKey::try_new(APP, "bob", "s")?).await?.context("google-adk finds no session")?;
    ensure!(found.events.len() == 4 * TURNS, "google-adk reads {} events", found.events.len());
    ensure!(found.state.decode::<String>("to")?.as_deref() == Some("bob's wish 7"), "{:?}", found.state);
    adk.stop().await
}
