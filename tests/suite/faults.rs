//! Cut connections, hanging servers, and locks and pools held by others: a call takes effect once or not at all, and
//! the caller gets its result within the promised time.

use std::iter::StepBy;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use seabed::history::{ForkSession, RedactEvent};
use seabed::sea_orm::{ConnectionTrait, Database, TransactionTrait};
use seabed::{
    AnnotateSession, AppName, AppendEvent, BackendErrorKind, CreateSession, DeleteSession, DirectoryService as _,
    DynSessionService, Error, Event, ExpectedRevision, GetSession, HistoryService as _, MySqlSessionService,
    PostgresSessionService, ServiceOptions, SessionFilter, SessionId, SessionKey, SessionScope, SessionService,
    SqliteOptions, SqliteSessionService, State, UpdateState, UserKey,
};
use seabed_core::sql::{ConnectOptions, Dialect, SqlSessionService};
use seabed_tests::{Cut, Family, Kind, Proxy};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, with_dialect};

crate::database_cases! {
    Everywhere: [
        a_closed_service_has_carried_out_what_it_accepted,
        a_service_may_be_dropped_while_calls_run,
        a_healthy_service_says_so,
        closing_does_not_wait_for_ever,
        a_write_that_the_database_refuses_is_not_in_doubt,
    ],
    Servers: [
        a_cut_append_is_stored_once_and_told,
        a_cut_create_is_stored_once_and_told,
        a_cut_delete_is_carried_out_or_in_doubt,
        a_cut_state_update_is_carried_out_or_in_doubt,
        a_cut_annotation_is_carried_out_or_in_doubt,
        a_cut_fork_is_stored_once_and_told,
        a_cut_redaction_is_carried_out_once,
        a_cut_read_is_read_again,
        a_connection_that_falls_silent_is_replaced,
        a_connection_that_falls_silent_takes_no_place,
        a_dropped_call_takes_no_place,
        connections_that_the_server_ends_are_replaced,
        tables_may_change_under_a_service,
        a_server_that_hangs_is_told_within_the_timeout,
        a_hung_server_does_not_use_up_the_pool,
        a_lock_that_others_hold_is_contention,
        a_transaction_that_takes_too_long_is_rolled_back,
        a_deadlock_with_others_is_survived,
        an_exhausted_pool_is_unavailable,
    ],
    Postgres: [
        a_statement_timeout_of_the_servers_is_waited_out,
    ],
    Sqlite: [
        a_full_disk_stores_nothing_and_is_told,
        a_lock_of_another_process_is_waited_for,
        a_database_that_stays_locked_is_contention,
        a_database_in_memory_outlives_dropped_calls,
        an_append_that_a_trigger_refuses_leaves_nothing,
    ],
}

/// Connects a service to `url` with its own options, whatever the database.
async fn connect(fixture: &Fixture, url: &str, set: impl Fn(Limits) -> Limits) -> anyhow::Result<DynSessionService> {
    async fn of<D: Dialect>(url: &str, limits: Limits) -> seabed::Result<SqlSessionService<D>> {
        let options: ConnectOptions<D> = url.parse()?;
        let options = options
            .with_max_connections(limits.connections)
            .with_acquire_timeout(limits.acquire)
            .with_statement_timeout(limits.statement);
        SqlSessionService::<D>::connect_with(options).await
    }
    let limits = set(Limits { connections: 4, acquire: Duration::from_secs(5), statement: Duration::from_secs(30) });
    Ok(match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => Arc::<PostgresSessionService>::new(of(url, limits).await?),
        Some(Family::MySql) => Arc::<MySqlSessionService>::new(of(url, limits).await?),
        None => Arc::<SqliteSessionService>::new(of(url, limits).await?),
    })
}

#[derive(Clone, Copy)]
struct Limits {
    connections: u32,
    acquire: Duration,
    statement: Duration,
}

fn family(fixture: &Fixture) -> Family {
    fixture.kind.map_or(Family::Postgres, Kind::family)
}

fn alice() -> seabed::Result<UserKey> {
    UserKey::try_new("app", "alice")
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

/// Creates a service that uses one connection through a proxy, and a session.
async fn behind_proxy(fixture: &Fixture) -> anyhow::Result<(Proxy, DynSessionService, DynSessionService, SessionKey)> {
    let direct = fixture.migrated().await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let service = connect(fixture, &url, |limits| Limits { connections: 1, ..limits }).await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    Ok((proxy, service, direct, key))
}

/// Cuts the first, second, … round trip of a call in each way that ends a connection, until the call has fewer round
/// trips than that. Then cuts two of them, at some distances: the service waits after each.
async fn sweep(proxy: &Proxy, call: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let twice = (Cut::BeforeReply, (1..20).step_by(3));
    sweep_with(proxy, Cut::ENDS.map(once).into_iter().chain([twice]), call).await
}

/// A cut, and none after it.
fn once(cut: Cut) -> (Cut, StepBy<Range<usize>>) {
    (cut, (0..1).step_by(1))
}

/// Like [`sweep`] with other cuts, and the distances to a second cut; 0 for none.
async fn sweep_with(
    proxy: &Proxy,
    cuts: impl IntoIterator<Item = (Cut, StepBy<Range<usize>>)>,
    call: impl AsyncFn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // The first call prepares the statements.
    call(0).await?;
    let mut number = 0;
    for (cut, again) in cuts {
        for passed in 0.. {
            ensure!(passed < 60, "a call takes sixty round trips");
            let mut left = 0;
            for again in again.clone() {
                number += 1;
                // Waits until anything that the last call left behind, such as a ping, has passed.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let second = (again > 0).then(|| (again - 1, cut));
                proxy.cut([(passed, cut)].into_iter().chain(second));
                let cuts = || format!("{cut:?} after {passed} requests, then {second:?}");
                call(number).await.with_context(cuts)?;
                left = proxy.take_back_cuts().saturating_sub(usize::from(second.is_some()));
            }
            if left > 0 {
                break;
            }
        }
    }
    ensure!(number > 6, "only {number} calls");
    Ok(())
}

/// Whatever breaks, the service itself looks up whether the event was stored: the caller gets that result, and the
/// event is stored once.
async fn a_cut_append_is_stored_once_and_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, key) = behind_proxy(fixture).await?;
    sweep(&proxy, async |number| {
        let delta = State::new().with("k", number as u64).with("app:k", number as u64);
        let event = Event::new("user").with_id(format!("event-{number}")).with_state_delta(delta);
        let revision = direct.get_session(GetSession::new(key.clone())).await?.context("no session")?.revision;
        let request = AppendEvent::new(key.clone(), event, ExpectedRevision::Exact(revision));
        let appended = service.append_event(request).await?;
        let session = direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session.events.len() == number + 1, "{} events after {number} calls", session.events.len());
        ensure!(appended.revision() == Some(session.revision), "{appended:?}, {}", session.revision);
        for scope in ["k", "app:k"] {
            ensure!(session.state.decode::<usize>(scope)? == Some(number), "{scope}: {:?}", session.state);
        }
        Ok(())
    })
    .await
}

async fn a_cut_create_is_stored_once_and_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, _) = behind_proxy(fixture).await?;
    // With shared state, and without, which may take a single statement.
    for shared in [true, false] {
        sweep(&proxy, async |number| {
            let key = alice()?.session(SessionId::try_new(format!("session-{number}-{shared}"))?);
            let state = State::new().with("k", number as u64);
            let state = if shared { state.with("user:k", number as u64) } else { state };
            let request = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
            let created = service.create_session(request.clone()).await?;
            let stored = direct.get_session(GetSession::new(key)).await?.context("the session is lost")?;
            ensure!(stored == created, "{created:?} was told, {stored:?} is stored");
            let again = service.create_session(request).await;
            ensure!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn a_cut_delete_is_carried_out_or_in_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, _) = behind_proxy(fixture).await?;
    sweep(&proxy, async |_| {
        let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
        direct.append_event(append(&key, Event::new("user"))).await?;
        let deleted = service.delete_session(DeleteSession::new(key.clone())).await;
        let stored = direct.get_session(GetSession::new(key)).await?;
        match deleted {
            Ok(()) => ensure!(stored.is_none(), "a session is there that was deleted"),
            Err(error) => {
                ensure!(error.backend_kind() == Some(BackendErrorKind::CommitUnknown), "{error:?}");
                ensure!(stored.is_none_or(|session| session.events.len() == 1), "half of a session is there");
            }
        }
        Ok(())
    })
    .await
}

/// A repeated update could undo what others have set since, so the service looks whether the keys have their values.
async fn a_cut_state_update_is_carried_out_or_in_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, _) = behind_proxy(fixture).await?;
    let user = alice()?;
    sweep(&proxy, async |number| {
        let (name, delta) = (format!("k{number}"), State::new().with(format!("k{number}"), number as u64));
        let updated = service.update_state(UpdateState::new(user.clone(), delta)).await;
        let stored = direct.get_user_state(&user).await?.get(&name).is_some();
        match updated {
            Ok(_) => ensure!(stored, "{name} is lost"),
            Err(error) => ensure!(error.backend_kind() == Some(BackendErrorKind::CommitUnknown), "{error:?}"),
        }
        Ok(())
    })
    .await
}

/// Nor is a change of labels repeated.
async fn a_cut_annotation_is_carried_out_or_in_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, key) = behind_proxy(fixture).await?;
    let scope = SessionScope::User(key.user());
    sweep(&proxy, async |number| {
        let value = number.to_string();
        let request = AnnotateSession::new(key.clone()).with_label("a", &value).with_label("b", &value);
        let changed = service.annotate_session(request).await;
        let both = SessionFilter::new().with_label("a", &value).with_label("b", &value);
        let stored = direct.count_sessions(&scope, &both).await? == 1;
        match changed {
            Ok(_) => ensure!(stored, "{value} is lost"),
            Err(error) => ensure!(error.backend_kind() == Some(BackendErrorKind::CommitUnknown), "{error:?}"),
        }
        Ok(())
    })
    .await
}

async fn a_cut_fork_is_stored_once_and_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, key) = behind_proxy(fixture).await?;
    for id in ["a", "b"] {
        let event = Event::new("user").with_id(id).with_state_delta(State::new().with("k", id));
        direct.append_event(append(&key, event)).await?;
    }
    sweep_with(&proxy, [once(Cut::BeforeReply)], async |number| {
        let fork = alice()?.session(SessionId::try_new(format!("fork-{number}"))?);
        let request = ForkSession::new(key.clone(), "a").with_session_id(fork.session_id.clone());
        let forked = service.fork_session(request.clone()).await?;
        let stored = direct.get_session(GetSession::new(fork)).await?.context("the fork is lost")?;
        ensure!(stored.events.len() == 1 && stored.state == forked.session.state, "{forked:?}, {stored:?}");
        ensure!(stored.revision == forked.session.revision, "{forked:?}, {stored:?}");
        let again = service.fork_session(request).await;
        ensure!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        Ok(())
    })
    .await
}

async fn a_cut_redaction_is_carried_out_once(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, direct, key) = behind_proxy(fixture).await?;
    sweep_with(&proxy, [once(Cut::BeforeReply)], async |number| {
        let id = format!("event-{number}");
        direct.append_event(append(&key, Event::new("user").with_id(&id).with_text("secret"))).await?;
        let redacted = service.redact_event(RedactEvent::new(key.clone(), &id)).await?;
        let stored = direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(stored.events.len() == 2 * (number + 1), "{} events after {number} calls", stored.events.len());
        ensure!(stored.revision == redacted.revision && stored.events[2 * number].content.is_none(), "{stored:?}");
        Ok(())
    })
    .await
}

async fn a_cut_read_is_read_again(fixture: &Fixture) -> anyhow::Result<()> {
    let (proxy, service, _, key) = behind_proxy(fixture).await?;
    sweep(&proxy, async |_| {
        service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        service.get_app_state(&key.app_name).await?;
        Ok(())
    })
    .await
}

/// A connection falls silent at any point of a transaction or statement. Calls finish or fail within the timeout, and
/// the pool, which is smaller than the number of such connections, has room for the next call. (It has some spare room
/// for its own pings, which may hit a silence meant for a call.)
async fn a_connection_that_falls_silent_is_replaced(fixture: &Fixture) -> anyhow::Result<()> {
    let direct = fixture.migrated().await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let timeout = Duration::from_millis(700);
    let service = connect(fixture, &url, |limits| Limits { connections: 8, statement: timeout, ..limits }).await?;
    for deletes in [false, true] {
        let silences = Cut::SILENCES.map(once);
        sweep_with(&proxy, silences, async |number| {
            let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
            let called = if deletes {
                service.delete_session(DeleteSession::new(key.clone())).await
            } else {
                let delta = State::new().with("k", number as u64).with("user:k", number as u64);
                service.append_event(append(&key, Event::new("user").with_state_delta(delta))).await.map(drop)
            };
            // This read waits for the connection no longer than any other call, unless its own new connection falls
            // silent.
            let read = || service.get_session(GetSession::new(key.clone()));
            let stored = match read().await {
                Err(error) if error.backend_kind() == Some(BackendErrorKind::Unavailable) => read().await?,
                stored => stored?,
            };
            let is_done =
                if deletes { stored.is_none() } else { stored.is_some_and(|session| session.events.len() == 1) };
            match called {
                Ok(()) => ensure!(is_done, "it was told to be done"),
                Err(error) if error.backend_kind() == Some(BackendErrorKind::CommitUnknown) => {}
                Err(error) => ensure!(error.is_retryable() && !is_done, "{error:?}, and it is done: {is_done}"),
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A connection falls silent when the pool tests it on return. Its place in the pool is freed all the same.
async fn a_connection_that_falls_silent_takes_no_place(fixture: &Fixture) -> anyhow::Result<()> {
    const PLACES: u32 = 2;
    let direct = fixture.migrated().await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let service = connect(fixture, &url, |limits| Limits { connections: PLACES, ..limits }).await?;
    service.append_event(append(&key, Event::new("user"))).await?;
    for _ in 0..=PLACES {
        // A connection that was idle for a second is tested before its next use.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        proxy.cut([(0, Cut::RequestSwallowed)]);
        service.append_event(append(&key, Event::new("user"))).await?;
        ensure!(proxy.take_back_cuts() == 0, "the connection was not tested");
    }
    Ok(())
}

/// The connections of dropped calls fall silent. The next call gets a connection immediately.
async fn a_dropped_call_takes_no_place(fixture: &Fixture) -> anyhow::Result<()> {
    const PLACES: u32 = 2;
    let direct = fixture.migrated().await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    // Less than a ping may take.
    let acquire = Duration::from_millis(1500);
    let service = connect(fixture, &url, |limits| Limits { connections: PLACES, acquire, ..limits }).await?;
    let reads = || join_all((0..PLACES).map(|_| service.get_session(GetSession::new(key.clone()))));
    for silence in Cut::SILENCES {
        // Each read has its own connection, and all are back in the pool.
        ensure!(reads().await.iter().all(Result::is_ok), "a read failed");
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.cut([(0, silence); PLACES as usize]);
        let waited = tokio::time::timeout(Duration::from_millis(300), reads()).await;
        ensure!(waited.is_err() && proxy.take_back_cuts() == 0, "not all reads have met silence");
        service.get_session(GetSession::new(key.clone())).await.with_context(|| format!("after {silence:?}"))?;
    }
    Ok(())
}

async fn connections_that_the_server_ends_are_replaced(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    for round in 0..5 {
        let calls = join_all((0..8).map(|_| service.get_session(GetSession::new(key.clone())))).await;
        ensure!(calls.iter().all(Result::is_ok), "{calls:?}");
        let account = fixture.database().context("a case for servers")?.account();
        let ended = match family(fixture) {
            Family::Postgres => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename";
                fixture.admin.execute_unprepared(&format!("{end} = '{account}'")).await?.rows_affected()
            }
            Family::MySql => {
                let list =
                    "SELECT CAST(COALESCE(GROUP_CONCAT(id), '') AS CHAR) AS text FROM information_schema.processlist";
                let ids = fixture.query_text(&format!("{list} WHERE user = '{account}'")).await?;
                for id in ids.split(',') {
                    // The connection may already be gone.
                    let _ = fixture.admin.execute_unprepared(&format!("KILL {id}")).await;
                }
                ids.split(',').count() as u64
            }
        };
        ensure!(ended > 0, "nothing was ended");
        let event = Event::new("user").with_id(format!("event-{round}"));
        service.append_event(append(&key, event)).await?;
    }
    let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == 5, "{} events", session.events.len());
    Ok(())
}

/// The server may reject a previously prepared statement once on each connection, but not again and again.
async fn tables_may_change_under_a_service(fixture: &Fixture) -> anyhow::Result<()> {
    const PLACES: u32 = 2;
    let direct = fixture.migrated().await?;
    let service = connect(fixture, &fixture.service_url, |limits| Limits { connections: PLACES, ..limits }).await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    let reads = || join_all((0..8).map(|_| service.get_session(GetSession::new(key.clone()))));
    ensure!(reads().await.iter().all(Result::is_ok));
    fixture
        .execute(match family(fixture) {
            Family::Postgres => "ALTER TABLE sessions ALTER COLUMN id TYPE varchar(200)",
            Family::MySql => "ALTER TABLE sessions ADD COLUMN more INT",
        })
        .await?;
    let refused = reads().await.iter().filter(|read| read.is_err()).count();
    ensure!(refused <= PLACES as usize, "{refused} reads were refused on {PLACES} connections");
    ensure!(reads().await.iter().all(Result::is_ok));
    Ok(())
}

/// Within the caller's own timeout, and within that of the service.
async fn a_server_that_hangs_is_told_within_the_timeout(fixture: &Fixture) -> anyhow::Result<()> {
    let direct = fixture.migrated().await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let timeout = Duration::from_millis(700);
    let service = connect(fixture, &url, |limits| Limits { statement: timeout, acquire: timeout, ..limits }).await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    // Opens several connections first, so that they hang during the work and not while they are opened.
    let warm = join_all((0..4).map(|_| service.append_event(append(&key, Event::new("user"))))).await;
    ensure!(warm.iter().all(Result::is_ok), "{warm:?}");
    proxy.stall(true);
    let call = service.append_event(append(&key, Event::new("user").with_id("given up")));
    ensure!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    // Far more than the configured limits, far less than the defaults.
    let patience = Duration::from_secs(15);
    let calls = async {
        let appended = service.append_event(append(&key, Event::new("user").with_id("hung"))).await;
        let read = service.get_session(GetSession::new(key.clone())).await;
        let healthy = service.check_health().await;
        (appended.map(drop), read.map(drop), healthy)
    };
    let (appended, read, healthy) = tokio::time::timeout(patience, calls).await.context("the calls hang")?;
    for outcome in [appended, read, healthy] {
        let error = outcome.err().context("an answer of a server that hangs")?;
        ensure!(error.is_retryable(), "{error:?}");
    }
    proxy.stall(false);
    // The hung event was stored once or not at all; after this it is stored once.
    let again = service.append_event(append(&key, Event::new("user").with_id("hung").with_timestamp(1.0))).await;
    ensure!(!matches!(&again, Err(error) if error.is_retryable()), "{again:?}");
    let session = direct.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.iter().filter(|event| event.id == "hung").count() == 1, "{:?}", session.events);
    Ok(())
}

/// Hanging calls keep their places in the pool no longer than promised.
async fn a_hung_server_does_not_use_up_the_pool(fixture: &Fixture) -> anyhow::Result<()> {
    let direct = fixture.migrated().await?;
    let (proxy, url) = Proxy::tunnel(family(fixture), &fixture.service_url).await?;
    let timeout = Duration::from_millis(500);
    let service = connect(fixture, &url, |limits| Limits { statement: timeout, ..limits }).await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    let reads = || join_all((0..8).map(|_| service.get_session(GetSession::new(key.clone()))));
    ensure!(reads().await.iter().all(Result::is_ok));
    proxy.stall(true);
    let hung = join_all((0..4).map(|_| service.delete_session(DeleteSession::new(key.clone())))).await;
    ensure!(hung.iter().all(Result::is_err), "{hung:?}");
    // The stalled connections stay stalled, as behind a network that drops packets; new connections take another route.
    let started = Instant::now();
    proxy.stall(false);
    while reads().await.iter().any(Result::is_err) {
        ensure!(started.elapsed() < Duration::from_secs(20), "the pool does not recover");
    }
    Ok(())
}

async fn a_lock_that_others_hold_is_contention(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let holder = fixture.admin.begin().await?;
    holder.execute_unprepared("SELECT state FROM app_states FOR UPDATE").await?;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
    let call = service.append_event(append(&key, event.clone()));
    // Twice the servers' lock timeout plus the time in between; far less than forever.
    let outcome = tokio::time::timeout(Duration::from_mins(1), call).await.context("the call waits for ever")?;
    let kind = outcome.as_ref().err().and_then(Error::backend_kind);
    ensure!(kind == Some(BackendErrorKind::Contention), "{outcome:?}");
    holder.rollback().await?;
    let session = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    ensure!(session.events.is_empty() && session.state.is_empty(), "{session:?}");
    ensure!(!service.append_event(append(&key, event)).await?.is_replayed());
    Ok(())
}

/// A database or a role may have a limit on statements, and waiting for a lock counts.
async fn a_statement_timeout_of_the_servers_is_waited_out(fixture: &Fixture) -> anyhow::Result<()> {
    let key = fixture.migrated().await?.create_session(CreateSession::new(alice()?)).await?.key;
    let mut url = url::Url::parse(&fixture.service_url)?;
    url.query_pairs_mut().append_pair("options[statement_timeout]", "300");
    let service = connect(fixture, url.as_str(), |limits| limits).await?;
    let holder = fixture.admin.begin().await?;
    holder.execute_unprepared("SELECT state FROM app_states FOR UPDATE").await?;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        holder.rollback().await
    };
    let (appended, released) = tokio::join!(service.append_event(append(&key, event)), release);
    released?;
    ensure!(appended.as_ref().is_ok_and(|appended| !appended.is_replayed()), "{appended:?}");
    Ok(())
}

/// The server is only slow, and continues the work after its caller has gone.
async fn a_transaction_that_takes_too_long_is_rolled_back(fixture: &Fixture) -> anyhow::Result<()> {
    let direct = fixture.migrated().await?;
    let key = direct.create_session(CreateSession::new(alice()?)).await?.key;
    let timeout = Duration::from_millis(500);
    let service =
        connect(fixture, &fixture.service_url, |limits| Limits { connections: 1, statement: timeout, ..limits })
            .await?;
    let holder = fixture.admin.begin().await?;
    holder.execute_unprepared("SELECT state FROM sessions FOR UPDATE").await?;
    let deleted = service.delete_session(DeleteSession::new(key.clone())).await;
    ensure!(deleted.as_ref().is_err_and(Error::is_retryable), "{deleted:?}");
    holder.rollback().await?;
    let appended = service.append_event(append(&key, Event::new("user"))).await?;
    let session = direct.get_session(GetSession::new(key)).await?.context("it was deleted all the same")?;
    ensure!(appended.revision() == Some(session.revision), "{appended:?} is not stored");
    fixture.no_transaction_stays_open().await
}

/// A write that the database rejects is not stored, even where a statement commits by itself. The caller must not get
/// an unknown outcome.
async fn a_write_that_the_database_refuses_is_not_in_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let request = CreateSession::new(alice()?);
    service.delete_session(DeleteSession::new(service.create_session(request.clone()).await?.key)).await?;
    fixture.execute("ALTER TABLE sessions ADD COLUMN more INT CHECK (more IS NOT NULL)").await?;
    let created = service.create_session(request).await;
    let kind = created.as_ref().err().and_then(Error::backend_kind);
    ensure!(kind == Some(BackendErrorKind::Unexpected), "{created:?}");
    Ok(())
}

/// Another transaction locks the app first, then the session.
async fn a_deadlock_with_others_is_survived(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    for round in 0..5 {
        let other = fixture.admin.begin().await?;
        other.execute_unprepared("SELECT state FROM app_states FOR UPDATE").await?;
        let delta = State::new().with("app:k", round).with("k", round);
        let event = Event::new("user").with_id(format!("event-{round}")).with_state_delta(delta);
        let call = tokio::spawn({
            let (service, request) = (service.clone(), append(&key, event));
            async move { service.append_event(request).await }
        });
        // Long enough for the append to lock its session and wait for the app.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let deadlock = other.execute_unprepared("SELECT state FROM sessions FOR UPDATE").await;
        other.rollback().await.or_else(|error| if deadlock.is_err() { Ok(()) } else { Err(error) })?;
        call.await??;
    }
    let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == 5 && session.state.decode::<u64>("app:k")? == Some(4), "{session:?}");
    Ok(())
}

async fn an_exhausted_pool_is_unavailable(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let options: ConnectOptions<D> = fixture.service_url.parse()?;
        let pool = options.with_max_connections(1).with_acquire_timeout(Duration::from_millis(300)).open().await?;
        let shared = ServiceOptions::new().with_shared_pool();
        let starved = SqlSessionService::<D>::from_connection_with(pool, shared).await?;
        let key = service.create_session(CreateSession::new(alice()?)).await?.key;
        let taken = starved.pool().begin().await?;
        let appended = starved.append_event(append(&key, Event::new("user"))).await.map(drop);
        let read = starved.get_session(GetSession::new(key.clone())).await.map(drop);
        for outcome in [appended, read] {
            let kind = outcome.as_ref().err().and_then(Error::backend_kind);
            ensure!(kind == Some(BackendErrorKind::Unavailable), "{outcome:?}");
        }
        taken.rollback().await?;
        starved.append_event(append(&key, Event::new("user"))).await?;
        let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
        ensure!(session.events.len() == 1, "{session:?}");
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

/// `max_page_count` is SQLite's own limit on the file size, and produces the error of a full disk.
async fn a_full_disk_stores_nothing_and_is_told(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let pool = fixture.service_url.parse::<seabed::SqliteOptions>()?.with_max_connections(1).open().await?;
    let options = ServiceOptions::new().with_shared_pool();
    let service: DynSessionService = seabed::from_connection_with(pool.clone(), options).await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    pool.execute_unprepared("PRAGMA max_page_count = 40").await?;
    let text = "x".repeat(2000);
    let mut stored = 0;
    let error = loop {
        let delta = State::new().with("k", stored as u64 + 1);
        let event = Event::new("user").with_content(serde_json::json!({"parts": [{"text": text}]}));
        match service.append_event(append(&key, event.with_state_delta(delta))).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        ensure!(stored < 1000, "the disk is never full");
    };
    ensure!(error.backend_kind() == Some(BackendErrorKind::Unexpected) && !error.is_retryable(), "{error:?}");
    let session = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    ensure!(session.events.len() == stored && session.state.decode::<usize>("k")? == Some(stored), "torn: {stored}");
    pool.execute_unprepared("PRAGMA max_page_count = 1000000").await?;
    service.append_event(append(&key, Event::new("user"))).await?;
    let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == stored + 1, "{} events, not {}", session.events.len(), stored + 1);
    Ok(())
}

async fn a_lock_of_another_process_is_waited_for(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let other = fixture.begin_write().await?;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (service, request) = (service.clone(), append(&key, Event::new("user")));
            tokio::spawn(async move { service.append_event(request).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(calls.iter().all(|call| !call.is_finished()), "an append passed the lock");
    other.rollback().await?;
    for call in calls {
        call.await??;
    }
    Ok(())
}

async fn a_database_that_stays_locked_is_contention(fixture: &Fixture) -> anyhow::Result<()> {
    let patient = fixture.migrated().await?;
    let key = patient.create_session(CreateSession::new(alice()?)).await?.key;
    let options: SqliteOptions = fixture.service_url.parse()?;
    let options = options.with_driver(|driver| driver.busy_timeout(Duration::from_millis(50)));
    let service = SqliteSessionService::connect_with(options).await?;
    let other = fixture.begin_write().await?;
    for outcome in [
        service.create_session(CreateSession::new(alice()?)).await.map(drop),
        service.append_event(append(&key, Event::new("user"))).await.map(drop),
    ] {
        let kind = outcome.as_ref().err().and_then(Error::backend_kind);
        ensure!(kind == Some(BackendErrorKind::Contention), "{outcome:?}");
    }
    other.rollback().await?;
    service.append_event(append(&key, Event::new("user"))).await?;
    Ok(())
}

/// The database ends with its only connection, which must therefore stay open.
async fn a_database_in_memory_outlives_dropped_calls(_: &Fixture) -> anyhow::Result<()> {
    // This pool opens no connection before one is needed.
    let mut options = seabed::sea_orm::ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).min_connections(0);
    let pool = Database::connect(options).await?;
    seabed::migrate(&pool).await?;
    let polls = 60;
    for dropped in 0..200 {
        // Waits until the connection is back in the pool, which tests it when it hands it out.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut opened = Box::pin(SqliteSessionService::from_connection(pool.clone()));
        let given_up = Instant::now() + Duration::from_micros(25) * dropped;
        while Instant::now() < given_up && futures_util::poll!(&mut opened).is_pending() {
            tokio::task::yield_now().await;
        }
    }
    let service = SqliteSessionService::from_connection(pool).await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    for _ in 0..polls {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut read = Box::pin(service.get_session(GetSession::new(key.clone())));
        let _ = futures_util::poll!(&mut read);
    }
    for dropped in 0..polls {
        let mut read = Box::pin(service.get_session(GetSession::new(key.clone())));
        let mut write = Box::pin(service.append_event(append(&key, Event::new("user"))));
        for _ in 0..dropped {
            if futures_util::poll!(&mut read).is_ready() || futures_util::poll!(&mut write).is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_micros(20)).await;
        }
    }
    // Far more data than can be stored in that time.
    let hasty = service.clone().with_statement_timeout(Duration::from_millis(1));
    let large = Event::new("user").with_text("large".repeat(2_000_000));
    let mut given_up = 0;
    for number in 0..5 {
        let event = large.clone().with_id(format!("large-{number}"));
        given_up += usize::from(hasty.append_event(append(&key, event)).await.is_err());
    }
    ensure!(given_up > 0, "nothing was given up");
    service.append_event(append(&key, Event::new("user"))).await?;
    service.get_session(GetSession::new(key)).await?.context("no session")?;
    Ok(())
}

/// The event is inserted, and then a trigger rejects the update of the session, with an error that looks like a
/// duplicate event.
async fn an_append_that_a_trigger_refuses_leaves_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    for statement in [
        "CREATE TABLE taken (id INT PRIMARY KEY)",
        "INSERT INTO taken VALUES (1)",
        "CREATE TRIGGER taken AFTER UPDATE ON sessions BEGIN INSERT INTO taken VALUES (1); END",
    ] {
        fixture.execute(statement).await?;
    }
    let appended = service.append_event(append(&key, Event::new("user"))).await;
    let kind = appended.as_ref().err().and_then(Error::backend_kind);
    ensure!(kind == Some(BackendErrorKind::Unexpected), "{appended:?}");
    let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.is_empty(), "{session:?}");
    Ok(())
}

/// Another user keeps a connection of the pool.
async fn closing_does_not_wait_for_ever(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, _: &Fixture) -> anyhow::Result<()> {
        let service = service.with_statement_timeout(Duration::from_millis(300));
        let kept = service.pool().begin().await?;
        let closed = tokio::time::timeout(Duration::from_secs(20), service.close()).await;
        let closed = closed.context("closing waits for ever")?;
        ensure!(matches!(&closed, Err(error) if error.is_retryable()), "{closed:?}");
        kept.rollback().await?;
        service.close().await?;
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

async fn a_closed_service_has_carried_out_what_it_accepted(fixture: &Fixture) -> anyhow::Result<()> {
    /// Few enough that tokio lets a task poll them all in one go.
    const CALLS: usize = 40;
    let observer = fixture.migrated().await?;
    let service = fixture.service().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let calls = (0..CALLS).map(|number| {
        let delta = State::new().with(format!("app:k{number}"), 1);
        service.append_event(append(&key, Event::new("user").with_state_delta(delta)))
    });
    let mut calls = Box::pin(join_all(calls));
    // Each call is accepted on its first poll.
    ensure!(futures_util::poll!(&mut calls).is_pending());
    let (outcomes, closed) = tokio::join!(calls, service.close());
    closed?;
    service.close().await?;
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    ensure!(failed.is_empty(), "{} of {CALLS} failed: {:?}", failed.len(), failed.first());
    let state = observer.get_app_state(&AppName::try_new("app")?).await?;
    ensure!(state.len() == CALLS, "{} keys", state.len());
    for outcome in [
        service.get_session(GetSession::new(key.clone())).await.map(drop),
        service.append_event(append(&key, Event::new("user"))).await.map(drop),
        service.check_health().await,
    ] {
        let kind = outcome.as_ref().err().and_then(Error::backend_kind);
        ensure!(kind == Some(BackendErrorKind::Unavailable), "{outcome:?}");
    }
    Ok(())
}

async fn a_service_may_be_dropped_while_calls_run(fixture: &Fixture) -> anyhow::Result<()> {
    let observer = fixture.migrated().await?;
    let service = fixture.service().await?;
    let key = service.create_session(CreateSession::new(alice()?)).await?.key;
    let mut calls = JoinSet::new();
    for number in 0..60 {
        let delta = State::new().with(format!("app:k{number}"), 1);
        let (service, request) = (service.clone(), append(&key, Event::new("user").with_state_delta(delta)));
        calls.spawn(async move { service.append_event(request).await.map(drop) });
    }
    drop(service);
    tokio::time::sleep(Duration::from_millis(3)).await;
    calls.abort_all();
    while let Some(call) = calls.join_next().await {
        if let Ok(outcome) = call {
            outcome?;
        }
    }
    // Calls that have begun continue; then each event has its key, and each key its event.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let session = observer.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == session.state.len(), "{session:?}");
    Ok(())
}

async fn a_healthy_service_says_so(fixture: &Fixture) -> anyhow::Result<()> {
    Ok(fixture.migrated().await?.check_health().await?)
}
