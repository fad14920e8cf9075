//! The ledger: which migrations are applied to the tables of a store.
//!
//! sea-orm-migration names its ledger by one identifier, which holds no schema, and looks for it in the connection's
//! current schema only. These statements write the same table, where the other tables of the store are.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Schema};
use sea_orm_migration::{MigrationStatus, SchemaManager, seaql_migrations};

use crate::migrations;
use crate::spec::SchemaSpec;

/// The ledger's name, without the prefix of a store.
pub(crate) const LEDGER: &str = "seabed_migrations";

/// The migrations, in order, and whether each is applied.
///
/// # Errors
/// Those of the database; for a ledger with migrations that this release does not have.
pub(crate) async fn status(
    connection: &impl ConnectionTrait,
    spec: &SchemaSpec,
) -> Result<Vec<(String, MigrationStatus)>, DbErr> {
    let mut applied = applied(connection, spec).await?;
    let mut status = Vec::new();
    for migration in migrations(&spec.tables) {
        let is_applied = applied.remove(migration.name());
        let state = if is_applied { MigrationStatus::Applied } else { MigrationStatus::Pending };
        status.push((migration.name().to_owned(), state));
    }
    match applied.first() {
        None => Ok(status),
        Some(unknown) => Err(DbErr::Migration(format!(
            "{} lists the migration {unknown:?}, which this release does not have; use a later release of Seabed",
            spec.name(LEDGER)
        ))),
    }
}

async fn applied(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<BTreeSet<String>, DbErr> {
    if !is_installed(connection, spec).await? {
        return Ok(BTreeSet::new());
    }
    let versions = Query::select().column("version").from(spec.table_ref(LEDGER)).take();
    connection.query_all(&versions).await?.iter().map(|row| row.try_get("", "version")).collect()
}

async fn is_installed(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<bool, DbErr> {
    Ok(!spec.columns_of_tables(connection, &[LEDGER]).await?.is_empty())
}

/// Applies the pending migrations, and records them.
///
/// # Errors
/// Those of [`status`] and of the migrations.
pub(crate) async fn apply_pending(transaction: &DatabaseTransaction, spec: &SchemaSpec) -> Result<(), DbErr> {
    let status = status(transaction, spec).await?;
    if !is_installed(transaction, spec).await? {
        let schema = Schema::new(spec.dialect.backend());
        let mut create = schema.create_table_from_entity(seaql_migrations::Entity);
        transaction.execute(create.table(spec.table_ref(LEDGER)).if_not_exists()).await?;
    }
    let manager = SchemaManager::new(transaction);
    for (migration, (name, state)) in migrations(&spec.tables).iter().zip(status) {
        if state == MigrationStatus::Applied {
            continue;
        }
        migration.up(&manager).await?;
        let now = seconds_since_epoch();
        let mut record = Query::insert();
        record.into_table(spec.table_ref(LEDGER)).columns(["version", "applied_at"]);
        let values = [Expr::val(name), Expr::val(i64::try_from(now).unwrap_or(i64::MAX))];
        let record = record.values(values).map_err(|error| DbErr::Migration(error.to_string()))?;
        transaction.execute(&*record).await?;
    }
    Ok(())
}

/// The statement that drops the ledger.
pub(crate) fn drop(spec: &SchemaSpec) -> String {
    format!("DROP TABLE IF EXISTS {}", spec.full_name(LEDGER))
}

#[allow(clippy::disallowed_methods, reason = "the ledger says when a migration was applied; nothing depends on it")]
fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
