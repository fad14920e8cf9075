//! Upgrades older and other stores to google-adk's schema v1.

mod adk_session;
mod numbers;
mod object;
mod pickle;
mod v0;

use chrono_tz::Tz;
use sea_orm::{ConnectionTrait, DbErr, EntityName as _};
use seabed_core::entity::{app_states, events, sessions, user_states};
use seabed_core::sql::OtherLayout;
use seabed_core::{BackendError, BackendErrorKind, Result};

use crate::layout::Layout;
use crate::session_tables::{KEPT, SessionTables};
use crate::spec::{Database, SchemaSpec};
use crate::transfer::{Progress, Selection, Shape, Source, Summary, compare, read, store, transfer_error};
use crate::{UpOptions, lock, migration_error, schema};

/// Decodes pickled actions to JSON, for fuzzing.
///
/// # Errors
/// For pickles that are rejected.
#[cfg(fuzzing)]
pub fn decode_actions(pickle: &[u8]) -> std::result::Result<String, impl std::error::Error> {
    pickle::decode_actions(pickle)
}

/// How [`upgrade_into`] and [`upgrade_in_place`] interpret the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpgradeOptions {
    /// The time zone of the agents that wrote a database of schema v0. Up to 2.6, google-adk stored the times of events
    /// in local time; since 2.7 in UTC, also in tables of schema v0. UTC by default.
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
    from: impl Into<SessionTables<'_>>,
    to: impl Into<SessionTables<'_>>,
    options: UpgradeOptions,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let (from, to) = (from.into(), to.into());
    to.check()?;
    let spec = from.spec().await?;
    let source = match Layout::of(from.connection, &spec).await.map_err(migration_error)? {
        Layout::Other(OtherLayout::V0) => read_v0(&from, spec, "", options).await?,
        Layout::Other(OtherLayout::SqliteSessionService) => read_all(&from, spec, numbers::Numbers).await?,
        Layout::Other(OtherLayout::AdkSession) => read_all(&from, spec, adk_session::AdkSession).await?,
        Layout::V1 => {
            return Err(refusal("the source already has google-adk's schema v1; `seabed-migrate copy` copies it"));
        }
        other @ (Layout::Empty | Layout::Other(_) | Layout::Unknown(_)) => {
            return Err(refusal(format!("the source cannot be upgraded: {}", other.describe())));
        }
    };
    store(source, &to, progress).await
}

/// Upgrades a database of google-adk's schema v0 in place: renames its tables to `seabed_v0_…`, creates those of v1,
/// and copies all rows. Call it again after an interruption to continue. The renamed tables stay until
/// [`finish_upgrade`]. Stop all agents first: what they write during the upgrade may be lost.
///
/// # Errors
/// Those of [`upgrade_into`].
pub async fn upgrade_in_place(
    tables: impl Into<SessionTables<'_>>,
    options: UpgradeOptions,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let tables = tables.into();
    let spec = tables.spec().await?;
    make_room(&tables, &spec).await?;
    let source = read_v0(&tables, spec, KEPT, options).await?;
    store(source, &tables, progress).await
}

/// Drops the tables that [`upgrade_in_place`] has kept, once all of their rows are found in those of v1. Writes nothing
/// to the tables of v1.
///
/// # Errors
/// Those of [`upgrade_in_place`]. If the summary [is not complete](Summary::is_complete), because rows could not be
/// upgraded or were changed or deleted since, nothing is dropped, unless `leave_rows` is set.
pub async fn finish_upgrade(
    tables: impl Into<SessionTables<'_>>,
    options: UpgradeOptions,
    leave_rows: bool,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let tables = tables.into();
    let spec = tables.spec().await?;
    if !has_kept_tables(&tables, &spec).await? {
        return Err(refusal("there is no upgrade to finish: no tables of schema v0 are kept here"));
    }
    let source = read_v0(&tables, spec.clone(), KEPT, options).await?;
    let summary = compare(source, &tables, &spec, progress).await?;
    if summary.is_complete() || leave_rows {
        lock::run_locked(&tables, move |transaction, spec| {
            Box::pin(async move { crate::execute(transaction, drop_kept(spec)).await.map_err(migration_error) })
        })
        .await?;
    }
    Ok(summary)
}

/// Returns the statements that drop the kept tables: one where possible, so that no table is left behind.
fn drop_kept(spec: &SchemaSpec) -> Vec<String> {
    let kept = kept_tables().map(|(_, kept)| spec.full_name(&kept));
    match spec.database {
        Database::Sqlite => kept.map(|table| format!("DROP TABLE IF EXISTS {table}")).into(),
        Database::Postgres | Database::MySql => vec![format!("DROP TABLE IF EXISTS {}", kept.join(", "))],
    }
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

async fn has_kept_tables(tables: &SessionTables<'_>, spec: &SchemaSpec) -> Result<bool> {
    let kept = format!("{KEPT}events");
    Ok(!spec.columns_of_tables(tables.connection, &[&kept]).await.map_err(migration_error)?.is_empty())
}

/// Renames the tables of schema v0 and creates those of v1, or finishes an interrupted attempt.
async fn make_room(tables: &SessionTables<'_>, spec: &SchemaSpec) -> Result<()> {
    let layout = Layout::of(tables.connection, spec).await.map_err(migration_error)?;
    let is_kept = has_kept_tables(tables, spec).await?;
    match layout {
        Layout::Other(OtherLayout::V0) if is_kept => {
            return Err(refusal("there are tables of schema v0 besides those that an earlier upgrade has kept"));
        }
        Layout::Other(OtherLayout::V0) => {}
        Layout::V1 | Layout::Empty if is_kept => return crate::up(tables.clone(), UpOptions::default()).await,
        Layout::V1 => return Err(refusal("the tables already have google-adk's schema v1")),
        other => return Err(refusal(format!("these tables cannot be upgraded in place: {}", other.describe()))),
    }
    lock::run_locked(tables, move |transaction, spec| {
        Box::pin(async move {
            // Another process may have done this already.
            if Layout::of(transaction, spec).await.map_err(migration_error)? != Layout::Other(OtherLayout::V0) {
                return Ok(());
            }
            let statements = keep(transaction, spec).await.map_err(migration_error)?;
            crate::execute(transaction, statements).await.map_err(migration_error)
        })
    })
    .await?;
    crate::up(tables.clone(), UpOptions::default()).await
}

/// Returns the statements that rename the tables of schema v0 to their kept names.
async fn keep(transaction: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Vec<String>, DbErr> {
    let existing = spec.columns_of_tables(transaction, &kept_tables().map(|(table, _)| table)).await?;
    let tables = kept_tables().into_iter();
    let tables = tables.filter(|(table, _)| existing.iter().any(|column| column.table_name == *table));
    let mut statements = schema::drop_events_index(spec);
    match spec.database {
        Database::MySql => {
            // One statement, so that all tables are renamed or none.
            let rename =
                |(table, kept): (&str, String)| format!("{} TO {}", spec.full_name(table), spec.full_name(&kept));
            statements.push(format!("RENAME TABLE {}", tables.map(rename).collect::<Vec<_>>().join(", ")));
        }
        Database::Postgres | Database::Sqlite => statements.extend(tables.map(|(table, kept)| {
            format!("ALTER TABLE {} RENAME TO {}", spec.full_name(table), spec.quote(&spec.name(&kept)))
        })),
    }
    Ok(statements)
}

async fn read_v0(
    tables: &SessionTables<'_>,
    spec: SchemaSpec,
    prefix: &'static str,
    options: UpgradeOptions,
) -> Result<Source> {
    let events = format!("{prefix}events");
    let columns = spec.columns_of_tables(tables.connection, &[&events]).await.map_err(migration_error)?;
    let columns = columns.into_iter().map(|column| column.column_name).collect();
    read_all(tables, spec, v0::V0 { prefix, columns, zone: options.time_zone }).await
}

async fn read_all(tables: &SessionTables<'_>, spec: SchemaSpec, shape: impl Shape) -> Result<Source> {
    read(tables.connection, spec, shape, Selection::default(), Vec::new()).await.map_err(transfer_error)
}

fn refusal(reason: impl Into<String>) -> seabed_core::Error {
    BackendError::new(BackendErrorKind::Schema, reason).into()
}
