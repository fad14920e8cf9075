//! Seabed's tables, made and removed with sea-orm-migration.
//!
//! The schema is google-adk's v1, so that Python and Rust agents share one database: tables that google-adk has made are
//! adopted as they are, and those made here suit google-adk. On MySQL and MariaDB the tables made here have a binary
//! collation without padding, so that `Alice` is not `alice`.
//!
//! Any number of processes may migrate at once: each takes a lock of the database first. The ledger of applied
//! migrations is a table of its own, `seabed_migrations`.

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

/// What fuzzing reaches into.
#[cfg(all(fuzzing, feature = "transfer"))]
pub mod fuzzing {
    pub use crate::upgrade::decode_actions;
}

/// The migrations, for those who run them with sea-orm-migration's own tools. [`up`] adds the lock that those lack.
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

/// What [`up`] makes besides the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpOptions {
    /// An index for listing the sessions of an app by their last update. It costs about a sixth of the speed of appends
    /// on PostgreSQL, where it rules out HOT updates; without it such a listing sorts the sessions of the app.
    pub update_time_index: bool,
}

/// Whether stored sessions, events and states may be dropped with their tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredData {
    /// Refuse to drop a table that holds a row.
    Keep,
    /// Drop the tables with all they hold.
    Drop,
}

/// Makes the tables that are missing.
///
/// # Errors
/// A backend error of kind [`Schema`](BackendErrorKind::Schema) for tables of an unknown version or layout, which are
/// left alone; others for a database that refuses.
///
/// # Cancel safety
/// The work goes on in its own task when the future is dropped.
pub async fn migrate(connection: &DatabaseConnection) -> Result<()> {
    up(connection, UpOptions::default()).await
}

/// Like [`migrate`], with a choice.
///
/// # Errors
/// Those of [`migrate`].
pub async fn up(connection: &DatabaseConnection, options: UpOptions) -> Result<()> {
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move { up_locked(transaction, options).await.map_err(migration_error) })
    })
    .await
}

/// The ledger says what was run, not what is there: tables may have been dropped by hand, or moved on to a version that
/// is not ours. So the layout is always looked at, and missing tables are always made.
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

/// Drops the tables whether or not the ledger knows of them: those that google-adk made are not in it.
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
/// [`Invalid`](Error::Invalid) when a table holds a row and `stored_data` is [`StoredData::Keep`]; nothing is dropped
/// then. Backend errors otherwise. Stop the services first: what they store between the look and the drop is not seen.
pub async fn down(connection: &DatabaseConnection, stored_data: StoredData) -> Result<()> {
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move {
            check_stored_data(transaction, stored_data).await?;
            down_locked(transaction).await.map_err(migration_error)
        })
    })
    .await
}

/// Drops Seabed's tables and makes them anew, with the index on `update_time` if they had it.
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

/// Each migration, and whether it is applied. Changes nothing, and needs no right but to read.
///
/// # Errors
/// Backend errors.
pub async fn status(connection: &DatabaseConnection) -> Result<Vec<(String, MigrationStatus)>> {
    let migrations = Migrator::get_migration_with_status_read_only(connection).await.map_err(migration_error)?;
    Ok(migrations.iter().map(|migration| (migration.name().to_owned(), migration.status())).collect())
}

/// The statements that [`up`] would run now, except for its notes in the ledger. Changes nothing.
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

/// The statements by which an administrator lets `account` run a service, and no more. Empty on SQLite, which has no accounts. On
/// MySQL and MariaDB an account is `name@host`; any host without one.
///
/// # Errors
/// Backend errors.
pub async fn grants(connection: &DatabaseConnection, account: &str) -> Result<Vec<String>> {
    let flavor = schema::Flavor::of(connection).await.map_err(migration_error)?;
    Ok(rights::grants(flavor, account))
}

/// Whose tables a database holds.
///
/// # Errors
/// Backend errors.
pub async fn layout(connection: &DatabaseConnection) -> Result<Layout> {
    Layout::of(connection).await.map_err(migration_error)
}

/// The statements that [`down`] would run, except for the ledger.
///
/// # Errors
/// Backend errors.
pub async fn down_sql(connection: &DatabaseConnection) -> Result<Vec<String>> {
    schema::Flavor::of(connection).await.map(schema::drop).map_err(migration_error)
}

/// The statements that [`refresh`] would run, except for the ledger.
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

/// A migration's own refusals say what they mean; the driver's errors keep their source.
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
