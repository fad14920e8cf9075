//! Law 4: a stale writer gets an error, and nothing of a rejected append is stored.

use anyhow::{Context as _, ensure};
use seabed_core::{
    BackendErrorKind, DeleteSession, Error, Event, GetSession, ListEvents, Revision, SessionKey, State, Timestamp,
};

use crate::Context;

super::case_list![
    stale_revision_conflicts,
    a_refused_append_stores_nothing,
    a_conflict_carries_the_actual_revision,
    a_new_session_has_a_revision_to_append_at,
    revisions_never_repeat_when_times_do,
    a_read_shows_the_least_revision_or_a_later_one,
    a_read_of_a_revision_that_is_not_there_says_so,
];

async fn stale_revision_conflicts(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    context.append_at(&session.key, Event::new("first"), session.revision).await?;
    let refused = context.append_at(&session.key, Event::new("second"), session.revision).await;
    ensure!(matches!(refused, Err(Error::RevisionConflict { .. })), "{refused:?}");
    Ok(())
}

async fn a_refused_append_stores_nothing(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    context.append(&session.key, Event::new("first")).await?;
    let before = context.get(&session.key).await?;
    let delta = State::new().with("k", 1).with("user:k", 1).with("app:k", 1);
    let event = Event::new("second").with_state_delta(delta);
    ensure!(context.append_at(&session.key, event.clone(), session.revision).await.is_err());
    ensure!(context.get(&session.key).await? == before);
    // Its event id is not taken either.
    ensure!(!context.append_at(&session.key, event, before.revision).await?.is_replayed());
    Ok(())
}

async fn a_conflict_carries_the_actual_revision(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let actual_now = context.append(&session.key, Event::new("first")).await?.revision().context("not stored")?;
    match context.append_at(&session.key, Event::new("second"), session.revision).await {
        Err(Error::RevisionConflict { expected, actual, key }) => {
            ensure!(expected == session.revision && actual == actual_now && *key == session.key);
        }
        other => anyhow::bail!("{other:?}"),
    }
    context.append_at(&session.key, Event::new("second"), actual_now).await?;
    Ok(())
}

async fn a_new_session_has_a_revision_to_append_at(context: Context) -> anyhow::Result<()> {
    let created = context.session("alice").await?;
    let read = context.get(&created.key).await?;
    ensure!(created == read, "what create returned is not what is stored: {created:?}, {read:?}");
    context.append_at(&created.key, Event::new("user"), created.revision).await?;
    Ok(())
}

/// Events at exactly the creation time, before it, and at each other's times.
async fn revisions_never_repeat_when_times_do(context: Context) -> anyhow::Result<()> {
    for knows_revision in [false, true] {
        let session = context.session("alice").await?;
        let created = session.create_time.as_seconds();
        let mut seen = vec![session.revision];
        for seconds in [created - 0.000_002, created - 0.000_001, created, created, created - 1.0, created] {
            let (event, last) = (Event::new("user").with_timestamp(seconds), seen[seen.len() - 1]);
            let appended = if knows_revision {
                context.append_at(&session.key, event, last).await?
            } else {
                context.append(&session.key, event).await?
            };
            let revision = appended.revision().context("not stored")?;
            ensure!(!seen.contains(&revision), "revision {revision} came twice");
            seen.push(revision);
        }
        ensure!(seen.is_sorted_by(|left, right| left < right), "{seen:?}");
    }
    Ok(())
}

/// Reads the session and its events at `revision` or a later one, and expects `count` events of both.
async fn read_at_least(context: &Context, key: &SessionKey, revision: Revision, count: usize) -> anyhow::Result<()> {
    let request = GetSession::new(key.clone()).with_min_revision(revision);
    let session = context.service.get_session(request).await?.context("the session is gone")?;
    let request = ListEvents::new(key.clone()).with_min_revision(revision);
    let events = context.service.list_events(request).await?;
    ensure!(session.events.len() == count && events.items.len() == count, "{session:?}, {events:?}");
    Ok(())
}

async fn a_read_shows_the_least_revision_or_a_later_one(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let key = &session.key;
    read_at_least(&context, key, session.revision, 0).await?;
    // The first event of a session may have an earlier time than its creation.
    let early = Event::new("first").with_timestamp(session.create_time.as_seconds() - 10.0);
    let first = context.append(key, early).await?.revision().context("not stored")?;
    let second = context.append(key, Event::new("second")).await?.revision().context("not stored")?;
    for revision in [session.revision, first, second] {
        read_at_least(&context, key, revision, 2).await?;
    }
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    context.create(key, State::new()).await?;
    read_at_least(&context, key, second, 0).await
}

async fn a_read_of_a_revision_that_is_not_there_says_so(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let first = context.append(&session.key, Event::new("first")).await?.revision().context("not stored")?;
    let later = Revision::new(first.create_time(), Timestamp::try_from_micros(first.timestamp().as_micros() + 1)?);
    for (key, revision) in [(session.key, later), (context.key("alice", "absent")?, first)] {
        let get = context.service.get_session(GetSession::new(key.clone()).with_min_revision(revision));
        let list = context.service.list_events(ListEvents::new(key.clone()).with_min_revision(revision));
        let (get, list) = (get.await.map(drop), list.await.map(drop));
        for behind in [get, list] {
            let kind = behind.as_ref().err().and_then(Error::backend_kind);
            ensure!(kind == Some(BackendErrorKind::Unavailable), "{key}: {behind:?}");
        }
    }
    Ok(())
}
