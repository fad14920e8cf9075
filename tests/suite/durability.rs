//! Servers that acknowledge what they may lose, or take no writes, and poolers that mix up statements: refused by name,
//! or named in a warning.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use seabed::migration::{Severity, verify};
use seabed::sea_orm::sqlx;
use seabed::sea_orm::sqlx::pool::PoolOptions;
use seabed::sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{AppName, BackendErrorKind, SchemaRisk, ServiceOptions};
use seabed_tests::{Kind, PgBouncer, Server};

use crate::fixture::{Fixture, query_text};
use crate::risks::{expect_finding, expect_words, session};
use crate::traces::Recorder;

crate::database_cases! {
    Postgres: [
        commits_are_on_disk_before_they_are_acknowledged,
        a_server_that_does_not_write_to_disk_is_refused,
        a_hot_standby_is_refused,
    ],
    BehindPgBouncer: [a_pooler_that_mixes_up_statements_is_refused],
    MySql: [a_server_that_may_lose_commits_is_refused],
    Sqlite: [a_file_that_may_lose_commits_is_refused, a_sqlite_with_the_wal_reset_bug_is_refused],
}

/// Expects a service on `pool` to be refused for `risk` unless it is accepted, and `verify` to find it.
pub(crate) async fn expect_risk(pool: &DatabaseConnection, risk: SchemaRisk, words: &[&str]) -> anyhow::Result<()> {
    let refused = seabed::from_connection(pool.clone()).await.err();
    let refused = refused.with_context(|| format!("connected in spite of {words:?}"))?.to_string();
    expect_words(&refused, words)?;
    expect_words(&refused, &[&format!("SchemaRisk::{risk:?}")])?;
    seabed::from_connection_with(pool.clone(), ServiceOptions::new().accept_risk(risk)).await?.close().await?;
    for word in words {
        let found = expect_finding(pool, word).await?;
        ensure!(found.severity == Severity::Error && !found.is_safe(), "{found:#?}");
    }
    Ok(())
}

/// Expects a service on `pool` to start after one warning, which `verify` repeats, or none with `None`.
async fn expect_warning(pool: &DatabaseConnection, word: Option<&str>) -> anyhow::Result<()> {
    let warnings = async |options: ServiceOptions| {
        let recorder = Recorder::default();
        recorder.during(seabed::from_connection_with(pool.clone(), options)).await?.close().await?;
        let messages = recorder.seen().1.into_iter().filter_map(|event| event.get("message").cloned());
        anyhow::Ok(messages.filter(|message| message.contains("not safe in every crash")).collect::<Vec<_>>())
    };
    let told = warnings(ServiceOptions::new()).await?;
    ensure!(told.len() == usize::from(word.is_some()), "{told:?}");
    ensure!(word.is_none_or(|word| told[0].contains(word)), "{told:?}");
    ensure!(warnings(ServiceOptions::new().accept_risk(SchemaRisk::ReducedDurability)).await?.is_empty());
    if let Some(word) = word {
        let found = expect_finding(pool, word).await?;
        ensure!(found.severity == Severity::Warning && !found.is_safe(), "{found:#?}");
    }
    Ok(())
}

async fn commits_are_on_disk_before_they_are_acknowledged(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let account = fixture.database().context("a server")?.account();
    fixture.execute(&format!("ALTER ROLE {account} SET synchronous_commit = off")).await?;
    // The connections that Seabed opens have a setting of their own.
    let pool = seabed::open(&fixture.service_url).await?;
    let level = "SELECT current_setting('synchronous_commit') AS text";
    ensure!(query_text(&pool, level).await? == "on");
    session(&seabed::from_connection(pool).await?).await?;
    // A pool of the user's own has what the account has.
    let options: seabed::PostgresOptions = fixture.service_url.parse()?;
    let own: DatabaseConnection = PoolOptions::<sqlx::Postgres>::new().connect_lazy_with(options.driver).into();
    expect_risk(&own, SchemaRisk::UnsafeCommits, &["synchronous_commit: off"]).await?;
    own.close().await?;
    // Levels that wait for a standby are the administrator's.
    fixture.execute(&format!("ALTER ROLE {account} SET synchronous_commit = remote_apply")).await?;
    let pool = seabed::open(&fixture.service_url).await?;
    ensure!(query_text(&pool, level).await? == "remote_apply");
    pool.close().await?;
    Ok(())
}

/// Changes settings of a PostgreSQL server, and waits until new connections have them.
pub(crate) async fn configure(admin: &DatabaseConnection, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, value) in settings {
        admin.execute_unprepared(&format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
    }
    admin.execute_unprepared("SELECT pg_reload_conf()").await?;
    for (name, value) in settings {
        let current = format!("SELECT current_setting('{name}') AS text");
        while query_text(admin, &current).await? != *value {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// On a server of its own, because others use the settings of the shared one.
async fn a_server_that_does_not_write_to_disk_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let server = Server::start_own(fixture.kind.context("a server")?).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    let pool = seabed::open(&server.database().service_url()?).await?;
    expect_warning(&pool, None).await?;
    configure(&admin, &[("fsync", "off")]).await?;
    expect_risk(&pool, SchemaRisk::UnsafeCommits, &["fsync: off"]).await?;
    // The standby has what it acknowledged. None is there, so nothing can be committed.
    configure(&admin, &[("synchronous_standby_names", "*")]).await?;
    expect_warning(&pool, Some("fsync: off")).await?;
    configure(&admin, &[("fsync", "on"), ("synchronous_commit", "local")]).await?;
    pool.close().await?;
    let pool = seabed::open(&server.database().service_url()?).await?;
    expect_warning(&pool, Some("synchronous_commit: local")).await?;
    configure(&admin, &[("synchronous_standby_names", ""), ("full_page_writes", "off")]).await?;
    expect_warning(&pool, Some("full_page_writes: off")).await?;
    pool.close().await?;
    admin.close().await?;
    server.stop().await
}

async fn a_hot_standby_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let mut server = Server::start_own(fixture.kind.context("a server")?).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    let folder = query_text(&admin, "SELECT current_setting('data_directory') AS text").await?;
    // The server is a standby from its next start on. It follows nobody.
    admin.execute_unprepared("CHECKPOINT").await?;
    admin.execute_unprepared(&format!("COPY (SELECT 1 WHERE false) TO '{folder}/standby.signal'")).await?;
    admin.close().await?;
    server.kill_and_restart().await?;
    let pool = seabed::open(&server.database().service_url()?).await?;
    expect_risk(&pool, SchemaRisk::ReadOnlyServer, &["read-only", "in recovery"]).await?;
    let accept = ServiceOptions::new().accept_risk(SchemaRisk::ReadOnlyServer);
    let service = seabed::from_connection_with(pool.clone(), accept).await?;
    ensure!(service.get_app_state(&AppName::try_new("app")?).await?.is_empty());
    let started = Instant::now();
    let outcomes = [session(&service).await.map(drop), service.check_health().await.map_err(Into::into)];
    ensure!(started.elapsed() < Duration::from_secs(1), "a standby was asked for {:?}", started.elapsed());
    for outcome in outcomes {
        expect_words(&format!("{:#}", outcome.err().context("wrote to a standby")?), &["read-only", "standby"])?;
    }
    service.close().await?;
    pool.close().await?;
    server.stop().await
}

async fn a_pooler_that_mixes_up_statements_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let pooler = PgBouncer::start(&fixture.service_url, "transaction").await?;
    let refused = seabed::connect(pooler.url()).await.err().context("connected")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::Unexpected), "{refused:?}");
    expect_words(&refused.to_string(), &["transaction pooler", "max_prepared_statements"])?;
    pooler.stop().await?;
    let pooler = PgBouncer::start(&fixture.service_url, "session").await?;
    let service = seabed::connect(pooler.url()).await?;
    session(&service).await?;
    service.close().await?;
    pooler.stop().await
}

/// On a server of its own, because others use the settings of the shared one.
async fn a_server_that_may_lose_commits_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    let kind = fixture.kind.context("a server")?;
    let server = Server::start_own(kind).await?;
    server.database().migrate().await?;
    let admin = server.database().admin().await?;
    let set = async |setting: &str| admin.execute_unprepared(&format!("SET GLOBAL {setting}")).await;
    let pool = seabed::open(&server.database().service_url()?).await?;
    // MariaDB has no binary log by default, and then the setting means nothing.
    set("sync_binlog = 0").await?;
    expect_warning(&pool, (kind != Kind::MariaDb).then_some("sync_binlog: 0")).await?;
    set("sync_binlog = 1").await?;
    expect_warning(&pool, None).await?;
    if kind != Kind::MariaDb {
        set("innodb_doublewrite = DETECT_ONLY").await?;
        expect_warning(&pool, Some("innodb_doublewrite: DETECT_ONLY")).await?;
        set("innodb_doublewrite = ON").await?;
    }
    for level in ["0", "2"] {
        set(&format!("innodb_flush_log_at_trx_commit = {level}")).await?;
        let found = format!("innodb_flush_log_at_trx_commit: {level}");
        expect_risk(&pool, SchemaRisk::UnsafeCommits, &[&found]).await?;
    }
    set("innodb_flush_log_at_trx_commit = 1").await?;
    set("read_only = 1").await?;
    expect_risk(&pool, SchemaRisk::ReadOnlyServer, &["read-only", "read_only"]).await?;
    // Also for an account that may write there: the server may be a replica.
    expect_risk(&admin, SchemaRisk::ReadOnlyServer, &["read-only", "read_only"]).await?;
    let accept = ServiceOptions::new().accept_risk(SchemaRisk::ReadOnlyServer);
    let replica = seabed::from_connection_with(pool.clone(), accept).await?;
    for outcome in [session(&replica).await.map(drop), replica.check_health().await.map_err(Into::into)] {
        expect_words(&format!("{:#}", outcome.err().context("wrote to a replica")?), &["read-only", "replica"])?;
    }
    set("read_only = 0").await?;
    session(&replica).await?;
    replica.check_health().await?;
    replica.close().await?;
    session(&seabed::from_connection(pool.clone()).await?).await?;
    ensure!(verify(&pool).await?.is_empty());
    pool.close().await?;
    admin.close().await?;
    server.stop().await
}

/// SQLite says that it is an old one.
async fn a_sqlite_with_the_wal_reset_bug_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    session(&fixture.migrated().await?).await?;
    let options: seabed::SqliteOptions = fixture.service_url.parse()?;
    let pool = |connections, journal| -> DatabaseConnection {
        let pool = seabed_old_sqlite::with_version_3_46_0(PoolOptions::new().max_connections(connections));
        pool.connect_lazy_with(options.driver.clone().journal_mode(journal)).into()
    };
    let words = ["SQLite 3.46.0 has the WAL-reset bug"];
    let several = pool(2, SqliteJournalMode::Wal);
    expect_risk(&several, SchemaRisk::WalResetBug, &words).await?;
    let shared = ServiceOptions::new().with_shared_pool();
    ensure!(seabed::from_connection_with(several.clone(), shared.clone()).await.is_err());
    several.close().await?;
    // The service has a connection of its own, beside that of the program.
    let one = pool(1, SqliteJournalMode::Wal);
    expect_risk(&one, SchemaRisk::WalResetBug, &words).await?;
    session(&seabed::from_connection_with(one.clone(), shared).await?).await?;
    one.close().await?;
    fixture.admin.close_by_ref().await?;
    let without_wal = pool(2, SqliteJournalMode::Delete);
    session(&seabed::from_connection(without_wal.clone()).await?).await?;
    without_wal.close().await?;
    Ok(())
}

async fn a_file_that_may_lose_commits_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options: seabed::SqliteOptions = fixture.service_url.parse()?;
    let pool = |synchronous, journal| -> DatabaseConnection {
        let options = options.driver.clone().synchronous(synchronous).journal_mode(journal);
        PoolOptions::<sqlx::Sqlite>::new().connect_lazy_with(options).into()
    };
    let off = pool(SqliteSynchronous::Off, SqliteJournalMode::Wal);
    expect_risk(&off, SchemaRisk::UnsafeCommits, &["synchronous: OFF"]).await?;
    off.close().await?;
    let normal = pool(SqliteSynchronous::Normal, SqliteJournalMode::Wal);
    expect_warning(&normal, Some("synchronous: NORMAL")).await?;
    normal.close().await?;
    expect_warning(&fixture.admin, None).await?;
    fixture.admin.close_by_ref().await?;
    let memory = pool(SqliteSynchronous::Full, SqliteJournalMode::Memory);
    expect_risk(&memory, SchemaRisk::UnsafeCommits, &["journal_mode: memory"]).await?;
    memory.close().await?;
    Ok(())
}
