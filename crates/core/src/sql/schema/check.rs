//! Checks the schema before anything is stored in it.

use std::fmt;
use std::time::Duration;

use sea_orm::sea_query::{ExprTrait, Query};
use sea_orm::{QueryResult, Statement};

use super::columns::{UnsuitableColumn, columns_query, read_columns, unsuitable_columns};
use super::dialect::{Column, ColumnProblem, SchemaRisk};
use super::layout::OtherLayout;
use super::risks::{FoundRisk, read_risks, risks_query};
use crate::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use crate::sql::database::Database;
use crate::sql::dialect::Dialect;
use crate::sql::driver::{Driver, PoolerProbe};
use crate::sql::error::{StatementError, classify, statement_error};
use crate::sql::executor::Executor as _;
use crate::sql::pool::ConnectionGuard;
use crate::sql::statement::name;
use crate::sql::tables::{Tables, own_table_names};
use crate::{BackendError, BackendErrorKind, Result};

/// How long the check for a pooler waits for a second connection.
const SECOND_CONNECTION_WITHIN: Duration = Duration::from_secs(2);

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

/// What a database has that passed the check.
#[derive(Default)]
pub(crate) struct CheckedSchema {
    /// Whether Seabed's own tables are there.
    pub(crate) has_own_tables: bool,
    /// The risks that break no guarantee, or that the user has accepted.
    pub(crate) risks: Vec<SchemaRisk>,
}

/// Refuses tables that are missing, that are another program's, or that cannot keep the guarantees, except for the
/// risks that the user has accepted, and those that a lone connection, the only one to the database, does not have.
/// Returns what was found.
pub(crate) async fn check_schema<D: Dialect>(
    database: &Database<D>,
    tables: &Tables,
    accepted: &[SchemaRisk],
    is_lone: bool,
) -> Result<CheckedSchema> {
    let failed = |error: StatementError| statement_error::<D>("describing the tables", error);
    let mut on = database.autocommit();
    let version = check_version::<D>(tables, on.query_one(version_query::<D>(tables)).await);
    if version.as_ref().is_err_and(|error| error.backend_kind() != Some(BackendErrorKind::Schema)) {
        return version.map(|()| CheckedSchema::default());
    }
    let columns = on.query_all(Statement::from_string(D::BACKEND, columns_query(D::SCHEMA, tables))).await;
    let columns = columns.and_then(|rows| Ok(read_columns(&rows, tables)?)).map_err(failed)?;
    // Tables of another program may have no version, or claim ours.
    check_layout(&columns)?;
    version?;
    check_columns::<D>(&columns, accepted)?;
    let mut found = Vec::new();
    if let Some((query, risks)) = risks_query(D::SCHEMA, tables) {
        let rows = on.query_all(Statement::from_string(D::BACKEND, query)).await;
        found = rows.and_then(|rows| Ok(read_risks(&rows, &risks, D::SCHEMA, tables)?)).map_err(failed)?;
    }
    found.retain(|found| !(is_lone && found.risk == SchemaRisk::WalResetBug));
    check_risks(&found, accepted)?;
    check_pooler::<D>(database).await?;
    let has_own_tables = own_table_names().iter().all(|own| columns.iter().any(|column| column.table_name == *own));
    Ok(CheckedSchema { has_own_tables, risks: found.into_iter().map(|found| found.risk).collect() })
}

/// Refuses a pooler that mixes up the prepared statements of its clients, as far as two connections find it.
async fn check_pooler<D: Dialect>(database: &Database<D>) -> Result<()> {
    let Some(PoolerProbe { query, advice }) = D::Driver::POOLER_PROBE else { return Ok(()) };
    match probe_two_connections(database, query).await {
        Ok(Some([Some(first), Some(second)])) if first == second => {
            Err(BackendError::new(BackendErrorKind::Unexpected, advice).into())
        }
        // A server that is slow to answer is no reason to refuse the database.
        Ok(_) | Err(StatementError::Timeout) => Ok(()),
        Err(error) => Err(statement_error::<D>("preparing statements", error)),
    }
}

/// The answers to `query` on two connections at once; `None` where no second one is free now, which does not keep a
/// service from starting. The second is not kept.
async fn probe_two_connections<D: Dialect>(
    database: &Database<D>,
    query: &str,
) -> Result<Option<[Option<String>; 2]>, StatementError> {
    if database.max_connections() < 2 {
        return Ok(None);
    }
    let mut first = database.acquire().await?;
    let second = tokio::time::timeout(SECOND_CONNECTION_WITHIN, database.acquire()).await;
    let Ok(Ok(mut second)) = second else {
        first.release();
        return Ok(None);
    };
    let answers = [ask(&mut first, query).await?, ask(&mut second, query).await?];
    first.release();
    Ok(Some(answers))
}

async fn ask<D: Dialect>(on: &mut ConnectionGuard<'_, D>, query: &str) -> Result<Option<String>, StatementError> {
    let mut answer = None;
    let mut read = |row: QueryResult| answer = D::Driver::text(&row, 0).ok().flatten().map(str::to_owned);
    on.autocommit(Statement::from_string(D::BACKEND, query), &mut read).await?;
    Ok(answer)
}

/// Refuses a database whose schema, by the answer to [`version_query`], is missing or not google-adk's v1.
pub(crate) fn check_version<D: Dialect>(
    tables: &Tables,
    answer: Result<Option<QueryResult>, StatementError>,
) -> Result<()> {
    let version = answer.and_then(|row| Ok(row.map(|row| row.try_get_by_index::<String>(0)).transpose()?));
    match version {
        Ok(Some(version)) if version == SCHEMA_VERSION => Ok(()),
        Ok(Some(version)) => refuse(format!(
            "the tables have schema version {version:?}, and this crate supports only version {SCHEMA_VERSION:?}; use a \
             release of Seabed that supports it"
        )),
        Ok(None) => refuse(format!(
            "adk_internal_metadata has no {SCHEMA_VERSION_KEY}; if the tables are google-adk's, `seabed-migrate up` \
             stores it"
        )),
        Err(error) if classify::<D>(&error) == BackendErrorKind::Schema => {
            let missing = format!("{tables} do not exist; create them with `seabed-migrate up` or `seabed::migrate`");
            Err(BackendError::new(BackendErrorKind::Schema, missing).with_source(error.into_source()).into())
        }
        Err(error) => Err(statement_error::<D>("reading the schema version", error)),
    }
}

/// Refuses tables of another program, by its name.
fn check_layout(columns: &[Column]) -> Result<()> {
    let Some(other) = OtherLayout::of(columns) else { return Ok(()) };
    refuse(format!("{}; {}", other.describe(), other.advice()))
}

/// Refuses columns that cannot keep the guarantees, except for the risks that the user has accepted.
fn check_columns<D: Dialect>(columns: &[Column], accepted: &[SchemaRisk]) -> Result<()> {
    let is_refused =
        |column: &UnsuitableColumn| !matches!(column.problem, ColumnProblem::Risk(risk) if accepted.contains(&risk));
    match unsuitable_columns(D::SCHEMA, columns).into_iter().find(is_refused) {
        None => Ok(()),
        Some(column) => match column.problem {
            ColumnProblem::Risk(risk) => refuse_risk(&column, risk),
            _ => refuse(format!("{column}; `seabed-migrate verify` says how to repair it")),
        },
    }
}

/// Refuses what else cannot keep the guarantees, except for the risks that the user has accepted; logs the risks that
/// break none.
fn check_risks(found: &[FoundRisk], accepted: &[SchemaRisk]) -> Result<()> {
    for found in found.iter().filter(|found| !accepted.contains(&found.risk)) {
        if found.risk.is_refused() {
            return refuse_risk(found, found.risk);
        }
        tracing::warn!(target: "seabed", risk = ?found.risk, "{found}: {}", found.risk.consequence());
    }
    Ok(())
}

fn refuse_risk(what: &impl fmt::Display, risk: SchemaRisk) -> Result<()> {
    refuse(format!(
        "{what}: {}; `seabed-migrate verify` says how to repair it, and SchemaRisk::{risk:?} accepts it",
        risk.consequence()
    ))
}

fn refuse(message: String) -> Result<()> {
    Err(BackendError::new(BackendErrorKind::Schema, message).into())
}
