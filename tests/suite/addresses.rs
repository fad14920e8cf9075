//! Several addresses, settings of connections, and how many connections a service needs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::{join_all, try_join_all};
use seabed::sea_orm::DatabaseConnection;
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, DynSessionService, Error, Event, ExpectedRevision, GetSession,
    SessionKey, SessionService, SqlSessionService,
};
use seabed_core::sql::{ConnectOptions, Dialect};
use seabed_tests::{Family, Kind, Proxy, Server};
use url::Url;

use crate::fixture::{Fixture, query_text, with_dialect};
use crate::risks::expect_words;

crate::database_cases! {
    Servers: [
        an_address_that_refuses_costs_no_wait,
        a_service_moves_on_to_the_next_address,
        a_patient_service_waits_for_its_server,
        the_server_that_takes_writes_is_found,
        settings_of_connections_are_set,
        one_writer_needs_one_connection,
        many_services_fit_a_server_of_a_hundred_connections,
    ],
}

async fn new_session(service: &DynSessionService, id: &str) -> anyhow::Result<SessionKey> {
    let key = SessionKey::try_new("app", "alice", id)?;
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    Ok(service.create_session(create).await?.key)
}

async fn append(service: &DynSessionService, key: &SessionKey) -> seabed::Result<()> {
    let append = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any);
    service.append_event(append).await.map(drop)
}

fn kind_of<T>(outcome: &seabed::Result<T>) -> Option<BackendErrorKind> {
    outcome.as_ref().err().and_then(Error::backend_kind)
}

fn family(fixture: &Fixture) -> anyhow::Result<Family> {
    fixture.kind.map(Kind::family).context("a server")
}

/// A port that nobody listens on.
fn closed_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// `url` with these addresses.
fn at(url: &str, addresses: &[String]) -> anyhow::Result<String> {
    let parsed = Url::parse(url)?;
    let old = format!("@{}:{}", parsed.host_str().context("no host")?, parsed.port().context("no port")?);
    Ok(url.replacen(&old, &format!("@{}", addresses.join(",")), 1))
}

fn address_of(url: &str) -> anyhow::Result<String> {
    let url = Url::parse(url)?;
    Ok(format!("{}:{}", url.host_str().context("no host")?, url.port().context("no port")?))
}

async fn an_address_that_refuses_costs_no_wait(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let closed = format!("127.0.0.1:{}", closed_port()?);
    let url = at(&fixture.service_url, &[closed.clone(), address_of(&fixture.service_url)?])?;
    let started = Instant::now();
    let service = seabed::connect(&url).await?;
    append(&service, &new_session(&service, "s").await?).await?;
    // The limit on the wait for a connection is 5 seconds.
    ensure!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    seabed::migrate(&seabed::open(&at(&fixture.admin_url, &[closed.clone(), address_of(&fixture.admin_url)?])?).await?)
        .await?;

    let nobody = at(&fixture.service_url, &[closed.clone(), format!("127.0.0.1:{}", closed_port()?)])?;
    let refused = seabed::connect(&nobody).await.err().context("connected to nobody")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::Unavailable), "{refused:?}");
    expect_words(&refused.to_string(), &[&closed, " or "])?;
    let password = fixture.database().context("a server")?.service_password();
    ensure!(!format!("{refused:?} {refused}").contains(password));
    Ok(())
}

/// The first server is gone for good, with all connections to it.
async fn a_service_moves_on_to_the_next_address(fixture: &Fixture) -> anyhow::Result<()> {
    let observer = fixture.migrated().await?;
    let family = family(fixture)?;
    let (first, first_url) = Proxy::tunnel(family, &fixture.service_url).await?;
    let (second, second_url) = Proxy::tunnel(family, &fixture.service_url).await?;
    let url = at(&fixture.service_url, &[address_of(&first_url)?, address_of(&second_url)?])?;
    let service = seabed::connect(&url).await?;
    let key = new_session(&service, "s").await?;
    append(&service, &key).await?;
    ensure!(first.opened() > 0 && second.opened() == 0, "{} and {}", first.opened(), second.opened());
    drop(first);
    let started = Instant::now();
    try_join_all((0..20).map(|_| append(&service, &key))).await?;
    ensure!(started.elapsed() < Duration::from_secs(4), "it took {:?}", started.elapsed());
    service.get_session(GetSession::new(key.clone())).await?;
    ensure!(second.opened() > 0);
    let session = observer.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == 21, "{} events", session.events.len());
    service.close().await?;
    Ok(())
}

async fn a_patient_service_waits_for_its_server(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(_: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let family = family(fixture)?;
        let (proxy, url) = Proxy::tunnel(family, &fixture.service_url).await?;
        let port = proxy.port();
        let options: ConnectOptions<D> = url.parse()?;
        let options = options.with_acquire_timeout(Duration::from_millis(200));
        let patient = options.clone().with_failover_patience(Duration::from_mins(1));
        let [hasty, patient] =
            [SqlSessionService::connect_with(options).await?, SqlSessionService::connect_with(patient).await?];
        let created = patient.create_session(CreateSession::new(seabed::UserKey::try_new("app", "alice")?)).await?;
        let key = created.key;
        drop(proxy);
        let append = || AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any);
        let limited = patient.clone().with_timeout(Duration::from_millis(500));
        let (hasty, limited, read) = tokio::join!(
            hasty.append_event(append()),
            limited.append_event(append()),
            hasty.get_session(GetSession::new(key.clone())),
        );
        for outcome in [hasty.map(drop), limited.map(drop), read.map(drop)] {
            // A statement that was sent may have been stored.
            let is_expected =
                matches!(kind_of(&outcome), Some(BackendErrorKind::Unavailable | BackendErrorKind::CommitUnknown));
            ensure!(is_expected, "{outcome:?}");
        }
        let restart = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Proxy::tunnel_at(family, &fixture.service_url, port).await
        };
        let (appended, session, restarted) =
            tokio::join!(patient.append_event(append()), patient.get_session(GetSession::new(key.clone())), restart);
        appended?;
        session?.context("no session")?;
        restarted?;
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

/// A server that goes from read-only to writable and back. On a server of its own, because others use the settings of
/// the shared one.
async fn the_server_that_takes_writes_is_found(fixture: &Fixture) -> anyhow::Result<()> {
    let family = family(fixture)?;
    let server = Server::start_own(fixture.kind.context("a server")?).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    let set_read_only = async |on: bool| -> anyhow::Result<()> {
        match family {
            Family::Postgres => {
                let value = if on { "on" } else { "off" };
                crate::durability::configure(&admin, &[("default_transaction_read_only", value)]).await
            }
            Family::MySql => {
                let set = format!("SET GLOBAL read_only = {}", u8::from(on));
                Ok(seabed::sea_orm::ConnectionTrait::execute_unprepared(&admin, &set).await.map(drop)?)
            }
        }
    };
    let url = server.database().service_url()?;
    let separator = if url.contains('?') { '&' } else { '?' };
    let wanting = |target: &str| format!("{url}{separator}target_session_attrs={target}");
    let service = family.connect(&wanting("read-write"), 2, Duration::from_millis(300)).await?;
    let key = new_session(&service, "s").await?;
    let expect_other = |outcome: Option<Error>, target: &str| -> anyhow::Result<()> {
        let error = outcome.with_context(|| format!("found a server that is {target}"))?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Unavailable), "{error:?}");
        expect_words(&error.to_string(), &[target, "target_session_attrs"])
    };
    expect_other(seabed::open(&wanting("read-only")).await.err(), "read-only")?;

    set_read_only(true).await?;
    expect_other(seabed::open(&wanting("read-write")).await.err(), "read-write")?;
    for target in ["any", "read-only", "prefer-standby"] {
        seabed::open(&wanting(target)).await?.close().await?;
    }
    ensure!(kind_of(&append(&service, &key).await) == Some(BackendErrorKind::Unavailable));
    set_read_only(false).await?;
    append(&service, &key).await?;
    service.close().await?;
    seabed::sea_orm::DatabaseConnection::close(admin).await?;
    server.stop().await
}

async fn settings_of_connections_are_set(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(_: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let family = family(fixture)?;
        let options: ConnectOptions<D> = fixture.service_url.parse()?;
        let (settings, read): (&[(&str, &str)], _) = match family {
            Family::Postgres => (
                &[("application_name", "it's"), ("work_mem", "9MB")],
                "SELECT current_setting('application_name') || current_setting('work_mem') AS text",
            ),
            Family::MySql => (
                &[("group_concat_max_len", "4711"), ("max_sort_length", "2048")],
                "SELECT CONCAT(@@group_concat_max_len, @@max_sort_length) AS text",
            ),
        };
        let expected = if family == Family::Postgres { "it's9MB" } else { "47112048" };
        let service = SqlSessionService::connect_with(options.clone().with_session_settings(settings.to_vec())).await?;
        ensure!(query_text(service.pool(), read).await? == expected);
        service.create_session(CreateSession::new(seabed::UserKey::try_new("app", "alice")?)).await?;
        if family == Family::Postgres {
            let named = "SELECT CAST(count(*) AS text) AS text FROM pg_stat_activity \
                         WHERE application_name = 'it''s' AND query LIKE '%sessions%' AND pid <> pg_backend_pid()";
            ensure!(fixture.query_text(named).await? != "0", "the service's own connections lack the setting");
        }
        service.close().await?;

        let unknown = options.clone().with_session_settings([("no_such_setting", "1")]);
        let refused = unknown.open().await.err().context("opened with an unknown setting")?;
        ensure!(refused.backend_kind() == Some(BackendErrorKind::Unexpected), "{refused:?}");
        expect_words(&refused.to_string(), &["with_session_settings"])?;
        for (name, value) in [("a; b", "1"), ("", "1"), ("a", "b\\c"), ("a", "b\0c")] {
            let refused = options.clone().with_session_settings([(name, value)]).open().await.err();
            ensure!(matches!(refused, Some(Error::Invalid { field: "session_settings", .. })), "{refused:?}");
        }
        let sqlite: seabed::SqliteOptions = "sqlite::memory:".parse()?;
        let refused = sqlite.with_session_settings([("a", "1")]).open().await.err();
        ensure!(matches!(refused, Some(Error::Invalid { field: "session_settings", .. })), "{refused:?}");
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

/// How many connections the service's account has to the database of the case.
async fn connections(fixture: &Fixture) -> anyhow::Result<String> {
    let account = fixture.database().context("a server")?.account();
    let query = match family(fixture)? {
        Family::Postgres => format!(
            "SELECT CAST(count(*) AS text) AS text FROM pg_stat_activity \
             WHERE datname = current_database() AND usename = '{account}'"
        ),
        Family::MySql => format!(
            "SELECT CAST(count(*) AS CHAR) AS text FROM information_schema.processlist \
             WHERE db = DATABASE() AND user = '{account}'"
        ),
    };
    fixture.query_text(&query).await
}

async fn one_writer_needs_one_connection(fixture: &Fixture) -> anyhow::Result<()> {
    let migrated = fixture.migrated().await?;
    migrated.close().await?;
    let family = family(fixture)?;
    let (proxy, url) = Proxy::tunnel(family, &fixture.service_url).await?;
    let pool = seabed::open(&url).await?;
    let services = [seabed::connect(&url).await?, seabed::from_connection(pool.clone()).await?];
    pool.close().await?;
    for (number, service) in services.iter().enumerate() {
        let key = new_session(service, &format!("s{number}")).await?;
        let opened = proxy.opened();
        for pause in (0..40).map(|number| number % 8 * 4) {
            append(service, &key).await?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        // Longer than a connection is kept without a test.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        append(service, &key).await?;
        ensure!(proxy.opened() == opened, "service {number} opened {} more", proxy.opened() - opened);
    }
    ensure!(connections(fixture).await? == "2", "{} connections of two services", connections(fixture).await?);
    for service in services {
        service.close().await?;
    }
    Ok(())
}

/// Takes all connections that a server still admits, so that nobody can connect.
async fn fill(url: &str, family: Family) -> anyhow::Result<Vec<DatabaseConnection>> {
    let mut taken = Vec::new();
    loop {
        match family.open(url, 1, Duration::from_secs(2)).await {
            Ok(pool) => {
                // `open` closes the connection that it tries.
                match query_text(&pool, "SELECT 'a' AS text").await {
                    Ok(_) => taken.push(pool),
                    Err(_) => return Ok(taken),
                }
            }
            Err(_) => return Ok(taken),
        }
        ensure!(taken.len() < 200, "the server is never full");
    }
}

/// On a server of its own, because others use the connections of the shared one.
async fn many_services_fit_a_server_of_a_hundred_connections(fixture: &Fixture) -> anyhow::Result<()> {
    const SERVICES: usize = 64;
    let (kind, family) = (fixture.kind.context("a server")?, family(fixture)?);
    let limit =
        if family == Family::Postgres { ["-c", "max_connections=100"].as_slice() } else { &["--max-connections=100"] };
    let arguments: Vec<String> = limit.iter().map(|&argument| argument.to_owned()).collect();
    let server = Server::start_own_with(kind, &arguments).await?;
    server.database().migrate().await?;
    let url = server.database().service_url()?;
    let mut services = Vec::new();
    // A service has two connections for a moment while it connects.
    while services.len() < SERVICES {
        services.extend(try_join_all((0..16).map(|_| seabed::connect(&url))).await?);
    }
    let write = async |number: usize, service: &DynSessionService| -> anyhow::Result<()> {
        let key = new_session(service, &format!("s{number}")).await?;
        for _ in 0..5 {
            append(service, &key).await?;
        }
        Ok(())
    };
    let ended = join_all(services.iter().enumerate().map(|(number, service)| write(number, service))).await;
    for ended in ended {
        ended?;
    }

    let late = seabed::connect(&url).await?;
    let key = new_session(&late, "late").await?;
    late.close().await?;
    let idle = seabed::from_connection(seabed::open(&url).await?).await?;
    let taken = fill(&url, family).await?;
    let started = Instant::now();
    let refused = seabed::connect(&url).await.err().context("connected to a full server")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::Unavailable), "{refused:?}");
    expect_words(&refused.to_string(), &["too many clients"])?;
    // One connection is there. Others are needed for callers who come together.
    let outcomes = join_all((0..8).map(|_| idle.get_session(GetSession::new(key.clone())))).await;
    for error in outcomes.into_iter().filter_map(Result::err) {
        expect_words(&error.to_string(), &["too many clients"])?;
    }
    ensure!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    drop(taken);
    for service in services {
        service.close().await?;
    }
    idle.close().await?;
    server.stop().await
}
