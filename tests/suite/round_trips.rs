//! How often an operation waits for the server, counted on the wire.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use seabed::{
    AnnotateSession, AppendEvent, CreateSession, DeleteSession, DirectoryService as _, DynSessionService, Error, Event,
    ExpectedRevision, FindSessions, GetSession, ListEvents, ListSessions, Session, SessionFilter, SessionKey,
    SessionScope, State, UpdateState, UserKey,
};
use seabed_tests::{Family, Kind, Proxy};

use crate::fixture::Fixture;

crate::database_cases! {
    Servers: [
        writes_take_the_promised_round_trips,
        reads_take_one_round_trip,
        a_replay_does_not_break_up_its_group,
    ],
}

/// Time for the pool's ping, which follows each use of a connection, and for which no call waits.
const PING: Duration = Duration::from_millis(100);

struct Meter {
    proxy: Proxy,
    family: Family,
    broken: Vec<String>,
}

impl Meter {
    /// Runs an operation on each item: the last is counted, and those before it prepare the statements.
    async fn promise<T, const ITEMS: usize>(
        &mut self,
        operation: &str,
        (postgres, mysql): (usize, usize),
        on: [T; ITEMS],
        run: impl AsyncFn(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for thing in on {
            tokio::time::sleep(PING).await;
            self.proxy.take();
            run(thing).await?;
        }
        tokio::time::sleep(PING).await;
        let took = self.proxy.take();
        let promised = match self.family {
            Family::Postgres => postgres,
            Family::MySql => mysql,
        };
        println!("{operation}: {} round trips, {} pings", took.round_trips, took.pings);
        if took.round_trips != promised {
            self.broken.push(format!("{operation}: {} instead of {promised}: {took:?}", took.round_trips));
        }
        Ok(())
    }
}

/// A metered service, an unmetered one, and two sessions.
struct Metered {
    meter: Meter,
    service: DynSessionService,
    direct: DynSessionService,
    sessions: [Session; 2],
}

fn alice() -> seabed::Result<UserKey> {
    UserKey::try_new("app", "alice")
}

fn event() -> Event {
    Event::new("user")
}

fn append(key: SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key, event, ExpectedRevision::Any)
}

fn exact(session: &Session) -> AppendEvent {
    AppendEvent::new(session.key.clone(), event(), ExpectedRevision::Exact(session.revision))
}

impl Metered {
    async fn start(fixture: &Fixture) -> anyhow::Result<Self> {
        let family = fixture.kind.map_or(Family::Postgres, Kind::family);
        // Connects over TLS first, so that MySQL 9 knows the account when it connects without TLS.
        let direct = fixture.migrated().await?;
        let (proxy, url) = Proxy::start(family, &fixture.service_url).await?;
        // Uses one connection, whose statements are prepared on first use.
        let service = family.connect(&url, 1, Duration::from_secs(5)).await?;
        let request = CreateSession::new(alice()?);
        let sessions = [direct.create_session(request.clone()).await?, direct.create_session(request).await?];
        Ok(Self { meter: Meter { proxy, family, broken: Vec::new() }, service, direct, sessions })
    }

    fn keys(&self) -> [SessionKey; 2] {
        self.sessions.each_ref().map(|session| session.key.clone())
    }
}

impl Meter {
    fn finish(self) -> anyhow::Result<()> {
        ensure!(self.broken.is_empty(), "{}", self.broken.join("\n"));
        Ok(())
    }
}

#[allow(clippy::too_many_lines, reason = "a promise for each operation")]
async fn writes_take_the_promised_round_trips(fixture: &Fixture) -> anyhow::Result<()> {
    let metered = Metered::start(fixture).await?;
    let (keys, sessions) = (metered.keys(), metered.sessions.clone());
    let Metered { mut meter, service, direct, .. } = metered;

    let request = CreateSession::new(alice()?);
    meter
        .promise("create_session", (1, 2), [request.clone(), request], async |request| {
            service.create_session(request).await?;
            Ok(())
        })
        .await?;
    let request = CreateSession::new(alice()?).with_state(State::new().with("app:k", 1).with("user:k", 1));
    meter
        .promise("create_session, app and user state", (1, 7), [request.clone(), request], async |request| {
            service.create_session(request).await?;
            Ok(())
        })
        .await?;
    meter
        .promise("append_event, exact", (1, 4), sessions.each_ref().map(exact), async |request| {
            service.append_event(request).await?;
            Ok(())
        })
        .await?;
    // The first is answered by a second statement, and those that follow by one, on whichever of two connections.
    let stale = [0, 1, 0, 1].map(|session: usize| exact(&sessions[session]));
    meter
        .promise("append_event, stale", (1, 4), stale, async |request| {
            let outcome = service.append_event(request).await;
            ensure!(matches!(outcome, Err(Error::RevisionConflict { .. })), "{outcome:?}");
            Ok(())
        })
        .await?;
    for (operation, promised, delta) in [
        ("append_event, any", (1, 5), State::new()),
        ("append_event, session delta", (1, 5), State::new().with("k", 1)),
        ("append_event, app delta", (1, 7), State::new().with("app:k", 1)),
    ] {
        let requests = keys.clone().map(|key| append(key, event().with_state_delta(delta.clone())));
        meter
            .promise(operation, promised, requests, async |request| {
                service.append_event(request).await?;
                Ok(())
            })
            .await?;
    }
    let replays = keys.clone().map(|key| append(key, event().with_id("twice").with_timestamp(1.0)));
    for request in replays.clone() {
        direct.append_event(request).await?;
    }
    // A statement that finds nothing to store, and a reason to refuse it; then a transaction, because only a commit
    // waits for standby servers. Two connections: one is not free again when the next is needed.
    let [first, second] = replays;
    let replays = [first.clone(), second.clone(), first, second];
    meter
        .promise("append_event, replayed", (7, 5), replays, async |request| {
            ensure!(service.append_event(request).await?.is_replayed());
            Ok(())
        })
        .await?;
    let updates = [1, 2].map(|value| UpdateState::new(keys[0].user(), State::new().with("k", value)));
    meter
        .promise("update_state, user", (4, 4), updates, async |request| {
            service.update_state(request).await?;
            Ok(())
        })
        .await?;
    meter
        .promise("annotate_session, with a first label", (7, 7), keys.clone(), async |key| {
            service.annotate_session(AnnotateSession::new(key).with_label("a", "1")).await?;
            Ok(())
        })
        .await?;
    meter
        .promise("annotate_session, with a title alone", (5, 5), keys.clone(), async |key| {
            service.annotate_session(AnnotateSession::new(key).with_title("Rome")).await?;
            Ok(())
        })
        .await?;
    meter
        .promise("delete_session, with a title", (4, 4), keys, async |key| {
            Ok(service.delete_session(DeleteSession::new(key)).await?)
        })
        .await?;
    let request = CreateSession::new(alice()?);
    let plain = [direct.create_session(request.clone()).await?, direct.create_session(request).await?];
    meter
        .promise("delete_session", (4, 4), plain.map(|session| session.key), async |key| {
            Ok(service.delete_session(DeleteSession::new(key)).await?)
        })
        .await?;
    meter.finish()
}

async fn reads_take_one_round_trip(fixture: &Fixture) -> anyhow::Result<()> {
    let metered = Metered::start(fixture).await?;
    let keys = metered.keys();
    let Metered { mut meter, service, direct, .. } = metered;
    for key in keys.clone() {
        direct.append_event(append(key, event())).await?;
    }
    let reads = keys.clone().map(GetSession::new);
    meter
        .promise("get_session", (1, 1), reads, async |request| {
            ensure!(service.get_session(request).await?.is_some());
            Ok(())
        })
        .await?;
    let recent = keys.clone().map(|key| GetSession::new(key).with_num_recent_events(1));
    meter
        .promise("get_session, recent", (1, 1), recent, async |request| {
            ensure!(service.get_session(request).await?.is_some());
            Ok(())
        })
        .await?;
    let lists = ListSessions::new(SessionScope::User(alice()?));
    meter
        .promise("list_sessions", (1, 1), [lists.clone(), lists], async |request| {
            ensure!(!service.list_sessions(request).await?.items.is_empty());
            Ok(())
        })
        .await?;
    let finds = FindSessions::new(SessionScope::User(alice()?)).with_state();
    meter
        .promise("find_sessions", (1, 1), [finds.clone(), finds], async |request| {
            ensure!(!service.find_sessions(request).await?.items.is_empty());
            Ok(())
        })
        .await?;
    let scope = SessionScope::User(alice()?);
    meter
        .promise("count_sessions", (1, 1), [SessionFilter::new(), SessionFilter::new()], async |filter| {
            ensure!(service.count_sessions(&scope, &filter).await? > 0);
            Ok(())
        })
        .await?;
    meter
        .promise("list_events", (1, 1), keys.clone().map(ListEvents::new), async |request| {
            ensure!(!service.list_events(request).await?.items.is_empty());
            Ok(())
        })
        .await?;
    meter.finish()
}

/// Writes that wait together are sent in one statement (PostgreSQL) or transaction (MySQL), after the first one, which
/// found nothing waiting.
async fn a_replay_does_not_break_up_its_group(fixture: &Fixture) -> anyhow::Result<()> {
    let Metered { meter, service, direct, sessions } = Metered::start(fixture).await?;
    let creates = (0..8).map(|_| async { direct.create_session(CreateSession::new(alice()?)).await });
    let keys: Vec<SessionKey> = try_join_all(creates).await?.into_iter().map(|session| session.key).collect();
    let twice = |key: &SessionKey| append(key.clone(), event().with_id("twice").with_timestamp(1.0));
    direct.append_event(twice(&keys[4])).await?;
    service.append_event(exact(&sessions[0])).await?;
    tokio::time::sleep(PING).await;
    meter.proxy.take();
    let outcomes = try_join_all(keys.iter().map(|key| service.append_event(twice(key)))).await?;
    ensure!(outcomes.iter().filter(|appended| appended.is_replayed()).count() == 1, "{outcomes:?}");
    let took = meter.proxy.take();
    let begun = took.statements.iter().filter(|statement| statement.starts_with("BEGIN")).count();
    // That of the replay is one of them.
    let promised = match meter.family {
        Family::Postgres => 1,
        Family::MySql => 3,
    };
    ensure!(begun <= promised, "{begun} transactions instead of {promised}: {took:?}");
    Ok(())
}
