//! Laws 1 and 3 under concurrency: creating never loses a race, and no key is lost.

use std::sync::Arc;

use anyhow::ensure;
use seabed_core::{
    AppName, AppendEvent, CreateSession, Error, Event, ExpectedRevision, GetOrCreated, GetSession, SessionKey,
    SessionService, SessionServiceExt, State, UserKey,
};

use crate::Context;
use crate::context::{at_once, request};

super::case_list![
    concurrent_creates_of_a_new_app_all_succeed,
    concurrent_creates_of_one_new_user_all_succeed,
    concurrent_creates_through_several_services_all_succeed,
    of_concurrent_creates_with_one_id_exactly_one_succeeds,
    of_concurrent_get_or_create_calls_exactly_one_creates,
    no_app_key_is_lost_by_concurrent_appends,
    no_user_key_is_lost_by_concurrent_appends,
    no_session_key_is_lost_by_concurrent_appends,
    no_app_key_is_lost_between_creates_and_appends,
    exact_writers_that_reload_lose_no_event,
    any_writers_lose_no_event,
    concurrent_replays_store_one_event,
    dropped_calls_store_all_or_nothing,
];

const TASKS: usize = 50;
/// Each race runs several times, because which calls collide is up to chance.
const ROUNDS: usize = 5;

/// Makes the service open its connections, so that the calls that follow start at once instead of queuing for
/// connections.
async fn warm_up(context: &Context) -> anyhow::Result<()> {
    let app_name = context.app_name()?;
    let reads = at_once(TASKS, |_| {
        let (service, app_name) = (context.service.clone(), app_name.clone());
        async move { service.get_app_state(&app_name).await }
    });
    Ok(reads.await.into_iter().try_for_each(|read| read.map(drop))?)
}

/// Reproduces google/adk-python issue 4954: nothing of the app exists yet.
async fn concurrent_creates_of_a_new_app_all_succeed(context: Context) -> anyhow::Result<()> {
    warm_up(&context).await?;
    for round in 0..ROUNDS {
        let app = format!("{}-{round}", context.app);
        create_at_once(&context, |n| UserKey::try_new(&app, format!("user{n}")), "app:").await?;
        let state = context.service.get_app_state(&AppName::try_new(&app)?).await?;
        ensure!(state.len() == TASKS, "{} of {TASKS} app keys are there", state.len());
    }
    Ok(())
}

async fn concurrent_creates_of_one_new_user_all_succeed(context: Context) -> anyhow::Result<()> {
    warm_up(&context).await?;
    for round in 0..ROUNDS {
        let user = context.user(&format!("user{round}"))?;
        create_at_once(&context, |_| Ok(user.clone()), "user:").await?;
        let state = context.service.get_user_state(&user).await?;
        ensure!(state.len() == TASKS, "{} of {TASKS} user keys are there", state.len());
    }
    Ok(())
}

/// Creates sessions concurrently, each with its own key in their shared state. All creates must succeed.
async fn create_at_once(
    context: &Context,
    user: impl Fn(usize) -> seabed_core::Result<UserKey>,
    prefix: &str,
) -> anyhow::Result<()> {
    let users = (0..TASKS).map(user).collect::<Result<Vec<_>, _>>()?;
    let outcomes = at_once(TASKS, |n| {
        let (service, user) = (context.service.clone(), users[n].clone());
        let state = State::new().with(format!("{prefix}key{n}"), n as u64);
        async move { service.create_session(CreateSession::new(user).with_state(state)).await }
    });
    Ok(outcomes.await.into_iter().try_for_each(|outcome| outcome.map(drop))?)
}

async fn concurrent_creates_through_several_services_all_succeed(context: Context) -> anyhow::Result<()> {
    let mut services = vec![context.service.clone()];
    for _ in 0..3 {
        services.push(context.another_service().await?);
    }
    let user = context.user("alice")?;
    let outcomes = at_once(TASKS, |n| {
        let (service, user) = (services[n % services.len()].clone(), user.clone());
        let state = State::new().with(format!("app:key{n}"), n as u64);
        async move { service.create_session(CreateSession::new(user).with_state(state)).await }
    })
    .await;
    for outcome in outcomes {
        outcome?;
    }
    ensure!(context.service.get_app_state(&context.app_name()?).await?.len() == TASKS);
    Ok(())
}

async fn of_concurrent_creates_with_one_id_exactly_one_succeeds(context: Context) -> anyhow::Result<()> {
    warm_up(&context).await?;
    for round in 0..ROUNDS {
        let key = context.key(&format!("user{round}"), "the-one")?;
        let outcomes = at_once(TASKS, |n| {
            let (service, key) = (context.service.clone(), key.clone());
            let state = State::new().with("winner", n as u64).with(format!("user:key{n}"), 1);
            async move { service.create_session(request(&key, state)).await }
        });
        let mut created = Vec::new();
        for outcome in outcomes.await {
            match outcome {
                Ok(session) => created.push(session),
                Err(Error::AlreadyExists { key: taken }) => ensure!(*taken == key),
                Err(other) => return Err(other.into()),
            }
        }
        ensure!(created.len() == 1, "{} calls created the one session", created.len());
        let stored = context.get(&key).await?;
        ensure!(stored.state == created[0].state, "a loser's state was written: {:?}", stored.state);
    }
    Ok(())
}

async fn of_concurrent_get_or_create_calls_exactly_one_creates(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "the-one")?;
    let outcomes = at_once(TASKS, |n| {
        let (service, key) = (context.service.clone(), key.clone());
        async move { service.get_or_create(key, State::new().with("winner", n as u64)).await }
    })
    .await;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(outcomes.iter().filter(|outcome| outcome.is_created()).count() == 1);
    let states: Vec<_> = outcomes.into_iter().map(|outcome| GetOrCreated::into_session(outcome).state).collect();
    ensure!(states.iter().all(|state| *state == states[0]), "the calls saw different sessions");
    Ok(())
}

async fn no_app_key_is_lost_by_concurrent_appends(context: Context) -> anyhow::Result<()> {
    append_distinct_keys(&context, "app:").await?;
    expect_all_keys(&context.service.get_app_state(&context.app_name()?).await?, "")
}

async fn no_user_key_is_lost_by_concurrent_appends(context: Context) -> anyhow::Result<()> {
    append_distinct_keys(&context, "user:").await?;
    expect_all_keys(&context.service.get_user_state(&context.user("alice")?).await?, "")
}

async fn no_session_key_is_lost_by_concurrent_appends(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    write_distinct_keys(&context, &vec![key.clone(); WRITERS], "").await?;
    expect_all_keys(&context.get(&key).await?.state, "")
}

const WRITERS: usize = 16;
const KEYS_PER_WRITER: usize = 20;

/// 16 writers set 20 keys each, each writer in its own session.
async fn append_distinct_keys(context: &Context, prefix: &'static str) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..WRITERS {
        sessions.push(context.session("alice").await?.key);
    }
    write_distinct_keys(context, &sessions, prefix).await
}

async fn write_distinct_keys(context: &Context, sessions: &[SessionKey], prefix: &'static str) -> anyhow::Result<()> {
    let outcomes = at_once(WRITERS, |writer| {
        let (service, key) = (context.service.clone(), sessions[writer].clone());
        async move {
            for number in 0..KEYS_PER_WRITER {
                let delta = State::new().with(format!("{prefix}key-{writer}-{number}"), number as u64);
                let event = Event::new("writer").with_state_delta(delta);
                service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
            }
            Ok::<_, Error>(())
        }
    })
    .await;
    Ok(outcomes.into_iter().collect::<Result<_, _>>()?)
}

fn expect_all_keys(state: &State, prefix: &str) -> anyhow::Result<()> {
    for writer in 0..WRITERS {
        for number in 0..KEYS_PER_WRITER {
            let key = format!("{prefix}key-{writer}-{number}");
            ensure!(state.decode::<usize>(&key)? == Some(number), "{key} is {:?}", state.get(&key));
        }
    }
    Ok(())
}

async fn no_app_key_is_lost_between_creates_and_appends(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let outcomes = at_once(TASKS, |n| {
        let (service, key) = (context.service.clone(), key.clone());
        let state = State::new().with(format!("app:key{n}"), 1).with(format!("user:key{n}"), 1);
        async move {
            if n % 2 == 0 {
                service.create_session(CreateSession::new(key.user()).with_state(state)).await.map(|_| ())
            } else {
                let event = Event::new("writer").with_state_delta(state);
                service.append_event(AppendEvent::new(key, event, ExpectedRevision::Any)).await.map(|_| ())
            }
        }
    })
    .await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    ensure!(context.service.get_app_state(&key.app_name).await?.len() == TASKS);
    ensure!(context.service.get_user_state(&key.user()).await?.len() == TASKS);
    Ok(())
}

const SESSION_WRITERS: usize = 8;
const EVENTS_PER_WRITER: usize = 10;

/// Each writer reads, increments and writes back a counter: an undetected stale write would lose an increment.
async fn exact_writers_that_reload_lose_no_event(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "counter")?, State::new().with("count", 0)).await?.key;
    let outcomes = at_once(SESSION_WRITERS, |_| count_up(context.service.clone(), key.clone())).await;
    outcomes.into_iter().collect::<anyhow::Result<()>>()?;
    let session = context.get(&key).await?;
    let expected = SESSION_WRITERS * EVENTS_PER_WRITER;
    ensure!(session.events.len() == expected, "{} of {expected} events are there", session.events.len());
    ensure!(session.state.decode::<usize>("count")? == Some(expected), "steps of the counter are lost");
    Ok(())
}

async fn count_up(service: Arc<dyn SessionService>, key: SessionKey) -> anyhow::Result<()> {
    for _ in 0..EVENTS_PER_WRITER {
        loop {
            let session = service.get_session(GetSession::new(key.clone())).await?;
            let mut session = session.ok_or_else(|| anyhow::anyhow!("the session is gone"))?;
            let count = session.state.decode::<u64>("count")?.unwrap_or_default();
            let event = Event::new("counter").with_state_delta(State::new().with("count", count + 1));
            match service.append(&mut session, event).await {
                Ok(_) => break,
                Err(Error::RevisionConflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
    Ok(())
}

async fn any_writers_lose_no_event(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let outcomes = at_once(SESSION_WRITERS, |writer| {
        let (service, key) = (context.service.clone(), key.clone());
        async move {
            for number in 0..EVENTS_PER_WRITER {
                let event = Event::new(format!("writer{writer}")).with_id(format!("{writer}-{number}"));
                service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
            }
            Ok::<_, Error>(())
        }
    })
    .await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    let session = context.get(&key).await?;
    ensure!(session.events.len() == SESSION_WRITERS * EVENTS_PER_WRITER);
    for writer in 0..SESSION_WRITERS {
        let author = format!("writer{writer}");
        let own = session.events.iter().filter(|event| event.author == author).map(|event| event.id.clone());
        let expected = (0..EVENTS_PER_WRITER).map(|number| format!("{writer}-{number}"));
        ensure!(own.eq(expected), "the events of one writer are out of order");
    }
    Ok(())
}

async fn concurrent_replays_store_one_event(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
    let outcomes = at_once(TASKS, |n| {
        let (service, key, event) = (context.service.clone(), session.key.clone(), event.clone());
        let expected = if n % 2 == 0 { ExpectedRevision::Any } else { ExpectedRevision::Exact(session.revision) };
        async move { service.append_event(AppendEvent::new(key, event, expected)).await }
    })
    .await;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(outcomes.iter().filter(|outcome| !outcome.is_replayed()).count() == 1);
    ensure!(outcomes.iter().all(|outcome| outcome.revision() == outcomes[0].revision()));
    ensure!(context.get(&session.key).await?.events.len() == 1);
    Ok(())
}

/// Law 7, in short: calls are dropped after a moment; what is stored is complete, and the service continues to work.
async fn dropped_calls_store_all_or_nothing(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for number in 0..40_u64 {
        let delta = State::new().with(format!("k{number}"), 1).with(format!("app:k{number}"), 1);
        let event = Event::new("user").with_id(format!("e{number}")).with_state_delta(delta);
        let append = context.append(&key, event);
        let moment = std::time::Duration::from_micros(number * 100);
        let _dropped = tokio::time::timeout(moment, append).await;
    }
    // The last append is stored after all appends that continue in the background: those either hold the session's lock
    // or come after it.
    let last = Event::new("user").with_id("last");
    context.append(&key, last.clone()).await?;
    for _ in 0..100 {
        let session = context.get(&key).await?;
        for event in session.events.iter().filter(|event| event.id != "last") {
            let number = event.id.trim_start_matches('e');
            ensure!(session.state.get(&format!("k{number}")).is_some(), "an event is there without its state");
            ensure!(session.state.get(&format!("app:k{number}")).is_some(), "an event is there without its app state");
        }
        let session_keys = session.state.iter().filter(|(key, _)| key.starts_with('k')).count();
        ensure!(session_keys == session.events.len() - 1, "state is there without its event");
    }
    ensure!(context.append(&key, last).await?.is_replayed());
    Ok(())
}
