//! The schema, checked before anything is stored in it.

mod columns;

use std::fmt;

use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{DbBackend, QueryResult, Statement};

use super::error::{StatementError, classify, statement_error};
use super::statement::Tables;
use crate::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use crate::sql::dialect::Dialect;
use crate::{BackendError, BackendErrorKind, Result};

pub use columns::{
    Column, ColumnProblem, ColumnRole, SchemaRisk, UnsuitableColumn, columns, columns_of_tables, is_at_least,
    name_type, unsuitable_columns,
};

/// How one database describes and spells google-adk's schema. Pure: it builds SQL and runs none.
pub trait SchemaDialect: fmt::Debug + Send + Sync {
    /// sea-orm's name of the database.
    fn backend(&self) -> DbBackend;

    /// An identifier as SQL spells it.
    fn quote(&self, name: &str) -> String {
        let doubled = name.replace('"', "\"\"");
        format!("\"{doubled}\"")
    }

    /// The type of a column for JSON.
    fn json_type(&self) -> &'static str;

    /// The type of a column for moments.
    fn timestamp_type(&self) -> &'static str;

    /// The query for the server's version, where [`id_collation`](Self::id_collation) depends on it: one column
    /// `version`.
    fn version_query(&self) -> Option<&'static str> {
        None
    }

    /// The collation of ids on a server of `version`; `None` where the database compares ids byte for byte anyway.
    fn id_collation(&self, _version: &str) -> Option<&'static str> {
        None
    }

    /// The query for the columns of tables of these names, in `schema` or where unqualified names are looked up. Its
    /// columns are those of [`Column`].
    fn columns_query(&self, schema: Option<&str>, names: &[String]) -> String;

    /// What is wrong with a column in its role.
    fn column_problem(&self, found: &Column, role: ColumnRole) -> Option<ColumnProblem>;
}

/// Reads the version of the schema.
pub(super) fn version_query<D: Dialect>(tables: &Tables) -> Statement {
    use adk_internal_metadata::Column;
    let query = Query::select()
        .column(Column::Value)
        .from(tables.table(adk_internal_metadata::Entity))
        .and_where(Expr::col(Column::Key).eq(SCHEMA_VERSION_KEY))
        .take();
    D::BACKEND.build(&query)
}

/// Refuses a database whose schema, by the answer to [`version_query`], is missing or not google-adk's v1.
pub(super) fn check_version<D: Dialect>(answer: Result<Option<QueryResult>, StatementError>) -> Result<()> {
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
            let missing = "there are no session tables in this database; make them with `seabed-migrate up` or \
                           `seabed::migrate`";
            Err(BackendError::new(BackendErrorKind::Schema, missing).with_source(error).into())
        }
        Err(error) => Err(statement_error::<D>("reading the schema version", error)),
    }
}

/// Refuses tables that cannot keep the laws, except for the risks that the user has accepted.
pub(super) fn check_columns<D: Dialect>(
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
