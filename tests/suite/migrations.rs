//! Migrations on real databases.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use seabed::migration::{
    MigrationStatus, SessionTables, StoredData, Tables, UpOptions, down, down_sql, refresh, repair, status, up, up_sql,
    verify,
};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession, ListSessions, SessionKey,
    SessionScope, State, UserKey,
};
use seabed_tests::ADK_2_13;

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
        a_view_with_the_name_of_a_table_is_left_alone,
        a_table_of_others_beside_the_version_is_left_alone,
        up_waits_while_google_adk_creates_the_tables,
        what_google_adk_began_is_completed,
        tables_without_their_version_get_it,
    ],
    BesideAdk: [
        up_and_google_adks_first_start_go_together,
    ],
    Postgres: [
        tables_are_looked_up_as_statements_look_them_up,
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
    repair(&fixture.admin).await?;
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
    let of_adk = ["adk_internal_metadata", "app_states", "user_states", "sessions", "events"];
    for table in of_adk.into_iter().chain(["seabed_sessions", "seabed_labels", "seabed_migrations"]) {
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
    repair(&fixture.admin).await?;
    let key = add_session(fixture).await?;
    refresh(&fixture.admin, StoredData::Drop).await?;
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_none(), "a session outlived refresh");
    down(&fixture.admin, StoredData::Keep).await?;
    fixture.execute(fixture.adk_schema_v1()).await?;
    repair(&fixture.admin).await?;
    add_session(fixture).await?;
    down(&fixture.admin, StoredData::Drop).await?;
    ensure!(fixture.execute("SELECT 1 FROM sessions").await.is_err(), "a table outlived down");
    Ok(())
}

/// Expects that nothing creates or drops tables, with any right to drop data.
async fn expect_hands_off(connection: &DatabaseConnection, word: &str) -> anyhow::Result<()> {
    for refused in [
        down(connection, StoredData::Drop).await,
        refresh(connection, StoredData::Drop).await,
        seabed::migrate(connection).await,
    ] {
        let error = refused.err().with_context(|| format!("changed tables in spite of {word}"))?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Schema), "{error:?}");
        ensure!(error.to_string().contains(word) && error.to_string().contains("nothing was changed"), "{error}");
    }
    Ok(())
}

async fn a_view_with_the_name_of_a_table_is_left_alone(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("DROP TABLE events;\nCREATE VIEW events AS SELECT id, app_name FROM sessions").await?;
    expect_hands_off(&fixture.admin, "events in the schema").await?;
    fixture.execute("SELECT id, app_name FROM events").await
}

async fn a_table_of_others_beside_the_version_is_left_alone(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("DROP TABLE seabed_labels;\nDROP TABLE seabed_sessions").await?;
    fixture.execute("DROP TABLE events;\nDROP TABLE sessions").await?;
    fixture.execute("CREATE TABLE sessions (id varchar(128) NOT NULL, cookie varchar(128))").await?;
    expect_hands_off(&fixture.admin, "table sessions has no column app_name").await?;
    fixture.execute("SELECT cookie FROM sessions;\nSELECT value FROM adk_internal_metadata").await
}

/// google-adk creates its tables in a transaction (on MySQL and MariaDB each statement commits), and stores their
/// version in another.
async fn up_waits_while_google_adk_creates_the_tables(fixture: &Fixture) -> anyhow::Result<()> {
    let (tables, version) = fixture.adk_schema_v1().trim_end().rsplit_once(";\n").context("no version")?;
    let transaction = fixture.begin_write().await?;
    let mut migrating = None;
    for statement in tables.split(";\n") {
        transaction.execute_unprepared(statement).await?;
        migrating.get_or_insert_with(|| {
            let admin = fixture.admin.clone();
            tokio::spawn(async move { seabed::migrate(&admin).await })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    transaction.commit().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fixture.execute(version).await.context("google-adk cannot store the version")?;
    migrating.context("no tables")?.await??;
    ensure!(up_sql(&fixture.admin, UpOptions::default()).await?.is_empty());
    repair(&fixture.admin).await?;
    add_session(fixture).await.map(|_| ())
}

/// As after a kill on a database where each statement commits. On MySQL and MariaDB, google-adk's tables also have the
/// collation of the database.
async fn what_google_adk_began_is_completed(fixture: &Fixture) -> anyhow::Result<()> {
    for (which, tables) in [("the one for the version", 1), ("all but events", 4)] {
        for statement in fixture.adk_schema_v1().split(";\n").take(tables) {
            fixture.execute(statement).await?;
        }
        seabed::migrate(&fixture.admin).await.with_context(|| format!("google-adk has created {which}"))?;
        let left = repair(&fixture.admin).await?;
        ensure!(left.is_empty(), "{left:#?}");
        add_session(fixture).await?;
        down(&fixture.admin, StoredData::Drop).await?;
    }
    Ok(())
}

async fn tables_without_their_version_get_it(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    for repairs in [false, true] {
        fixture.execute("DELETE FROM adk_internal_metadata").await?;
        let refused = fixture.service().await.err().context("connected without a version")?;
        ensure!(format!("{refused:#}").contains("`seabed-migrate up` stores it"), "{refused:#}");
        let found = verify(&fixture.admin).await?;
        ensure!(found.len() == 1 && found[0].problem.contains("has no schema_version"), "{found:#?}");
        ensure!(up_sql(&fixture.admin, UpOptions::default()).await?.len() == 1);
        if repairs {
            repair(&fixture.admin).await?;
        } else {
            seabed::migrate(&fixture.admin).await?;
        }
        add_session(fixture).await?;
    }
    Ok(())
}

async fn up_and_google_adks_first_start_go_together(fixture: &Fixture) -> anyhow::Result<()> {
    let adk = ADK_2_13.start(&fixture.admin_url).await?;
    // Once it answers, it has loaded its packages.
    adk.objections(&[]).await?;
    let (key, state) = (SessionKey::try_new("app", "alice", "s")?, State::new().with("k", 1));
    let (created, migrated) = tokio::join!(adk.create(&key, &state), seabed::migrate(&fixture.admin));
    migrated?;
    // google-adk gives up when somebody else creates its tables, and finds them the next time.
    if let Err(error) = created {
        println!("{error}");
        adk.create(&key, &state).await?;
    }
    let left = repair(&fixture.admin).await?;
    ensure!(left.is_empty(), "{left:#?}");
    ensure!(fixture.service().await?.get_session(GetSession::new(key)).await?.is_some());
    adk.stop().await
}

async fn tables_are_looked_up_as_statements_look_them_up(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    add_session(fixture).await?;
    fixture.execute("CREATE SCHEMA agents").await?;
    let mut url = url::Url::parse(&fixture.admin_url)?;
    url.query_pairs_mut().append_pair("options", "-c search_path=agents,public");
    let pool = seabed::open(url.as_str()).await?;
    let count = async |table: &str| fixture.query_text(&format!("SELECT COUNT(*)::text AS text FROM {table}")).await;
    let in_agents = async || count("pg_tables WHERE schemaname = 'agents'").await;
    // Missing tables are made beside those that are there, and hide none of them.
    fixture.execute("DROP TABLE adk_internal_metadata, events").await?;
    seabed::migrate(&pool).await?;
    ensure!((in_agents().await?, count("public.sessions").await?) == ("0".to_owned(), "1".to_owned()));
    for refused in [down(&pool, StoredData::Keep).await, refresh(&pool, StoredData::Keep).await] {
        ensure!(matches!(refused, Err(Error::Invalid { field: "stored_data", .. })), "{refused:?}");
    }
    // Tables in two schemas belong to nobody knows whom.
    fixture.execute("CREATE TABLE agents.sessions (LIKE public.sessions)").await?;
    expect_hands_off(&pool, "sessions in agents").await?;
    fixture.execute("DROP TABLE agents.sessions").await?;
    // A store in front of another is the one that is meant, and the only one.
    up(SessionTables::new(&pool).with_tables(Tables::new().with_schema("agents")), UpOptions::default()).await?;
    refresh(&pool, StoredData::Keep).await?;
    ensure!((in_agents().await?, count("public.sessions").await?) == ("8".to_owned(), "1".to_owned()));
    down(&pool, StoredData::Keep).await?;
    ensure!((in_agents().await?, count("public.sessions").await?) == ("0".to_owned(), "1".to_owned()));
    ensure!(count("public.seabed_migrations").await? == "2");
    pool.close().await?;
    Ok(())
}
