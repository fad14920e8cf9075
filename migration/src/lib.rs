//! Creates, checks, moves and drops Seabed's tables, with sea-orm-migration.
//!
//! The schema is google-adk's v1, so Python and Rust agents share one database. Tables that google-adk created are
//! adopted unchanged, and google-adk can use the tables created here. Beside them stand two tables of Seabed's own, for
//! titles, labels and whatever else google-adk has no place for; their rows are deleted with their sessions. On MySQL
//! and MariaDB, tables created here use a binary collation without padding, so `Alice` is not `alice`.
//!
//! Any number of processes may migrate concurrently: each first takes a lock in the database. Applied migrations are
//! recorded in a separate table, `seabed_migrations` (the ledger).

mod adk_schema_v1;
mod layout;
mod ledger;
mod location;
mod lock;
mod own_tables;
mod rights;
mod rows;
mod schema;
mod session_tables;
mod spec;
#[cfg(feature = "transfer")]
mod transfer;
#[cfg(feature = "transfer")]
mod upgrade;
mod verify;

use std::time::Duration;

use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, DynIden, EntityName as _};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use seabed_core::entity::{app_states, events, seabed_labels, seabed_sessions, sessions, user_states};
use seabed_core::{BackendError, BackendErrorKind, Error, Result};

use location::located;
use spec::SchemaSpec;

#[cfg(feature = "transfer")]
pub use chrono_tz::Tz as TimeZone;
pub use layout::Layout;
pub use sea_orm_migration::MigrationStatus;
pub use seabed_core::sql::{OtherLayout, Tables};
pub use session_tables::SessionTables;
#[cfg(feature = "transfer")]
pub use transfer::{ContentHash, Progress, Refused, Selection, Summary, copy, export, import};
#[cfg(feature = "transfer")]
pub use upgrade::{UpgradeOptions, finish_upgrade, upgrade_in_place, upgrade_into};
pub use verify::{ContentsOptions, Finding, Repair, Severity, repair, run_repairs, verify, verify_contents};

/// Exposes internals to fuzz targets.
#[cfg(all(fuzzing, feature = "transfer"))]
pub mod fuzzing {
    pub use crate::upgrade::decode_actions;
}

/// The migrations of the tables under google-adk's names, and of Seabed's own beside them, for use with
/// sea-orm-migration's own tools. Those tools take no lock; [`up`] does.
#[derive(Debug, Clone, Copy)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        migrations(&Tables::new())
    }

    fn migration_table_name() -> DynIden {
        ledger::LEDGER.into()
    }
}

/// The migrations of the tables, in order.
fn migrations(tables: &Tables) -> Vec<Box<dyn MigrationTrait>> {
    vec![
        Box::new(adk_schema_v1::Migration { tables: tables.clone() }),
        Box::new(own_tables::Migration { tables: tables.clone() }),
    ]
}

/// What [`up`] creates besides the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpOptions {
    /// An index for listing the sessions of an app by last update. On PostgreSQL it rules out HOT updates and makes
    /// appends about a sixth slower. Without it, such a listing sorts all sessions of the app.
    pub update_time_index: bool,
}

/// Whether to drop tables that contain sessions, events or state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredData {
    /// Refuse to drop a table that contains a row.
    Keep,
    /// Drop the tables with all their rows.
    Drop,
}

/// Creates the missing tables, under google-adk's own names. [`up`] takes other names, and says more.
///
/// # Errors
/// A backend error of kind [`Schema`](BackendErrorKind::Schema) for tables of an unknown version or layout, tables in
/// several schemas, and views that have a table's name; none of them is changed. Other backend errors if the database
/// fails.
///
/// # Cancel safety
/// Work that has begun runs in its own task, and continues when the future is dropped.
pub async fn migrate(connection: &DatabaseConnection) -> Result<()> {
    up(connection, UpOptions::default()).await
}

/// How often [`up`] looks again while google-adk creates the same tables, and how long it waits in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(150);

/// How often [`up`] tries to lock a table beside which another is created, for a second each, and how long it lets
/// writers pass in between.
const LOCK_ATTEMPTS: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// How an attempt of [`up`] ended.
enum Attempt {
    Done,
    /// The tables have no version yet; nothing was changed.
    Unversioned,
}

/// What to do about tables without their version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoVersion {
    /// Leave them alone: google-adk may be about to store it, and would fail if it were there.
    Wait,
    /// Store it.
    Store,
}

/// Creates the missing tables, or stores their version where only that is missing. google-adk's first start may create
/// the same tables at the same time: then this waits for it, for three seconds at most. Where another transaction has
/// locked a table, this tries again for two minutes, and lets writers pass in between.
///
/// # Errors
/// Those of [`migrate`]; kind [`Contention`](BackendErrorKind::Contention) if a table stays locked.
/// [`Invalid`](Error::Invalid) for names that [`Tables::check`] rejects; kind [`Schema`](BackendErrorKind::Schema) for
/// a schema that does not exist, with the statement that creates it.
///
/// # Cancel safety
/// That of [`migrate`]: all is created or nothing.
pub async fn up(tables: impl Into<SessionTables<'_>>, options: UpOptions) -> Result<()> {
    let tables = tables.into();
    for _ in 1..ATTEMPTS {
        let attempt = || attempt_up(&tables, options, NoVersion::Wait);
        match with_locks(spec::is_lock_timeout, attempt).await {
            Ok(Attempt::Done) => return Ok(()),
            Ok(Attempt::Unversioned) => {}
            Err(error) if is_any(&error, spec::is_race) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let attempt = || attempt_up(&tables, options, NoVersion::Store);
    with_locks(spec::is_lock_timeout, attempt).await.map(drop)
}

/// Repeats `work` while it gives up waiting for a lock.
async fn with_locks<T, F>(is_lock_timeout: fn(&DbErr) -> bool, work: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    for _ in 1..LOCK_ATTEMPTS {
        match work().await {
            Err(error) if is_any(&error, is_lock_timeout) => tokio::time::sleep(LOCK_PAUSE).await,
            done => return done,
        }
    }
    work().await.map_err(|error| {
        if !is_any(&error, is_lock_timeout) {
            return error;
        }
        let message = "other transactions have kept a table locked for a minute or more";
        BackendError::new(BackendErrorKind::Contention, message).with_source(error).into()
    })
}

async fn attempt_up(tables: &SessionTables<'_>, options: UpOptions, no_version: NoVersion) -> Result<Attempt> {
    lock::run_locked(tables, move |transaction, spec| {
        Box::pin(async move {
            let spec = located(transaction, spec).await.map_err(migration_error)?;
            up_locked(transaction, &spec, options, no_version).await.map_err(migration_error)
        })
    })
    .await
}

/// Whether an error of the database that caused `error` is one of these.
fn is_any(error: &Error, is_one: fn(&DbErr) -> bool) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref()).any(is_one)
}

/// The ledger records what was run, not what exists: tables may have been dropped by hand, or upgraded to a version
/// that Seabed does not know. So this always checks the layout, and always creates missing tables.
async fn up_locked(
    transaction: &DatabaseTransaction,
    spec: &SchemaSpec,
    options: UpOptions,
    no_version: NoVersion,
) -> Result<Attempt, DbErr> {
    layout::check(transaction, spec).await?;
    if no_version == NoVersion::Wait && layout::lacks_version(transaction, spec).await? {
        return Ok(Attempt::Unversioned);
    }
    lock::wait_briefly(transaction, spec).await?;
    ledger::apply_pending(transaction, spec).await?;
    if schema::is_table_missing(transaction, spec).await? {
        schema::create_missing(transaction, spec).await?;
    }
    if own_tables::is_missing(transaction, spec).await? {
        execute(transaction, own_tables::create_sql(transaction, spec).await?).await?;
    }
    execute(transaction, missing_sql(transaction, spec, options).await?).await?;
    Ok(Attempt::Done)
}

/// The statements that create what is missing.
async fn missing_sql(
    connection: &impl ConnectionTrait,
    spec: &SchemaSpec,
    options: UpOptions,
) -> Result<Vec<String>, DbErr> {
    let mut statements = Vec::new();
    if schema::is_table_missing(connection, spec).await? {
        statements.extend(schema::create_missing_sql(connection, spec).await?);
    }
    if own_tables::is_missing(connection, spec).await? {
        statements.extend(own_tables::create_sql(connection, spec).await?);
    }
    if layout::lacks_version(connection, spec).await? {
        statements.push(schema::insert_version(spec));
    }
    if options.update_time_index && !schema::has_update_time_index(connection, spec).await? {
        statements.push(schema::update_time_index(spec));
    }
    Ok(statements)
}

/// Drops the tables even if the ledger does not list them: tables that google-adk created are not in it.
async fn down_locked(transaction: &DatabaseTransaction, spec: &SchemaSpec, stored_data: StoredData) -> Result<()> {
    layout::check(transaction, spec).await.map_err(migration_error)?;
    if stored_data == StoredData::Keep {
        check_empty(transaction, spec).await?;
    }
    let statements = [schema::drop(spec), vec![ledger::drop(spec)]].concat();
    execute(transaction, statements).await.map_err(migration_error)
}

async fn execute(connection: &impl ConnectionTrait, statements: Vec<String>) -> Result<(), DbErr> {
    for statement in statements {
        connection.execute_unprepared(&statement).await?;
    }
    Ok(())
}

/// Drops google-adk's tables, Seabed's own and the ledger, and nothing else.
///
/// # Errors
/// [`Invalid`](Error::Invalid) if a table contains a row and `stored_data` is [`StoredData::Keep`]. A backend error of
/// kind [`Schema`](BackendErrorKind::Schema) for what [`migrate`] rejects, which may be somebody else's. In both cases
/// nothing is dropped. Other backend errors if the database fails. Stop the services first: rows that
/// they store between the check and the drop are not detected.
pub async fn down(tables: impl Into<SessionTables<'_>>, stored_data: StoredData) -> Result<()> {
    lock::run_locked(&tables.into(), move |transaction, spec| {
        Box::pin(async move {
            let spec = located(transaction, spec).await.map_err(migration_error)?;
            down_locked(transaction, &spec, stored_data).await
        })
    })
    .await
}

/// Drops the same tables and creates them again, with the index on `update_time` if they had it.
///
/// # Errors
/// Those of [`down`] and [`up`].
pub async fn refresh(tables: impl Into<SessionTables<'_>>, stored_data: StoredData) -> Result<()> {
    lock::run_locked(&tables.into(), move |transaction, spec| {
        Box::pin(async move {
            let spec = located(transaction, spec).await.map_err(migration_error)?;
            let update_time_index = schema::has_update_time_index(transaction, &spec).await.map_err(migration_error)?;
            down_locked(transaction, &spec, stored_data).await?;
            let options = UpOptions { update_time_index };
            up_locked(transaction, &spec, options, NoVersion::Store).await.map(drop).map_err(migration_error)
        })
    })
    .await
}

/// Returns each migration and whether it is applied. Changes nothing, and needs only read privileges.
///
/// # Errors
/// Those of [`up`].
pub async fn status(tables: impl Into<SessionTables<'_>>) -> Result<Vec<(String, MigrationStatus)>> {
    let tables = tables.into();
    ledger::status(tables.connection, &tables.spec().await?).await.map_err(migration_error)
}

/// Returns the statements that [`up`] would run now, except those that write the ledger. Changes nothing.
///
/// # Errors
/// Those of [`up`].
pub async fn up_sql(tables: impl Into<SessionTables<'_>>, options: UpOptions) -> Result<Vec<String>> {
    let tables = tables.into();
    let spec = located_spec(&tables).await?;
    layout::check(tables.connection, &spec).await.map_err(migration_error)?;
    missing_sql(tables.connection, &spec, options).await.map_err(migration_error)
}

/// Returns the statements with which an administrator grants `account` the privileges that a service needs, and no
/// others. Empty on SQLite, which has no accounts. On MySQL and MariaDB an account is `name@host`; without a host, any
/// host is allowed. If every account may create in a schema where the connection looks names up, as in `public` up to
/// PostgreSQL 14, a statement revokes that.
///
/// # Errors
/// Backend errors.
pub async fn grants(tables: impl Into<SessionTables<'_>>, account: &str) -> Result<Vec<String>> {
    let tables = tables.into();
    rights::grants(tables.connection, &tables.spec().await?, account).await.map_err(migration_error)
}

/// Returns which layout the tables have.
///
/// # Errors
/// Backend errors.
pub async fn layout(tables: impl Into<SessionTables<'_>>) -> Result<Layout> {
    let tables = tables.into();
    Layout::of(tables.connection, &tables.spec().await?).await.map_err(migration_error)
}

/// Returns the statements that [`down`] would run, except those that drop the ledger.
///
/// # Errors
/// Backend errors.
pub async fn down_sql(tables: impl Into<SessionTables<'_>>) -> Result<Vec<String>> {
    Ok(schema::drop(&checked_spec(&tables.into()).await?))
}

/// Returns the statements that [`refresh`] would run, except those that write the ledger.
///
/// # Errors
/// Backend errors.
pub async fn refresh_sql(tables: impl Into<SessionTables<'_>>) -> Result<Vec<String>> {
    let spec = checked_spec(&tables.into()).await?;
    Ok([schema::drop(&spec), schema::create(&spec, None), own_tables::create(&spec, None)].concat())
}

async fn located_spec(tables: &SessionTables<'_>) -> Result<SchemaSpec> {
    located(tables.connection, &tables.spec().await?).await.map_err(migration_error)
}

/// The tables, unless they are somebody else's.
async fn checked_spec(tables: &SessionTables<'_>) -> Result<SchemaSpec> {
    let spec = located_spec(tables).await?;
    layout::check(tables.connection, &spec).await.map_err(migration_error)?;
    Ok(spec)
}

async fn check_empty(transaction: &DatabaseTransaction, spec: &SchemaSpec) -> Result<()> {
    let columns = spec.columns(transaction).await.map_err(migration_error)?;
    for table in [
        sessions::Entity.table_name(),
        events::Entity.table_name(),
        user_states::Entity.table_name(),
        app_states::Entity.table_name(),
        seabed_sessions::Entity.table_name(),
        seabed_labels::Entity.table_name(),
    ] {
        if columns.iter().all(|column| column.table_name != table) {
            continue;
        }
        let any_row = Query::select().expr(Expr::cust("1")).from(spec.table_ref(table)).limit(1).take();
        if transaction.query_one(&any_row).await.map_err(migration_error)?.is_some() {
            let reason = format!("table {} holds data that would be lost", spec.name(table));
            return Err(Error::Invalid { field: "stored_data", reason });
        }
    }
    Ok(())
}

/// A migration's own errors keep their message; the driver's errors become the source.
fn migration_error(error: DbErr) -> Error {
    let (kind, message) = match &error {
        DbErr::Migration(reason) | DbErr::Custom(reason) => {
            return BackendError::new(BackendErrorKind::Schema, reason.as_str()).into();
        }
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => {
            (BackendErrorKind::Unavailable, "cannot connect to the database")
        }
        _ => (BackendErrorKind::Unexpected, "the database rejected a statement"),
    };
    BackendError::new(kind, message).with_source(error).into()
}
