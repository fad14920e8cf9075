//! Forks while their sources change, what deleted sessions leave behind, and forgetting beside a create.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use seabed::history::ForkSession;
use seabed::sea_orm::{ConnectionTrait as _, DatabaseTransaction};
use seabed::{
    AppendEvent, CreateSession, DeleteSession, DynSessionService, Error, Event, ExpectedRevision, GetSession,
    HistoryService as _, RetentionService as _, SessionId, SessionKey, SessionScope, SessionService as _, State,
};
use tokio::task::JoinHandle;

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_state_that_a_session_needs_stays,
    ],
    Servers: [
        a_fork_whose_source_is_deleted_stores_nothing,
    ],
    Sqlite: [
        a_fork_of_a_session_that_was_replaced_stores_nothing,
        a_new_session_has_nothing_of_the_row_that_a_deleted_one_left_behind,
        a_session_does_not_begin_like_a_deleted_one,
    ],
}

fn key(id: &str) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::try_new("app", "alice", id)?)
}

async fn create(service: &DynSessionService, key: &SessionKey, state: State) -> anyhow::Result<()> {
    let request = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    service.create_session(request.with_history()).await?;
    for id in ["a", "b"] {
        let event = Event::new("user").with_id(id);
        service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    Ok(())
}

/// Begins to fork the session `source` into `fork`, and gives it time to wait for a lock.
async fn begin_fork(
    service: &DynSessionService,
) -> anyhow::Result<JoinHandle<seabed::Result<seabed::history::Forked>>> {
    let request = ForkSession::new(key("source")?, "b").with_session_id(SessionId::try_new("fork")?);
    let service = service.clone();
    let forking = tokio::spawn(async move { service.fork_session(request).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    ensure!(!forking.is_finished(), "the fork did not wait");
    Ok(forking)
}

async fn insert_session(transaction: &DatabaseTransaction, id: &str) -> anyhow::Result<()> {
    let time = "2020-01-01 00:00:00.000001";
    let sql = format!(
        "INSERT INTO sessions (app_name, user_id, id, state, create_time, update_time) \
         VALUES ('app', 'alice', '{id}', '{{}}', '{time}', '{time}')"
    );
    transaction.execute_unprepared(&sql).await?;
    Ok(())
}

async fn expect_no_fork(
    service: &DynSessionService,
    forked: seabed::Result<seabed::history::Forked>,
) -> anyhow::Result<()> {
    ensure!(matches!(&forked, Err(Error::NotFound { key }) if key.session_id.as_str() == "source"), "{forked:?}");
    ensure!(service.get_session(GetSession::new(key("fork")?)).await?.is_none(), "half of a fork");
    Ok(())
}

/// The new id is locked by a session that somebody is about to create, until the source is gone.
async fn a_fork_whose_source_is_deleted_stores_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    create(&service, &key("source")?, State::new()).await?;
    let other = fixture.begin_write().await?;
    insert_session(&other, "fork").await?;
    let forking = begin_fork(&service).await?;
    service.delete_session(DeleteSession::new(key("source")?)).await?;
    other.rollback().await?;
    expect_no_fork(&service, forking.await?).await
}

/// The source becomes another session, between the reads of the fork and its writes.
async fn a_fork_of_a_session_that_was_replaced_stores_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    create(&service, &key("source")?, State::new().with("k", "old")).await?;
    let other = fixture.begin_write().await?;
    let forking = begin_fork(&service).await?;
    other.execute_unprepared("DELETE FROM sessions").await?;
    insert_session(&other, "source").await?;
    let events = "INSERT INTO events (app_name, user_id, session_id, id, invocation_id, timestamp, event_data) \
                  VALUES ('app', 'alice', 'source', 'a', '', '2020-01-02 00:00:00.000000', '{\"id\": \"a\"}'), \
                  ('app', 'alice', 'source', 'b', '', '2020-01-03 00:00:00.000000', '{\"id\": \"b\"}')";
    other.execute_unprepared(events).await?;
    other.commit().await?;
    expect_no_fork(&service, forking.await?).await
}

/// Somebody without foreign keys has deleted only the session.
async fn a_new_session_has_nothing_of_the_row_that_a_deleted_one_left_behind(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for id in ["created", "fork"] {
        create(&service, &key(id)?, State::new().with("k", "old")).await?;
    }
    fixture.execute("UPDATE seabed_sessions SET title = 'old', parent_session_id = 'p', parent_event_id = 'e'").await?;
    let options = fixture.service_url.parse::<seabed::SqliteOptions>()?;
    let careless = options.with_driver(|driver| driver.foreign_keys(false)).open().await?;
    careless.execute_unprepared("DELETE FROM sessions; DELETE FROM events").await?;
    create(&service, &key("source")?, State::new().with("k", "new")).await?;
    create(&service, &key("created")?, State::new().with("k", "new")).await?;
    let request = ForkSession::new(key("source")?, "a").with_session_id(SessionId::try_new("fork")?);
    service.fork_session(request).await?;
    for id in ["created", "fork"] {
        let origin = service.get_origin(&key(id)?).await?;
        ensure!(origin.initial_state == Some(State::new().with("k", "new")), "{origin:?}");
        let parent = origin.parent.map(|parent| parent.session_id);
        ensure!(parent.as_ref().map(SessionId::as_str) == (id == "fork").then_some("source"), "{parent:?}");
    }
    let titles = "SELECT CAST(COUNT(title) AS text) AS text FROM seabed_sessions";
    ensure!(fixture.query_text(titles).await? == "0", "a title of a deleted session");
    careless.close().await.context("the pool does not close")
}

/// The same where the new session keeps nothing of how it begins.
async fn a_session_does_not_begin_like_a_deleted_one(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    create(&service, &key("s")?, State::new().with("k", "old")).await?;
    let options = fixture.service_url.parse::<seabed::SqliteOptions>()?;
    let careless = options.with_driver(|driver| driver.foreign_keys(false)).open().await?;
    careless.execute_unprepared("DELETE FROM sessions; DELETE FROM events").await?;
    careless.close().await?;
    let request = CreateSession::new(key("s")?.user()).with_session_id(key("s")?.session_id);
    service.create_session(request).await?;
    let origin = service.get_origin(&key("s")?).await?;
    ensure!(origin.initial_state.is_none() && origin.parent.is_none(), "{origin:?}");
    Ok(())
}

/// A session of the user becomes visible when the step already waits for the row of the user's state.
async fn a_state_that_a_session_needs_stays(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let user = key("s")?.user();
    let key = service.create_session(CreateSession::new(user.clone())).await?.key;
    service.delete_session(DeleteSession::new(key)).await?;
    let other = fixture.begin_write().await?;
    other.execute_unprepared("UPDATE user_states SET state = '{\"k\": 1}'").await?;
    insert_session(&other, "late").await?;
    let forgetting = tokio::spawn({
        let (service, scope) = (service.clone(), SessionScope::User(user.clone()));
        async move { service.forget_some(&scope).await }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    ensure!(!forgetting.is_finished(), "the step did not wait");
    other.commit().await?;
    let step = forgetting.await??;
    ensure!(step.states == 0 && step.sessions == 0 && step.has_more, "{step:?}");
    ensure!(service.get_user_state(&user).await?.len() == 1, "the state of a user with a session is gone");
    let step = service.forget_some(&SessionScope::User(user.clone())).await?;
    ensure!(step.sessions == 1, "{step:?}");
    let step = service.forget_some(&SessionScope::User(user)).await?;
    ensure!(step.states == 1, "{step:?}");
    Ok(())
}
