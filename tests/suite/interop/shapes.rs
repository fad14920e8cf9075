//! The shapes of events: Seabed refuses those that google-adk cannot read, and no others.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use seabed::sea_orm::TransactionTrait as _;
use seabed::{
    AppendEvent, CreateSession, Error, Event, ExpectedRevision, GetSession, Json, MemorySessionService, ServiceOptions,
    SessionKey, SessionService, TransactionalService as _,
};
use seabed_tests::{ADK_2_13, Peer};

use super::{create, get, key};
use crate::fixture::Fixture;

/// Whether Seabed looks less closely than google-adk, whose objections these are: some models have rules in Python, and
/// of the models of credentials, which are open ones, Seabed checks the first level.
fn is_overlooked(event: &Json, objections: &[String]) -> bool {
    objections == ["value_error"] || event.as_str().contains("requested_auth_configs")
}

pub(super) async fn seabed_refuses_just_what_google_adk_cannot_read(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let key = key("readable")?;
    create(&service, &key).await?;
    let events = misshapen_events(&adk).await?;
    // In the form in which Seabed stores them.
    let written = events.iter().map(Json::from_serialize).collect::<Result<Vec<_>, _>>()?;
    let (mut accepted, mut refused, mut overlooked) = (Vec::new(), 0, 0);
    for ((event, json), objections) in events.into_iter().zip(&written).zip(adk.objections(&written).await?) {
        match event.check_for_adk() {
            Ok(()) if objections.is_empty() => accepted.push(event),
            Ok(()) => {
                ensure!(is_overlooked(json, &objections), "{json:.500}: {objections:?}");
                overlooked += 1;
            }
            Err(error) => {
                ensure!(!objections.is_empty(), "{json:.500}: {error}");
                let outcome = service.append_event(append(&key, event)).await;
                ensure!(matches!(outcome, Err(Error::Invalid { field: "event", .. })), "{json:.500}: {outcome:?}");
                refused += 1;
            }
        }
    }
    ensure!(accepted.len() > 2000 && refused > 2000 && overlooked < 100, "{}, {refused}, {overlooked}", accepted.len());
    for events in accepted.chunks(64) {
        try_join_all(events.iter().map(|event| service.append_event(append(&key, event.clone())))).await?;
    }
    let stored = get(&service, &key).await?.events.len();
    let read = adk.get(&key).await?.context("google-adk finds no session")?;
    ensure!(read.events.len() == stored && stored > 2000, "google-adk reads {} of {stored}", read.events.len());
    adk.stop().await
}

/// Events that differ from google-adk's samples in one place each; without those that cannot be appended, because
/// Seabed's own types have no room for them.
async fn misshapen_events(adk: &Peer) -> anyhow::Result<Vec<Event>> {
    let events = adk.misshapen_events().await?;
    let events = events.iter().filter_map(|event| event.decode::<Event>().ok()).zip(0..);
    Ok(events.map(|(event, number)| event.with_id(format!("{number}")).with_timestamp(1e9)).collect())
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
    let appended = service.append_event_in(&transaction, append(&key, unreadable("g"))).await?;
    transaction.commit().await?;
    ensure!(appended.revision().is_some(), "{appended}");
    Ok(())
}
