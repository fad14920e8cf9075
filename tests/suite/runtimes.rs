//! Services and the tokio runtimes on which they are called.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use seabed::sea_orm::ConnectionTrait as _;
use seabed::{
    AppendEvent, CreateSession, DeleteSession, Error, Event, ExpectedRevision, GetSession, SessionKey, SessionService,
    SqliteSessionService, UserKey,
};
use tokio::runtime::Builder;

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_call_outside_a_runtime_is_refused_and_stores_nothing,
        the_calls_of_a_runtime_that_ends_hold_up_no_others,
    ],
    Sqlite: [
        a_service_may_outlive_its_runtime,
    ],
}

fn alice() -> seabed::Result<UserKey> {
    UserKey::try_new("app", "alice")
}

fn append(key: &SessionKey) -> AppendEvent {
    AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any)
}

/// Runs `work` in a thread that belongs to no runtime.
async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let thread = std::thread::spawn(work);
    let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
    joined.map_err(|_| anyhow::anyhow!("it panicked"))
}

async fn a_call_outside_a_runtime_is_refused_and_stores_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let (outside, of, url) = (service.clone(), key.clone(), fixture.service_url.clone());
    let calls = in_thread(move || {
        [
            outside.append_event(append(&of)).now_or_never().map(|ended| ended.map(drop)),
            outside.delete_session(DeleteSession::new(of.clone())).now_or_never(),
            outside.get_session(GetSession::new(of)).now_or_never().map(|ended| ended.map(drop)),
            outside.close().now_or_never(),
            seabed::connect(&url).now_or_never().map(|ended| ended.map(drop)),
        ]
    });
    for call in calls.await? {
        ensure!(matches!(call, Some(Err(Error::Invalid { field: "runtime", .. }))), "{call:?}");
    }
    service.append_event(append(&key)).await?;
    let session = service.get_session(GetSession::new(key)).await?.context("it was deleted")?;
    ensure!(session.events.len() == 1, "{session:?}");
    Ok(())
}

/// A write waits in the database when its runtime ends, and others wait for it here.
async fn the_calls_of_a_runtime_that_ends_hold_up_no_others(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let others = fixture.begin_write().await?;
    if fixture.kind.is_some() {
        others.execute_unprepared("SELECT id FROM sessions FOR UPDATE").await?;
    }
    let (ending, of) = (service.clone(), key.clone());
    let (started, has_started) = tokio::sync::oneshot::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for _ in 0..3 {
            let (service, key) = (ending.clone(), of.clone());
            runtime.spawn(async move { service.append_event(append(&key)).await });
        }
        std::thread::sleep(Duration::from_millis(500));
        // The receiver is gone if the case has failed.
        let _: Result<(), ()> = started.send(());
        ends.recv()?;
        runtime.shutdown_background();
        anyhow::Ok(())
    });
    has_started.await?;
    let waiting = tokio::spawn({
        let (service, key) = (service.clone(), key.clone());
        async move { service.append_event(append(&key)).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    end.send(())?;
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| anyhow::anyhow!("it panicked"))??;
    others.rollback().await?;
    tokio::time::timeout(Duration::from_secs(30), waiting).await.context("it waits for ever")???;
    tokio::time::timeout(Duration::from_secs(30), service.close()).await.context("closing waits for ever")??;
    Ok(())
}

/// The service still holds the connection of its last call.
async fn a_service_may_outlive_its_runtime(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let url = fixture.service_url.clone();
    let ended = in_thread(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let service = runtime.block_on(async {
            let service = SqliteSessionService::connect(&url).await?;
            service.create_session(CreateSession::new(alice()?)).await?;
            anyhow::Ok(service)
        })?;
        drop(runtime);
        drop(service);
        anyhow::Ok(())
    });
    ended.await?
}
