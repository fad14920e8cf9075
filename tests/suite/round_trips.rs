//! How often an operation waits for the server, counted on the wire.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use seabed::{
    AppendEvent, CreateSession, DynSessionService, Error, Event, ExpectedRevision, GetSession, ListEvents, ListSessions,
    MySqlOptions, MySqlSessionService, PostgresOptions, PostgresSessionService, Session, SessionKey, SessionScope, State,
    UserKey,
};
use seabed_tests::{Family, Kind, Proxy};

use crate::fixture::Fixture;

crate::database_cases! {
    Servers: [
        operations_take_the_promised_round_trips,
    ],
}

/// Time for the pool's ping, which follows each use of a connection and for which nobody waits.
const PING: Duration = Duration::from_millis(100);

struct Meter {
    proxy: Proxy,
    family: Family,
    broken: Vec<String>,
}

impl Meter {
    /// Runs an operation on two things, the first of which prepares its statements, and counts the second.
    async fn promise<T>(
        &mut self,
        operation: &str,
        (postgres, mysql): (usize, usize),
        on: [T; 2],
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

async fn operations_take_the_promised_round_trips(fixture: &Fixture) -> anyhow::Result<()> {
    let family = fixture.kind.map_or(Family::Postgres, Kind::family);
    // Over TLS, so that MySQL 9 knows the account when it comes without.
    let direct = fixture.migrated().await?;
    let (proxy, url) = Proxy::start(family, &fixture.service_url).await?;
    // On one connection, whose statements are prepared at their first use.
    let service: DynSessionService = match family {
        Family::Postgres => {
            let options = url.parse::<PostgresOptions>()?.with_max_connections(1);
            Arc::new(PostgresSessionService::connect_with(options).await?)
        }
        Family::MySql => {
            let options = url.parse::<MySqlOptions>()?.with_max_connections(1);
            Arc::new(MySqlSessionService::connect_with(options).await?)
        }
    };
    let user = || UserKey::try_new("app", "alice");
    let create = || async { anyhow::Ok(direct.create_session(CreateSession::new(user()?)).await?) };
    let (one, two) = (create().await?, create().await?);
    let keys = || [one.key.clone(), two.key.clone()];
    let event = || Event::new("user");
    let append = |key: SessionKey, event: Event| AppendEvent::new(key, event, ExpectedRevision::Any);
    let mut meter = Meter { proxy, family, broken: Vec::new() };

    let request = CreateSession::new(user()?);
    meter
        .promise("create_session", (1, 2), [request.clone(), request], async |request| {
            service.create_session(request).await?;
            Ok(())
        })
        .await?;
    let request = CreateSession::new(user()?).with_state(State::new().with("app:k", 1).with("user:k", 1));
    meter
        .promise("create_session, app and user state", (1, 7), [request.clone(), request], async |request| {
            service.create_session(request).await?;
            Ok(())
        })
        .await?;
    let exact = |session: &Session, event: Event| {
        AppendEvent::new(session.key.clone(), event, ExpectedRevision::Exact(session.revision))
    };
    meter
        .promise("append_event, exact", (1, 5), [exact(&one, event()), exact(&two, event())], async |request| {
            service.append_event(request).await?;
            Ok(())
        })
        .await?;
    let stale = [exact(&one, event()), exact(&two, event())];
    meter
        .promise("append_event, stale", (2, 4), stale, async |request| {
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
        let requests = keys().map(|key| append(key, event().with_state_delta(delta.clone())));
        meter
            .promise(operation, promised, requests, async |request| {
                service.append_event(request).await?;
                Ok(())
            })
            .await?;
    }
    let replays = keys().map(|key| append(key, event().with_id("twice").with_timestamp(1.0)));
    for request in replays.clone() {
        direct.append_event(request).await?;
    }
    meter
        .promise("append_event, replayed", (2, 5), replays, async |request| {
            ensure!(service.append_event(request).await?.is_replayed());
            Ok(())
        })
        .await?;
    let reads = keys().map(GetSession::new);
    meter
        .promise("get_session", (1, 1), reads, async |request| {
            ensure!(service.get_session(request).await?.is_some());
            Ok(())
        })
        .await?;
    let recent = keys().map(|key| GetSession::new(key).with_num_recent_events(1));
    meter
        .promise("get_session, recent", (1, 1), recent, async |request| {
            ensure!(service.get_session(request).await?.is_some());
            Ok(())
        })
        .await?;
    let lists = ListSessions::new(SessionScope::User(user()?));
    meter
        .promise("list_sessions", (1, 1), [lists.clone(), lists], async |request| {
            ensure!(!service.list_sessions(request).await?.items.is_empty());
            Ok(())
        })
        .await?;
    meter
        .promise("list_events", (1, 1), keys().map(ListEvents::new), async |request| {
            ensure!(!service.list_events(request).await?.items.is_empty());
            Ok(())
        })
        .await?;
    meter
        .promise("delete_session", (4, 4), keys(), async |key| Ok(service.delete_session(&key).await?))
        .await?;
    ensure!(meter.broken.is_empty(), "{}", meter.broken.join("\n"));
    Ok(())
}
