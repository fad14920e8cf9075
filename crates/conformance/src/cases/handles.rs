//! The conveniences of `SessionServiceExt`.

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt};
use seabed_core::{
    Appended, DeleteSession, Error, Event, GetOrCreated, GetSession, ListEvents, ListSessions, SessionScope,
    SessionServiceExt, State, Timestamp,
};

use crate::Context;
use crate::context::event_ids;

super::case_list![
    get_or_create_creates_then_gets,
    an_append_through_a_session_keeps_it_equal_to_the_store,
    a_refused_append_leaves_the_session_as_it_was,
    a_refreshed_session_has_what_others_appended,
    a_refreshed_session_that_was_recreated_is_read_anew,
    a_replay_through_a_session_misses_nothing_of_others,
    an_append_at_the_latest_revision_brings_the_session_up_to_date,
    streams_yield_everything_page_by_page,
    a_stream_of_no_session_yields_one_error,
];

async fn get_or_create_creates_then_gets(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let created = context.service.get_or_create(key.clone(), State::new().with("k", 1)).await?;
    ensure!(matches!(&created, GetOrCreated::Created(session) if session.state == State::new().with("k", 1)));
    context.append(&key, Event::new("user")).await?;
    let existing = context.service.get_or_create(key.clone(), State::new().with("k", 2)).await?;
    ensure!(existing == GetOrCreated::Existing(context.get(&key).await?));
    ensure!(existing.into_session().state == State::new().with("k", 1));
    Ok(())
}

async fn an_append_through_a_session_keeps_it_equal_to_the_store(context: Context) -> anyhow::Result<()> {
    let mut session = context.session("alice").await?;
    for number in 0..3 {
        let delta = State::new().with("n", number).with("user:n", number).with("app:n", number);
        context.service.append(&mut session, Event::new("user").with_state_delta(delta)).await?;
        ensure!(context.get(&session.key).await? == session);
    }
    let with_temp = Event::new("user").with_state_delta(State::new().with("temp:t", 1));
    context.service.append(&mut session, with_temp).await?;
    ensure!(session.state.decode::<u64>("temp:t")? == Some(1), "the running agent does not see its temp: key");
    ensure!(context.get(&session.key).await?.events == session.events);
    Ok(())
}

async fn a_refused_append_leaves_the_session_as_it_was(context: Context) -> anyhow::Result<()> {
    let mut session = context.session("alice").await?;
    let before = session.clone();
    context.append(&session.key, Event::new("other")).await?;
    let event = Event::new("user").with_state_delta(State::new().with("k", 1));
    let refused = context.service.append(&mut session, event.clone()).await;
    ensure!(matches!(refused, Err(Error::RevisionConflict { .. })) && session == before);
    context.service.refresh(&mut session).await?;
    context.service.append(&mut session, event).await?;
    ensure!(context.get(&session.key).await? == session);
    Ok(())
}

async fn a_refreshed_session_has_what_others_appended(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for id in ["old", "known"] {
        context.append(&key, Event::new("user").with_id(id)).await?;
    }
    let only_newest = GetSession::new(key.clone()).with_num_recent_events(1);
    let mut session = context.service.get_session(only_newest).await?.ok_or_else(|| anyhow::anyhow!("gone"))?;
    context.append(&key, Event::new("user").with_id("new").with_state_delta(State::new().with("app:k", 1))).await?;
    context.service.refresh(&mut session).await?;
    ensure!(event_ids(&session) == ["known", "new"], "{:?}", event_ids(&session));
    let stored = context.get(&key).await?;
    ensure!(session.state == stored.state && session.revision == stored.revision);

    let before = session.clone();
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    let gone = context.service.refresh(&mut session).await;
    ensure!(matches!(gone, Err(Error::NotFound { .. })) && session == before);
    Ok(())
}

async fn a_refreshed_session_that_was_recreated_is_read_anew(context: Context) -> anyhow::Result<()> {
    let mut session = context.session("alice").await?;
    context.service.append(&mut session, Event::new("user").with_id("old")).await?;
    context.service.delete_session(DeleteSession::new(session.key.clone())).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    context.create(&session.key, State::new()).await?;
    context.append(&session.key, Event::new("user").with_id("new")).await?;
    context.service.refresh(&mut session).await?;
    ensure!(event_ids(&session) == ["new"] && context.get(&session.key).await? == session);

    // Read in part, and then recreated with an event that is older than what was read.
    let only_newest = GetSession::new(session.key).with_num_recent_events(1);
    let mut session = context.service.get_session(only_newest).await?.ok_or_else(|| anyhow::anyhow!("gone"))?;
    context.service.delete_session(DeleteSession::new(session.key.clone())).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    context.create(&session.key, State::new()).await?;
    context.append(&session.key, Event::new("user").with_id("older").with_timestamp(1e9)).await?;
    context.service.refresh(&mut session).await?;
    ensure!(event_ids(&session) == ["older"] && context.get(&session.key).await? == session);
    Ok(())
}

/// The first reply is lost, another agent appends, and the call is repeated with the session unchanged.
async fn a_replay_through_a_session_misses_nothing_of_others(context: Context) -> anyhow::Result<()> {
    let mut session = context.session("alice").await?;
    let event = Event::new("user").with_state_delta(State::new().with("temp:t", 1));
    context.append_at(&session.key, event.clone(), session.revision).await?;
    context.append(&session.key, Event::new("other").with_state_delta(State::new().with("k", 1))).await?;
    ensure!(matches!(context.service.append(&mut session, event).await?, Appended::Replayed(_)));
    let mut expected = context.get(&session.key).await?;
    expected.state.insert("temp:t", 1);
    ensure!(session == expected, "{session:?}");
    Ok(())
}

async fn an_append_at_the_latest_revision_brings_the_session_up_to_date(context: Context) -> anyhow::Result<()> {
    let mut session = context.session("alice").await?;
    let mut expected = Vec::new();
    for number in 0..3 {
        let (other, own) = (format!("other {number}"), format!("own {number}"));
        context.append(&session.key, Event::new("other").with_id(&other)).await?;
        let delta = State::new().with("n", number).with("temp:n", number);
        let event = Event::new("user").with_id(&own).with_state_delta(delta);
        ensure!(matches!(context.service.append_latest(&mut session, event.clone()).await?, Appended::Stored(_)));
        ensure!(context.service.append_latest(&mut session, event).await?.is_replayed());
        expected.extend([other, own]);
        ensure!(event_ids(&session) == expected, "{:?}", event_ids(&session));
        ensure!(session.state.decode::<u64>("temp:n")? == Some(number));
    }
    // An event at a time before the part that was read.
    let now = Event::new("user").timestamp;
    context.append(&session.key, Event::new("other").with_timestamp(now + 100.0)).await?;
    let later = Timestamp::try_from_seconds(now + 160.0)?;
    let read = GetSession::new(session.key.clone()).with_after_timestamp(later);
    for append_first in [false, true] {
        let mut part = context.service.get_session(read.clone()).await?.ok_or_else(|| anyhow::anyhow!("gone"))?;
        ensure!(part.events.is_empty());
        if append_first {
            context.append(&session.key, Event::new("other").with_id("between").with_timestamp(now + 140.0)).await?;
        }
        let own = Event::new("user").with_id(format!("own {append_first}")).with_timestamp(now + 150.0);
        context.service.append_latest(&mut part, own.clone()).await?;
        context.service.refresh(&mut part).await?;
        ensure!(event_ids(&part).last() == Some(&own.id.as_str()), "{:?}", event_ids(&part));
    }
    context.service.refresh(&mut session).await?;

    let before = session.clone();
    let partial = context.service.append_latest(&mut session, Event::new("user").with_partial(true)).await?;
    ensure!(partial == Appended::Partial && session == before);
    let refused = Event::new("user").with_id("");
    ensure!(context.service.append_latest(&mut session, refused).await.is_err() && session == before);
    let mut stored = context.get(&session.key).await?;
    stored.state.insert("temp:n", 2);
    ensure!(session == stored);
    Ok(())
}

async fn streams_yield_everything_page_by_page(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for number in 0..10 {
        context.append(&key, Event::new("user").with_id(number.to_string())).await?;
        context.session("alice").await?;
    }
    let events: Vec<_> =
        context.service.stream_events(ListEvents::new(key.clone()).with_limit(3)).try_collect().await?;
    ensure!(events.iter().map(|event| event.id.clone()).eq((0..10).map(|number| number.to_string())));
    let request = ListSessions::new(SessionScope::User(key.user())).with_limit(4);
    let sessions: Vec<_> = context.service.stream_sessions(request).try_collect().await?;
    ensure!(sessions.len() == 11);
    let owned = context.service.clone().into_event_stream(ListEvents::new(key.clone()).with_limit(3));
    ensure!(owned.try_collect::<Vec<_>>().await? == events);
    let request = ListSessions::new(SessionScope::User(key.user())).with_limit(4);
    let owned: Vec<_> = context.service.clone().into_session_stream(request.clone()).try_collect().await?;
    ensure!(owned == sessions);
    let rest = context.service.list_sessions(request.with_cursor(sessions[2].cursor())).await?.try_into_items()?;
    ensure!(rest == sessions[3..7], "a session's cursor is not its place in the listing");
    Ok(())
}

async fn a_stream_of_no_session_yields_one_error(context: Context) -> anyhow::Result<()> {
    let items: Vec<_> =
        context.service.stream_events(ListEvents::new(context.key("alice", "nothing")?)).collect().await;
    ensure!(matches!(items.as_slice(), [Err(Error::NotFound { .. })]), "{items:?}");
    Ok(())
}
