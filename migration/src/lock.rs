//! Lets only one migrator run at a time, across any number of processes.

use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use seabed_core::{BackendError, BackendErrorKind, Error, Result};

use crate::migration_error;
use crate::session_tables::SessionTables;
use crate::spec::{self, Database, SchemaSpec};

/// PostgreSQL's advisory locks are numbers shared by all users of a database. This one is "seabed" in ASCII.
const ADVISORY_LOCK: i64 = 0x7365_6162_6564;
/// How long to wait for another migrator, in seconds.
const LOCK_TIMEOUT: u32 = 120;

/// Runs `work` in a transaction while no other process migrates the same schema.
///
/// The transaction keeps one connection of the pool throughout. That matters on MySQL too, where DDL commits implicitly
/// and the lock belongs to the connection. The work runs in its own task, so that a dropped future does not leave the
/// lock behind.
pub(crate) async fn run_locked<T, F>(tables: &SessionTables<'_>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a DatabaseTransaction, &'a SchemaSpec) -> BoxFuture<'a, Result<T>> + Send + 'static,
{
    let spec = tables.spec().await?;
    let connection = tables.connection.clone();
    let task = tokio::spawn(async move {
        // On SQLite this takes the write lock here; other databases ignore the option.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = connection.begin_with_options(options).await.map_err(migration_error)?;
        lock(&transaction, &spec).await?;
        let done = work(&transaction, &spec).await;
        let unlocked = unlock(&transaction, &spec).await.map_err(migration_error);
        match done.and_then(|done| unlocked.map(|()| done)) {
            Ok(done) => transaction.commit().await.map(|()| done).map_err(migration_error),
            Err(error) => {
                // Returns the first error; the rollback's own error would hide it.
                let _: Result<(), DbErr> = transaction.rollback().await;
                Err(error)
            }
        }
    });
    task.await.unwrap_or_else(|panic| {
        Err(BackendError::new(BackendErrorKind::Unexpected, "the migration was interrupted").with_source(panic).into())
    })
}

/// Makes a statement give up after a second if it waits for a lock. A statement that waits for one on a whole table
/// holds up all writers that come after it, so it had better try again.
pub(crate) async fn wait_briefly(transaction: &DatabaseTransaction, spec: &SchemaSpec) -> Result<(), DbErr> {
    let setting = match spec.database {
        Database::Postgres => "SET LOCAL lock_timeout TO '1s'",
        Database::MySql => "SET @seabed_wait = @@lock_wait_timeout, SESSION lock_wait_timeout = 1",
        // The transaction holds the write lock.
        Database::Sqlite => return Ok(()),
    };
    transaction.execute_unprepared(setting).await.map(drop)
}

async fn lock(transaction: &DatabaseTransaction, spec: &SchemaSpec) -> Result<()> {
    match spec.database {
        Database::Postgres => {
            let timeout = format!("SET LOCAL lock_timeout TO '{LOCK_TIMEOUT}s'");
            transaction.execute_unprepared(&timeout).await.map_err(migration_error)?;
            let lock = format!("SELECT pg_catalog.pg_advisory_xact_lock({ADVISORY_LOCK})");
            transaction.execute_unprepared(&lock).await.map_err(|error| {
                if spec::is_lock_not_available(&error) { lock_is_held() } else { migration_error(error) }
            })?;
        }
        Database::MySql => {
            let lock = spec.query(format!("SELECT GET_LOCK({}, {LOCK_TIMEOUT}) AS locked", named_lock(spec)));
            let row = transaction.query_one_raw(lock).await.map_err(migration_error)?;
            let locked = row.and_then(|row| row.try_get::<Option<i64>>("", "locked").ok().flatten());
            if locked != Some(1) {
                return Err(lock_is_held());
            }
        }
        // The transaction holds the write lock.
        Database::Sqlite => {}
    }
    Ok(())
}

fn lock_is_held() -> Error {
    let message = format!("another migration has held the lock for {LOCK_TIMEOUT} seconds");
    BackendError::new(BackendErrorKind::Contention, message).into()
}

/// MySQL's named locks belong to the whole server, so the name includes that of the database, hashed to fit into 64
/// characters. (MySQL 9.7 no longer has `MD5`.)
fn named_lock(spec: &SchemaSpec) -> String {
    format!("CONCAT('seabed-migrate-', LEFT(SHA2({}, 256), 40))", spec.catalog_schema())
}

/// Releases locks, and takes back settings, that do not end with the transaction.
async fn unlock(transaction: &DatabaseTransaction, spec: &SchemaSpec) -> Result<(), DbErr> {
    match spec.database {
        Database::MySql => {
            // MariaDB takes a variable that nobody has set for text.
            let wait = "CAST(COALESCE(@seabed_wait, @@lock_wait_timeout) AS UNSIGNED)";
            let restore = &format!("SET SESSION lock_wait_timeout = {wait}");
            transaction.execute_unprepared(restore).await?;
            transaction.execute_unprepared(&format!("DO RELEASE_LOCK({})", named_lock(spec))).await.map(drop)
        }
        Database::Postgres | Database::Sqlite => Ok(()),
    }
}
