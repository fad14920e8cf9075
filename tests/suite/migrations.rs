//! Migrations on real databases.

use anyhow::{Context as _, ensure};
use seabed::migration::{MigrationStatus, StoredData, UpOptions, down, down_sql, refresh, status, up, up_sql};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession, ListSessions, SessionKey,
    SessionScope, State, UserKey,
};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        migrating_again_changes_nothing,
        tables_that_google_adk_made_are_adopted,
        schema_v0_is_refused_by_name,
        an_unknown_layout_is_refused_by_name,
        a_half_migrated_database_is_completed,
        the_printed_statements_make_the_same_tables,
        dropping_keeps_data_unless_told,
        dropping_leaves_other_tables_alone,
        refreshed_tables_are_empty,
        missing_tables_are_made_whatever_the_ledger_says,
        adopted_tables_are_dropped_and_refreshed_too,
        the_update_time_index_is_an_option,
    ],
    Sqlite: [
        the_layout_of_the_sqlite_session_service_is_refused_by_name,
    ],
}

async fn add_session(fixture: &Fixture) -> anyhow::Result<SessionKey> {
    let service = fixture.service().await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 1));
    service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    let read = service.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    ensure!(read.events.len() == 1);
    Ok(key)
}

async fn migrating_again_changes_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let (name, pending) = status(&fixture.admin).await?.into_iter().next().context("no migration")?;
    ensure!(name == "m0001_adk_schema_v1" && pending == MigrationStatus::Pending);
    seabed::migrate(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    seabed::migrate(&fixture.admin).await?;
    ensure!(up_sql(&fixture.admin, UpOptions::default()).await?.is_empty());
    ensure!(status(&fixture.admin).await?.iter().all(|(_, status)| *status == MigrationStatus::Applied));
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_some());
    // The ledger is a separate table.
    fixture.execute("SELECT version FROM seabed_migrations").await
}

async fn tables_that_google_adk_made_are_adopted(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(fixture.adk_schema_v1()).await?;
    // They work before any migration of Seabed, once `repair` has fixed the collation that MySQL gives to tables.
    seabed::migration::repair(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    seabed::migrate(&fixture.admin).await?;
    add_session(fixture).await?;
    let service = fixture.service().await?;
    ensure!(service.get_session(GetSession::new(key.clone())).await?.is_some());
    let listed = service.list_sessions(ListSessions::new(SessionScope::User(key.user()))).await?.try_into_items()?;
    ensure!(listed.len() == 2);
    Ok(())
}

async fn expect_refusal(fixture: &Fixture, word: &str) -> anyhow::Result<()> {
    for refused in
        [seabed::migrate(&fixture.admin).await.err(), up_sql(&fixture.admin, UpOptions::default()).await.err()]
    {
        let error = refused.with_context(|| format!("migrated in spite of {word}"))?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Schema), "{error:?}");
        ensure!(error.to_string().contains(word), "{error}");
    }
    ensure!(fixture.execute("SELECT 1 FROM adk_internal_metadata").await.is_err(), "tables were made");
    Ok(())
}

async fn schema_v0_is_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(include_str!("../adk/v0.sql")).await?;
    expect_refusal(fixture, "v0").await
}

async fn an_unknown_layout_is_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute("CREATE TABLE sessions (id varchar(128) NOT NULL, token varchar(128))").await?;
    expect_refusal(fixture, "table sessions has no column app_name").await
}

async fn the_layout_of_the_sqlite_session_service_is_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(include_str!("../adk/sqlite_session_service.sql")).await?;
    expect_refusal(fixture, "SqliteSessionService").await
}

/// As after a kill on MySQL, where DDL commits implicitly: some tables exist, and neither version nor ledger.
async fn a_half_migrated_database_is_completed(fixture: &Fixture) -> anyhow::Result<()> {
    let statements = up_sql(&fixture.admin, UpOptions::default()).await?;
    for statement in &statements[..2] {
        fixture.execute(statement).await?;
    }
    ensure!(seabed::connect(&fixture.service_url).await.is_err(), "connected to half a schema");
    seabed::migrate(&fixture.admin).await?;
    add_session(fixture).await.map(|_| ())
}

async fn the_printed_statements_make_the_same_tables(fixture: &Fixture) -> anyhow::Result<()> {
    let mut options = UpOptions::default();
    options.update_time_index = true;
    let statements = up_sql(&fixture.admin, options).await?;
    ensure!(fixture.execute("SELECT 1 FROM sessions").await.is_err(), "a dry run made tables");
    for statement in statements {
        fixture.execute(&statement).await?;
    }
    add_session(fixture).await?;
    up(&fixture.admin, options).await?;
    ensure!(up_sql(&fixture.admin, options).await?.is_empty());
    for statement in down_sql(&fixture.admin).await? {
        fixture.execute(&statement).await?;
    }
    ensure!(fixture.execute("SELECT 1 FROM sessions").await.is_err());
    Ok(())
}

async fn dropping_keeps_data_unless_told(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    for refused in [down(&fixture.admin, StoredData::Keep).await, refresh(&fixture.admin, StoredData::Keep).await] {
        ensure!(matches!(refused, Err(Error::Invalid { field: "stored_data", .. })), "{refused:?}");
    }
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_some());
    down(&fixture.admin, StoredData::Drop).await?;
    for table in ["adk_internal_metadata", "app_states", "user_states", "sessions", "events", "seabed_migrations"] {
        ensure!(fixture.execute(&format!("SELECT 1 FROM {table}")).await.is_err(), "{table} is still there");
    }
    // And up again.
    seabed::migrate(&fixture.admin).await?;
    down(&fixture.admin, StoredData::Keep).await?;
    Ok(())
}

async fn dropping_leaves_other_tables_alone(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute("CREATE TABLE orders (id int)").await?;
    fixture.execute("CREATE TABLE seaql_migrations (version varchar(64))").await?;
    seabed::migrate(&fixture.admin).await?;
    refresh(&fixture.admin, StoredData::Keep).await?;
    down(&fixture.admin, StoredData::Drop).await?;
    fixture.execute("SELECT id FROM orders").await?;
    fixture.execute("SELECT version FROM seaql_migrations").await
}

async fn refreshed_tables_are_empty(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    refresh(&fixture.admin, StoredData::Drop).await?;
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_none());
    add_session(fixture).await.map(|_| ())
}

async fn the_update_time_index_is_an_option(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let mut options = UpOptions::default();
    options.update_time_index = true;
    for expected in [1, 0] {
        ensure!(up_sql(&fixture.admin, options).await?.len() == expected);
        up(&fixture.admin, options).await?;
    }
    refresh(&fixture.admin, StoredData::Drop).await?;
    ensure!(up_sql(&fixture.admin, options).await?.is_empty(), "the index was lost by a refresh");
    add_session(fixture).await.map(|_| ())
}

async fn missing_tables_are_made_whatever_the_ledger_says(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("DROP TABLE adk_internal_metadata;\nDROP TABLE events").await?;
    ensure!(!up_sql(&fixture.admin, UpOptions::default()).await?.is_empty());
    seabed::migrate(&fixture.admin).await?;
    add_session(fixture).await.map(|_| ())
}

async fn adopted_tables_are_dropped_and_refreshed_too(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(fixture.adk_schema_v1()).await?;
    seabed::migration::repair(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    refresh(&fixture.admin, StoredData::Drop).await?;
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_none(), "a session outlived refresh");
    down(&fixture.admin, StoredData::Keep).await?;
    fixture.execute(fixture.adk_schema_v1()).await?;
    seabed::migration::repair(&fixture.admin).await?;
    add_session(fixture).await?;
    down(&fixture.admin, StoredData::Drop).await?;
    ensure!(fixture.execute("SELECT 1 FROM sessions").await.is_err(), "a table outlived down");
    Ok(())
}
