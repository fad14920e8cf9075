//! Writes that wait together and are committed in one batch do not affect each other.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::{join_all, try_join_all};
use seabed::entity::sessions::{self, Column};
use seabed::sea_orm::sea_query::{IntoIden, Query, SqliteQueryBuilder};
use seabed::sea_orm::{ConnectionTrait, Statement, TransactionTrait};
use seabed::{
    AppendEvent, Appended, BackendErrorKind, CreateSession, DeleteSession, DynSessionService, Error, Event,
    ExpectedRevision, GetSession, Revision, SessionId, SessionKey, State, UserKey,
};
use seabed_core::sql::{Dialect, SqlSessionService, Tables};
use seabed_tests::{Family, Kind};

use crate::fixture::{Fixture, with_dialect};

crate::database_cases! {
    Everywhere: [
        a_write_that_fails_fails_alone,
        refusals_and_replays_do_not_touch_their_neighbours,
        thousands_of_waiting_writes_are_all_stored,
        of_writers_at_one_revision_one_wins,
        creates_of_one_id_in_one_group_have_one_winner,
        writes_of_one_group_to_one_session_see_each_other,
    ],
    Servers: [
        a_locked_session_holds_up_nobody_else,
        writes_to_one_session_keep_their_order,
        a_create_tells_the_state_that_others_made_meanwhile,
        busy_readers_do_not_starve_a_writer,
    ],
    Sqlite: [
        a_prefetch_looks_each_session_up,
    ],
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

async fn create(service: &DynSessionService, app: &str, count: usize) -> anyhow::Result<Vec<SessionKey>> {
    let requests = (0..count).map(|_| async {
        anyhow::Ok(service.create_session(CreateSession::new(UserKey::try_new(app, "alice")?)).await?.key)
    });
    try_join_all(requests).await
}

/// The state of one app cannot be decoded. Appends to it are batched with those to another app.
async fn a_write_that_fails_fails_alone(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let (sound, broken) = (create(&service, "sound", 40).await?, create(&service, "broken", 8).await?);
    fixture.execute("UPDATE app_states SET state = '[]' WHERE app_name = 'broken'").await?;
    let event = || Event::new("user").with_state_delta(State::new().with("k", 1).with("app:k", 1));
    let keys: Vec<&SessionKey> = sound.iter().take(20).chain(&broken).chain(sound.iter().skip(20)).collect();
    let outcomes = join_all(keys.iter().map(|key| service.append_event(append(key, event())))).await;
    for (key, outcome) in keys.iter().zip(&outcomes) {
        if key.app_name.as_str() == "sound" {
            ensure!(matches!(outcome, Ok(Appended::Stored(_))), "{key}: {outcome:?}");
        } else {
            let kind = outcome.as_ref().err().and_then(Error::backend_kind);
            ensure!(kind == Some(BackendErrorKind::Corrupt), "{key}: {outcome:?}");
        }
        let session = service.get_session(GetSession::new((*key).clone())).await;
        if key.app_name.as_str() == "sound" {
            let session = session?.context("the session is gone")?;
            ensure!(session.events.len() == 1 && session.state.len() == 2, "{session:?}");
        }
    }
    let stored = fixture.query_text("SELECT CAST(COUNT(*) AS char(9)) AS text FROM events").await?;
    ensure!(stored.trim() == "40", "{stored} events are stored");
    Ok(())
}

async fn refusals_and_replays_do_not_touch_their_neighbours(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, "app", 30).await?;
    let event = Event::new("user").with_id("twice");
    let stale = service.get_session(GetSession::new(keys[0].clone())).await?.context("no session")?.revision;
    try_join_all(keys[..20].iter().map(|key| service.append_event(append(key, event.clone())))).await?;
    let calls = keys.iter().enumerate().map(|(index, key)| {
        let request = match index {
            0..5 => append(key, event.clone()),
            5..10 => append(key, event.clone().with_text("other")),
            10..15 => AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(stale)),
            15..20 => append(&key.user().session(SessionId::try_new(format!("none-{index}"))?), Event::new("user")),
            _ => append(key, Event::new("user")),
        };
        anyhow::Ok(service.append_event(request))
    });
    let outcomes = join_all(calls.collect::<anyhow::Result<Vec<_>>>()?).await;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let expected = match index {
            0..5 => matches!(outcome, Ok(Appended::Replayed(_))),
            5..10 => matches!(outcome, Err(Error::EventIdReused { .. })),
            10..15 => matches!(outcome, Err(Error::RevisionConflict { .. })),
            15..20 => matches!(outcome, Err(Error::NotFound { .. })),
            _ => matches!(outcome, Ok(Appended::Stored(_))),
        };
        ensure!(expected, "call {index}: {outcome:?}");
    }
    let stored = fixture.query_text("SELECT CAST(COUNT(*) AS char(9)) AS text FROM events").await?;
    ensure!(stored.trim() == "30", "{stored} events are stored");
    Ok(())
}

/// More writes than the queue holds, so that some wait for room.
async fn thousands_of_waiting_writes_are_all_stored(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, "app", 8).await?;
    let writes = 2500_usize;
    let calls = (0..writes).map(|write| {
        let delta = State::new().with(format!("app:{write}"), 1);
        service.append_event(append(&keys[write % keys.len()], Event::new("user").with_state_delta(delta)))
    });
    try_join_all(calls).await?;
    let state = service.get_app_state(&keys[0].app_name).await?;
    ensure!(state.len() == writes, "{} of {writes} keys", state.len());
    let mut events = 0;
    for key in keys {
        events += service.get_session(GetSession::new(key)).await?.context("no session")?.events.len();
    }
    ensure!(events == writes, "{events} of {writes} events");
    Ok(())
}

/// Twenty callers for each of twenty ids, all waiting at once.
async fn creates_of_one_id_in_one_group_have_one_winner(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let user = UserKey::try_new("app", "alice")?;
    let calls = (0..400).map(|call| {
        let id = SessionId::try_new(format!("id-{}", call % 20))?;
        let request = CreateSession::new(user.clone()).with_session_id(id);
        Ok(service.create_session(request.with_state(State::new().with("winner", call))))
    });
    let outcomes = join_all(calls.collect::<seabed::Result<Vec<_>>>()?).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    ensure!(won.len() == 20, "{} callers won 20 ids", won.len());
    ensure!(lost.iter().all(|outcome| matches!(outcome, Err(Error::AlreadyExists { .. }))), "{lost:?}");
    for created in won {
        let created = created?;
        let stored = service.get_session(GetSession::new(created.key.clone())).await?.context("no session")?;
        ensure!(stored.state == created.state, "{:?} was told, {:?} is stored", created.state, stored.state);
    }
    Ok(())
}

/// On SQLite the writes queue up while another is in progress, and then share a commit. (On a server only their order
/// is tested: a batch leaves out the write that has to wait.) The first one needs no read of its session, and moves it
/// past the times of the others.
async fn writes_of_one_group_to_one_session_see_each_other(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, "app", 3).await?;
    let (other, key, busy) = (&keys[0], &keys[1], &keys[2]);
    let created = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    let now = created.create_time.as_seconds() + 1.0;
    let event = |id: &str, time: f64| Event::new("user").with_id(id).with_timestamp(time);
    let with = |name: &str| event(name, now).with_state_delta(State::new().with(name, 1));
    let first = AppendEvent::new(key.clone(), event("first", now + 10.0), ExpectedRevision::Exact(created.revision));
    let requests = [append(other, Event::new("user")), first, append(key, with("second")), append(key, with("third"))];
    // SQLite's only batch waits for this transaction, so that the writes gather in the next one.
    let transaction = fixture.admin.begin().await?;
    let session_id = &busy.session_id;
    transaction.execute_unprepared(&format!("UPDATE sessions SET state = state WHERE id = '{session_id}'")).await?;
    let waits = tokio::spawn({
        let (service, request) = (service.clone(), append(busy, Event::new("user")));
        async move { service.append_event(request).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gathering = try_join_all(requests.into_iter().map(|request| service.append_event(request)));
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        transaction.commit().await
    };
    let (gathered, released) = tokio::join!(gathering, release);
    released?;
    gathered?;
    waits.await??;
    let session = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    let order: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
    ensure!(order == ["first", "second", "third"], "{order:?}");
    ensure!(session.state == State::new().with("second", 1).with("third", 1), "{:?}", session.state);
    Ok(())
}

/// Even if ANALYZE has seen few sessions, and the planner prefers to read the whole table.
async fn a_prefetch_looks_each_session_up(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(_: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let key = [Column::AppName, Column::UserId, Column::Id];
        let select = Query::select().columns(key.map(|column| (sessions::Entity, column))).take();
        let key = key.map(|column| (sessions::Entity.into_iden(), column.into_iden()));
        let prefetch = D::select_by_keys(select, Tables::new().table(sessions::Entity), key);
        let plan = format!("EXPLAIN QUERY PLAN {}", prefetch.context("no prefetch")?.to_string(SqliteQueryBuilder));
        let plan = fixture.admin.query_all_raw(Statement::from_string(D::BACKEND, plan)).await?;
        let steps: Vec<String> = plan.iter().map(|step| step.try_get("", "detail")).collect::<Result<_, _>>()?;
        let is_whole = |step: &String| step.ends_with("(app_name=? AND user_id=? AND id=?)");
        ensure!(steps.iter().any(is_whole), "{steps:?}");
        Ok(())
    }
    create(&fixture.migrated().await?, "app", 20).await?;
    fixture.execute("ANALYZE").await?;
    with_dialect!(fixture, check)
}

/// Two services, coordinated only by the database, and appends that read nothing before they write.
async fn of_writers_at_one_revision_one_wins(fixture: &Fixture) -> anyhow::Result<()> {
    const WRITERS: usize = 6;
    const WINS: usize = 60;
    let services = [fixture.migrated().await?, fixture.service().await?];
    let keys = create(&services[0], "app", 1).await?;
    let writers = (0..WRITERS).map(|number| {
        let (service, key) = (&services[number % services.len()], &keys[0]);
        async move {
            let mut won = Vec::new();
            while won.len() < WINS {
                let read = GetSession::new(key.clone()).with_num_recent_events(0);
                let revision = service.get_session(read).await?.context("no session")?.revision;
                let request = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(revision));
                match service.append_event(request).await {
                    Ok(_) => won.push(revision),
                    Err(Error::RevisionConflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            anyhow::Ok(won)
        }
    });
    let mut won: Vec<Revision> = try_join_all(writers).await?.concat();
    won.sort_unstable();
    ensure!(won.is_sorted_by(|left, right| left < right), "two appends at one revision were stored");
    let session = services[0].get_session(GetSession::new(keys[0].clone())).await?.context("no session")?;
    ensure!(session.events.len() == WRITERS * WINS, "{} events", session.events.len());
    Ok(())
}

/// Another transaction holds a session. Writes that wait for it must not block others, neither in the same batch nor in
/// the queue.
async fn a_locked_session_holds_up_nobody_else(fixture: &Fixture) -> anyhow::Result<()> {
    /// As many as there may be concurrent batches: if batches waited for locks, no batch would be left for other
    /// writes.
    const LOCKED: usize = 8;
    let service = fixture.migrated().await?;
    let keys = create(&service, "app", 40).await?;
    let (locked, free) = keys.split_at(LOCKED);
    let transaction = fixture.admin.begin().await?;
    for key in locked {
        let lock = format!("SELECT id FROM sessions WHERE id = '{}' FOR UPDATE", key.session_id);
        transaction.execute_unprepared(&lock).await?;
    }
    let mut waiting = tokio::task::JoinSet::new();
    for key in locked {
        let (service, key) = (service.clone(), key.clone());
        waiting.spawn(async move { service.append_event(append(&key, Event::new("user"))).await });
        // Long enough for it to start, in its own batch.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for _ in 0..5 {
        let calls = try_join_all(free.iter().map(|key| service.append_event(append(key, Event::new("user")))));
        // Less than the lock timeout, and far more than the calls need.
        tokio::time::timeout(Duration::from_secs(8), calls).await.context("the others wait for the lock")??;
    }
    ensure!(waiting.try_join_next().is_none(), "an append passed the lock");
    transaction.rollback().await?;
    while let Some(outcome) = waiting.join_next().await {
        ensure!(matches!(outcome??, Appended::Stored(_)));
    }
    Ok(())
}

/// The first of two calls waits for an app row held by another transaction; the second needs only the session.
async fn writes_to_one_session_keep_their_order(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let keys = create(&service, "app", 2).await?;
    let holder = fixture.admin.begin().await?;
    holder.execute_unprepared("SELECT state FROM app_states WHERE app_name = 'app' FOR UPDATE").await?;
    let shared = State::new().with("app:k", 1);
    let mut calls = tokio::task::JoinSet::new();
    for (key, id, delta) in
        [(&keys[0], "holds the app", shared.clone()), (&keys[1], "first", shared), (&keys[1], "second", State::new())]
    {
        let event = Event::new("user").with_id(id).with_state_delta(delta);
        let (service, request) = (service.clone(), append(key, event));
        calls.spawn(async move { (id, service.append_event(request).await) });
        // Starts them in this order, with enough time for a call that does not wait to finish.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let passed = calls.try_join_next();
    ensure!(passed.is_none(), "an append passed the lock or another: {passed:?}");
    holder.rollback().await?;
    while let Some(call) = calls.join_next().await {
        call?.1?;
    }
    let session = service.get_session(GetSession::new(keys[1].clone())).await?.context("no session")?;
    let order: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
    ensure!(order == ["first", "second"], "{order:?}");
    Ok(())
}

/// Another transaction creates the app's row after the create has begun, and before it could do so itself.
async fn a_create_tells_the_state_that_others_made_meanwhile(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let maker = fixture.admin.begin().await?;
    let time = "'2026-01-01 00:00:00'";
    let row = format!("INSERT INTO app_states (app_name, state, update_time) VALUES ('app', '{{\"k\":1}}', {time})");
    maker.execute_unprepared(&row).await?;
    let create = tokio::spawn({
        let service = service.clone();
        let request = CreateSession::new(UserKey::try_new("app", "alice")?);
        async move { service.create_session(request).await }
    });
    // Long enough for the create to reach the row.
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(!create.is_finished(), "the create did not wait for the row");
    maker.commit().await?;
    let created = create.await??;
    ensure!(created.state == State::new().with("app:k", 1), "{:?}", created.state);
    Ok(())
}

/// Readers hand connections to each other, but not forever. Here there are as many readers as connections, and no
/// connection is ever idle.
async fn busy_readers_do_not_starve_a_writer(fixture: &Fixture) -> anyhow::Result<()> {
    /// With more readers, connections are idle while others of them compute.
    const READERS: u32 = 2;
    let key = create(&fixture.migrated().await?, "app", 1).await?.remove(0);
    let patience = Duration::from_secs(2);
    let url = &fixture.service_url;
    let service = fixture.kind.map_or(Family::Postgres, Kind::family).connect(url, READERS, patience).await?;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let (service, key) = (service.clone(), key.clone());
        readers.spawn(async move {
            while service.get_session(GetSession::new(key.clone())).await?.is_some() {}
            Ok::<_, Error>(())
        });
    }
    for _ in 0..10 {
        // Deletes are transactions on every server, and use the pool.
        service.delete_session(DeleteSession::new(key.user().session(SessionId::try_new("none")?))).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(readers.try_join_next().is_none(), "a reader failed");
    readers.shutdown().await;
    Ok(())
}
