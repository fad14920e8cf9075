//! Deletes are idempotent, complete, and affect no other session.

use anyhow::{Context as _, ensure};
use seabed_core::{AppendEvent, DeleteSession, Error, Event, ExpectedRevision, State};

use crate::Context;
use crate::context::at_once;

super::case_list![
    deleting_is_idempotent,
    deleting_leaves_others_alone,
    a_deleted_session_takes_no_events,
    a_recreated_id_starts_empty,
    a_stale_writer_of_a_recreated_id_is_told_so,
    a_revision_does_not_outlive_its_session,
    deletes_and_appends_leave_no_orphans,
    a_delete_at_a_revision_deletes_what_was_read,
    a_delete_takes_no_event_of_a_later_session,
];

async fn deleting_is_idempotent(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for _ in 0..2 {
        context.service.delete_session(DeleteSession::new(key.clone())).await?;
        ensure!(context.get(&key).await.is_err());
    }
    Ok(())
}

async fn deleting_leaves_others_alone(context: Context) -> anyhow::Result<()> {
    let state = State::new().with("app:k", 1).with("user:k", 1);
    let key = context.create(&context.key("alice", "s")?, state.clone()).await?.key;
    let mut others = Vec::new();
    for other in [context.key("bob", "s")?, context.key("alice", "other")?] {
        context.create(&other, State::new()).await?;
        context.append(&other, Event::new("user").with_id("same-id")).await?;
        others.push(context.get(&other).await?);
    }
    context.append(&key, Event::new("user").with_id("same-id")).await?;
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    for other in others {
        ensure!(context.get(&other.key).await? == other);
    }
    ensure!(context.service.get_user_state(&key.user()).await?.len() == 1);
    ensure!(context.service.get_app_state(&key.app_name).await?.len() == 1);
    Ok(())
}

async fn a_deleted_session_takes_no_events(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    context.service.delete_session(DeleteSession::new(session.key.clone())).await?;
    let refused = context.append(&session.key, Event::new("user")).await;
    ensure!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    Ok(())
}

async fn a_recreated_id_starts_empty(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "s")?, State::new().with("k", 1)).await?.key;
    let event = Event::new("user").with_state_delta(State::new().with("l", 1));
    context.append(&key, event.clone()).await?;
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    let recreated = context.create(&key, State::new()).await?;
    ensure!(recreated.state.is_empty() && context.get(&key).await? == recreated);
    ensure!(!context.append(&key, event).await?.is_replayed(), "an event of the deleted session is still there");
    Ok(())
}

async fn a_stale_writer_of_a_recreated_id_is_told_so(context: Context) -> anyhow::Result<()> {
    let old = context.create(&context.key("alice", "s")?, State::new()).await?;
    context.service.delete_session(DeleteSession::new(old.key.clone())).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    context.create(&old.key, State::new()).await?;
    let refused = context.append_at(&old.key, Event::new("user"), old.revision).await;
    ensure!(matches!(refused, Err(Error::RevisionConflict { .. })), "{refused:?}");
    Ok(())
}

/// A revision is made of times, and both sessions have an event of the same time.
async fn a_revision_does_not_outlive_its_session(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "s")?, State::new()).await?.key;
    let at = |seconds: f64| Event::new("user").with_timestamp(seconds);
    let hour_ahead = Event::new("user").timestamp + 3600.0;
    let old = context.append(&key, at(hour_ahead)).await?.revision().context("not stored")?;
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    context.create(&key, State::new()).await?;
    let new = context.append(&key, at(hour_ahead)).await?.revision().context("not stored")?;
    ensure!(old.timestamp() == new.timestamp() && old < new, "{old} {new}");
    let state = State::new().with("k", 1);
    for event in [at(hour_ahead + 1.0), at(hour_ahead - 1.0), at(hour_ahead + 1.0).with_state_delta(state)] {
        let refused = context.append_at(&key, event, old).await;
        ensure!(matches!(refused, Err(Error::RevisionConflict { actual, .. }) if actual == new), "{refused:?}");
    }
    context.append_at(&key, at(hour_ahead + 1.0), new).await?;
    Ok(())
}

/// Tasks append to, delete and create one session concurrently. Then it is deleted and created again, and must be
/// empty.
async fn deletes_and_appends_leave_no_orphans(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "s")?, State::new()).await?.key;
    let outcomes = at_once(24, |n| {
        let (service, key) = (context.service.clone(), key.clone());
        async move {
            for _ in 0..5 {
                let outcome = match n % 3 {
                    0 => service.delete_session(DeleteSession::new(key.clone())).await,
                    1 => service.create_session(crate::context::request(&key, State::new())).await.map(|_| ()),
                    _ => {
                        let append = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any);
                        service.append_event(append).await.map(|_| ())
                    }
                };
                match outcome {
                    Ok(()) | Err(Error::NotFound { .. } | Error::AlreadyExists { .. }) => {}
                    Err(other) => return Err(other),
                }
            }
            Ok(())
        }
    })
    .await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    ensure!(context.create(&key, State::new()).await?.state.is_empty());
    ensure!(context.get(&key).await?.events.is_empty());
    Ok(())
}

async fn a_delete_at_a_revision_deletes_what_was_read(context: Context) -> anyhow::Result<()> {
    let read = context.create(&context.key("alice", "s")?, State::new()).await?;
    let at = |revision| DeleteSession::new(read.key.clone()).at_revision(revision);
    let refused = async |revision, actual| {
        let deleted = context.service.delete_session(at(revision)).await;
        let is_told = matches!(&deleted, Err(Error::RevisionConflict { expected, actual: told, .. })
            if *expected == revision && *told == actual);
        ensure!(is_told, "{deleted:?}");
        anyhow::Ok(())
    };

    context.append(&read.key, Event::new("user")).await?;
    let appended = context.get(&read.key).await?;
    refused(read.revision, appended.revision).await?;
    ensure!(context.get(&read.key).await? == appended, "a refused delete changed the session");

    context.service.delete_session(at(appended.revision)).await?;
    ensure!(context.get(&read.key).await.is_err(), "it is still there");
    // Nothing is left to delete, so the call is repeated in vain.
    context.service.delete_session(at(appended.revision)).await?;

    let later = context.create(&read.key, State::new()).await?;
    context.append(&read.key, Event::new("user")).await?;
    refused(later.revision, context.get(&read.key).await?.revision).await?;
    refused(appended.revision, context.get(&read.key).await?.revision).await?;
    ensure!(context.get(&read.key).await?.events.len() == 1);
    Ok(())
}

/// Deletes find no session, or one that somebody is about to create anew with an event.
async fn a_delete_takes_no_event_of_a_later_session(context: Context) -> anyhow::Result<()> {
    const ROUNDS: usize = 60;
    let key = context.key("alice", "s")?;
    // One service would keep its writes to one session apart.
    let other = context.another_service().await?;
    let deletes = async {
        for _ in 0..ROUNDS * 3 {
            other.delete_session(DeleteSession::new(key.clone())).await?;
        }
        anyhow::Ok(())
    };
    let creates = async {
        for _ in 0..ROUNDS {
            match context.create(&key, State::new()).await {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(other) => return Err(other.into()),
            }
            match context.append(&key, Event::new("user")).await {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
            if let Ok(session) = context.get(&key).await {
                let has_events = session.revision.timestamp() != session.create_time;
                ensure!(has_events != session.events.is_empty(), "its events are gone: {session:?}");
            }
        }
        Ok(())
    };
    futures_util::future::try_join(deletes, creates).await?;
    Ok(())
}
