//! The shapes of events: Seabed refuses those that google-adk cannot read, and no others.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use seabed::sea_orm::TransactionTrait as _;
use seabed::{
    AppendEvent, CreateSession, Error, Event, ExpectedRevision, GetSession, Json, MemorySessionService, ServiceOptions,
    SessionKey, SessionService, TransactionalService as _,
};
use seabed_tests::ADK_2_13;

use super::{create, get, key};
use crate::fixture::Fixture;

/// Errors of google-adk's that come from rules of single models, which Seabed does not check.
const RULES: [&str; 2] = ["greater_than_equal", "value_error"];

pub(super) async fn seabed_refuses_just_what_google_adk_cannot_read(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let key = key("readable")?;
    create(&service, &key).await?;
    // The form in which Seabed stores them. What its own types refuse cannot be appended.
    let events: Vec<Event> = adk.misshapen_events().await?.iter().filter_map(|event| event.decode().ok()).collect();
    let events: Vec<Event> = events
        .into_iter()
        .zip(0..)
        .map(|(event, number)| Event { timestamp: 1e9, ..event }.with_id(format!("{number}")))
        .collect();
    let written = events.iter().map(Json::from_serialize).collect::<Result<Vec<_>, _>>()?;
    let (mut accepted, mut refused, mut by_rule) = (0, 0, 0);
    for ((event, json), objections) in events.into_iter().zip(&written).zip(adk.objections(&written).await?) {
        match event.check_for_adk() {
            Ok(()) if objections.is_empty() => {
                service.append_event(append(&key, event)).await?;
                accepted += 1;
            }
            Ok(()) => {
                ensure!(objections.iter().all(|objection| RULES.contains(&&**objection)), "{json}: {objections:?}");
                by_rule += 1;
            }
            Err(Error::Invalid { reason, .. }) => {
                ensure!(!objections.is_empty(), "{json}: {reason}");
                let outcome = service.append_event(append(&key, event)).await;
                ensure!(matches!(outcome, Err(Error::Invalid { field: "event", .. })), "{json}: {outcome:?}");
                refused += 1;
            }
            Err(other) => return Err(other.into()),
        }
    }
    ensure!(accepted > 1000 && refused > 1000 && by_rule < 50, "{accepted}, {refused}, {by_rule}");
    let stored = get(&service, &key).await?.events.len();
    let read = adk.get(&key).await?.context("google-adk finds no session")?;
    ensure!(read.events.len() == stored, "google-adk reads {} of {stored} events", read.events.len());
    adk.stop().await
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

/// An event that google-adk cannot read.
fn unreadable(id: &str) -> Event {
    Event::new("user").with_id(id).with_content("hello")
}

pub(super) async fn without_the_check_every_event_is_stored(fixture: &Fixture) -> anyhow::Result<()> {
    let checked = fixture.migrated().await?;
    let options = ServiceOptions::new().without_adk_check();
    let service = seabed::from_connection_with(fixture.admin.clone(), options).await?;
    let memory = MemorySessionService::new();
    let stores: [(Arc<dyn SessionService>, Arc<dyn SessionService>); 2] =
        [(service.clone(), checked), (Arc::new(memory.clone().without_adk_check()), Arc::new(memory))];
    let key = key("no Python")?;
    for (service, checked) in stores {
        service.create_session(CreateSession::new(key.user()).with_session_id(key.session_id.clone())).await?;
        let event = unreadable("e");
        ensure!(!service.append_event(append(&key, event.clone())).await?.is_replayed());
        ensure!(service.append_event(append(&key, event.clone())).await?.is_replayed());
        // A service with the check reads what is there, and takes no more of it.
        let session = checked.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session.events == [event], "{:?}", session.events);
        let outcome = checked.append_event(append(&key, unreadable("f"))).await;
        ensure!(matches!(outcome, Err(Error::Invalid { field: "event", .. })), "{outcome:?}");
    }
    let transaction = fixture.admin.begin_with_options(service.transaction_options()).await?;
    let stored = service.append_event_in(&transaction, append(&key, unreadable("g"))).await?;
    transaction.commit().await?;
    ensure!(stored.revision().is_some(), "{stored}");
    Ok(())
}
