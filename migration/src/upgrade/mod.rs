//! Upgrades older and other stores to google-adk's schema v1.

mod adk_session;
mod numbers;
mod object;
mod pickle;
mod v0;

use crate::schema::columns_of_tables;
use chrono_tz::Tz;
use sea_orm::{DatabaseConnection, EntityName as _};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::{BackendError, BackendErrorKind, Result};

use crate::layout::Layout;
use crate::schema::{self, Flavor};
use crate::transfer::{Progress, Selection, Shape, Source, Summary, compare, read, store, transfer_error};
use crate::{lock, migration_error};

/// Decodes pickled actions to JSON, for fuzzing.
///
/// # Errors
/// For pickles that are rejected.
#[cfg(fuzzing)]
pub fn decode_actions(pickle: &[u8]) -> std::result::Result<String, impl std::error::Error> {
    pickle::decode_actions(pickle)
}

/// The prefix under which the tables of schema v0 are kept once the tables of v1 replace them.
const KEPT: &str = "seabed_v0_";

/// How [`upgrade_into`] and [`upgrade_in_place`] interpret the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpgradeOptions {
    /// The time zone of the agents that wrote a database of schema v0, in which google-adk stored the times of events
    /// in local time. UTC by default.
    pub time_zone: Tz,
}

impl Default for UpgradeOptions {
    fn default() -> Self {
        Self { time_zone: Tz::UTC }
    }
}

/// Copies a database of google-adk's schema v0, of its `SqliteSessionService`, or of the Rust crate adk-session into
/// another database, which must have the tables of schema v1. The source is not changed. Otherwise like
/// [`copy`](crate::copy). No pickle is executed, and a row that cannot be read is skipped and named.
///
/// # Errors
/// Those of [`copy`](crate::copy); of kind [`Schema`](BackendErrorKind::Schema) for a source of another kind.
pub async fn upgrade_into(
    from: &DatabaseConnection,
    to: &DatabaseConnection,
    options: UpgradeOptions,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let source = match Layout::of(from).await.map_err(migration_error)? {
        Layout::V0 => read_v0(from, "", options).await?,
        Layout::SqliteSessionService => read_all(from, numbers::Numbers).await?,
        Layout::AdkSession => read_all(from, adk_session::AdkSession).await?,
        Layout::V1 => {
            return Err(refusal("the source is of google-adk's schema v1 already; `seabed-migrate copy` copies it"));
        }
        other => return Err(refusal(format!("the source cannot be upgraded: {}", other.describe()))),
    };
    store(source, to, progress).await
}

/// Upgrades a database of google-adk's schema v0 in place: renames its tables to `seabed_v0_…`, creates those of v1,
/// and copies all rows. Call it again after an interruption to continue. The renamed tables stay until
/// [`finish_upgrade`]. Stop all agents first: what they write during the upgrade may be lost.
///
/// # Errors
/// Those of [`upgrade_into`].
pub async fn upgrade_in_place(
    connection: &DatabaseConnection,
    options: UpgradeOptions,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    make_room(connection).await?;
    let source = read_v0(connection, KEPT, options).await?;
    store(source, connection, progress).await
}

/// Drops the tables that [`upgrade_in_place`] has kept, once all of their rows are found in those of v1. Writes nothing
/// to the tables of v1.
///
/// # Errors
/// Those of [`upgrade_in_place`]. If the summary [is not complete](Summary::is_complete), because rows could not be
/// upgraded or were changed or deleted since, nothing is dropped, unless `leave_rows` is set.
pub async fn finish_upgrade(
    connection: &DatabaseConnection,
    options: UpgradeOptions,
    leave_rows: bool,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    if !has_kept_tables(connection).await? {
        return Err(refusal("there is no upgrade to finish: no tables of schema v0 are kept here"));
    }
    let source = read_v0(connection, KEPT, options).await?;
    let summary = compare(source, connection, progress).await?;
    if summary.is_complete() || leave_rows {
        let flavor = Flavor::of(connection).await.map_err(migration_error)?;
        let kept = kept_tables().map(|(_, kept)| flavor.quote(&kept));
        // One statement where possible, so that no table is left behind.
        let drop = match flavor {
            Flavor::Sqlite => kept.map(|table| format!("DROP TABLE IF EXISTS {table}")).into(),
            _ => vec![format!("DROP TABLE IF EXISTS {}", kept.join(", "))],
        };
        lock::run_locked(connection, move |transaction| {
            Box::pin(async move { crate::execute(transaction, drop).await.map_err(migration_error) })
        })
        .await?;
    }
    Ok(summary)
}

/// Returns the tables of schema v0, dependents first, and the names under which they are kept.
fn kept_tables() -> [(&'static str, String); 4] {
    [
        events::Entity.table_name(),
        sessions::Entity.table_name(),
        user_states::Entity.table_name(),
        app_states::Entity.table_name(),
    ]
    .map(|table| (table, format!("{KEPT}{table}")))
}

async fn has_kept_tables(connection: &DatabaseConnection) -> Result<bool> {
    let kept = format!("{KEPT}events");
    Ok(!columns_of_tables(connection, &[&kept]).await.map_err(migration_error)?.is_empty())
}

/// Renames the tables of schema v0 and creates those of v1, or finishes an interrupted attempt.
async fn make_room(connection: &DatabaseConnection) -> Result<()> {
    let layout = Layout::of(connection).await.map_err(migration_error)?;
    let is_kept = has_kept_tables(connection).await?;
    match layout {
        Layout::V0 if is_kept => {
            return Err(refusal("there are tables of schema v0 beside those that an upgrade has kept"));
        }
        Layout::V0 => {}
        Layout::V1 | Layout::Empty if is_kept => return crate::migrate(connection).await,
        Layout::V1 => return Err(refusal("the tables are of google-adk's schema v1 already")),
        other => return Err(refusal(format!("this cannot be upgraded in place: {}", other.describe()))),
    }
    let flavor = Flavor::of(connection).await.map_err(migration_error)?;
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move {
            // Another process may have done this already.
            if Layout::of(transaction).await.map_err(migration_error)? != Layout::V0 {
                return Ok(());
            }
            let existing = columns_of_tables(transaction, &kept_tables().map(|(table, _)| table)).await;
            let existing = existing.map_err(migration_error)?;
            let tables = kept_tables().into_iter();
            let tables = tables.filter(|(table, _)| existing.iter().any(|column| column.table_name == *table));
            let tables: Vec<(String, String)> =
                tables.map(|(table, kept)| (flavor.quote(table), flavor.quote(&kept))).collect();
            let mut statements = schema::drop_events_index(flavor);
            if matches!(flavor, Flavor::MySql | Flavor::MariaDb) {
                // One statement, so that all tables are renamed or none.
                let renamed: Vec<String> = tables.iter().map(|(table, kept)| format!("{table} TO {kept}")).collect();
                statements.push(format!("RENAME TABLE {}", renamed.join(", ")));
            } else {
                statements.extend(tables.iter().map(|(table, kept)| format!("ALTER TABLE {table} RENAME TO {kept}")));
            }
            crate::execute(transaction, statements).await.map_err(migration_error)
        })
    })
    .await?;
    crate::migrate(connection).await
}

async fn read_v0(connection: &DatabaseConnection, prefix: &'static str, options: UpgradeOptions) -> Result<Source> {
    let events = format!("{prefix}events");
    let columns = columns_of_tables(connection, &[&events]).await.map_err(migration_error)?;
    let columns = columns.into_iter().map(|column| column.column_name).collect();
    read_all(connection, v0::V0 { prefix, columns, zone: options.time_zone }).await
}

async fn read_all(connection: &DatabaseConnection, shape: impl Shape) -> Result<Source> {
    read(connection, shape, Selection::default(), Vec::new()).await.map_err(transfer_error)
}

fn refusal(reason: impl Into<String>) -> seabed_core::Error {
    BackendError::new(BackendErrorKind::Schema, reason).into()
}
