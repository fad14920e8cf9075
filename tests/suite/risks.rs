//! Databases that look right and cannot keep a guarantee: a service refuses them by name, or warns, and `verify` says
//! what to do.

use anyhow::{Context as _, ensure};
use seabed::migration::{
    Finding, Layout, OtherLayout, SessionTables, Severity, Tables, UpOptions, grants, layout, repair, up, up_sql,
    verify,
};
use seabed::sea_orm::sqlx::pool::PoolOptions;
use seabed::sea_orm::sqlx::{self, Executor as _};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppName, AppendEvent, BackendErrorKind, CreateSession, DeleteSession, DynSessionService, Event, ExpectedRevision,
    SchemaRisk, ServiceOptions, SessionKey, UserKey,
};
use seabed_tests::{Family, Kind, Proxy, Server};

use crate::fixture::{Fixture, query_text};
use crate::traces::Recorder;

crate::database_cases! {
    Everywhere: [
        tables_of_adk_js_are_refused_by_name,
        tables_of_adk_go_are_refused_by_name,
        a_column_that_others_added_and_nobody_fills_is_refused,
    ],
    MySql: [
        a_character_set_that_loses_text_is_refused,
        an_engine_without_transactions_is_refused,
        a_pool_whose_settings_change_what_is_stored_is_refused,
        settings_of_the_server_do_not_reach_our_connections,
    ],
    Postgres: [
        unlogged_tables_are_refused,
        row_level_security_that_filters_rows_is_refused,
        a_database_in_another_encoding_is_refused,
        connections_that_are_read_only_are_refused,
        a_schema_in_which_everybody_may_create_is_named,
        another_product_is_refused_and_takes_the_portable_way,
    ],
}

/// Expects a service to refuse the database with a message that has each of `words`.
async fn expect_refusal(fixture: &Fixture, words: &[&str]) -> anyhow::Result<()> {
    let refused = fixture.service().await.err().with_context(|| format!("connected in spite of {words:?}"))?;
    expect_words(&format!("{refused:#}"), words)
}

pub(crate) fn expect_words(told: &str, words: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> = words.iter().filter(|word| !told.contains(**word)).collect();
    ensure!(missing.is_empty(), "{told:?} does not name {missing:?}");
    Ok(())
}

/// Connects a service that accepts `risk`, through the URL of the service's account.
async fn accepting(fixture: &Fixture, risk: SchemaRisk) -> anyhow::Result<DynSessionService> {
    let pool = seabed::open(&fixture.service_url).await?;
    Ok(seabed::from_connection_with(pool, ServiceOptions::new().accept_risk(risk)).await?)
}

pub(crate) async fn expect_finding(pool: &DatabaseConnection, word: &str) -> anyhow::Result<Finding> {
    let findings = verify(pool).await?;
    let found = findings.iter().find(|finding| finding.problem.contains(word)).cloned();
    found.with_context(|| format!("verify does not find {word:?}: {findings:#?}"))
}

pub(crate) async fn session(service: &DynSessionService) -> anyhow::Result<SessionKey> {
    Ok(service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key)
}

pub(crate) fn saying(key: SessionKey, text: &str) -> AppendEvent {
    let event = Event::new("user").with_text(text);
    AppendEvent::new(key, event, ExpectedRevision::Any)
}

/// Expects the service, the migrator and `verify` to name the tables of another program.
async fn expect_other_layout(fixture: &Fixture, other: OtherLayout, name: &str) -> anyhow::Result<()> {
    expect_refusal(fixture, &[name, "another database, schema or table prefix"]).await?;
    ensure!(layout(&fixture.admin).await? == Layout::Other(other));
    let refused = seabed::migrate(&fixture.admin).await.err().context("migrated")?;
    expect_words(&refused.to_string(), &[name])?;
    let found = expect_finding(&fixture.admin, name).await?;
    ensure!(!found.is_safe(), "{found:#?}");
    Ok(())
}

async fn tables_of_adk_js_are_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let tables = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => include_str!("../adk/adk_js_postgres.sql"),
        Some(Family::MySql) => include_str!("../adk/adk_js_mysql.sql"),
        None => include_str!("../adk/adk_js_sqlite.sql"),
    };
    fixture.execute(tables.trim_end()).await?;
    expect_other_layout(fixture, OtherLayout::AdkJs, "adk-js").await
}

async fn tables_of_adk_go_are_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let tables = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => include_str!("../adk/adk_go_postgres.sql"),
        Some(Family::MySql) => include_str!("../adk/adk_go_mysql.sql"),
        None => include_str!("../adk/adk_go_sqlite.sql"),
    };
    fixture.execute(tables.trim_end()).await?;
    expect_other_layout(fixture, OtherLayout::AdkGo, "adk-go").await
}

async fn a_column_that_others_added_and_nobody_fills_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("ALTER TABLE sessions ADD COLUMN title varchar(20)").await?;
    fixture.execute("ALTER TABLE app_states ADD COLUMN level int NOT NULL DEFAULT 1").await?;
    session(&fixture.service().await?).await?;
    fixture.execute("DELETE FROM app_states").await?;
    if fixture.kind.is_some() {
        fixture.execute("ALTER TABLE app_states ADD COLUMN tenant varchar(20) NOT NULL").await?;
    } else {
        // SQLite adds no such column to a table.
        let columns = "app_name VARCHAR(128) NOT NULL PRIMARY KEY, state TEXT NOT NULL, update_time DATETIME NOT NULL";
        fixture.execute("DROP TABLE app_states").await?;
        fixture.execute(&format!("CREATE TABLE app_states ({columns}, tenant TEXT NOT NULL)")).await?;
    }
    expect_refusal(fixture, &["app_states.tenant", "needs a value"]).await?;
    expect_finding(&fixture.admin, "app_states.tenant").await.map(drop)
}

async fn a_character_set_that_loses_text_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let key = session(&fixture.migrated().await?).await?;
    fixture.execute("ALTER TABLE events MODIFY event_data longtext CHARACTER SET latin1").await?;
    expect_refusal(fixture, &["events.event_data", "latin1", "SchemaRisk::LossyText"]).await?;
    let service = accepting(fixture, SchemaRisk::LossyText).await?;
    ensure!(service.append_event(saying(key.clone(), "日本")).await.is_err(), "stored what latin1 does not have");
    service.append_event(saying(key.clone(), "é")).await?;
    let found = expect_finding(&fixture.admin, "events.event_data").await?;
    ensure!(found.is_safe(), "{found:#?}");
    let left = repair(&fixture.admin).await?;
    ensure!(left.is_empty(), "{left:#?}");
    fixture.service().await?.append_event(saying(key, "日本")).await?;
    let data = fixture.query_text("SELECT GROUP_CONCAT(event_data) AS text FROM events").await?;
    expect_words(&data, &["日本", "é"])
}

async fn an_engine_without_transactions_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let engines: &[&str] = if fixture.kind == Some(Kind::MariaDb) { &["MyISAM", "Aria"] } else { &["MyISAM"] };
    for engine in engines {
        fixture.execute(&format!("ALTER TABLE app_states ENGINE = {engine}")).await?;
        expect_refusal(fixture, &["app_states", engine, "SchemaRisk::NoTransactions"]).await?;
        accepting(fixture, SchemaRisk::NoTransactions).await?;
        expect_finding(&fixture.admin, engine).await?;
        let left = repair(&fixture.admin).await?;
        ensure!(left.is_empty(), "{left:#?}");
        fixture.service().await?;
    }
    Ok(())
}

/// A pool of the user's own, whose connections run `setting`.
pub(crate) fn pool_with(url: &str, setting: &'static str) -> anyhow::Result<DatabaseConnection> {
    let options: seabed::MySqlOptions = url.parse()?;
    let pool = PoolOptions::<sqlx::MySql>::new()
        .after_connect(move |connection, _| Box::pin(async move { connection.execute(setting).await.map(drop) }));
    Ok(pool.connect_lazy_with(options.driver).into())
}

async fn a_pool_whose_settings_change_what_is_stored_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    // MySQL has no such mode.
    let oracle = (fixture.kind == Some(Kind::MariaDb))
        .then_some(("SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ORACLE'", "sql_mode: ORACLE"));
    let settings = [
        ("SET SESSION autocommit = 0", "autocommit"),
        ("SET SESSION sql_mode = 'ANSI_QUOTES'", "sql_mode"),
        ("SET NAMES latin1", "character_set_client"),
        ("SET SESSION TRANSACTION READ ONLY", "read_only"),
    ];
    for (setting, name) in settings.into_iter().chain(oracle) {
        let refused = seabed::from_connection(pool_with(&fixture.service_url, setting)?).await.err();
        let refused = refused.with_context(|| format!("connected with {setting}"))?;
        ensure!(refused.backend_kind() == Some(BackendErrorKind::Schema), "{refused:?}");
        expect_words(&refused.to_string(), &[name, "SchemaRisk::SessionSettings"])?;
        let accept = ServiceOptions::new().accept_risk(SchemaRisk::SessionSettings);
        seabed::from_connection_with(pool_with(&fixture.service_url, setting)?, accept).await?;
    }
    let strict = pool_with(&fixture.service_url, "SET SESSION sql_mode = 'STRICT_ALL_TABLES'")?;
    session(&seabed::from_connection(strict).await?).await?;
    Ok(())
}

/// On a server of its own, because others use the settings of the shared one.
async fn settings_of_the_server_do_not_reach_our_connections(fixture: &Fixture) -> anyhow::Result<()> {
    // Names in lower case, as on Windows.
    let folding = "--lower-case-table-names=1".to_owned();
    let server = Server::start_own_with(fixture.kind.context("a server")?, &[folding]).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    a_schema_is_found_whatever_its_case(&admin).await?;
    let read_only = if fixture.kind == Some(Kind::MariaDb) { "tx_read_only" } else { "transaction_read_only" };
    let oracle = if fixture.kind == Some(Kind::MariaDb) { "ORACLE," } else { "" };
    let modes = format!("{oracle}ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH");
    for setting in [
        "autocommit = 0".to_owned(),
        "sql_safe_updates = 1".to_owned(),
        format!("sql_mode = '{modes}'"),
        format!("{read_only} = 1"),
    ] {
        admin.execute_unprepared(&format!("SET GLOBAL {setting}")).await?;
    }
    let pool = seabed::open(&server.database().service_url()?).await?;
    for (setting, expected) in [
        ("CAST(@@autocommit = 1 AS CHAR)", "1"),
        ("CAST(@@sql_safe_updates = 1 AS CHAR)", "0"),
        ("@@sql_mode", "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"),
        (&format!("CAST(@@{read_only} = 1 AS CHAR)"), "0"),
    ] {
        let actual = query_text(&pool, &format!("SELECT {setting} AS text")).await?;
        ensure!(actual == expected, "{setting} is {actual}");
    }
    let service = seabed::from_connection(pool).await?;
    let key = session(&service).await?;
    service.append_event(saying(key.clone(), "\\ \" '")).await?;
    let state = service.get_app_state(&AppName::try_new("app")?).await?;
    ensure!(state.is_empty());
    service.delete_session(DeleteSession::new(key.clone())).await?;
    service.close().await?;
    admin.close().await?;
    server.stop().await
}

async fn a_schema_is_found_whatever_its_case(admin: &DatabaseConnection) -> anyhow::Result<()> {
    admin.execute_unprepared("CREATE DATABASE Seabed_Elsewhere").await?;
    let tables = || SessionTables::new(admin).with_tables(Tables::new().with_schema("Seabed_Elsewhere"));
    for _ in 0..2 {
        up(tables(), UpOptions::default()).await?;
    }
    ensure!(up_sql(tables(), UpOptions::default()).await?.is_empty() && layout(tables()).await? == Layout::V1);
    ensure!(verify(tables()).await?.is_empty());
    let options = ServiceOptions::new().with_schema("Seabed_Elsewhere");
    session(&seabed::from_connection_with(admin.clone(), options).await?).await.map(drop)
}

async fn unlogged_tables_are_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    for table in ["seabed_labels", "seabed_sessions", "events", "sessions"] {
        fixture.execute(&format!("ALTER TABLE {table} SET UNLOGGED")).await?;
    }
    expect_refusal(fixture, &["table sessions is unlogged", "SchemaRisk::Unlogged"]).await?;
    session(&accepting(fixture, SchemaRisk::Unlogged).await?).await?;
    expect_finding(&fixture.admin, "table events is unlogged").await?;
    // `sessions` comes first: a logged table cannot refer to an unlogged one.
    let left = repair(&fixture.admin).await?;
    ensure!(left.is_empty(), "{left:#?}");
    fixture.service().await.map(drop)
}

async fn row_level_security_that_filters_rows_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    fixture.execute("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY").await?;
    expect_refusal(fixture, &["table sessions", "row level security", "SchemaRisk::RowSecurity"]).await?;
    accepting(fixture, SchemaRisk::RowSecurity).await?;
    let pool = seabed::open(&fixture.service_url).await?;
    let found = expect_finding(&pool, "row level security").await?;
    ensure!(!found.is_safe() && found.severity == Severity::Error, "{found:#?}");
    pool.close().await?;
    // It does not filter what an owner or a superuser sees.
    seabed::connect(&fixture.admin_url).await?;
    Ok(())
}

async fn a_database_in_another_encoding_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let name = fixture.database().context("a server")?.account();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let other = format!("{name}_{}", encoding.to_lowercase());
        fixture
            .execute(&format!(
                "CREATE DATABASE {other} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            ))
            .await?;
        let mut url = url::Url::parse(&fixture.admin_url)?;
        url.set_path(&other);
        let pool = seabed::open(url.as_str()).await?;
        seabed::migrate(&pool).await?;
        let refused = seabed::connect(url.as_str()).await.err().with_context(|| format!("connected to {encoding}"))?;
        expect_words(&refused.to_string(), &["database", encoding, "SchemaRisk::LossyText"])?;
        expect_finding(&pool, encoding).await?;
        let accept = ServiceOptions::new().accept_risk(SchemaRisk::LossyText);
        let service = seabed::from_connection_with(pool, accept).await?;
        session(&service).await?;
        service.close().await?;
        fixture.execute(&format!("DROP DATABASE {other} WITH (FORCE)")).await?;
    }
    Ok(())
}

async fn connections_that_are_read_only_are_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let account = fixture.database().context("a server")?.account();
    fixture.execute(&format!("ALTER ROLE {account} SET default_transaction_read_only = on")).await?;
    expect_refusal(fixture, &["default_transaction_read_only", "SchemaRisk::SessionSettings"]).await?;
    // Who only reads may live with it.
    let service = accepting(fixture, SchemaRisk::SessionSettings).await?;
    ensure!(service.get_app_state(&AppName::try_new("app")?).await?.is_empty());
    let refused = session(&service).await.err().context("wrote")?;
    let kind = refused.downcast_ref::<seabed::Error>().and_then(seabed::Error::backend_kind);
    ensure!(kind == Some(BackendErrorKind::ReadOnly), "{refused:?}");
    let pool = seabed::open(&fixture.service_url).await?;
    expect_finding(&pool, "default_transaction_read_only").await?;
    pool.close().await?;
    fixture.execute(&format!("ALTER ROLE {account} RESET default_transaction_read_only")).await?;
    session(&fixture.service().await?).await.map(drop)
}

async fn a_schema_in_which_everybody_may_create_is_named(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let warnings = async |options: ServiceOptions| {
        let recorder = Recorder::default();
        recorder.during(seabed::from_connection_with(fixture.admin.clone(), options)).await?;
        let told = recorder.seen().1.into_iter().filter_map(|event| event.get("message").cloned());
        anyhow::Ok(told.filter(|message| message.contains("may create")).collect::<Vec<_>>())
    };
    let account = fixture.database().context("a server")?.account();
    let revoke = "REVOKE CREATE ON SCHEMA \"public\" FROM PUBLIC";
    ensure!(warnings(ServiceOptions::new()).await?.is_empty());
    ensure!(!grants(&fixture.admin, account).await?.iter().any(|statement| statement == revoke));
    // As it is up to PostgreSQL 14.
    fixture.execute("GRANT CREATE ON SCHEMA public TO PUBLIC").await?;
    let told = warnings(ServiceOptions::new()).await?;
    ensure!(told.len() == 1 && told[0].contains("schema public"), "{told:?}");
    ensure!(warnings(ServiceOptions::new().accept_risk(SchemaRisk::OpenSchema)).await?.is_empty());
    let found = expect_finding(&fixture.admin, "schema public").await?;
    ensure!(found.severity == Severity::Warning && !found.is_safe(), "{found:#?}");
    ensure!(grants(&fixture.admin, account).await?.iter().any(|statement| statement == revoke));
    fixture.execute(revoke).await?;
    let left = verify(&fixture.admin).await?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

/// A server that says it is `CockroachDB`. Who accepts it gets no statement that relies on what PostgreSQL alone does.
async fn another_product_is_refused_and_takes_the_portable_way(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    fixture
        .execute(
            "CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql STABLE \
             AS $$ SELECT CAST('CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu)' AS text) $$",
        )
        .await?;
    expect_refusal(fixture, &["another product", "CockroachDB CCL v23.1.11", "SchemaRisk::OtherServer"]).await?;
    expect_finding(&fixture.admin, "CockroachDB").await?;
    let (proxy, url) = Proxy::start(Family::Postgres, &fixture.service_url).await?;
    let pool = seabed::open(&url).await?;
    let service =
        seabed::from_connection_with(pool, ServiceOptions::new().accept_risk(SchemaRisk::OtherServer)).await?;
    proxy.take();
    let key = session(&service).await?;
    service.append_event(saying(key, "hello")).await?;
    let sent = proxy.take().statements.join("; ");
    ensure!(sent.contains("FOR UPDATE") && !sent.contains("SKIP LOCKED"), "{sent}");
    Ok(())
}
