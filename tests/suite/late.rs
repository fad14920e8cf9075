//! Requests that reach the server after their caller was answered.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use seabed::{
    AppendEvent, CreateSession, DeleteSession, DynSessionService, Event, ExpectedRevision, GetSession, SessionKey,
    SessionService, State, UpdateState,
};
use seabed_tests::{Cut, Kind, Proxy};

use crate::fixture::Fixture;

crate::database_cases! {
    Servers: [
        a_late_append_changes_no_later_session,
        a_late_create_changes_nothing,
    ],
}

/// Before and after the deadline of a statement. What a late request could change is there sooner or later, as fast as
/// the machine is.
const DELAYS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(400), Duration::from_millis(1500)];
/// Every request of a call.
const REQUESTS: std::ops::Range<usize> = 0..6;
/// So few that they do not slow each other down: a case needs its calls to end before the deadline of a late request.
const AT_ONCE: usize = 4;

/// Calls `check` for each request of a call and each delay, with a service on one connection, which has run `warm_up`.
#[allow(clippy::future_not_send, reason = "a case runs on the thread of its test")]
async fn sweep(
    fixture: &Fixture,
    warm_up: impl AsyncFn(&DynSessionService, SessionKey) -> anyhow::Result<()>,
    check: impl AsyncFn(&DynSessionService, SessionKey) -> anyhow::Result<()>,
    is_untouched: impl AsyncFn(&DynSessionService, SessionKey) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let family = fixture.kind.map(Kind::family).context("a case for servers")?;
    let tries = stream::iter(REQUESTS.flat_map(|request| DELAYS.map(|delay| (request, delay))));
    let delayed: Vec<usize> = tries
        .map(async |(request, delay)| {
            let (proxy, url) = Proxy::tunnel(family, &fixture.service_url).await?;
            let service = family.connect(&url, 1, Duration::from_secs(5)).await?;
            let user = format!("user-{request}-{}", delay.as_millis());
            let key = |session: &str| SessionKey::try_new("app", user.as_str(), session);
            warm_up(&service, key("other")?).await?;
            proxy.cut([(request, Cut::RequestDelayed(delay))]);
            check(&service, key("s")?).await?;
            let was_delayed = proxy.take_back_cuts() == 0;
            tokio::time::sleep(delay + Duration::from_secs(1)).await;
            ensure!(is_untouched(&service, key("s")?).await?, "request {request}, {delay:?} late, had an effect");
            anyhow::Ok(usize::from(was_delayed))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    ensure!(delayed.iter().sum::<usize>() >= DELAYS.len(), "no request was delayed");
    Ok(())
}

fn create(key: &SessionKey) -> CreateSession {
    CreateSession::new(key.user()).with_session_id(key.session_id.clone())
}

async fn append(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<()> {
    let event = Event::new("user").with_state_delta(State::new().with("late", true));
    service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    Ok(())
}

/// The session is deleted and created anew once the append has been acknowledged.
async fn a_late_append_changes_no_later_session(fixture: &Fixture) -> anyhow::Result<()> {
    sweep(
        fixture,
        async |service, other| {
            service.create_session(create(&other)).await?;
            append(service, &other).await?;
            service.create_session(create(&SessionKey { session_id: "s".parse()?, ..other })).await?;
            Ok(())
        },
        async |service, key| {
            append(service, &key).await?;
            service.delete_session(DeleteSession::new(key.clone())).await?;
            service.create_session(create(&key)).await?;
            Ok(())
        },
        async |service, key| {
            let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
            Ok(session.events.is_empty() && session.state.get("late").is_none())
        },
    )
    .await
}

/// The session is deleted, and the user's state changed, once the create has been acknowledged.
async fn a_late_create_changes_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    for state in [State::new(), State::new().with("user:k", 1)] {
        sweep(
            fixture,
            async |service, other| {
                service.create_session(create(&other).with_state(state.clone())).await?;
                service.delete_session(DeleteSession::new(other.clone())).await?;
                Ok(())
            },
            async |service, key| {
                service.create_session(create(&key).with_state(state.clone())).await?;
                service.delete_session(DeleteSession::new(key.clone())).await?;
                service.update_state(UpdateState::new(key.user(), State::new().with("k", 2))).await?;
                Ok(())
            },
            async |service, key| {
                let state = service.get_user_state(&key.user()).await?;
                Ok(state.decode::<u64>("k")? == Some(2) && service.get_session(GetSession::new(key)).await?.is_none())
            },
        )
        .await?;
    }
    Ok(())
}
