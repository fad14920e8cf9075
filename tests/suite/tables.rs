//! Stores with a schema or a table prefix of their own share a database and are invisible to each other.

use anyhow::{Context as _, ensure};
use seabed::history::{ForkSession, RedactEvent};
use seabed::migration::{Layout, SessionTables, StoredData, UpOptions, down, layout, repair, up, verify};
use seabed::sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use seabed::{
    AppName, AppendEvent, CreateSession, DeleteSession, DirectoryService as _, DirectoryServiceExt as _,
    DynSessionService, Error, Event, ExpectedRevision, FindSessions, GetSession, HistoryService as _,
    HistoryServiceExt as _, ListSessions, ServiceOptions, SessionFilter, SessionKey, SessionScope, State, Tables,
    UpdateState, UserKey,
};
use seabed_tests::{Family, Kind};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        two_stores_in_one_database_see_nothing_of_each_other,
        a_store_lives_beside_other_peoples_tables,
        a_bad_schema_or_prefix_is_refused_before_any_statement,
        a_store_without_its_tables_names_what_is_missing,
    ],
    Servers: [
        a_store_in_a_schema_of_its_own_keeps_its_promises,
        a_schema_that_does_not_exist_is_named,
    ],
}

fn bots() -> Tables {
    Tables::new().with_prefix("bot_")
}

/// A schema of PostgreSQL, a database of MySQL, beside those that the fixture uses.
async fn schema(fixture: &Fixture) -> anyhow::Result<String> {
    let family = fixture.kind.map(Kind::family).context("a server")?;
    let name = match family {
        Family::Postgres => "agents".to_owned(),
        Family::MySql => format!("{}_agents", fixture.database().context("a server")?.account()),
    };
    let create = if family == Family::Postgres { "SCHEMA" } else { "DATABASE" };
    fixture.execute(&format!("CREATE {create} {name}")).await?;
    Ok(name)
}

async fn drop_schema(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    if fixture.kind.map(Kind::family) == Some(Family::MySql) {
        fixture.execute(&format!("DROP DATABASE {name}")).await?;
    }
    Ok(())
}

async fn make(connection: &DatabaseConnection, tables: Tables) -> anyhow::Result<DynSessionService> {
    up(SessionTables::new(connection).with_tables(tables.clone()), UpOptions::default()).await?;
    let options = ServiceOptions::new().with_tables(tables);
    Ok(seabed::from_connection_with(connection.clone(), options).await?)
}

/// Every operation, each with state in every scope.
async fn exercise(service: &DynSessionService, id: &str) -> anyhow::Result<()> {
    let key = SessionKey::try_new("app", "alice", id)?;
    let state = State::new().with("app:created", id).with("user:created", id).with("created", id);
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    let session = service.create_session(create.clone()).await?;
    let taken = service.create_session(create).await;
    ensure!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
    let delta = State::new().with("app:appended", id).with("user:appended", id).with("appended", id);
    let event = Event::new("user").with_state_delta(delta);
    let request = AppendEvent::new(key.clone(), event, ExpectedRevision::Exact(session.revision));
    let current = service.append_event(request.clone()).await?.revision().context("stored")?;
    ensure!(service.append_event(request).await?.is_replayed());
    let plain = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(current));
    service.append_event(plain).await?;
    let outdated = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(session.revision));
    let refused = service.append_event(outdated).await;
    ensure!(matches!(refused, Err(Error::RevisionConflict { .. })), "{refused:?}");
    service.update_state(UpdateState::new(key.user(), State::new().with("updated", id))).await?;
    let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    ensure!(read.events.len() == 2 && read.state.len() == 7, "{read:?}");
    let recent = GetSession::new(key.clone()).with_num_recent_events(1);
    ensure!(service.get_session(recent).await?.is_some_and(|session| session.events.len() == 1));
    let scope = SessionScope::User(key.user());
    ensure!(service.list_sessions(ListSessions::new(scope)).await?.try_into_items()?.len() == 1);
    service.set_labels(&key, &[("created", Some(id)), ("gone", Some(""))]).await?;
    service.set_labels(&key, &[("gone", None)]).await?;
    let (scope, filter) = (SessionScope::User(key.user()), SessionFilter::new().with_label("created", id));
    ensure!(service.count_sessions(&scope, &filter).await? == 1);
    let found = service.find_sessions(FindSessions::new(scope).with_filter(filter).with_state()).await?;
    ensure!(found.try_into_items()?.iter().all(|found| found.annotations.labels.len() == 1));
    let history = SessionKey::try_new("app", "bob", id)?;
    let create = CreateSession::new(history.user()).with_session_id(history.session_id.clone()).with_history();
    service.create_session(create.with_state(State::new().with("created", id))).await?;
    let event = Event::new("user").with_id("e").with_text("secret").with_state_delta(State::new().with("created", 1));
    service.append_event(AppendEvent::new(history.clone(), event, ExpectedRevision::Any)).await?;
    let fork = service.fork_session(ForkSession::new(history.clone(), "e")).await?.session.key;
    ensure!(service.get_origin(&fork).await?.initial_state == Some(State::new().with("created", id)));
    service.redact_event(RedactEvent::new(fork, "e")).await?;
    ensure!(service.state_at(&history, "e").await?.unknown.is_empty());
    ensure!(service.list_events(seabed::ListEvents::new(key)).await?.try_into_items()?.len() == 2);
    service.check_health().await?;
    Ok(())
}

async fn is_empty(service: &DynSessionService) -> anyhow::Result<()> {
    let (app, user) = (AppName::try_new("app")?, UserKey::try_new("app", "alice")?);
    let sessions = service.list_sessions(ListSessions::new(SessionScope::App(app.clone()))).await?;
    ensure!(sessions.items.is_empty(), "{sessions:?}");
    ensure!(service.get_app_state(&app).await?.is_empty() && service.get_user_state(&user).await?.is_empty());
    Ok(())
}

async fn two_stores_in_one_database_see_nothing_of_each_other(fixture: &Fixture) -> anyhow::Result<()> {
    let plain = make(&fixture.admin, Tables::new()).await?;
    let bot = make(&fixture.admin, bots()).await?;
    let of_bots = || SessionTables::new(&fixture.admin).with_tables(bots());
    exercise(&plain, "one").await?;
    is_empty(&bot).await?;
    exercise(&bot, "two").await?;
    let key = SessionKey::try_new("app", "alice", "two")?;
    ensure!(plain.get_session(GetSession::new(key.clone())).await?.is_none());
    for findings in [verify(&fixture.admin).await?, verify(of_bots()).await?, repair(of_bots()).await?] {
        ensure!(findings.is_empty(), "{findings:#?}");
    }
    plain.delete_session(DeleteSession::new(SessionKey::try_new("app", "alice", "one")?)).await?;
    ensure!(down(of_bots(), StoredData::Keep).await.is_err());
    down(&fixture.admin, StoredData::Drop).await?;
    ensure!(bot.get_session(GetSession::new(key)).await?.is_some_and(|session| session.events.len() == 2));
    ensure!(layout(&fixture.admin).await? == Layout::Empty && layout(of_bots()).await? == Layout::V1);
    Ok(())
}

/// Tables of the names that Seabed would use, of another layout and with rows.
async fn a_store_lives_beside_other_peoples_tables(fixture: &Fixture) -> anyhow::Result<()> {
    fixture
        .execute("CREATE TABLE sessions (id integer, token varchar(9));\nINSERT INTO sessions VALUES (1, 't')")
        .await?;
    fixture.execute("CREATE TABLE events (id integer)").await?;
    let bot = make(&fixture.admin, bots()).await?;
    exercise(&bot, "one").await?;
    let of_bots = || SessionTables::new(&fixture.admin).with_tables(bots());
    ensure!(verify(of_bots()).await?.is_empty());
    down(of_bots(), StoredData::Drop).await?;
    let rows = Statement::from_string(fixture.admin.get_database_backend(), "SELECT token FROM sessions");
    ensure!(fixture.admin.query_all_raw(rows).await?.len() == 1, "another program's table was changed");
    ensure!(layout(of_bots()).await? == Layout::Empty);
    Ok(())
}

async fn a_store_in_a_schema_of_its_own_keeps_its_promises(fixture: &Fixture) -> anyhow::Result<()> {
    let schema = schema(fixture).await?;
    let plain = make(&fixture.admin, Tables::new()).await?;
    for tables in [Tables::new().with_schema(&schema), Tables::new().with_schema(&schema).with_prefix("bot_")] {
        let service = make(&fixture.admin, tables.clone()).await?;
        exercise(&service, "one").await?;
        exercise(&service.clone(), "two").await.err().context("a user has two sessions now")?;
        let there = || SessionTables::new(&fixture.admin).with_tables(tables.clone());
        ensure!(verify(there()).await?.is_empty());
        is_empty(&plain).await?;
        down(there(), StoredData::Drop).await?;
    }
    drop_schema(fixture, &schema).await
}

async fn a_schema_that_does_not_exist_is_named(fixture: &Fixture) -> anyhow::Result<()> {
    let tables = Tables::new().with_schema("nowhere_at_all");
    let there = SessionTables::new(&fixture.admin).with_tables(tables.clone());
    let refused = up(there, UpOptions::default()).await.err().context("made tables in no schema")?;
    ensure!(refused.to_string().contains("nowhere_at_all"), "{refused}");
    let options = ServiceOptions::new().with_tables(tables);
    let refused = seabed::from_connection_with(fixture.admin.clone(), options).await.err().context("connected")?;
    ensure!(refused.backend_kind() == Some(seabed::BackendErrorKind::Schema), "{refused}");
    Ok(())
}

async fn a_bad_schema_or_prefix_is_refused_before_any_statement(fixture: &Fixture) -> anyhow::Result<()> {
    for bad in ["a b", "a\"b", "a`b", "a'; DROP TABLE sessions; --", "ä", "a\0b", &"p".repeat(64)] {
        for tables in [Tables::new().with_schema(bad), Tables::new().with_prefix(bad)] {
            let there = SessionTables::new(&fixture.admin).with_tables(tables.clone());
            let refused = up(there, UpOptions::default()).await;
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "{bad:?}: {refused:?}");
            let options = ServiceOptions::new().with_tables(tables);
            let refused = seabed::from_connection_with(fixture.admin.clone(), options).await.err();
            ensure!(matches!(refused, Some(Error::Invalid { .. })), "{bad:?}: {refused:?}");
        }
    }
    ensure!(layout(&fixture.admin).await? == Layout::Empty);
    Ok(())
}

async fn a_store_without_its_tables_names_what_is_missing(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = ServiceOptions::new().with_table_prefix("bot_");
    let refused = seabed::from_connection_with(fixture.admin.clone(), options).await.err().context("connected")?;
    ensure!(refused.backend_kind() == Some(seabed::BackendErrorKind::Schema), "{refused}");
    ensure!(refused.to_string().contains("bot_"), "{refused}");
    Ok(())
}
