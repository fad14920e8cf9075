//! Checks the schema before anything is stored in it.

use sea_orm::sea_query::{ExprTrait, Query};
use sea_orm::{QueryResult, Statement};

use super::columns::{UnsuitableColumn, unsuitable_columns};
use super::dialect::{Column, ColumnProblem, SchemaRisk};
use crate::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use crate::sql::dialect::Dialect;
use crate::sql::error::{StatementError, classify, statement_error};
use crate::sql::statement::name;
use crate::sql::tables::Tables;
use crate::{BackendError, BackendErrorKind, Result};

/// Reads the version of the schema.
pub(crate) fn version_query<D: Dialect>(tables: &Tables) -> Statement {
    use adk_internal_metadata::Column;
    let query = Query::select()
        .column(Column::Value)
        .from(tables.table(adk_internal_metadata::Entity))
        .and_where(name::<D>(Column::Key).eq(SCHEMA_VERSION_KEY))
        .take();
    D::BACKEND.build(&query)
}

/// Refuses a database whose schema, by the answer to [`version_query`], is missing or not google-adk's v1.
pub(crate) fn check_version<D: Dialect>(
    tables: &Tables,
    answer: Result<Option<QueryResult>, StatementError>,
) -> Result<()> {
    let version = answer.and_then(|row| Ok(row.map(|row| row.try_get_by_index::<String>(0)).transpose()?));
    let refused = |message: String| Err(BackendError::new(BackendErrorKind::Schema, message).into());
    match version {
        Ok(Some(version)) if version == SCHEMA_VERSION => Ok(()),
        Ok(Some(version)) => refused(format!(
            "the tables have schema version {version:?}, and this crate supports only version {SCHEMA_VERSION:?}; use a \
             release of Seabed that supports it"
        )),
        Ok(None) => refused(format!(
            "adk_internal_metadata has no {SCHEMA_VERSION_KEY}, so the schema version is unknown; run `seabed-migrate \
             status`"
        )),
        Err(error) if classify::<D>(&error) == BackendErrorKind::Schema => {
            let missing = format!("{tables} do not exist; create them with `seabed-migrate up` or `seabed::migrate`");
            Err(BackendError::new(BackendErrorKind::Schema, missing).with_source(error.into_source()).into())
        }
        Err(error) => Err(statement_error::<D>("reading the schema version", error)),
    }
}

/// Refuses tables that cannot keep the guarantees, except for the risks that the user has accepted.
pub(crate) fn check_columns<D: Dialect>(
    columns: Result<Vec<Column>, StatementError>,
    accepted: &[SchemaRisk],
) -> Result<()> {
    let columns = columns.map_err(|error| statement_error::<D>("reading the columns of the tables", error))?;
    let is_refused =
        |column: &UnsuitableColumn| !matches!(column.problem, ColumnProblem::Risk(risk) if accepted.contains(&risk));
    let Some(column) = unsuitable_columns(D::SCHEMA, &columns).into_iter().find(is_refused) else { return Ok(()) };
    let message = match column.problem {
        ColumnProblem::Risk(risk) => format!(
            "{column}: {}; `seabed-migrate verify` says how to repair it, and SchemaRisk::{risk:?} accepts it",
            risk.consequence()
        ),
        _ => format!("{column}; `seabed-migrate verify` says how to repair it"),
    };
    Err(BackendError::new(BackendErrorKind::Schema, message).into())
}
