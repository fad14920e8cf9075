//! Creates, checks, moves and drops Seabed's tables, with sea-orm-migration.
//!
//! The schema is google-adk's v1, so Python and Rust agents share one database. Tables that google-adk created are
//! adopted unchanged, and google-adk can use the tables created here. On MySQL and MariaDB, tables created here use a
//! binary collation without padding, so `Alice` is not `alice`.
//!
//! Any number of processes may migrate concurrently: each first takes a lock in the database. Applied migrations are
//! recorded in a separate table, `seabed_migrations` (the ledger).

mod adk_schema_v1;
mod layout;
mod lock;
mod rights;
mod schema;
#[cfg(feature = "transfer")]
mod transfer;
#[cfg(feature = "transfer")]
mod upgrade;
mod verify;

use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, DynIden, EntityTrait};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::{BackendError, BackendErrorKind, Error, Result};

#[cfg(feature = "transfer")]
pub use chrono_tz::Tz as TimeZone;
pub use layout::Layout;
pub use sea_orm_migration::MigrationStatus;
#[cfg(feature = "transfer")]
pub use transfer::{ContentHash, Progress, Refused, Selection, Summary, copy, export, import};
#[cfg(feature = "transfer")]
pub use upgrade::{UpgradeOptions, finish_upgrade, upgrade_in_place, upgrade_into};
pub use verify::{Finding, Mend, Severity, mend, repair, verify};

/// Exposes internals to fuzz targets.
#[cfg(all(fuzzing, feature = "transfer"))]
pub mod fuzzing {
    pub use crate::upgrade::decode_actions;
}

/// The migrations, for use with sea-orm-migration's own tools. Those tools take no lock; [`up`] does.
#[derive(Debug, Clone, Copy)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(adk_schema_v1::Migration)]
    }

    fn migration_table_name() -> DynIden {
        "seabed_migrations".into()
    }
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

/// Creates the missing tables.
///
/// # Errors
/// A backend error of kind [`Schema`](BackendErrorKind::Schema) for tables of an unknown version or layout, which are
/// not changed. Other backend errors if the database fails.
///
/// # Cancel safety
/// The work runs in its own task, and continues when the future is dropped.
pub async fn migrate(connection: &DatabaseConnection) -> Result<()> {
    up(connection, UpOptions::default()).await
}

/// Like [`migrate`], with options.
///
/// # Errors
/// Those of [`migrate`].
pub async fn up(connection: &DatabaseConnection, options: UpOptions) -> Result<()> {
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move { up_locked(transaction, options).await.map_err(migration_error) })
    })
    .await
}

/// The ledger records what was run, not what exists: tables may have been dropped by hand, or upgraded to a version
/// that Seabed does not know. So this always checks the layout, and always creates missing tables.
async fn up_locked(transaction: &DatabaseTransaction, options: UpOptions) -> Result<(), DbErr> {
    let manager = SchemaManager::new(transaction);
    layout::check(transaction).await?;
    Migrator::up(transaction, None).await?;
    let flavor = schema::Flavor::of(transaction).await?;
    if schema::is_table_missing(&manager).await? {
        execute(transaction, schema::create(flavor)).await?;
    }
    if options.update_time_index && !schema::has_update_time_index(&manager).await? {
        execute(transaction, vec![schema::update_time_index(flavor)]).await?;
    }
    Ok(())
}

/// Drops the tables even if the ledger does not list them: tables that google-adk created are not in it.
async fn down_locked(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    execute(transaction, schema::drop(schema::Flavor::of(transaction).await?)).await?;
    Migrator::uninstall(transaction).await
}

async fn execute(transaction: &DatabaseTransaction, statements: Vec<String>) -> Result<(), DbErr> {
    for statement in statements {
        transaction.execute_unprepared(&statement).await?;
    }
    Ok(())
}

/// Drops Seabed's tables and its ledger, and nothing else.
///
/// # Errors
/// [`Invalid`](Error::Invalid) if a table contains a row and `stored_data` is [`StoredData::Keep`]; nothing is then
/// dropped. Backend errors otherwise. Stop the services first: rows that they store between the check and the drop are
/// not detected.
pub async fn down(connection: &DatabaseConnection, stored_data: StoredData) -> Result<()> {
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move {
            check_stored_data(transaction, stored_data).await?;
            down_locked(transaction).await.map_err(migration_error)
        })
    })
    .await
}

/// Drops Seabed's tables and creates them again, with the index on `update_time` if they had it.
///
/// # Errors
/// Those of [`down`] and [`migrate`].
pub async fn refresh(connection: &DatabaseConnection, stored_data: StoredData) -> Result<()> {
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move {
            check_stored_data(transaction, stored_data).await?;
            let manager = SchemaManager::new(transaction);
            let update_time_index = schema::has_update_time_index(&manager).await.map_err(migration_error)?;
            down_locked(transaction).await.map_err(migration_error)?;
            up_locked(transaction, UpOptions { update_time_index }).await.map_err(migration_error)
        })
    })
    .await
}

/// Returns each migration and whether it is applied. Changes nothing, and needs only read privileges.
///
/// # Errors
/// Backend errors.
pub async fn status(connection: &DatabaseConnection) -> Result<Vec<(String, MigrationStatus)>> {
    let migrations = Migrator::get_migration_with_status_read_only(connection).await.map_err(migration_error)?;
    Ok(migrations.iter().map(|migration| (migration.name().to_owned(), migration.status())).collect())
}

/// Returns the statements that [`up`] would run now, except those that write the ledger. Changes nothing.
///
/// # Errors
/// Those of [`migrate`].
pub async fn up_sql(connection: &DatabaseConnection, options: UpOptions) -> Result<Vec<String>> {
    let flavor = schema::Flavor::of(connection).await.map_err(migration_error)?;
    let manager = SchemaManager::new(connection);
    layout::check(connection).await.map_err(migration_error)?;
    let mut statements = Vec::new();
    if schema::is_table_missing(&manager).await.map_err(migration_error)? {
        statements.extend(schema::create(flavor));
    }
    if options.update_time_index && !schema::has_update_time_index(&manager).await.map_err(migration_error)? {
        statements.push(schema::update_time_index(flavor));
    }
    Ok(statements)
}

/// Returns the statements with which an administrator grants `account` the privileges that a service needs, and no
/// others. Empty on SQLite, which has no accounts. On MySQL and MariaDB an account is `name@host`; without a host, any
/// host is allowed.
///
/// # Errors
/// Backend errors.
pub async fn grants(connection: &DatabaseConnection, account: &str) -> Result<Vec<String>> {
    let flavor = schema::Flavor::of(connection).await.map_err(migration_error)?;
    Ok(rights::grants(flavor, account))
}

/// Returns which layout the tables of a database have.
///
/// # Errors
/// Backend errors.
pub async fn layout(connection: &DatabaseConnection) -> Result<Layout> {
    Layout::of(connection).await.map_err(migration_error)
}

/// Returns the statements that [`down`] would run, except those that drop the ledger.
///
/// # Errors
/// Backend errors.
pub async fn down_sql(connection: &DatabaseConnection) -> Result<Vec<String>> {
    schema::Flavor::of(connection).await.map(schema::drop).map_err(migration_error)
}

/// Returns the statements that [`refresh`] would run, except those that write the ledger.
///
/// # Errors
/// Backend errors.
pub async fn refresh_sql(connection: &DatabaseConnection) -> Result<Vec<String>> {
    let flavor = schema::Flavor::of(connection).await.map_err(migration_error)?;
    Ok([schema::drop(flavor), schema::create(flavor)].concat())
}

async fn check_stored_data(transaction: &DatabaseTransaction, stored_data: StoredData) -> Result<()> {
    if stored_data == StoredData::Drop {
        return Ok(());
    }
    let manager = SchemaManager::new(transaction);
    check_empty(&manager, sessions::Entity).await?;
    check_empty(&manager, events::Entity).await?;
    check_empty(&manager, user_states::Entity).await?;
    check_empty(&manager, app_states::Entity).await
}

async fn check_empty<E: EntityTrait>(manager: &SchemaManager<'_>, table: E) -> Result<()> {
    let name = table.table_name();
    if !manager.has_table(name).await.map_err(migration_error)? {
        return Ok(());
    }
    let any_row = Query::select().expr(Expr::cust("1")).from(table).limit(1).take();
    match manager.get_connection().query_one(&any_row).await.map_err(migration_error)? {
        None => Ok(()),
        Some(_) => {
            Err(Error::Invalid { field: "stored_data", reason: format!("table {name} holds data that would be lost") })
        }
    }
}

/// A migration's own errors keep their message; the driver's errors become the source.
fn migration_error(error: DbErr) -> Error {
    let (kind, message) = match &error {
        DbErr::Migration(reason) | DbErr::Custom(reason) => {
            return BackendError::new(BackendErrorKind::Schema, reason.as_str()).into();
        }
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => {
            (BackendErrorKind::Unavailable, "no connection to the database that is to be migrated")
        }
        _ => (BackendErrorKind::Unexpected, "the database refused to migrate"),
    };
    BackendError::new(kind, message).with_source(error).into()
}
