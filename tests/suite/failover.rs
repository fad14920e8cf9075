//! Servers that fail over: a standby that has not got a write yet, and a server that is behind the one that gave no
//! answer. What may be stored is never told to be refused, and what may be lost is never acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::{Either, join_all, select};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppendEvent, Appended, BackendErrorKind, CreateSession, DeleteSession, DynSessionService, Error, Event,
    ExpectedRevision, GetSession, ListEvents, PostgresSessionService, Revision, SessionKey, SessionService,
    SqlSessionService, State, StateService, Timestamp, UpdateState, UserKey,
};
use seabed_core::sql::Dialect;
use seabed_tests::{Cut, Kind, Proxy, Server};

use crate::durability::configure;
use crate::fixture::{Fixture, with_dialect};
use crate::risks::expect_words;

crate::database_cases! {
    Servers: [
        a_server_that_is_behind_does_not_overrule_a_doubt,
        a_conflict_at_a_later_revision_ends_a_doubt,
        a_server_that_is_behind_says_so,
    ],
    Everywhere: [a_read_waits_for_the_revision_that_it_asks_for],
    Postgres: [nothing_is_acknowledged_before_the_standby_has_it],
}

fn alice(session: &str) -> seabed::Result<SessionKey> {
    SessionKey::try_new("app", "alice", session)
}

fn create(key: &SessionKey) -> CreateSession {
    CreateSession::new(key.user()).with_session_id(key.session_id.clone())
}

fn append(key: &SessionKey, id: &str, expected: ExpectedRevision) -> AppendEvent {
    AppendEvent::new(key.clone(), Event::new("user").with_id(id), expected)
}

fn revision(appended: &Appended) -> anyhow::Result<Revision> {
    appended.revision().context("a stored event")
}

fn kind_of<T>(outcome: &seabed::Result<T>) -> Option<BackendErrorKind> {
    outcome.as_ref().err().and_then(Error::backend_kind)
}

/// What a server shows that has not received the last writes of another one.
#[derive(Debug, Clone, Copy)]
enum Behind {
    /// It does not know the session.
    Unknown,
    /// It knows the session without its events.
    Earlier,
}

impl Behind {
    async fn take_back(self, fixture: &Fixture, key: &SessionKey) -> anyhow::Result<()> {
        let id = &key.session_id;
        let session = match self {
            Self::Unknown => format!("DELETE FROM sessions WHERE id = '{id}'"),
            Self::Earlier => format!("UPDATE sessions SET update_time = create_time WHERE id = '{id}'"),
        };
        fixture.execute(&format!("DELETE FROM events WHERE session_id = '{id}';\n{session}")).await
    }
}

/// A service behind a proxy, and one beside it.
struct Cluster {
    proxy: Proxy,
    service: DynSessionService,
    direct: DynSessionService,
}

impl Cluster {
    async fn start(fixture: &Fixture) -> anyhow::Result<Self> {
        let direct = fixture.migrated().await?;
        let family = fixture.kind.map(Kind::family).context("a server")?;
        let (proxy, url) = Proxy::tunnel(family, &fixture.service_url).await?;
        let service = family.connect(&url, 1, Duration::from_secs(5)).await?;
        Ok(Self { proxy, service, direct })
    }

    /// Appends an event, cuts the last request of that, and calls `meanwhile` before the next request goes through.
    /// Returns whether the event was stored by then, and what the caller got.
    async fn append_cut(
        &self,
        key: &SessionKey,
        is_exact: bool,
        cut: Cut,
        meanwhile: impl AsyncFn() -> anyhow::Result<()>,
    ) -> anyhow::Result<(bool, seabed::Result<Appended>)> {
        let created = self.direct.create_session(create(key)).await?;
        let mut expected = ExpectedRevision::Any;
        let mut requests = 0;
        // The first appends on a connection prepare their statements.
        for id in ["first", "second", "third"] {
            if is_exact {
                let last = self.direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
                expected = ExpectedRevision::Exact(last.revision);
            }
            self.proxy.take();
            if id == "third" {
                break;
            }
            self.service.append_event(append(key, id, expected)).await?;
            requests = self.proxy.take().round_trips;
            // Until the pool's pings have passed.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(requests > 0, "{:?} took no requests", created.key);
        self.proxy.cut_and_stall(requests - 1, cut);
        let call = Box::pin(self.service.append_event(append(key, "third", expected)));
        let call = match select(call, Box::pin(self.proxy.stalled())).await {
            Either::Left((outcome, _)) => bail!("nothing was cut: {outcome:?}"),
            Either::Right(((), call)) => call,
        };
        let session = self.direct.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        meanwhile().await?;
        self.proxy.stall(false);
        Ok((session.events.len() == 3, call.await))
    }
}

/// The COMMIT gets no answer, and the next attempt reaches a server that is behind.
async fn a_server_that_is_behind_does_not_overrule_a_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = Cluster::start(fixture).await?;
    for (behind, is_exact) in [(Behind::Unknown, true), (Behind::Unknown, false), (Behind::Earlier, true)] {
        let key = alice(&format!("{behind:?}-{is_exact}"))?;
        let take_back = async || behind.take_back(fixture, &key).await;
        let (is_stored, outcome) = cluster.append_cut(&key, is_exact, Cut::BeforeReply, take_back).await?;
        ensure!(is_stored, "{behind:?}: the event was not stored");
        ensure!(kind_of(&outcome) == Some(BackendErrorKind::CommitUnknown), "{behind:?}: {outcome:?}");
    }
    Ok(())
}

/// A server that knows what came later would know the event as well.
async fn a_conflict_at_a_later_revision_ends_a_doubt(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = Cluster::start(fixture).await?;
    let key = alice("later")?;
    let overtake = async || {
        cluster.direct.append_event(append(&key, "other", ExpectedRevision::Any)).await?;
        Ok(())
    };
    let (is_stored, outcome) = cluster.append_cut(&key, true, Cut::BeforeRequest, overtake).await?;
    ensure!(!is_stored && matches!(outcome, Err(Error::RevisionConflict { .. })), "{outcome:?}");
    Ok(())
}

async fn a_server_that_is_behind_says_so(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let portable = service.clone().with_fast_paths(false);
        for (number, service) in [service, portable].iter().enumerate() {
            let key = alice(&format!("session-{number}"))?;
            service.create_session(create(&key)).await?;
            service.append_event(append(&key, "first", ExpectedRevision::Any)).await?;
            let last = revision(&service.append_event(append(&key, "second", ExpectedRevision::Any)).await?)?;
            let third = append(&key, "third", ExpectedRevision::Exact(last));
            // What a program with a late clock does.
            let first = format!(
                "UPDATE sessions SET update_time = \
                 (SELECT timestamp FROM events WHERE id = 'first' AND session_id = '{0}') WHERE id = '{0}'",
                key.session_id
            );
            fixture.execute(&first).await?;
            let set_back = service.append_event(third.clone()).await;
            ensure!(matches!(set_back, Err(Error::RevisionConflict { .. })), "{set_back:?}");
            let of_session = format!("DELETE FROM events WHERE id = 'second' AND session_id = '{}'", key.session_id);
            fixture.execute(&of_session).await?;
            let delete = DeleteSession::new(key.clone()).at_revision(last);
            for behind in [service.append_event(third).await.map(drop), service.delete_session(delete).await] {
                ensure!(kind_of(&behind) == Some(BackendErrorKind::Unavailable), "{behind:?}");
                expect_words(&format!("{:?}", behind.err().map(|error| error.to_string())), &["behind"])?;
            }
            let session = service.get_session(GetSession::new(key)).await?.context("no session")?;
            ensure!(session.events.len() == 1, "{session:?}");
        }
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

/// What a replica does that receives an event a moment later.
async fn a_read_waits_for_the_revision_that_it_asks_for(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for lists in [false, true] {
        let key = alice(&format!("waits-{lists}"))?;
        let session = service.create_session(create(&key)).await?;
        let seconds = session.create_time.as_seconds() + 1000.0;
        let event = Event::new("user").with_timestamp(seconds);
        let awaited = Revision::new(session.create_time, Timestamp::try_from_seconds(seconds)?);
        let read = async {
            anyhow::Ok(if lists {
                let request = ListEvents::new(key.clone()).with_min_revision(awaited);
                service.list_events(request).await?.items.len()
            } else {
                let request = GetSession::new(key.clone()).with_min_revision(awaited);
                service.get_session(request).await?.context("no session")?.events.len()
            })
        };
        let replicate = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await
        };
        let (read, replicated) = tokio::join!(read, replicate);
        ensure!(replicated?.revision() == Some(awaited) && read? == 1);
    }
    Ok(())
}

/// Ends every server process that waits for a standby, as a restart of the server would.
async fn end_waits(admin: DatabaseConnection) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    loop {
        // The next try finds what this one missed.
        let _: Result<_, seabed::sea_orm::DbErr> = admin.execute_unprepared(end).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The standby is gone, so no commit is answered, and everything that was committed would be lost with this server.
/// On a server of its own, because others use the settings of the shared one.
async fn nothing_is_acknowledged_before_the_standby_has_it(fixture: &Fixture) -> anyhow::Result<()> {
    let server = Server::start_own(fixture.kind.context("a server")?).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    let service = PostgresSessionService::connect(&server.database().service_url()?).await?;
    for fast_paths in [true, false] {
        let service = service.clone().with_fast_paths(fast_paths);
        let key = |name: &str| alice(&format!("{name}-{fast_paths}"));
        let [exact, any, deleted, created] = [key("exact")?, key("any")?, key("deleted")?, key("created")?];
        for key in [&exact, &any, &deleted] {
            service.create_session(create(key)).await?;
        }
        let first = service.append_event(append(&exact, "first", ExpectedRevision::Any)).await?;
        let expected = ExpectedRevision::Exact(revision(&first)?);
        let appends = [append(&exact, "second", expected), append(&any, "first", ExpectedRevision::Any)];
        let delete = DeleteSession::new(deleted);
        let update = UpdateState::new(UserKey::try_new("app", "alice")?, State::new().with("k", fast_paths));

        configure(&admin, &[("synchronous_standby_names", "nobody")]).await?;
        let ending = tokio::spawn(end_waits(admin.clone())).abort_handle();
        for call in ["the first", "the second"] {
            let (appended, deleted, updated) = tokio::join!(
                join_all(appends.clone().map(|append| service.append_event(append))),
                service.delete_session(delete.clone()),
                service.update_state(update.clone()),
            );
            let outcomes = appended.into_iter().map(|outcome| outcome.map(drop));
            for (number, outcome) in outcomes.chain([deleted, updated.map(drop)]).enumerate() {
                let is_in_doubt = kind_of(&outcome) == Some(BackendErrorKind::CommitUnknown);
                ensure!(is_in_doubt, "{call} call of write {number}, fast paths {fast_paths}: {outcome:?}");
            }
        }
        let created = [create(&created), create(&created)].map(|create| service.create_session(create));
        let created = join_all(created).await;
        ensure!(created.iter().all(Result::is_err), "{created:?}");
        // Reads wait for nobody.
        let started = Instant::now();
        let session = service.get_session(GetSession::new(exact)).await?.context("no session")?;
        ensure!(session.events.len() == 2, "{session:?}");
        ensure!(started.elapsed() < Duration::from_secs(2), "a read took {:?}", started.elapsed());
        ending.abort();

        configure(&admin, &[("synchronous_standby_names", "")]).await?;
        for append in appends {
            let replayed = service.append_event(append).await?;
            ensure!(matches!(replayed, Appended::Replayed(_)), "{replayed:?}");
        }
        service.delete_session(delete).await?;
        service.update_state(update).await?;
    }
    service.close().await?;
    admin.close().await?;
    server.stop().await
}
