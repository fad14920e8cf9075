//! Detects which software created the existing tables before any others are created: they are adopted, or rejected by
//! name.

use std::collections::BTreeSet;

use sea_orm::sea_query::{ExprTrait as _, Query};
use sea_orm::{ConnectionTrait, DbErr, EntityName};
use seabed_core::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use seabed_core::entity::events;
use seabed_core::sql::{Column, ColumnProblem, unsuitable_columns};

use crate::spec::{Database, SchemaSpec};

/// The column of `events` that only google-adk's schema v0 has: actions pickled by Python.
const V0_COLUMN: &str = "actions";
/// The column of `events` that only the Rust crate adk-session has.
const ADK_SESSION_COLUMN: &str = "llm_response";

/// Which software's tables a database contains.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// No tables that Seabed knows.
    Empty,
    /// google-adk's schema v1, which Seabed shares; tables may be missing.
    V1,
    /// google-adk's schema v0, with actions pickled by Python.
    V0,
    /// google-adk's `SqliteSessionService`, with times as numbers.
    SqliteSessionService,
    /// Those of the Rust crate adk-session.
    AdkSession,
    /// Tables with the same names that match none of these, and the reason.
    Unknown(String),
}

impl Layout {
    /// Describes the layout in a sentence.
    pub fn describe(&self) -> &str {
        match self {
            Self::Empty => "there are no session tables; `seabed-migrate up` creates them",
            Self::V1 => "the tables have google-adk's schema v1",
            Self::V0 => "the tables have google-adk's schema v0; `seabed-migrate upgrade` upgrades them to v1",
            Self::SqliteSessionService => {
                "the tables are those of google-adk's SqliteSessionService, which stores times as numbers; \
                 `seabed-migrate upgrade --to` copies them into another database"
            }
            Self::AdkSession => {
                "the tables are those of the Rust crate adk-session; `seabed-migrate upgrade --to` copies them into \
                 another database"
            }
            Self::Unknown(reason) => reason,
        }
    }

    /// Detects the layout of the tables.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn of(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Self, DbErr> {
        let columns = spec.columns(connection).await?;
        let tables: BTreeSet<&str> = columns.iter().map(|column| column.table_name.as_str()).collect();
        if tables.contains(adk_internal_metadata::Entity.table_name()) {
            return version(connection, spec).await;
        }
        if tables.is_empty() {
            return Ok(Self::Empty);
        }
        let events = events::Entity.table_name();
        let has = |name: &str| columns.iter().any(|column| column.table_name == events && column.column_name == name);
        Ok(if has(ADK_SESSION_COLUMN) {
            Self::AdkSession
        } else if has(V0_COLUMN) {
            Self::V0
        } else if keeps_times_as_numbers(spec, &columns) {
            Self::SqliteSessionService
        } else {
            Self::without_version(spec, &columns, &tables)
        })
    }

    /// Classifies tables without a version. If they have all their columns, an interrupted migration left them.
    fn without_version(spec: &SchemaSpec, columns: &[Column], tables: &BTreeSet<&str>) -> Self {
        let missing = unsuitable_columns(spec.dialect, columns)
            .into_iter()
            .find(|column| column.problem == ColumnProblem::Missing && tables.contains(column.table));
        missing.map_or(Self::V1, |missing| Self::Unknown(format!("{missing}, so it is not google-adk's schema v1")))
    }
}

/// Rejects tables that are not google-adk's v1, so that they are never mistaken for it.
pub(crate) async fn check(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<(), DbErr> {
    match Layout::of(connection, spec).await? {
        Layout::Empty | Layout::V1 => Ok(()),
        other => Err(DbErr::Migration(format!("{}; nothing was changed", other.describe()))),
    }
}

async fn version(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Layout, DbErr> {
    let version = Query::select()
        .column(adk_internal_metadata::Column::Value)
        .from(spec.tables.table(adk_internal_metadata::Entity))
        .and_where(spec.compared(adk_internal_metadata::Column::Key).eq(SCHEMA_VERSION_KEY))
        .take();
    let row = connection.query_one(&version).await?;
    let version = row.map(|row| row.try_get_by_index::<String>(0)).transpose()?;
    Ok(match version {
        Some(version) if version == SCHEMA_VERSION => Layout::V1,
        Some(version) => Layout::Unknown(format!(
            "the tables have schema version {version:?}, and this release supports only version {SCHEMA_VERSION:?}"
        )),
        None => Layout::Unknown(format!(
            "adk_internal_metadata has no {SCHEMA_VERSION_KEY}, so the schema version is unknown"
        )),
    })
}

/// google-adk has two stores on SQLite. Their columns have the same names and differ only in type.
fn keeps_times_as_numbers(spec: &SchemaSpec, columns: &[Column]) -> bool {
    let time = |column: &&Column| column.column_name == "timestamp" && column.table_name == "events";
    spec.database == Database::Sqlite && columns.iter().find(time).is_some_and(|column| column.data_type == "real")
}
