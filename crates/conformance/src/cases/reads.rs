//! Law 5: one read is one snapshot. Also the options of `get_session`.

use anyhow::{Context as _, ensure};
use seabed_core::{AppendEvent, Event, ExpectedRevision, GetSession, State};

use crate::Context;
use crate::context::event_ids;

super::case_list![
    one_read_is_one_snapshot,
    an_absent_session_is_none,
    recent_events_are_the_newest_in_order,
    events_after_a_time_include_it,
    recent_and_after_combine,
];

/// Each append writes its number into all three scopes: a read that mixes two instants returns different numbers.
async fn one_read_is_one_snapshot(context: Context) -> anyhow::Result<()> {
    const APPENDS: u64 = 100;
    let key = context.session("alice").await?.key;
    let (service, session) = (context.service.clone(), key.clone());
    let writer = tokio::spawn(async move {
        for number in 1..=APPENDS {
            let delta = State::new().with("n", number).with("user:n", number).with("app:n", number);
            let event = Event::new("writer").with_state_delta(delta);
            service.append_event(AppendEvent::new(session.clone(), event, ExpectedRevision::Any)).await?;
        }
        Ok::<_, seabed_core::Error>(())
    });
    loop {
        let finished = writer.is_finished();
        let session = context.get(&key).await?;
        let events = session.events.len() as u64;
        for name in ["n", "user:n", "app:n"] {
            let number = session.state.decode::<u64>(name)?.unwrap_or_default();
            ensure!(number == events, "{name} is {number} with {events} events");
        }
        if finished {
            ensure!(events == APPENDS);
            break;
        }
    }
    Ok(writer.await??)
}

async fn an_absent_session_is_none(context: Context) -> anyhow::Result<()> {
    context.session("alice").await?;
    let absent = GetSession::new(context.key("alice", "nothing")?);
    ensure!(context.service.get_session(absent).await?.is_none());
    Ok(())
}

async fn recent_events_are_the_newest_in_order(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for number in 0..10 {
        context.append(&key, Event::new("user").with_id(format!("e{number}"))).await?;
    }
    for (count, expected) in [(0, &[][..]), (3, &["e7", "e8", "e9"][..])] {
        let request = GetSession::new(key.clone()).with_num_recent_events(count);
        let session = context.service.get_session(request).await?.context("the session is gone")?;
        ensure!(event_ids(&session) == expected, "{:?}", event_ids(&session));
    }
    let more_than_all = GetSession::new(key).with_num_recent_events(u32::MAX);
    ensure!(context.service.get_session(more_than_all).await?.is_some_and(|session| session.events.len() == 10));
    Ok(())
}

async fn events_after_a_time_include_it(context: Context) -> anyhow::Result<()> {
    let (key, revisions) = five_events(&context).await?;
    for (after, expected) in
        [(revisions[2], &["e2", "e3", "e4"][..]), (revisions[4].next().context("a time")?, &[][..])]
    {
        let request = GetSession::new(key.clone()).with_after_timestamp(after);
        let session = context.service.get_session(request).await?.context("the session is gone")?;
        ensure!(event_ids(&session) == expected, "{:?}", event_ids(&session));
    }
    Ok(())
}

async fn recent_and_after_combine(context: Context) -> anyhow::Result<()> {
    let (key, revisions) = five_events(&context).await?;
    for (count, after, expected) in [(2, 1, &["e3", "e4"][..]), (4, 3, &["e3", "e4"][..])] {
        let request = GetSession::new(key.clone()).with_num_recent_events(count).with_after_timestamp(revisions[after]);
        let session = context.service.get_session(request).await?.context("the session is gone")?;
        ensure!(event_ids(&session) == expected, "{:?}", event_ids(&session));
    }
    Ok(())
}

async fn five_events(context: &Context) -> anyhow::Result<(seabed_core::SessionKey, Vec<seabed_core::Timestamp>)> {
    let key = context.session("alice").await?.key;
    let mut stored_at = Vec::new();
    for number in 0..5 {
        let appended = context.append(&key, Event::new("user").with_id(format!("e{number}"))).await?;
        stored_at.push(appended.revision().context("not stored")?.timestamp());
    }
    Ok((key, stored_at))
}
