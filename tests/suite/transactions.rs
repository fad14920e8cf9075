//! Pools and transactions that belong to the user.

use anyhow::{Context as _, ensure};
use seabed::sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionOptions, TransactionTrait};
use seabed::{
    AppName, AppendEvent, Appended, Clock, CreateSession, DeleteSession, Error, Event, ExpectedRevision, GetSession,
    IdSource, ListEvents, ListSessions, Revision, SessionId, SessionKey, SessionScope, SessionService, State,
    StateUpdated, SystemClock, Timestamp, TransactionalService, UpdateState, UserKey,
};
use seabed_core::sql::{Dialect, SqlSessionService};
use seabed_tests::{Family, Kind, Server};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, with_dialect};
use crate::targets::sqlite_url;

crate::database_cases! {
    Servers: [
        a_replay_in_an_old_snapshot_of_its_caller_is_told,
        a_delta_is_not_merged_into_a_row_that_is_gone,
        a_transaction_on_another_kind_of_database_is_refused,
        a_write_in_a_transaction_on_another_server_is_refused,
    ],
    Everywhere: [
        a_write_in_a_transaction_on_another_database_is_refused,
        an_event_is_stored_with_the_transaction_of_its_caller,
        a_refused_event_leaves_the_transaction_of_its_caller_usable,
        every_write_is_stored_with_the_transaction_of_its_caller,
        reads_see_what_the_transaction_of_their_caller_has_written,
        a_taken_id_leaves_the_transaction_of_its_caller_usable,
        a_pool_of_the_users_own_loses_no_race,
        a_pool_of_another_database_is_refused,
        an_injected_clock_and_id_source_are_used,
    ],
    Sqlite: [
        a_pool_without_foreign_keys_leaves_no_events_behind,
    ],
    Postgres: [
        a_write_in_a_transaction_that_finds_another_table_is_refused,
    ],
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

fn options<D: Dialect>(_: &SqlSessionService<D>) -> TransactionOptions {
    D::transaction_options()
}

async fn an_event_is_stored_with_the_transaction_of_its_caller(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        fixture.execute("CREATE TABLE orders (event_id varchar(64))").await?;
        for (app, knows_revision, commit) in
            [("any", false, false), ("any", false, true), ("exact", true, false), ("exact", true, true)]
        {
            let created = service.create_session(CreateSession::new(UserKey::try_new(app, "alice")?)).await?;
            let key = created.key;
            let delta = State::new().with("app:k", 1).with("user:k", 1);
            let (expected, delta) = if knows_revision {
                (ExpectedRevision::Exact(created.revision), delta)
            } else {
                (ExpectedRevision::Any, delta.with("k", 1))
            };
            let keys = delta.len();
            let event = Event::new("user").with_invocation_id("é").with_state_delta(delta);
            let request = AppendEvent::new(key.clone(), event.clone(), expected);
            let orders = count(&fixture.admin, "orders").await?;
            let transaction = fixture.admin.begin_with_options(options(&service)).await?;
            let appended = service.append_event_in(&transaction, request).await?;
            transaction.execute_unprepared("INSERT INTO orders VALUES ('e')").await?;
            if commit {
                transaction.commit().await?;
            } else {
                transaction.rollback().await?;
            }
            let session = service.get_session(GetSession::new(key.clone())).await?;
            let session = session.ok_or_else(|| anyhow::anyhow!("the session is gone"))?;
            let expected = if commit { (vec![event], keys, 1) } else { (Vec::new(), 0, 0) };
            let stored = (session.events, session.state.len(), count(&fixture.admin, "orders").await? - orders);
            ensure!(stored == expected, "{stored:?}");
            ensure!(!commit || appended.revision() == Some(session.revision), "{appended:?}");
        }
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

async fn a_refused_event_leaves_the_transaction_of_its_caller_usable(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let session = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?;
        let key = session.key.clone();
        service.append_event(append(&key, Event::new("user").with_id("taken"))).await?;
        let transaction = fixture.admin.begin_with_options(options(&service)).await?;
        let stale = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(session.revision));
        let reused = append(&key, Event::new("other").with_id("taken"));
        let nowhere = append(&SessionKey::try_new("app", "alice", "nothing")?, Event::new("user"));
        let outcome = service.append_event_in(&transaction, stale).await;
        ensure!(matches!(outcome, Err(Error::RevisionConflict { .. })), "{outcome:?}");
        let outcome = service.append_event_in(&transaction, reused).await;
        ensure!(matches!(outcome, Err(Error::EventIdReused { .. })), "{outcome:?}");
        let outcome = service.append_event_in(&transaction, nowhere).await;
        ensure!(matches!(outcome, Err(Error::NotFound { .. })), "{outcome:?}");
        let stored = service.append_event_in(&transaction, append(&key, Event::new("user"))).await?;
        ensure!(matches!(stored, Appended::Stored(_)));
        transaction.commit().await?;
        ensure!(count(&fixture.admin, "events").await? == 2);
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

/// A session is created, written and another is deleted in one transaction: all of it, or nothing.
async fn every_write_is_stored_with_the_transaction_of_its_caller(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for commit in [false, true] {
        let app = format!("app-{commit}");
        let user = UserKey::try_new(&app, "alice")?;
        let old = service.create_session(CreateSession::new(user.clone())).await?.key;
        service.append_event(append(&old, Event::new("user"))).await?;
        let transaction = fixture.admin.begin_with_options(service.transaction_options()).await?;
        let create = CreateSession::new(user.clone()).with_state(State::new().with("app:a", 1).with("k", 1));
        let created = service.create_session_in(&transaction, create).await?;
        ensure!(created.state == State::new().with("app:a", 1).with("k", 1), "{:?}", created.state);
        let event = Event::new("user").with_state_delta(State::new().with("user:b", 1));
        service.append_event_in(&transaction, append(&created.key, event)).await?;
        let delta = || State::new().with("c", 1);
        let update = UpdateState::new(user.app_name.clone(), delta());
        let updated = service.update_state_in(&transaction, update).await?;
        ensure!(updated == StateUpdated::Shared(State::new().with("a", 1).with("c", 1)), "{updated:?}");
        service.update_state_in(&transaction, UpdateState::new(user.clone(), delta())).await?;
        let update = UpdateState::new(created.key.clone(), delta());
        ensure!(service.update_state_in(&transaction, update).await?.revision() > Some(created.revision));
        service.delete_session_in(&transaction, DeleteSession::new(old.clone())).await?;
        if commit {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let created = service.get_session(GetSession::new(created.key)).await?;
        let events = created.as_ref().map_or(0, |session| session.events.len());
        let old = service.get_session(GetSession::new(old)).await?;
        let (app_state, user_state) =
            (service.get_app_state(&user.app_name).await?, service.get_user_state(&user).await?);
        let stored = (created.is_some(), events, old.is_none(), app_state.len(), user_state.len());
        ensure!(stored == if commit { (true, 2, true, 2, 2) } else { (false, 0, false, 0, 0) }, "{stored:?}");
    }
    Ok(())
}

async fn reads_see_what_the_transaction_of_their_caller_has_written(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let user = UserKey::try_new("app", "alice")?;
    let transaction = fixture.admin.begin_with_options(service.transaction_options()).await?;
    let create = CreateSession::new(user.clone()).with_state(State::new().with("app:a", 1).with("user:b", 1));
    let key = service.create_session_in(&transaction, create).await?.key;
    service.append_event_in(&transaction, append(&key, Event::new("user").with_id("e"))).await?;
    let read = service.get_session_in(&transaction, GetSession::new(key.clone())).await?;
    ensure!(read.is_some_and(|session| session.events.len() == 1 && session.state.len() == 2));
    let sessions = ListSessions::new(SessionScope::User(user.clone()));
    ensure!(service.list_sessions_in(&transaction, sessions.clone()).await?.items.len() == 1);
    ensure!(service.list_events_in(&transaction, ListEvents::new(key.clone())).await?.items.len() == 1);
    ensure!(service.get_app_state_in(&transaction, &user.app_name).await?.len() == 1);
    ensure!(service.get_user_state_in(&transaction, &user).await?.len() == 1);
    transaction.rollback().await?;
    ensure!(service.get_session(GetSession::new(key)).await?.is_none());
    ensure!(service.list_sessions(sessions).await?.items.is_empty());
    Ok(())
}

async fn a_taken_id_leaves_the_transaction_of_its_caller_usable(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = SessionKey::try_new("app", "alice", "taken")?;
    let create = || CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    service.create_session(create()).await?;
    let transaction = fixture.admin.begin_with_options(service.transaction_options()).await?;
    let refused = service.create_session_in(&transaction, create().with_state(State::new().with("app:k", 1))).await;
    ensure!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
    let nowhere = UpdateState::new(SessionKey::try_new("app", "alice", "nothing")?, State::new().with("app:k", 1));
    let refused = service.update_state_in(&transaction, nowhere).await;
    ensure!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    service.append_event_in(&transaction, append(&key, Event::new("user"))).await?;
    transaction.commit().await?;
    let session = service.get_session(GetSession::new(key)).await?;
    ensure!(session.is_some_and(|session| session.events.len() == 1 && session.state.is_empty()));
    Ok(())
}

/// REPEATABLE READ is MySQL's default: an event is stored even if the transaction's snapshot does not show it.
async fn a_replay_in_an_old_snapshot_of_its_caller_is_told(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
        let plain = seabed::sea_orm::Database::connect(&fixture.admin_url).await?;
        let transaction = plain.begin().await?;
        ensure!(count(&transaction, "sessions").await? == 1);
        let event = Event::new("user");
        service.append_event(append(&key, event.clone())).await?;
        let other = event.clone().with_text("other");
        ensure!(service.append_event_in(&transaction, append(&key, event)).await?.is_replayed());
        let refused = service.append_event_in(&transaction, append(&key, other)).await;
        ensure!(matches!(refused, Err(Error::EventIdReused { .. })), "{refused:?}");
        transaction.commit().await?;
        plain.close().await?;
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

/// Another user deletes rows by hand while a transaction's snapshot still shows them.
async fn a_delta_is_not_merged_into_a_row_that_is_gone(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
        let plain = seabed::sea_orm::Database::connect(&fixture.admin_url).await?;
        let transaction = plain.begin().await?;
        ensure!(count(&transaction, "app_states").await? == 1);
        fixture.execute("DELETE FROM app_states").await?;
        let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
        match service.append_event_in(&transaction, append(&key, event)).await {
            Ok(_) => {
                transaction.commit().await?;
                let state = service.get_app_state(&key.app_name).await?;
                ensure!(state == State::new().with("k", 1), "an acknowledged delta is lost: {state:?}");
            }
            Err(error) => {
                ensure!(error.is_retryable(), "{error:?}");
                transaction.rollback().await?;
            }
        }
        plain.close().await?;
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

/// A pool from sea-orm itself: REPEATABLE READ on MySQL, and none of Seabed's settings anywhere.
async fn a_pool_of_the_users_own_loses_no_race(fixture: &Fixture) -> anyhow::Result<()> {
    const TASKS: usize = 50;
    seabed::migrate(&fixture.admin).await?;
    let mut plain = seabed::sea_orm::ConnectOptions::new(fixture.admin_url.clone());
    plain.max_connections(10);
    let plain = seabed::sea_orm::Database::connect(plain).await?;
    let service = seabed::from_connection(plain.clone()).await?;
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let service = service.clone();
        tasks.spawn(async move {
            let user = UserKey::try_new("app", format!("user{}", number % 7))?;
            let state = State::new().with(format!("app:a{number}"), 1).with(format!("user:a{number}"), 1);
            let created = service.create_session(CreateSession::new(user).with_state(state)).await?;
            let delta = State::new().with(format!("app:b{number}"), 1);
            if number % 2 == 1 {
                let event = Event::new("user").with_state_delta(delta);
                let expected = ExpectedRevision::Exact(created.revision);
                return service.append_event(AppendEvent::new(created.key, event, expected)).await;
            }
            let key = SessionKey::try_new("app", "user0", "shared")?;
            let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
            match service.create_session(create).await {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(other) => return Err(other),
            }
            let delta = delta.with(format!("b{number}"), 1);
            service.append_event(append(&key, Event::new("user").with_state_delta(delta))).await
        });
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    ensure!(service.get_app_state(&AppName::try_new("app")?).await?.len() == 2 * TASKS);
    let shared = GetSession::new(SessionKey::try_new("app", "user0", "shared")?);
    ensure!(service.get_session(shared).await?.is_some_and(|session| session.events.len() == TASKS / 2));
    plain.close().await?;
    Ok(())
}

/// SQLite cascades a delete only on connections with foreign keys enabled.
async fn a_pool_without_foreign_keys_leaves_no_events_behind(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = fixture.service_url.parse::<seabed::SqliteOptions>()?;
    let pool = options.with_driver(|driver| driver.foreign_keys(false)).open().await?;
    let service = seabed::from_connection(pool).await?;
    let key = SessionKey::try_new("app", "alice", "s")?;
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    service.create_session(create).await?;
    service.append_event(append(&key, Event::new("user"))).await?;
    service.delete_session(DeleteSession::new(key.clone())).await?;
    ensure!(count(&fixture.admin, "events").await? == 0, "an event outlived its session");
    Ok(())
}

/// A database on the same server, or another file.
async fn a_write_in_a_transaction_on_another_database_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let Some(database) = fixture.database() else {
        let folder = tempfile::tempdir()?;
        return refuses_writes_in(fixture, &sqlite_url(&folder)).await;
    };
    let database = database.another().await?;
    refuses_writes_in(fixture, &database.admin_url()?).await?;
    database.remove().await
}

/// The database has the same name there.
async fn a_write_in_a_transaction_on_another_server_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let server = Server::start_own(fixture.kind.context("a server")?).await?;
    let name = fixture.database().context("a database")?.account();
    let admin = seabed::open(server.url()).await?;
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
    admin.close().await?;
    let (host, _) = server.url().rsplit_once('/').context("a path")?;
    let refused = refuses_writes_in(fixture, &format!("{host}/{name}")).await;
    server.stop().await?;
    refused
}

/// The user's own pool looks names up in another schema.
async fn a_write_in_a_transaction_that_finds_another_table_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.admin.execute_unprepared("CREATE SCHEMA tenant").await?;
    refuses_writes_in(fixture, &format!("{}?options=-csearch_path%3Dtenant", fixture.admin_url)).await
}

/// Checks that a service refuses to write in a transaction on the database of `url`, and that it has written nothing.
async fn refuses_writes_in(fixture: &Fixture, url: &str) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, elsewhere: &DatabaseConnection) -> anyhow::Result<()> {
        let user = UserKey::try_new("app", "alice")?;
        let id = SessionId::try_new("s")?;
        let create = || CreateSession::new(user.clone()).with_session_id(id.clone());
        let key = service.create_session(create()).await?.key;
        let theirs = SqlSessionService::<D>::from_connection(elsewhere.clone()).await?;
        theirs.create_session(create()).await?;
        let update = UpdateState::new(user.app_name.clone(), State::new().with("k", 1));
        let transaction = elsewhere.begin_with_options(options(&service)).await?;
        let created = service.create_session_in(&transaction, CreateSession::new(user.clone())).await.map(drop);
        let appended = service.append_event_in(&transaction, append(&key, Event::new("user"))).await.map(drop);
        let updated = service.update_state_in(&transaction, update).await.map(drop);
        let deleted = service.delete_session_in(&transaction, DeleteSession::new(key.clone())).await;
        for refused in [created, appended, updated, deleted] {
            ensure!(matches!(refused, Err(Error::Invalid { field: "transaction", .. })), "{refused:?}");
        }
        transaction.commit().await?;
        ensure!(count(elsewhere, "events").await? == 0, "an event was stored");
        ensure!(count(elsewhere, "sessions").await? == 1, "a session was created or deleted");
        ensure!(theirs.get_app_state(&user.app_name).await?.is_empty(), "the app's state has changed");
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    let elsewhere = seabed::open(url).await?;
    seabed::migrate(&elsewhere).await?;
    let checked = with_dialect!(fixture, check, &elsewhere);
    elsewhere.close().await?;
    checked
}

async fn a_transaction_on_another_kind_of_database_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    let elsewhere = seabed::open("sqlite::memory:").await?;
    let transaction = elsewhere.begin().await?;
    let appended = service.append_event_in(&transaction, append(&key, Event::new("user"))).await.map(drop);
    let read = service.get_session_in(&transaction, GetSession::new(key)).await.map(drop);
    for refused in [appended, read] {
        ensure!(matches!(refused, Err(Error::Invalid { field: "transaction", .. })), "{refused:?}");
    }
    Ok(())
}

async fn a_pool_of_another_database_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let other = if fixture.kind.map(Kind::family) == Some(Family::Postgres) {
        seabed::MySqlSessionService::from_connection(fixture.admin.clone()).await.err()
    } else {
        seabed::PostgresSessionService::from_connection(fixture.admin.clone()).await.err()
    };
    ensure!(matches!(other, Some(Error::Invalid { field: "connection", .. })), "{other:?}");
    Ok(())
}

async fn an_injected_clock_and_id_source_are_used(fixture: &Fixture) -> anyhow::Result<()> {
    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::try_from_micros(1_000_000).unwrap_or(SystemClock.now())
        }
    }
    impl IdSource for Fixed {
        fn new_id(&self) -> String {
            "the-next".to_owned()
        }
    }
    async fn check<D: Dialect>(service: SqlSessionService<D>, _: &Fixture) -> anyhow::Result<()> {
        let service = service.with_clock(Fixed).with_id_source(Fixed);
        let session = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?;
        ensure!(session.key.session_id.as_str() == "the-next" && session.create_time == Fixed.now());
        let event = Event::from_sources("user", &Fixed, &Fixed);
        let stored = service.append_event(append(&session.key, event)).await?.revision();
        ensure!(stored.map(Revision::timestamp) == Fixed.now().next());
        let read = service.get_session(GetSession::new(session.key)).await?;
        ensure!(read.is_some_and(|read| read.create_time == Fixed.now() && read.events[0].id == "the-next"));
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

async fn count(connection: &impl ConnectionTrait, table: &str) -> anyhow::Result<usize> {
    let rows = Statement::from_string(connection.get_database_backend(), format!("SELECT 1 FROM {table}"));
    Ok(connection.query_all_raw(rows).await?.len())
}
