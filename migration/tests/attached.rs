//! Stores in attached databases of SQLite, which are what other databases call schemas.

use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed_core::sql::ServiceOptions;
use seabed_core::{BackendErrorKind, CreateSession, Error, SessionService as _, UserKey};
use seabed_migration::{
    Layout, MigrationStatus, SessionTables, StoredData, Tables, UpOptions, down, layout, refresh, repair, status, up,
    up_sql, verify,
};
use seabed_sqlite::SqliteSessionService;

/// A pool of one connection, to which the database `agents` is attached.
async fn attached(folder: &tempfile::TempDir) -> DatabaseConnection {
    let file = |name: &str| folder.path().join(name).display().to_string();
    let url = format!("sqlite://{}", file("main.db"));
    let options = url.parse::<seabed_sqlite::SqliteOptions>().expect("a URL").with_max_connections(1);
    let pool = options.with_driver(|driver| driver.create_if_missing(true)).open().await.expect("a database");
    execute(&pool, &format!("ATTACH DATABASE '{}' AS agents", file("agents.db"))).await;
    pool
}

async fn execute(pool: &DatabaseConnection, statement: &str) {
    pool.execute_unprepared(statement).await.expect("the statement runs");
}

#[tokio::test]
async fn a_store_in_an_attached_database_is_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = attached(&folder).await;
    let agents = || SessionTables::new(&pool).with_tables(Tables::new().with_schema("agents").with_prefix("bot_"));
    let mut options = UpOptions::default();
    options.update_time_index = true;
    for _ in 0..2 {
        up(agents(), options).await.expect("tables");
    }
    assert!(up_sql(agents(), options).await.expect("statements").is_empty());
    assert_eq!(status(agents()).await.expect("a status")[0].1, MigrationStatus::Applied);
    assert_eq!(layout(&pool).await.expect("a layout"), Layout::Empty);
    execute(&pool, "CREATE TABLE main.bot_sessions (id TEXT, cookie TEXT)").await;
    // The repairs name the schema as well.
    execute(&pool, "DROP INDEX agents.bot_idx_events_app_user_session_ts_id").await;
    execute(&pool, "INSERT INTO agents.bot_sessions VALUES ('app', 'alice', 's', '{}', '2026-01-01', '2026-01-01')")
        .await;
    let event = "INSERT INTO agents.bot_events VALUES ('e', 'app', 'alice', 's', 'i', '2026-01-02', '{}')";
    execute(&pool, event).await;
    assert_eq!(verify(agents()).await.expect("findings").len(), 4);
    assert!(repair(agents()).await.expect("findings").is_empty());
    let refused = down(agents(), StoredData::Keep).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "stored_data", .. })), "{refused:?}");
    refresh(agents(), StoredData::Drop).await.expect("new tables");
    down(agents(), StoredData::Keep).await.expect("no tables");
    assert_eq!(layout(agents()).await.expect("a layout"), Layout::Empty);
    execute(&pool, "SELECT cookie FROM main.bot_sessions").await;
    pool.close().await.expect("the pool closes");
}

#[tokio::test]
async fn names_that_do_not_exist_or_are_reserved_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = attached(&folder).await;
    let up = |tables: Tables| up(SessionTables::new(&pool).with_tables(tables), UpOptions::default());
    let missing = up(Tables::new().with_schema("nowhere")).await.expect_err("no such schema");
    assert_eq!(missing.backend_kind(), Some(BackendErrorKind::Schema));
    assert!(missing.to_string().contains("ATTACH DATABASE 'FILE' AS \"nowhere\""), "{missing}");
    for reserved in ["seabed_v0_", "bot_seabed_v0_"] {
        let refused = up(Tables::new().with_prefix(reserved)).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "table_prefix", .. })), "{refused:?}");
    }
    pool.close().await.expect("the pool closes");
}

/// A statement finds a table without a schema in any attached database, unless another one hides it.
#[tokio::test]
async fn tables_in_an_attached_database_are_found_without_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = attached(&folder).await;
    let agents = SessionTables::new(&pool).with_tables(Tables::new().with_schema("agents"));
    up(agents.clone(), UpOptions::default()).await.expect("tables");
    execute(&pool, "INSERT INTO sessions VALUES ('app', 'alice', 's', '{}', '2026-01-01', '2026-01-01')").await;
    up(&pool, UpOptions::default()).await.expect("nothing to do");
    assert_eq!(status(&pool).await.expect("a status")[0].1, MigrationStatus::Applied);
    assert_eq!(layout(&pool).await.expect("a layout"), Layout::V1);
    // The row above lacks the rows of its app and user.
    let found = verify(&pool).await.expect("findings");
    assert_eq!(found, verify(agents.clone()).await.expect("findings"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(repair(&pool).await.expect("findings").is_empty());
    let shared = ServiceOptions::new().with_shared_pool();
    let service = SqliteSessionService::from_connection_with(pool.clone(), shared).await.expect("a service");
    let create = CreateSession::new(UserKey::try_new("app", "alice").expect("a key"));
    service.create_session(create).await.expect("a session");
    assert!(pool.execute_unprepared("SELECT id FROM main.sessions").await.is_err(), "a table hides another");
    let refused = down(&pool, StoredData::Keep).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "stored_data", .. })), "{refused:?}");
    execute(&pool, "CREATE TABLE main.events (id TEXT)").await;
    let refused = down(&pool, StoredData::Drop).await.expect_err("tables in two databases");
    let told = refused.to_string();
    assert!(told.contains("events in main") && told.contains(" sessions in agents"), "{told}");
    execute(&pool, "DROP TABLE main.events").await;
    down(&pool, StoredData::Drop).await.expect("no tables");
    assert_eq!(layout(agents).await.expect("a layout"), Layout::Empty);
    pool.close().await.expect("the pool closes");
}

#[tokio::test]
async fn a_table_that_hides_another_is_the_one_that_is_described() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = attached(&folder).await;
    up(&pool, UpOptions::default()).await.expect("tables");
    let service = || async {
        let shared = ServiceOptions::new().with_shared_pool();
        SqliteSessionService::from_connection_with(pool.clone(), shared).await
    };
    service().await.expect("a service");
    execute(&pool, "CREATE TABLE agents.sessions (id TEXT)").await;
    service().await.expect("a service: the other table is hidden");
    execute(&pool, "CREATE TEMP TABLE Sessions (id TEXT)").await;
    let refused = service().await.expect_err("a table of its own kind").to_string();
    let found = verify(&pool).await.expect("findings").remove(0);
    for told in [refused, found.problem] {
        assert!(told.contains("sessions") && told.contains("app_name"), "{told}");
    }
    pool.close().await.expect("the pool closes");
}
