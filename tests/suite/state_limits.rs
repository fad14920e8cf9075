//! Limits on what is stored.

use anyhow::ensure;
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, Event, ExpectedRevision, GetSession, MemorySessionService,
    ServiceOptions, SessionKey, State, StateService, UpdateState,
};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_state_does_not_outgrow_its_limit,
    ],
}

const LIMIT: usize = 1000;

fn is_refused<T>(written: &seabed::Result<T>) -> bool {
    let error = written.as_ref().err();
    error.is_some_and(|error| {
        error.backend_kind() == Some(BackendErrorKind::TooLarge) && error.to_string().contains("the limit is 1000")
    })
}

/// Each key takes a third of the limit and some more.
async fn check(service: &dyn StateService) -> anyhow::Result<()> {
    let part = "x".repeat(LIMIT / 3);
    let key = SessionKey::try_new("app", "alice", "s")?;
    let create = |state| CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    for scope in ["", "user:", "app:"] {
        let large: State = (0..3).fold(State::new(), |state, n| state.with(format!("{scope}{n}"), part.as_str()));
        let created = service.create_session(create(large)).await;
        ensure!(is_refused(&created), "{scope}: {created:?}");
    }
    service.create_session(create(State::new())).await?;
    for scope in ["", "user:", "app:"] {
        for n in 0..3 {
            let event = Event::new("user").with_state_delta(State::new().with(format!("{scope}{n}"), part.as_str()));
            let appended = service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await;
            ensure!(if n < 2 { appended.is_ok() } else { is_refused(&appended) }, "{scope}{n}: {appended:?}");
        }
    }
    let another = State::new().with("2", part.as_str());
    let updated = service.update_state(UpdateState::new(key.app_name.clone(), another)).await;
    ensure!(is_refused(&updated), "{updated:?}");
    // A value that takes less room may still be written.
    service.update_state(UpdateState::new(key.app_name.clone(), State::new().with("1", 1))).await?;

    let session = service.get_session(GetSession::new(key)).await?;
    let stored = session.map(|session| (session.events.len(), session.state.len()));
    ensure!(stored == Some((6, 6)), "events and keys: {stored:?}");
    Ok(())
}

async fn a_state_does_not_outgrow_its_limit(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = ServiceOptions::new().with_max_state_bytes(LIMIT);
    check(&seabed::from_connection_with(fixture.admin.clone(), options).await?).await?;
    check(&MemorySessionService::new().with_max_state_bytes(LIMIT)).await
}
