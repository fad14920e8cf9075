//! Sessions, pages and states that are large: work goes in steps, and memory has a bound.

use anyhow::{Context as _, ensure};
use futures_util::future::{join, join_all};
use seabed::migration::{Selection, export};
use seabed::sea_orm::TransactionTrait as _;
use seabed::{
    AnnotateSession, AppendEvent, BackendErrorKind, CreateSession, DeleteSession, DirectoryService as _, Error, Event,
    ExpectedRevision, FindSessions, GetSession, ListEvents, ListSessions, ServiceOptions, SessionFilter, SessionKey,
    SessionScope, SessionService as _, State, StateService as _, TransactionalService as _, UpdateState, UserKey,
};
use seabed_core::sql::{Dialect, SqlSessionService};
use seabed_tests::{Family, Kind};

use crate::fixture::{Fixture, with_dialect};

crate::database_cases! {
    Everywhere: [
        a_large_session_is_deleted_in_steps,
        a_session_that_is_being_deleted_is_gone_for_everybody,
        a_large_session_goes_and_comes_back_with_its_transaction,
        a_page_takes_no_more_memory_than_it_may,
        a_state_that_many_sessions_share_comes_once,
        a_session_with_too_many_events_is_read_in_pages,
    ],
    Sqlite: [
        a_file_that_computes_its_rows_takes_no_memory,
    ],
}

fn event_id(n: usize) -> String {
    format!("e{n:05}")
}

/// Stores events, as another program does that is faster.
async fn store_events(fixture: &Fixture, key: &SessionKey, count: usize) -> anyhow::Result<()> {
    let (app, user, session) = (key.app_name.as_str(), key.user_id.as_str(), key.session_id.as_str());
    for first in (0..count).step_by(500) {
        let row = |n: usize| {
            let (id, time) = (event_id(n), format!("2026-01-01 00:00:00.{n:06}"));
            let data = format!(r#"{{"id":"{id}","author":"user","invocation_id":"i","timestamp":1.5,"actions":{{}}}}"#);
            format!("('{app}', '{user}', '{session}', '{id}', 'i', '{time}', '{data}')")
        };
        let rows: Vec<String> = (first..count.min(first + 500)).map(row).collect();
        let insert = format!(
            "INSERT INTO events (app_name, user_id, session_id, id, invocation_id, timestamp, event_data) VALUES {}",
            rows.join(", ")
        );
        fixture.execute(&insert).await?;
    }
    Ok(())
}

async fn count(fixture: &Fixture, table: &str) -> anyhow::Result<usize> {
    let text = if fixture.kind.map(Kind::family) == Some(Family::MySql) { "CHAR" } else { "text" };
    Ok(fixture.query_text(&format!("SELECT CAST(COUNT(*) AS {text}) AS text FROM {table}")).await?.parse()?)
}

/// Makes every delete of one event fail.
async fn protect(fixture: &Fixture, event_id: &str) -> anyhow::Result<()> {
    let trigger = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;\n\
             CREATE TRIGGER refuse BEFORE DELETE ON events FOR EACH ROW WHEN (OLD.id = '{event_id}') \
             EXECUTE FUNCTION refuse()"
        ),
        Some(Family::MySql) => format!(
            "CREATE TRIGGER refuse BEFORE DELETE ON events FOR EACH ROW \
             IF OLD.id = '{event_id}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
        ),
        None => format!(
            "CREATE TRIGGER refuse BEFORE DELETE ON events WHEN OLD.id = '{event_id}' \
             BEGIN SELECT RAISE(ABORT, 'no'); END"
        ),
    };
    fixture.execute(&trigger).await
}

async fn a_large_session_is_deleted_in_steps(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let user = UserKey::try_new("app", "alice")?;
    let key = service.create_session(CreateSession::new(user).with_state(State::new().with("old", 1))).await?.key;
    store_events(fixture, &key, 2500).await?;
    // The newest events go first, as the index has them; on MySQL the oldest do.
    let last = if fixture.kind == Some(Kind::MySql9) { 2499 } else { 0 };
    protect(fixture, &event_id(last)).await?;

    let deleted = service.delete_session(DeleteSession::new(key.clone())).await;
    let error = deleted.err().context("an event was deleted that cannot be")?;
    ensure!(error.backend_kind() == Some(BackendErrorKind::Unexpected), "{error:?}");
    ensure!(error.to_string().contains("its id is taken until"), "{error}");
    let left = count(fixture, "events").await?;
    ensure!(left == 500 || left == 1500, "{left} events are left, after steps of 1,000");
    let read = service.get_session(GetSession::new(key.clone())).await?;
    ensure!(read.is_none(), "half a session was read: {} events", read.map_or(0, |session| session.events.len()));

    let on = if fixture.kind.map(Kind::family) == Some(Family::Postgres) { " ON events" } else { "" };
    fixture.execute(&format!("DROP TRIGGER refuse{on}")).await?;
    service.delete_session(DeleteSession::new(key.clone())).await?;
    ensure!(count(fixture, "events").await? == 0 && count(fixture, "sessions").await? == 0, "something is left");
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    ensure!(service.create_session(create).await?.state.is_empty());
    let read = service.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(read.events.is_empty() && read.state.is_empty(), "{read:?}");
    Ok(())
}

/// What an interrupted delete leaves.
async fn a_session_that_is_being_deleted_is_gone_for_everybody(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let key = SessionKey::try_new("app", "alice", "s")?;
        let create = |key: &SessionKey| CreateSession::new(key.user()).with_session_id(key.session_id.clone());
        let created = service.create_session(create(&key).with_state(State::new().with("k", 1))).await?;
        let others: Vec<SessionKey> =
            (0..3).map(|n| SessionKey::try_new("app", "alice", format!("other{n}"))).collect::<Result<_, _>>()?;
        for other in &others {
            service.create_session(create(other)).await?;
        }
        service.annotate_session(AnnotateSession::new(key.clone()).with_title("title")).await?;
        store_events(fixture, &key, 3).await?;
        let mark = "UPDATE sessions SET create_time = '9999-12-31 23:59:59.000000' WHERE id = 's'";
        fixture.execute(mark).await?;

        ensure!(service.get_session(GetSession::new(key.clone())).await?.is_none(), "it was read");
        let is_not_found = |error: Option<&Error>| matches!(error, Some(Error::NotFound { .. }));
        let events = service.list_events(ListEvents::new(key.clone())).await;
        ensure!(is_not_found(events.as_ref().err()), "{events:?}");
        for scope in [SessionScope::User(key.user()), SessionScope::App(key.app_name.clone())] {
            let listed = service.list_sessions(ListSessions::new(scope.clone())).await?.try_into_items()?;
            ensure!(listed.len() == 3, "{listed:?}");
            for find in [FindSessions::new(scope.clone()), FindSessions::new(scope.clone()).with_state()] {
                let found = service.find_sessions(find).await?.try_into_items()?;
                ensure!(found.len() == 3, "{found:?}");
            }
            ensure!(service.count_sessions(&scope, &SessionFilter::new()).await? == 3);
        }
        // Some of them in batches.
        let append = |key: &SessionKey, expected| AppendEvent::new(key.clone(), Event::new("user"), expected);
        for expected in [ExpectedRevision::Any, ExpectedRevision::Exact(created.revision)] {
            let to_it = join_all((0..3).map(|_| service.append_event(append(&key, expected))));
            let to_others =
                join_all(others.iter().map(|other| service.append_event(append(other, ExpectedRevision::Any))));
            let (to_it, to_others) = join(to_it, to_others).await;
            ensure!(to_others.iter().all(Result::is_ok), "{to_others:?}");
            for appended in to_it {
                ensure!(is_not_found(appended.as_ref().err()), "{expected:?}: {appended:?}");
            }
        }
        let annotated = service.annotate_session(AnnotateSession::new(key.clone()).with_title("other")).await;
        ensure!(is_not_found(annotated.as_ref().err()), "{annotated:?}");
        let again = service.create_session(create(&key)).await;
        ensure!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");

        service.delete_session(DeleteSession::new(key.clone()).at_revision(created.revision)).await?;
        ensure!(service.create_session(create(&key)).await?.state.is_empty());
        let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(read.events.is_empty(), "{read:?}");
        let found = service.find_sessions(FindSessions::new(SessionScope::User(key.user()))).await?.try_into_items()?;
        ensure!(found.iter().all(|found| found.annotations.title.is_none()), "{found:?}");
        // For the next round.
        for key in others.into_iter().chain([key]) {
            service.delete_session(DeleteSession::new(key)).await?;
        }
        Ok(())
    }
    async fn twice<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        check(service.clone(), fixture).await?;
        check(service.with_fast_paths(false), fixture).await
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, twice)
}

async fn a_large_session_goes_and_comes_back_with_its_transaction(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
        store_events(fixture, &key, 1200).await?;
        for commits in [false, true] {
            let transaction = fixture.admin.begin_with_options(D::transaction_options()).await?;
            service.delete_session_in(&transaction, DeleteSession::new(key.clone())).await?;
            ensure!(service.get_session_in(&transaction, GetSession::new(key.clone())).await?.is_none());
            if commits {
                transaction.commit().await?;
            } else {
                transaction.rollback().await?;
            }
            let (sessions, events) = (count(fixture, "sessions").await?, count(fixture, "events").await?);
            ensure!((sessions, events) == if commits { (0, 0) } else { (1, 1200) }, "{sessions} and {events}");
        }
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

/// Sessions, events and found sessions of 1 MB each: 20 of them do not fit.
async fn a_page_takes_no_more_memory_than_it_may(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let (user, text) = (UserKey::try_new("app", "alice")?, "x".repeat(1 << 20));
    for _ in 0..20 {
        service.create_session(CreateSession::new(user.clone()).with_state(State::new().with("k", &*text))).await?;
    }
    let list = ListSessions::new(SessionScope::User(user.clone()));
    let first = service.list_sessions(list.clone()).await?;
    let next = first.next.clone().context("all fitted")?;
    let second = service.list_sessions(list.with_cursor(next)).await?;
    ensure!(first.items.len() < 20 && first.items.len() + second.items.len() == 20 && second.next.is_none());

    let find = FindSessions::new(SessionScope::User(user.clone()));
    for (find, is_cut) in [(find.clone(), false), (find.with_state(), true)] {
        let found = service.find_sessions(find).await?;
        ensure!(found.next.is_some() == is_cut && (found.items.len() < 20) == is_cut, "{}", found.items.len());
    }

    let key = first.try_into_items()?.remove(0).key;
    for _ in 0..20 {
        let event = Event::new("user").with_text(&*text);
        service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    let first = service.list_events(ListEvents::new(key.clone())).await?;
    let next = first.next.clone().context("all fitted")?;
    let second = service.list_events(ListEvents::new(key.clone()).with_cursor(next)).await?;
    ensure!(first.items.len() < 20 && first.items.len() + second.items.len() == 20 && second.next.is_none());
    Ok(())
}

async fn a_state_that_many_sessions_share_comes_once(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let (alice, bob) = (UserKey::try_new("app", "alice")?, UserKey::try_new("app", "bob")?);
    let text = "x".repeat(1 << 20);
    service.update_state(UpdateState::new(alice.app_name.clone(), State::new().with("large", &*text))).await?;
    for user in [&alice, &bob] {
        let of_user = State::new().with("name", user.user_id.as_str());
        service.update_state(UpdateState::new(user.clone(), of_user)).await?;
    }
    for n in 0..40 {
        let user = if n % 3 == 0 { &alice } else { &bob };
        service.create_session(CreateSession::new(user.clone()).with_state(State::new().with("n", n))).await?;
    }
    // In one page, although each session shows 1 MB.
    let listed = service.list_sessions(ListSessions::new(SessionScope::App(alice.app_name.clone()))).await?;
    ensure!(listed.next.is_none() && listed.items.len() == 40, "{}", listed.items.len());
    for session in listed.try_into_items()? {
        let read = service.get_session(GetSession::new(session.key.clone())).await?.context("no session")?;
        ensure!(session.state == read.state, "of {}", session.key);
    }
    let find = FindSessions::new(SessionScope::User(bob)).with_state();
    let found = service.find_sessions(find).await?.try_into_items()?;
    ensure!(found.iter().all(|found| found.state.as_ref().is_some_and(|state| state.len() == 3)), "{}", found.len());
    Ok(())
}

async fn a_session_with_too_many_events_is_read_in_pages(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = ServiceOptions::new().with_max_session_bytes(10_000);
    let service = seabed::from_connection_with(fixture.admin.clone(), options).await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    store_events(fixture, &key, 50).await?;
    ensure!(service.get_session(GetSession::new(key.clone())).await?.is_some_and(|read| read.events.len() == 50));
    let large = Event::new("user").with_text("x".repeat(10_000));
    service.append_event(AppendEvent::new(key.clone(), large, ExpectedRevision::Any)).await?;
    let refused = service.get_session(GetSession::new(key.clone())).await.err().context("it was read")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::TooLarge), "{refused:?}");
    ensure!(refused.to_string().contains("list_events"), "{refused}");
    let none = GetSession::new(key.clone()).with_num_recent_events(0);
    ensure!(service.get_session(none).await?.is_some());
    let events = service.list_events(ListEvents::new(key)).await?.try_into_items()?;
    ensure!(events.len() == 51, "{}", events.len());
    Ok(())
}

/// A file of SQLite may compute what looks like its rows: a few bytes of text then stand for any number.
async fn a_file_that_computes_its_rows_takes_no_memory(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    store_events(fixture, &key, 3).await?;
    let text = "CASE id WHEN 'e00001' THEN printf('%.*c', 70000000, 'x') ELSE event_data END";
    let columns = "id, app_name, user_id, session_id, invocation_id, timestamp";
    fixture.execute("ALTER TABLE events RENAME TO real_events").await?;
    fixture.execute(&format!("CREATE VIEW events AS SELECT {columns}, {text} AS event_data FROM real_events")).await?;
    let mut file = Vec::new();
    let summary = export(&fixture.admin, Selection::default(), &mut file, &mut |_| {}).await?;
    ensure!(summary.events == 2 && summary.refused.len() == 1, "{summary:?}");
    ensure!(summary.refused[0].reason.contains("70000000 bytes"), "{:?}", summary.refused);

    fixture.execute("DROP VIEW events").await?;
    let generated = "CREATE TABLE events (id TEXT, app_name TEXT, user_id TEXT, session_id TEXT, invocation_id TEXT, \
         timestamp DATETIME, event_data TEXT GENERATED ALWAYS AS (printf('%.*c', 70000000, 'x')), \
         PRIMARY KEY (id, app_name, user_id, session_id))";
    fixture.execute(generated).await?;
    // A connection may remember the view.
    let fresh = seabed::open(&fixture.admin_url).await?;
    let refused = export(&fresh, Selection::default(), Vec::new(), &mut |_| {}).await.err();
    let refused = refused.context("generated columns were read")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::Schema), "{refused:?}");
    ensure!(refused.to_string().contains("event_data"), "{refused}");
    Ok(())
}
