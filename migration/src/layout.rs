//! Detects which software created the existing tables before any others are created: they are adopted, or rejected by
//! name.

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
    /// google-adk's schema v1, which Seabed shares; tables or the version may be missing.
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
        let version = if has_metadata(&columns) { version(connection, spec).await? } else { None };
        Ok(match version {
            Some(version) if version == SCHEMA_VERSION => Self::V1,
            Some(version) => Self::Unknown(format!(
                "the tables have schema version {version:?}, and this release supports only version {SCHEMA_VERSION:?}"
            )),
            None if columns.is_empty() => Self::Empty,
            // Whatever created the tables was interrupted, or has not finished.
            None => Self::by_columns(spec, &columns),
        })
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

/// Detects the layout like [`Layout::of`], and does not rely on the version: somebody else's table may stand beside it.
///
/// # Errors
/// Those of the database.
pub(crate) async fn of_all_columns(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Layout, DbErr> {
    Ok(match Layout::of(connection, spec).await? {
        Layout::V1 => Layout::by_columns(spec, &spec.columns(connection).await?),
        layout => layout,
    })
}

/// Rejects tables that are not google-adk's v1, so that they are never mistaken for it.
pub(crate) async fn check(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<(), DbErr> {
    match of_all_columns(connection, spec).await? {
        Layout::Empty | Layout::V1 => Ok(()),
        other => Err(DbErr::Migration(format!("{}; nothing was changed", other.describe()))),
    }
}

/// Whether the table for the version is there, and the version is not. google-adk's first start stores it after the
/// transaction that creates the tables.
///
/// # Errors
/// Those of the database.
pub(crate) async fn lacks_version(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<bool, DbErr> {
    Ok(has_metadata(&spec.columns(connection).await?) && version(connection, spec).await?.is_none())
}

fn has_metadata(columns: &[Column]) -> bool {
    columns.iter().any(|column| column.table_name == adk_internal_metadata::Entity.table_name())
}

async fn version(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Option<String>, DbErr> {
    let version = Query::select()
        .column(adk_internal_metadata::Column::Value)
        .from(spec.tables.table(adk_internal_metadata::Entity))
        .and_where(spec.compared(adk_internal_metadata::Column::Key).eq(SCHEMA_VERSION_KEY))
        .take();
    connection.query_one(&version).await?.map(|row| row.try_get_by_index(0)).transpose()
}
