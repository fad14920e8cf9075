//! Detects which software created the existing tables before any others are created: they are adopted, or rejected by
//! name.

use std::collections::BTreeSet;

use sea_orm::sea_query::{ExprTrait as _, Query};
use sea_orm::{ConnectionTrait, DbErr, EntityName};
use seabed_core::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use seabed_core::sql::{Column, ColumnProblem, OtherLayout, unsuitable_columns};

use crate::spec::SchemaSpec;

/// Which software's tables a database contains.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// No tables that Seabed knows.
    Empty,
    /// google-adk's schema v1, which Seabed shares; tables may be missing.
    V1,
    /// Another one that Seabed knows, and does not share.
    Other(OtherLayout),
    /// Tables with the same names that match none of these, and the reason.
    Unknown(String),
}

impl Layout {
    /// Describes the layout in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::Empty => "there are no session tables; `seabed-migrate up` creates them".to_owned(),
            Self::V1 => "the tables have google-adk's schema v1".to_owned(),
            Self::Other(other) => format!("{}; {}", other.describe(), other.advice()),
            Self::Unknown(reason) => reason.clone(),
        }
    }

    /// Detects the layout of the tables.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn of(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Self, DbErr> {
        let columns = spec.columns(connection).await?;
        if let Some(other) = OtherLayout::of(&columns) {
            return Ok(Self::Other(other));
        }
        let tables: BTreeSet<&str> = columns.iter().map(|column| column.table_name.as_str()).collect();
        if tables.contains(adk_internal_metadata::Entity.table_name()) {
            return version(connection, spec).await;
        }
        // An interrupted migration left tables without a version.
        Ok(if tables.is_empty() { Self::Empty } else { Self::by_columns(spec, &columns) })
    }

    /// Classifies tables by whether those that exist have all columns of v1.
    fn by_columns(spec: &SchemaSpec, columns: &[Column]) -> Self {
        let exists = |table: &str| columns.iter().any(|column| column.table_name == table);
        let missing = unsuitable_columns(spec.dialect, columns)
            .into_iter()
            .find(|column| column.problem == ColumnProblem::Missing && exists(column.table));
        missing.map_or(Self::V1, |missing| Self::Unknown(format!("{missing}, so it is not google-adk's schema v1")))
    }
}

/// Rejects tables that are not google-adk's v1, so that they are never mistaken for it.
pub(crate) async fn check(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<(), DbErr> {
    let layout = match Layout::of(connection, spec).await? {
        // Somebody else's table may stand beside the version.
        Layout::V1 => Layout::by_columns(spec, &spec.columns(connection).await?),
        layout => layout,
    };
    match layout {
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
