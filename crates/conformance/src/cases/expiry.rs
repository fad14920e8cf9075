//! Only sessions that nobody uses expire.

use anyhow::{Context as _, ensure};
use seabed_core::{
    AppendEvent, DirectoryServiceExt as _, Error, Event, ExpectedRevision, ExpireSessions, ExpiryServiceExt as _,
    GetSession, SessionFilter, SessionKey, SessionScope, State, Timestamp,
};

use crate::Context;
use crate::context::at_once;

super::case_list![
    needs Directory:
    only_sessions_that_were_not_used_for_long_expire,
    a_dry_run_expires_nothing_and_a_limit_is_kept,
    a_session_that_goes_on_does_not_expire,
];

/// Creates sessions, and returns their keys and a time after their last updates.
async fn old_sessions(context: &Context, count: usize) -> anyhow::Result<(Vec<SessionKey>, Timestamp)> {
    let mut keys = Vec::new();
    let mut last = None;
    for number in 0..count {
        let key = context.key("alice", &format!("old-{number}"))?;
        context.create(&key, State::new()).await?;
        context.append(&key, Event::new("user")).await?;
        last = last.max(Some(context.get(&key).await?.last_update_time()));
        keys.push(key);
    }
    let after = last.and_then(Timestamp::next).context("no session")?;
    // The clock goes on before anything else is created.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    Ok((keys, after))
}

async fn exists(context: &Context, key: &SessionKey) -> anyhow::Result<bool> {
    Ok(context.service.get_session(GetSession::new(key.clone())).await?.is_some())
}

async fn only_sessions_that_were_not_used_for_long_expire(context: Context) -> anyhow::Result<()> {
    let (old, time) = old_sessions(&context, 4).await?;
    let directory = context.directory()?;
    directory.set_labels(&old[1], &[("keep", Some("1"))]).await?;
    let used = &old[2];
    context.append(used, Event::new("user")).await?;
    let new = context.key("alice", "new")?;
    context.create(&new, State::new()).await?;
    // Imported events may be older than their session.
    context.append(&new, Event::new("user").with_timestamp(1e9)).await?;
    let other = context.session("bob").await?.key;

    let scope = SessionScope::User(new.user());
    let labelled = ExpireSessions::new(scope.clone(), time).with_filter(SessionFilter::new().with_any_label("keep"));
    let expired = directory.expire_sessions(labelled).await?;
    ensure!(expired.sessions == old[1..2] && expired.changed == 0 && !expired.has_more, "{expired:?}");
    let expired = directory.expire_sessions(ExpireSessions::new(scope, time)).await?;
    ensure!(expired.sessions == [old[0].clone(), old[3].clone()] && !expired.has_more, "{expired:?}");
    for (key, stays) in
        [(&old[0], false), (&old[1], false), (used, true), (&old[3], false), (&new, true), (&other, true)]
    {
        ensure!(exists(&context, key).await? == stays, "{key}");
    }
    Ok(())
}

async fn a_dry_run_expires_nothing_and_a_limit_is_kept(context: Context) -> anyhow::Result<()> {
    let (old, time) = old_sessions(&context, 3).await?;
    let directory = context.directory()?;
    let request = || ExpireSessions::new(SessionScope::User(old[0].user()), time);
    let dry = directory.expire_sessions(request().with_dry_run()).await?;
    ensure!(dry.sessions == old, "{dry:?}");
    for key in &old {
        ensure!(exists(&context, key).await?, "{key} is gone after a dry run");
    }
    let first = directory.expire_sessions(request().with_limit(2)).await?;
    ensure!(first.sessions == old[..2] && first.has_more, "{first:?}");
    ensure!(exists(&context, &old[2]).await? && !exists(&context, &old[1]).await?);
    // A filter of the caller's cannot make it later.
    let filter = SessionFilter::new().with_updated_until(time.next().context("the end of time")?);
    context.append(&old[2], Event::new("user")).await?;
    let none = directory.expire_sessions(request().with_filter(filter)).await?;
    ensure!(none.sessions.is_empty(), "{none:?}");
    Ok(())
}

async fn a_session_that_goes_on_does_not_expire(context: Context) -> anyhow::Result<()> {
    let (old, time) = old_sessions(&context, 12).await?;
    let directory = context.another_directory().await?;
    let request = ExpireSessions::new(SessionScope::User(old[0].user()), time);
    let expiring = tokio::spawn(async move { directory.expire_sessions(request).await });
    let appends = at_once(old.len(), |number| {
        let (service, key) = (context.service.clone(), old[number].clone());
        async move {
            let request = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any);
            (key, service.append_event(request).await)
        }
    })
    .await;
    let expired = expiring.await.context("it panicked")??;
    for (key, appended) in appends {
        match appended {
            Ok(_) => ensure!(exists(&context, &key).await?, "{key} expired with an acknowledged event"),
            Err(Error::NotFound { .. }) => ensure!(expired.sessions.contains(&key), "{key}: {expired:?}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
