//! A service beside a program that uses the same database: what one does to its connections does not reach the other.

use anyhow::ensure;
use seabed::sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use seabed::{AppendEvent, CreateSession, Error, Event, ExpectedRevision, ServiceOptions, SessionService, UserKey};

use crate::fixture::{Fixture, query_text};

crate::database_cases! {
    Everywhere: [
        what_a_program_leaves_on_its_connections_does_not_reach_the_service,
        closing_a_service_closes_only_its_own_pool,
        a_connection_to_nothing_is_refused,
    ],
}

/// The pool of a program, of one connection.
async fn programs_pool(fixture: &Fixture) -> anyhow::Result<DatabaseConnection> {
    seabed::migrate(&fixture.admin).await?;
    let mut options = ConnectOptions::new(fixture.admin_url.clone());
    options.max_connections(1);
    Ok(Database::connect(options).await?)
}

/// The connection of the pool is left in a transaction, next to an empty table that hides `sessions`.
async fn what_a_program_leaves_on_its_connections_does_not_reach_the_service(fixture: &Fixture) -> anyhow::Result<()> {
    let pool = programs_pool(fixture).await?;
    let service = seabed::from_connection(pool.clone()).await?;
    pool.execute_unprepared("CREATE TEMPORARY TABLE sessions (id varchar(36))").await?;
    pool.execute_unprepared("BEGIN").await?;

    let created = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?;
    let expected = ExpectedRevision::Exact(created.revision);
    service.append_event(AppendEvent::new(created.key, Event::new("user"), expected)).await?;

    for table in ["sessions", "events"] {
        let rows = fixture.query_text(&format!("SELECT CAST(count(*) AS char(1)) AS text FROM {table}")).await?;
        ensure!(rows == "1", "{rows} rows in {table}, as others see it");
    }
    Ok(())
}

async fn closing_a_service_closes_only_its_own_pool(fixture: &Fixture) -> anyhow::Result<()> {
    let pool = programs_pool(fixture).await?;
    let alone = seabed::from_connection(pool.clone()).await?;
    alone.close().await?;
    ensure!(alone.check_health().await.is_err(), "a closed service answers");
    query_text(&pool, "SELECT 'open' AS text").await?;

    let sharing = seabed::from_connection_with(pool.clone(), ServiceOptions::new().with_shared_pool()).await?;
    sharing.check_health().await?;
    sharing.close().await?;
    ensure!(query_text(&pool, "SELECT 'open' AS text").await.is_err(), "the shared pool is still open");
    Ok(())
}

async fn a_connection_to_nothing_is_refused(_: &Fixture) -> anyhow::Result<()> {
    let nothing = DatabaseConnection::default;
    for refused in [
        seabed::from_connection(nothing()).await.map(drop),
        seabed::PostgresSessionService::from_connection(nothing()).await.map(drop),
        seabed::MySqlSessionService::from_connection(nothing()).await.map(drop),
        seabed::SqliteSessionService::from_connection(nothing()).await.map(drop),
    ] {
        ensure!(matches!(refused, Err(Error::Invalid { field: "connection", .. })), "{refused:?}");
    }
    Ok(())
}
