//! Many callers, large writes, bad writes, and a server that hangs or is far away: everybody gets a fair part, in time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::{join, join_all, join3, try_join_all};
use seabed::sea_orm::ConnectionTrait as _;
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, DynSessionService, Error, Event, ExpectedRevision, GetSession,
    ServiceOptions, SessionId, SessionKey, State, UserKey,
};
use seabed_tests::{Family, Kind, Proxy};

use crate::fixture::Fixture;

crate::database_cases! {
    Servers: [
        a_write_that_is_always_refused_leaves_the_others_together,
        a_refused_write_costs_no_connection,
        callers_of_a_server_that_hangs_hear_of_it_in_time,
        many_writers_of_a_server_that_is_far_away_are_served,
        appends_of_a_batch_end_as_one_by_one,
        a_locked_app_or_user_row_holds_up_nobody_else,
    ],
    MySql: [
        a_large_state_is_not_read_for_a_group,
    ],
    Sqlite: [
        small_writes_pass_large_ones,
    ],
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

fn bad() -> Event {
    Event::new("user").with_invocation_id("bad")
}

async fn create(service: &DynSessionService, count: usize) -> anyhow::Result<Vec<SessionKey>> {
    let user = UserKey::try_new("app", "alice")?;
    let sessions = try_join_all((0..count).map(|_| service.create_session(CreateSession::new(user.clone())))).await?;
    Ok(sessions.into_iter().map(|session| session.key).collect())
}

/// From now on the database refuses the events that [`bad`] makes.
async fn refuse_bad_events(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute("ALTER TABLE events ADD CONSTRAINT no_bad_event CHECK (invocation_id <> 'bad')").await
}

fn family(fixture: &Fixture) -> Family {
    fixture.kind.map_or(Family::Postgres, Kind::family)
}

/// Its session is appended to again and again, as by an agent that repeats its calls. If each of its neighbours were
/// tried alone, each would take round trips of its own.
async fn a_write_that_is_always_refused_leaves_the_others_together(fixture: &Fixture) -> anyhow::Result<()> {
    const WRITERS: usize = 150;
    let keys = create(&fixture.migrated().await?, WRITERS).await?;
    let (proxy, url) = Proxy::start(family(fixture), &fixture.service_url).await?;
    let service = family(fixture).connect(&url, 4, Duration::from_secs(5)).await?;
    let calls = |is_bad: fn(usize) -> bool| {
        let event = move |number| if is_bad(number) { bad() } else { Event::new("user") };
        join_all(keys.iter().enumerate().map(|(number, key)| service.append_event(append(key, event(number)))))
    };
    // These prepare the statements.
    ensure!(calls(|_| false).await.iter().all(Result::is_ok));
    refuse_bad_events(fixture).await?;
    let is_bad = |number: usize| number == 100;
    for round in 0..4 {
        proxy.take();
        for (number, outcome) in calls(is_bad).await.into_iter().enumerate() {
            let kind = outcome.as_ref().err().and_then(Error::backend_kind);
            ensure!(kind == is_bad(number).then_some(BackendErrorKind::Unexpected), "write {number}: {outcome:?}");
        }
        let round_trips = proxy.take().round_trips;
        println!("round {round}: {round_trips} round trips");
        ensure!(round_trips < 200, "{WRITERS} writes took {round_trips} round trips");
    }
    let stored = fixture.query_text("SELECT CAST(COUNT(*) AS char(9)) AS text FROM events").await?;
    ensure!(stored.trim() == "746", "{stored} events are stored");
    Ok(())
}

/// The connection is as good as before.
async fn a_refused_write_costs_no_connection(fixture: &Fixture) -> anyhow::Result<()> {
    let keys = create(&fixture.migrated().await?, 1).await?;
    refuse_bad_events(fixture).await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let service = family(fixture).connect(&url, 4, Duration::from_secs(5)).await?;
    for _ in 0..20 {
        let refused = service.append_event(append(&keys[0], bad())).await;
        ensure!(refused.is_err(), "{refused:?}");
    }
    // One or two for the checks of the schema, and one for each that the service uses at once.
    ensure!(proxy.opened() < 8, "{} connections were opened", proxy.opened());
    Ok(())
}

/// Of the events that nobody may count on, none turns up once the server answers again.
async fn callers_of_a_server_that_hangs_hear_of_it_in_time(fixture: &Fixture) -> anyhow::Result<()> {
    const CALLERS: usize = 600;
    const LIMIT: Duration = Duration::from_secs(2);
    let direct = fixture.migrated().await?;
    let keys = create(&direct, 50).await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let pool = family(fixture).open(&url, 6, Duration::from_secs(20)).await?;
    let options = ServiceOptions::new().with_timeout(LIMIT).with_shared_pool();
    let service = seabed::from_connection_with(pool, options).await?;
    try_join_all(keys.iter().map(|key| service.append_event(append(key, Event::new("user"))))).await?;
    proxy.stall(true);
    let begun = Instant::now();
    let writes = join_all((0..CALLERS).map(|number| {
        let event = Event::new("user").with_id(format!("event-{number}"));
        service.append_event(append(&keys[number % keys.len()], event))
    }));
    let reads = join_all(keys.iter().map(|key| service.get_session(GetSession::new(key.clone()))));
    let (writes, reads) = tokio::join!(writes, reads);
    // Generous, because one thread polls all of these.
    ensure!(begun.elapsed() < LIMIT * 3, "the callers waited for {:?}", begun.elapsed());
    ensure!(reads.iter().all(|read| read.as_ref().is_err_and(Error::is_retryable)), "a read of a server that hangs");
    proxy.stall(false);
    // What was on its way arrives.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut unknown = 0;
    for (number, write) in writes.into_iter().enumerate() {
        let key = &keys[number % keys.len()];
        match write.as_ref().err().and_then(Error::backend_kind) {
            Some(BackendErrorKind::CommitUnknown) => unknown += 1,
            Some(BackendErrorKind::Unavailable) => {
                let session = direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
                let id = format!("event-{number}");
                ensure!(session.events.iter().all(|event| event.id != id), "{id} is stored, and its caller told not");
            }
            _ => anyhow::bail!("write {number}: {write:?}"),
        }
    }
    ensure!(unknown < CALLERS / 2, "{unknown} of {CALLERS} writes are in doubt, and most were never sent");
    Ok(())
}

/// Another transaction keeps the service's only batch busy while they queue up.
async fn small_writes_pass_large_ones(fixture: &Fixture) -> anyhow::Result<()> {
    const LARGE: usize = 8;
    const SMALL: usize = 20;
    let service = fixture.migrated().await?;
    let keys = create(&service, LARGE + SMALL).await?;
    let (large, text) = (Event::new("user"), "x".repeat(2 << 20));
    let large = large.with_text(text);
    let done = AtomicUsize::new(0);
    let store = async |key: &SessionKey, event: Event| {
        service.append_event(append(key, event)).await?;
        anyhow::Ok(done.fetch_add(1, Ordering::Relaxed))
    };
    let other = fixture.begin_write().await?;
    let writes = keys
        .iter()
        .enumerate()
        .map(|(number, key)| store(key, if number < LARGE { large.clone() } else { Event::new("user") }));
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.rollback().await
    };
    let (order, released) = tokio::join!(try_join_all(writes), release);
    released?;
    let before = order?[LARGE..].iter().max().map_or(0, |last| last + 1 - SMALL);
    ensure!(before <= 2, "{before} large writes were stored before the last small one");
    Ok(())
}

/// A batch takes few round trips, whatever it holds.
async fn many_writers_of_a_server_that_is_far_away_are_served(fixture: &Fixture) -> anyhow::Result<()> {
    const WRITERS: u32 = 600;
    let direct = fixture.migrated().await?;
    let users = (0..WRITERS).map(|number| UserKey::try_new("app", format!("user {number}")));
    let users = users.collect::<seabed::Result<Vec<_>>>()?;
    let sessions = users.into_iter().map(|user| direct.create_session(CreateSession::new(user)));
    let keys: Vec<SessionKey> = try_join_all(sessions).await?.into_iter().map(|session| session.key).collect();
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let pool = family(fixture).open(&url, 10, Duration::from_secs(5)).await?;
    let options = ServiceOptions::new().with_statement_timeout(Duration::from_secs(5)).with_shared_pool();
    let service = seabed::from_connection_with(pool, options).await?;
    let event = || Event::new("user").with_state_delta(State::new().with("k", 1).with("user:k", 1));
    proxy.set_distance(Duration::from_millis(25));
    // The first one prepares the statements.
    service.append_event(append(&keys[0], event())).await?;
    let begun = Instant::now();
    service.append_event(append(&keys[0], event())).await?;
    let alone = begun.elapsed();
    let begun = Instant::now();
    let outcomes = join_all(keys.iter().map(|key| service.append_event(append(key, event())))).await;
    let took = begun.elapsed();
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    ensure!(failed.is_empty(), "{} of {WRITERS} failed: {:?}", failed.len(), failed[0]);
    println!("one alone: {alone:?}, {WRITERS} together: {took:?}");
    ensure!(took < alone * WRITERS / 10, "{WRITERS} took {took:?}, one alone {alone:?}");
    for key in &keys {
        let session = direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session.state == State::new().with("k", 1).with("user:k", 1), "{:?}", session.state);
    }
    Ok(())
}

/// Conflicts, replays, reused ids, missing and repeated sessions, beside each other in any batch.
async fn appends_of_a_batch_end_as_one_by_one(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, 60).await?;
    let stored = Event::new("user").with_id("stored").with_timestamp(1.0);
    for key in keys.iter().step_by(3) {
        service.append_event(append(key, stored.clone())).await?;
    }
    let missing = SessionId::try_new("missing")?;
    // Keeps the batches busy, so that the others gather.
    let busy = create(&service, 16).await?;
    let busy = join_all(busy.iter().map(|key| service.append_event(append(key, Event::new("user")))));
    let calls = keys.iter().enumerate().flat_map(|(number, key)| {
        let first = match number % 3 {
            0 => append(key, stored.clone()),
            _ => append(key, Event::new("user").with_id("1").with_state_delta(State::new().with("1", number as u64))),
        };
        let second = Event::new("user").with_id("2").with_state_delta(State::new().with("app:2", 2).with("2", 2));
        let again = Event::new("user").with_id("2").with_text("other");
        let missing = key.user().session(missing.clone());
        [first, append(key, second), append(key, again), append(&missing, Event::new("user"))]
    });
    let calls: Vec<AppendEvent> = calls.collect();
    let calls = join_all(calls.into_iter().map(|call| service.append_event(call)));
    // Without a budget, after which tokio would poll the others in another order.
    let (_, outcomes) = tokio::task::unconstrained(join(busy, calls)).await;
    for (number, outcomes) in outcomes.chunks(4).enumerate() {
        let [first, second, again, missing] = outcomes else { anyhow::bail!("four calls for each session") };
        ensure!(matches!(first, Ok(appended) if appended.is_replayed() == (number % 3 == 0)), "{first:?}");
        ensure!(matches!(second, Ok(appended) if !appended.is_replayed()), "{second:?}");
        ensure!(matches!(again, Err(Error::EventIdReused { .. })), "{again:?}");
        ensure!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
        let session = service.get_session(GetSession::new(keys[number].clone())).await?.context("no session")?;
        let ids: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
        let (first, state) = match number % 3 {
            0 => ("stored", State::new()),
            _ => ("1", State::new().with("1", number as u64)),
        };
        ensure!(ids == [first, "2"], "{ids:?}");
        ensure!(session.state == state.with("app:2", 2).with("2", 2), "{:?}", session.state);
    }
    Ok(())
}

/// Another transaction holds a row of shared state. Writes to it wait, and those that would share a batch with them do
/// not.
async fn a_locked_app_or_user_row_holds_up_nobody_else(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let sessions = async |app: &str, count: usize| {
        let user = UserKey::try_new(app, "alice")?;
        let created = (0..count).map(|_| service.create_session(CreateSession::new(user.clone())));
        anyhow::Ok(try_join_all(created).await?.into_iter().map(|session| session.key).collect::<Vec<_>>())
    };
    let (held, free, busy) = (sessions("held", 6).await?, sessions("free", 40).await?, sessions("busy", 24).await?);
    let delta = State::new().with("app:k", 1).with("user:k", 1).with("k", 1);
    let change =
        |key: &SessionKey| service.append_event(append(key, Event::new("user").with_state_delta(delta.clone())));
    for table in ["app_states", "user_states"] {
        let holder = fixture.begin_write().await?;
        let lock = format!("SELECT state FROM {table} WHERE app_name = 'held' FOR UPDATE");
        holder.execute_unprepared(&lock).await?;
        let begun = Instant::now();
        // These keep the batches busy, so that the others gather behind them.
        let busy = try_join_all(busy.iter().map(|key| service.append_event(append(key, Event::new("user")))));
        let waiting = join_all(held.iter().map(change));
        let others = async {
            try_join_all(free.iter().map(change)).await?;
            let user = UserKey::try_new("free", "bob")?;
            let create = || service.create_session(CreateSession::new(user.clone()).with_state(delta.clone()));
            try_join_all((0..10).map(|_| create())).await?;
            let took = begun.elapsed();
            holder.rollback().await?;
            anyhow::Ok(took)
        };
        let (busy, waiting, others) = tokio::task::unconstrained(join3(busy, waiting, others)).await;
        busy?;
        // A wait for a lock takes ten seconds.
        ensure!(others? < Duration::from_secs(5), "the others waited for a row of {table}");
        ensure!(waiting.iter().all(Result::is_ok), "{waiting:?}");
    }
    for key in held.iter().chain(&free) {
        let session = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session.state == delta && session.events.len() == 2, "{session:?}");
    }
    Ok(())
}

/// Its session is written by itself in the transaction of the group, and keeps the order of its events.
async fn a_large_state_is_not_read_for_a_group(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, 24).await?;
    let busy = create(&service, 16).await?;
    let large = State::new().with("large", "x".repeat(100 << 10));
    service.append_event(append(&keys[3], Event::new("user").with_state_delta(large.clone()))).await?;
    let busy = join_all(busy.iter().map(|key| service.append_event(append(key, Event::new("user")))));
    let calls = keys.iter().enumerate().flat_map(|(number, key)| {
        // One state grows too large within the group.
        let grown = if number == 7 { large.clone() } else { State::new() };
        let event = |id: &str, state: State| Event::new("user").with_id(id).with_state_delta(state.with(id, 1));
        [
            append(key, event("1", grown)),
            append(key, event("2", State::new())),
            append(key, Event::new("user").with_id("3")),
        ]
    });
    let calls = join_all(calls.map(|call| service.append_event(call)));
    let (_, outcomes) = tokio::task::unconstrained(join(busy, calls)).await;
    ensure!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for (number, key) in keys.iter().enumerate() {
        let session = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        let ids: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
        ensure!(ids.ends_with(&["1", "2", "3"]), "{ids:?}");
        let state = if number == 3 || number == 7 { large.clone() } else { State::new() };
        ensure!(session.state == state.with("1", 1).with("2", 1), "session {number} has another state");
    }
    Ok(())
}
