//! What adk-rust's trait leaves open: ids without a user, runs, and errors.

use std::collections::HashMap;
use std::sync::Arc;

use adk_core::{ErrorCategory, Result};
use adk_session::{
    AppendEventRequest, CreateRequest, DeleteRequest, Event, GetRequest, ListRequest, Session, SessionService,
};
use seabed_adk_rust::SeabedSessionService;
use seabed_adk_rust::seabed::{AppName, MemorySessionService};
use serde_json::{Value, json};

const APP: &str = "app";

async fn create(service: &SeabedSessionService, user: &str, session_id: &str) -> Result<Box<dyn Session>> {
    create_with(service, user, session_id, HashMap::new()).await
}

async fn create_with(
    service: &SeabedSessionService,
    user: &str,
    session_id: &str,
    state: HashMap<String, Value>,
) -> Result<Box<dyn Session>> {
    let [app_name, user_id, session_id] = [APP, user, session_id].map(str::to_owned);
    service.create(CreateRequest { app_name, user_id, session_id: Some(session_id), state }).await
}

async fn get(service: &SeabedSessionService, user: &str, session_id: &str) -> Result<Box<dyn Session>> {
    let [app_name, user_id, session_id] = [APP, user, session_id].map(str::to_owned);
    service.get(GetRequest { app_name, user_id, session_id, num_recent_events: None, after: None }).await
}

/// The code of an error; empty if there is none.
fn code<T>(result: Result<T>) -> &'static str {
    result.err().map_or("", |error| error.code)
}

#[tokio::test]
async fn an_id_of_two_users_is_never_guessed() -> Result<()> {
    let store = Arc::new(MemorySessionService::default());
    let [service, elsewhere] = [store.clone(), store.clone()].map(SeabedSessionService::new);
    create(&service, "alice", "s").await?;
    service.append_event("s", Event::new("run")).await?;

    // The same id of another user, as this service comes to see it.
    create(&elsewhere, "bob", "s").await?;
    get(&service, "bob", "s").await?;
    assert_eq!(code(service.append_event("s", Event::new("run")).await), "session.ambiguous");
    for (user, events) in [("alice", 1), ("bob", 0)] {
        assert_eq!(get(&service, user, "s").await?.events().len(), events);
    }

    // Once alice's is gone, the id is bob's.
    let [app_name, user_id, session_id] = [APP, "alice", "s"].map(str::to_owned);
    service.delete(DeleteRequest { app_name, user_id, session_id }).await?;
    service.append_event("s", Event::new("run")).await?;
    assert_eq!(get(&service, "bob", "s").await?.events().len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_id_that_was_not_seen_is_looked_up() -> Result<()> {
    let store = Arc::new(MemorySessionService::default());
    create(&SeabedSessionService::new(store.clone()), "alice", "s").await?;

    let service = SeabedSessionService::new(store.clone());
    assert_eq!(code(service.append_event("s", Event::new("run")).await), "session.not_found");
    let service = SeabedSessionService::new(store).with_app_name(AppName::try_new(APP).unwrap());
    service.append_event("s", Event::new("run")).await?;
    assert_eq!(code(service.append_event("other", Event::new("run")).await), "session.not_found");

    // A session that was deleted is not remembered.
    let [app_name, user_id, session_id] = [APP, "alice", "s"].map(str::to_owned);
    service.delete(DeleteRequest { app_name, user_id, session_id }).await?;
    assert_eq!(code(service.append_event("s", Event::new("run")).await), "session.not_found");
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_sent_again_does_not_set_its_run_back() -> Result<()> {
    let service = SeabedSessionService::new(MemorySessionService::default()).with_exclusive_runs();
    create(&service, "alice", "s").await?;
    let events = [(); 3].map(|()| Event::new("run"));
    for sent in [0, 1, 0, 2] {
        service.append_event("s", events[sent].clone()).await?;
    }
    assert_eq!(get(&service, "alice", "s").await?.events().len(), 3);
    Ok(())
}

#[tokio::test]
async fn exclusive_runs_do_not_interleave() -> Result<()> {
    for is_exclusive in [false, true] {
        let mut service = SeabedSessionService::new(MemorySessionService::default());
        if is_exclusive {
            service = service.with_exclusive_runs();
        }
        create(&service, "alice", "s").await?;
        let append = |run: &str| service.append_event("s", Event::new(run));
        append("first").await?;
        append("first").await?;
        append("second").await?;
        let late = append("first").await;
        assert_eq!(code(late), if is_exclusive { "session.revision_conflict" } else { "" });
        append("second").await?;
        assert_eq!(get(&service, "alice", "s").await?.events().len(), if is_exclusive { 4 } else { 5 });
    }
    Ok(())
}

#[tokio::test]
async fn errors_have_adk_rust_s_codes() -> Result<()> {
    let service = SeabedSessionService::new(MemorySessionService::default());
    let identity = create(&service, "alice", "s").await?.try_identity()?;
    let append = |event| service.append_event_for_identity(AppendEventRequest { identity: identity.clone(), event });

    assert_eq!(code(create(&service, "alice", "s").await), "session.already_exists");
    assert_eq!(code(create(&service, "", "s").await), "config.legacy");
    assert_eq!(code(get(&service, "alice", &"x".repeat(129)).await), "session.invalid_input");
    assert_eq!(code(service.append_event("", Event::new("run")).await), "session.invalid_input");

    let event = Event::with_id("e", "run");
    append(event.clone()).await?;
    append(event).await?;
    assert_eq!(code(append(Event::with_id("e", "other run")).await), "session.event_id_reused");
    assert_eq!(get(&service, "alice", "s").await?.events().len(), 1);

    let missing = get(&service, "bob", "s").await.err().unwrap();
    assert!(missing.is_not_found() && !missing.is_retryable(), "{missing}");
    assert_eq!(missing.message, "session 's' was not found for app 'app' and user 'bob'");
    let wrong = SeabedSessionService::connect("oracle://localhost/db").await.err().unwrap();
    assert_eq!((wrong.category, wrong.code), (ErrorCategory::InvalidInput, "session.invalid_input"));
    Ok(())
}

#[tokio::test]
async fn deep_state_is_an_error_and_stores_nothing() -> Result<()> {
    let service = SeabedSessionService::new(MemorySessionService::default());
    let deep = (0..1000).fold(json!(1), |value, _| json!([value]));
    let state = HashMap::from([("deep".to_owned(), deep.clone())]);
    assert_eq!(code(create_with(&service, "alice", "s", state).await), "session.invalid_input");
    create(&service, "alice", "s").await?;
    let mut event = Event::new("run");
    event.actions.state_delta.insert("deep".to_owned(), deep);
    assert_eq!(code(service.append_event("s", event).await), "session.invalid_input");
    assert!(get(&service, "alice", "s").await?.events().is_empty());
    Ok(())
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_deleted_together() -> Result<()> {
    let service = SeabedSessionService::new(MemorySessionService::default());
    for session_id in ["a", "b", "c"] {
        create(&service, "alice", session_id).await?;
    }
    create(&service, "bob", "d").await?;
    service.append_event("b", Event::new("run")).await?;
    let list = |offset, limit| {
        let [app_name, user_id] = [APP, "alice"].map(str::to_owned);
        service.list(ListRequest { app_name, user_id, limit, offset })
    };
    let ids =
        |sessions: Vec<Box<dyn Session>>| sessions.iter().map(|session| session.id().to_owned()).collect::<Vec<_>>();
    let all = ids(list(None, None).await?);
    assert_eq!((all.len(), all[0].as_str()), (3, "b"));
    assert_eq!(ids(list(Some(1), Some(1)).await?), all[1..2]);
    assert!(list(Some(3), None).await?.is_empty() && list(None, Some(0)).await?.is_empty());

    service.delete_all_sessions(APP, "alice").await?;
    assert!(list(None, None).await?.is_empty());
    get(&service, "bob", "d").await?;
    service.health_check().await
}
