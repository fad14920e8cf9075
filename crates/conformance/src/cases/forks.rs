//! How a session began is kept, and a fork is a copy that shares nothing later.

use anyhow::{Context as _, ensure};
use seabed_core::history::{ForkSession, Forked, RewindSession};
use seabed_core::{
    AppendEvent, CreateSession, DeleteSession, Error, Event, ExpectedRevision, GetSession, HistoryServiceExt as _,
    ListSessions, Scope, Session, SessionKey, SessionScope, State,
};
use serde_json::{Value, json};

use crate::Context;
use crate::context::{at_once, event_ids, request, session_id};

super::case_list![
    needs History:
    the_initial_state_is_kept_for_whoever_wants_it,
    creates_that_keep_the_initial_state_race_like_others,
    the_state_as_of_an_event_is_exact_where_the_initial_state_is_kept,
    a_fork_has_the_events_and_the_state_as_of_its_event,
    a_fork_shares_nothing_later,
    a_fork_without_the_initial_state_tells_what_it_lacks,
    a_fork_that_cannot_be_is_refused_and_writes_nothing,
    a_fork_waits_for_open_calls_unless_told_otherwise,
    a_fork_beside_appends_is_a_consistent_cut,
    of_forks_and_creates_with_one_id_one_succeeds,
    a_fork_beside_the_delete_of_its_source_is_whole_or_absent,
];

/// An event of an invocation with the same name as its id.
fn turn(id: &str, delta: State) -> Event {
    Event::new("agent").with_id(id).with_invocation_id(id).with_text(id).with_state_delta(delta)
}

/// Creates a session whose initial state is kept.
async fn create_kept(context: &Context, key: &SessionKey, state: State) -> seabed_core::Result<Session> {
    context.service.create_session(request(key, state).with_history()).await
}

/// Forks into a session of this id.
async fn fork(context: &Context, key: &SessionKey, at: &str, id: &str) -> anyhow::Result<seabed_core::Result<Forked>> {
    let request = ForkSession::new(key.clone(), at).with_session_id(session_id(id)?);
    Ok(context.history()?.fork_session(request).await)
}

/// The keys of the session itself.
fn own(state: &State) -> State {
    let entries = state.iter().filter(|(key, _)| Scope::of(key).0 == Scope::Session);
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

async fn count_sessions(context: &Context) -> anyhow::Result<usize> {
    let request = ListSessions::new(SessionScope::App(context.app_name()?));
    Ok(context.service.list_sessions(request).await?.items.len())
}

async fn the_initial_state_is_kept_for_whoever_wants_it(context: Context) -> anyhow::Result<()> {
    let history = context.history()?;
    let initial = State::new().with("city", json!({"name": "Rome", "n": [1, null]})).with("empty", Value::Null);
    let key = context.key("alice", "kept")?;
    let session = create_kept(&context, &key, initial.clone().with("user:name", "Alice")).await?;
    context.append(&key, turn("a", State::new().with("city", "Oslo").with("new", 1))).await?;
    let origin = history.get_origin(&key).await?;
    ensure!(origin.initial_state == Some(initial), "{origin:?}");
    ensure!(origin.parent.is_none() && origin.create_time == session.create_time, "{origin:?}");

    let empty = context.key("alice", "empty")?;
    create_kept(&context, &empty, State::new()).await?;
    ensure!(history.get_origin(&empty).await?.initial_state == Some(State::new()));
    let other = context.create(&context.key("alice", "other")?, State::new().with("k", 1)).await?;
    ensure!(history.get_origin(&other.key).await?.initial_state.is_none());
    let refused = history.get_origin(&context.key("alice", "gone")?).await;
    ensure!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");

    // A later session of the id has nothing of the earlier one.
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    context.create(&key, State::new()).await?;
    ensure!(history.get_origin(&key).await?.initial_state.is_none());
    Ok(())
}

async fn creates_that_keep_the_initial_state_race_like_others(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let services = [context.history()?.clone(), context.another_history().await?];
    let outcomes = at_once(24, |number| {
        let service = services[number % 2].clone();
        let request = request(&key, State::new().with("k", i64::try_from(number).unwrap_or(0)).with("app:k", 1));
        let request = if number % 3 == 0 { request } else { request.with_history() };
        async move { (number % 3 != 0, service.create_session(request).await) }
    })
    .await;
    let mut created = Vec::new();
    for (is_kept, outcome) in outcomes {
        match outcome {
            Ok(session) => created.push((is_kept, session)),
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [(is_kept, session)] = &*created else { anyhow::bail!("{} creates succeeded", created.len()) };
    let origin = context.history()?.get_origin(&key).await?;
    ensure!(origin.initial_state == is_kept.then(|| own(&session.state)), "{origin:?} of {session:?}");
    let others = at_once(12, |_| {
        let (service, user) = (services[0].clone(), key.user());
        async move { service.create_session(CreateSession::new(user).with_history()).await }
    })
    .await;
    others.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(count_sessions(&context).await? == 13);
    Ok(())
}

async fn the_state_as_of_an_event_is_exact_where_the_initial_state_is_kept(context: Context) -> anyhow::Result<()> {
    let history = context.history()?;
    for is_kept in [true, false] {
        let key = context.key("alice", if is_kept { "kept" } else { "not" })?;
        let create = request(&key, State::new().with("city", "Rome").with("currency", "EUR"));
        context.service.create_session(if is_kept { create.with_history() } else { create }).await?;
        context.append(&key, turn("a", State::new().with("seats", 2).with("user:name", "Alice"))).await?;
        let then = own(&context.get(&key).await?.state);
        context.append(&key, turn("b", State::new().with("city", "Oslo").with("seats", 3))).await?;
        let at = history.state_at(&key, "a").await?;
        if is_kept {
            ensure!(at.state == then && at.unknown.is_empty(), "{at:?} instead of {then:?}");
        } else {
            ensure!(at.state.get("city").is_none() && at.unknown.iter().eq(["city"]), "{at:?}");
        }
        let refused = history.state_at(&key, "c").await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event_id", .. })), "{refused:?}");
        let rewound = history.rewind_with_history(RewindSession::new(key.clone(), "b")).await?;
        ensure!(rewound.unknown.is_empty() == is_kept, "{:?}", rewound.unknown);
        ensure!(!is_kept || own(&context.get(&key).await?.state) == then, "the rewind lost the initial state");
    }
    Ok(())
}

async fn a_fork_has_the_events_and_the_state_as_of_its_event(context: Context) -> anyhow::Result<()> {
    let history = context.history()?;
    let key = context.key("alice", "s")?;
    let initial = State::new().with("city", "Rome").with("big", json!([1, {"n": 1.0}]));
    create_kept(&context, &key, initial.clone().with("app:a", 1)).await?;
    let mut states = Vec::new();
    for (id, delta) in [
        ("a", State::new().with("city", "Oslo").with("seats", 2)),
        ("b", State::new().with("seats", Value::Null).with("user:u", 1)),
        ("c", State::new().with("hotel", "Opus")),
    ] {
        context.append(&key, turn(id, delta)).await?;
        states.push(context.get(&key).await?.state);
    }
    let source = context.get(&key).await?;
    for (index, id) in ["a", "b", "c"].into_iter().enumerate() {
        let forked = fork(&context, &key, id, &format!("fork {id}")).await??;
        ensure!(forked.events == index as u64 + 1 && forked.unknown.is_empty(), "{forked:?}");
        let stored = context.get(&forked.session.key).await?;
        ensure!(stored.events == source.events[..=index], "{:?}", event_ids(&stored));
        ensure!(own(&stored.state) == own(&states[index]), "{:?} instead of {:?}", stored.state, states[index]);
        ensure!(stored.state.get("app:a").is_some() && stored.state.get("user:u").is_some(), "{:?}", stored.state);
        let without_events = GetSession::new(stored.key.clone()).with_num_recent_events(0);
        let read = context.service.get_session(without_events).await?.context("the fork is gone")?;
        let returned = &forked.session;
        ensure!((&returned.state, returned.revision) == (&read.state, read.revision), "{forked:?}");
        let origin = history.get_origin(&stored.key).await?;
        let parent = origin.parent.context("no parent")?;
        ensure!(parent.session_id == key.session_id && parent.event_id == id, "{parent:?}");
        ensure!(origin.initial_state.as_ref() == Some(&initial) && origin.create_time == stored.create_time);
        ensure!(stored.create_time >= source.create_time, "it was created before its source");
        // Its history explains its state, as that of its source does.
        for (state, id) in states[..=index].iter().zip(["a", "b", "c"]) {
            let at = history.state_at(&stored.key, id).await?;
            ensure!(at.state == own(state) && at.unknown.is_empty(), "{at:?}");
        }
    }
    // A fork of a fork, under an id of the service's.
    let of_fork = history.fork_session(ForkSession::new(context.key("alice", "fork c")?, "a")).await?;
    ensure!(context.get(&of_fork.session.key).await?.events == source.events[..1]);
    ensure!(context.get(&key).await? == source, "the source has changed");
    Ok(())
}

async fn a_fork_shares_nothing_later(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    create_kept(&context, &key, State::new().with("k", 0)).await?;
    context.append(&key, turn("a", State::new().with("k", 1))).await?;
    context.append(&key, turn("b", State::new().with("k", 2))).await?;
    let forked = fork(&context, &key, "a", "fork").await??.session;
    let before = context.get(&key).await?;
    // At the revision that the fork returned, and under an id that the source has.
    context.append_at(&forked.key, turn("b", State::new().with("k", "fork")), forked.revision).await?;
    ensure!(context.get(&key).await? == before, "an append to the fork reached its source");
    context.append(&key, turn("c", State::new().with("k", 3).with("user:shared", 1))).await?;
    let stored = context.get(&forked.key).await?;
    ensure!(event_ids(&stored) == ["a", "b"] && own(&stored.state) == State::new().with("k", "fork"), "{stored:?}");
    ensure!(stored.state.get("user:shared").is_some(), "sessions of a user share its state");
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    ensure!(context.get(&forked.key).await? == stored, "the fork went with its source");
    let origin = context.history()?.get_origin(&forked.key).await?;
    ensure!(origin.parent.is_some_and(|parent| parent.session_id == key.session_id));
    Ok(())
}

async fn a_fork_without_the_initial_state_tells_what_it_lacks(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    context.create(&key, State::new().with("language", "no").with("city", "Oslo")).await?;
    context.append(&key, turn("a", State::new().with("seats", 2))).await?;
    context.append(&key, turn("b", State::new().with("city", "Bergen").with("hotel", "Opus").with("seats", 3))).await?;
    let forked = fork(&context, &key, "a", "fork").await??;
    ensure!(forked.unknown.iter().eq(["city", "hotel"]), "{forked:?}");
    let stored = context.get(&forked.session.key).await?;
    ensure!(stored.state == State::new().with("language", "no").with("seats", 2), "{:?}", stored.state);
    ensure!(context.history()?.get_origin(&stored.key).await?.initial_state.is_none());
    Ok(())
}

async fn a_fork_that_cannot_be_is_refused_and_writes_nothing(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let gone = fork(&context, &key, "a", "fork").await?;
    ensure!(matches!(&gone, Err(Error::NotFound { key: told }) if **told == key), "{gone:?}");
    create_kept(&context, &key, State::new()).await?;
    for id in ["a", "b"] {
        context.append(&key, turn(id, State::new().with(id, 1))).await?;
    }
    context.history()?.rewind_with_history(RewindSession::new(key.clone(), "b")).await?;
    let before = context.get(&key).await?;
    for bad in ["", "b", "c", "A", "a ", "a\0", &"x".repeat(129)] {
        let refused = fork(&context, &key, bad, "fork").await?;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event_id", .. })), "{bad:?}: {refused:?}");
    }
    for taken in ["s", "taken"] {
        if taken != "s" {
            context.create(&context.key("alice", taken)?, State::new().with("k", 1)).await?;
        }
        let refused = fork(&context, &key, "a", taken).await?;
        let is_told = matches!(&refused, Err(Error::AlreadyExists { key }) if key.session_id.as_str() == taken);
        ensure!(is_told, "{refused:?}");
    }
    ensure!(context.get(&key).await? == before && count_sessions(&context).await? == 2);
    let taken = context.get(&context.key("alice", "taken")?).await?;
    ensure!(taken.events.is_empty() && taken.state == State::new().with("k", 1), "{taken:?}");
    // What a rewind has left can be forked, and the rewind itself.
    let rewind = before.events.last().context("no rewind")?.id.clone();
    for (at, id) in [("a", "of a"), (&*rewind, "of the rewind")] {
        let forked = fork(&context, &key, at, id).await??.session;
        let stored = context.get(&forked.key).await?;
        ensure!(stored.events.last().is_some_and(|last| last.id == at), "{:?}", event_ids(&stored));
    }
    Ok(())
}

async fn a_fork_waits_for_open_calls_unless_told_otherwise(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    create_kept(&context, &key, State::new()).await?;
    let of_parts =
        |id: &str, parts: Value| Event::new("agent").with_id(id).with_content(json!({"role": "model", "parts": parts}));
    let calls = [("x", "f"), ("y", "g")].map(|(id, name)| json!({"function_call": {"id": id, "name": name}}));
    let response = |id: &str, name: &str| json!([{"function_response": {"id": id, "name": name, "response": {}}}]);
    context.append(&key, of_parts("calls", json!(calls))).await?;
    context.append(&key, of_parts("x", response("x", "f"))).await?;
    context.append(&key, of_parts("y", response("y", "g"))).await?;
    for open in ["calls", "x"] {
        let refused = fork(&context, &key, open, "fork").await?;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event_id", .. })), "{refused:?}");
    }
    ensure!(count_sessions(&context).await? == 1);
    ensure!(fork(&context, &key, "y", "fork").await??.events == 3);
    let forced = ForkSession::new(key.clone(), "x").with_open_calls_allowed();
    ensure!(context.history()?.fork_session(forced).await?.events == 2);
    Ok(())
}

/// Appends by one service, and forks by another at events that were acknowledged.
async fn a_fork_beside_appends_is_a_consistent_cut(context: Context) -> anyhow::Result<()> {
    const EVENTS: i64 = 24;
    let key = context.key("alice", "s")?;
    create_kept(&context, &key, State::new().with("n", 0)).await?;
    context.append(&key, turn("0", State::new().with("n", 0))).await?;
    let other = context.another_history().await?;
    let (writer, of_writer) = (context.service.clone(), key.clone());
    let appending = tokio::spawn(async move {
        for number in 1..EVENTS {
            let event = turn(&number.to_string(), State::new().with("n", number).with(format!("k{number}"), 1));
            writer.append_event(AppendEvent::new(of_writer.clone(), event, ExpectedRevision::Any)).await?;
        }
        anyhow::Ok(())
    });
    let mut forks = Vec::new();
    loop {
        let at = context.get(&key).await?.events.len() - 1;
        forks.push((at, other.fork_session(ForkSession::new(key.clone(), at.to_string())).await?));
        if appending.is_finished() || forks.len() == 40 {
            break;
        }
    }
    appending.await??;
    for (at, forked) in &forks {
        let stored = context.get(&forked.session.key).await?;
        let ids: Vec<String> = (0..=*at).map(|number| number.to_string()).collect();
        ensure!(event_ids(&stored) == ids, "{:?} at {at}", event_ids(&stored));
        ensure!(stored.state.get("n").is_some_and(|n| n.as_str() == at.to_string()), "{:?} at {at}", stored.state);
        ensure!(stored.state.len() == at + 1 && forked.unknown.is_empty(), "{:?} at {at}", stored.state);
    }
    ensure!(context.get(&key).await?.events.len() == usize::try_from(EVENTS)?);
    Ok(())
}

async fn of_forks_and_creates_with_one_id_one_succeeds(context: Context) -> anyhow::Result<()> {
    let (key, taken) = (context.key("alice", "s")?, context.key("alice", "fork")?);
    create_kept(&context, &key, State::new()).await?;
    context.append(&key, turn("a", State::new().with("k", 1))).await?;
    let services = [context.history()?.clone(), context.another_history().await?];
    let request = ForkSession::new(key.clone(), "a").with_session_id(taken.session_id.clone());
    let outcomes = at_once(16, |number| {
        let (service, fork, taken) = (services[number % 2].clone(), request.clone(), taken.clone());
        async move {
            match number % 4 {
                0 => service.create_session(crate::context::request(&taken, State::new())).await.map(|_| false),
                _ => service.fork_session(fork).await.map(|_| true),
            }
        }
    })
    .await;
    let mut succeeded = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(is_fork) => succeeded.push(is_fork),
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [is_fork] = *succeeded else { anyhow::bail!("{} succeeded", succeeded.len()) };
    let stored = context.get(&taken).await?;
    ensure!(stored.events.len() == usize::from(is_fork) && stored.state.len() == usize::from(is_fork), "{stored:?}");
    ensure!(context.history()?.get_origin(&taken).await?.parent.is_some() == is_fork);
    Ok(())
}

/// The source is deleted and created again at the same time. Of a fork there are all events or none.
async fn a_fork_beside_the_delete_of_its_source_is_whole_or_absent(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let other = context.another_history().await?;
    let mut forks = 0;
    for round in 0..8 {
        create_kept(&context, &key, State::new().with("round", round)).await?;
        for id in ["a", "b", "c"] {
            context.append(&key, turn(id, State::new())).await?;
        }
        let id = session_id(&format!("fork {round}"))?;
        let request = ForkSession::new(key.clone(), "c").with_session_id(id.clone());
        let delete = async {
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            context.service.delete_session(DeleteSession::new(key.clone())).await?;
            context.create(&key, State::new()).await
        };
        let (forked, recreated) = tokio::join!(other.fork_session(request), delete);
        recreated?;
        context.service.delete_session(DeleteSession::new(key.clone())).await?;
        let stored = context.service.get_session(GetSession::new(key.user().session(id))).await?;
        match (&forked, &stored) {
            (Ok(_), Some(stored)) => {
                forks += 1;
                ensure!(event_ids(stored) == ["a", "b", "c"], "{:?}", event_ids(stored));
                ensure!(stored.state == State::new().with("round", round), "{:?}", stored.state);
            }
            (Err(Error::NotFound { .. } | Error::Invalid { .. }), None) => {}
            (Err(error), None) if error.is_retryable() => {}
            _ => anyhow::bail!("{forked:?}, and there is {stored:?}"),
        }
    }
    ensure!(count_sessions(&context).await? == forks);
    Ok(())
}
