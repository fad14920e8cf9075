//! Finds differences between a database and what Seabed expects, and describes them in plain words, with repairs.

mod catalog;
mod content;
mod contents;
mod create_table;
mod repair;

use sea_orm::{DatabaseConnection, DbErr, EntityName as _};
use seabed_core::Result;
use seabed_core::entity::adk_internal_metadata::{self, SCHEMA_VERSION_KEY};
use seabed_core::sql::{Column, ColumnProblem, SchemaRisk, UnsuitableColumn, unsuitable_columns};
use serde::Serialize;

use crate::layout::{self, Layout};
use crate::session_tables::SessionTables;
use crate::spec::{self, Database, SchemaSpec};
use crate::{lock, migration_error, own_tables, rights, schema};

pub use contents::{ContentsOptions, verify_contents};

#[cfg(feature = "transfer")]
pub(crate) use content::{collisions, missing_states};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Slow, or likely to cause trouble later.
    Warning,
    /// The service does not start, or data is at risk.
    Error,
}

/// The repair of a [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Repair {
    /// SQL that loses nothing, and that [`repair()`] runs: it widens columns, gives ids an exact collation, creates
    /// keys and indexes, adds empty state rows and the schema version, and sets the time of a session to that of its
    /// last event. Tables are locked while a statement runs.
    Safe(Vec<String>),
    /// SQL that needs a decision, because it may fail or change what readers see.
    Unsafe(Vec<String>),
    /// An instruction, where no SQL helps.
    Advice(String),
}

/// A difference between a database and what Seabed expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The table, or the table and column, that the finding is about; without the prefix of the table's name.
    pub subject: String,
    /// What was found.
    pub problem: String,
    /// What the problem leads to.
    pub consequence: String,
    /// How to repair it.
    pub repair: Repair,
}

impl Finding {
    fn new(
        severity: Severity,
        subject: impl Into<String>,
        problem: impl Into<String>,
        consequence: impl Into<String>,
        repair: Repair,
    ) -> Self {
        Self { severity, subject: subject.into(), problem: problem.into(), consequence: consequence.into(), repair }
    }

    /// Whether [`repair()`] can repair it.
    pub fn is_safe(&self) -> bool {
        matches!(self.repair, Repair::Safe(_))
    }

    fn error(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, repair: Repair) -> Self {
        Self::new(Severity::Error, subject, problem, consequence, repair)
    }

    fn warning(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, repair: Repair) -> Self {
        Self::new(Severity::Warning, subject, problem, consequence, repair)
    }
}

/// Compares a database with what Seabed expects: layout, columns, keys, indexes, the account's privileges, the risks of
/// [`SchemaRisk`], and rows that only other programs can have left. Changes nothing. Counts rows, which takes time on
/// large tables, and reads none; [`verify_contents`] does.
///
/// # Errors
/// Those of the database, and of [`up`](crate::up) for the names of the tables.
pub async fn verify(tables: impl Into<SessionTables<'_>>) -> Result<Vec<Finding>> {
    findings(&tables.into()).await
}

async fn findings(tables: &SessionTables<'_>) -> Result<Vec<Finding>> {
    let spec = tables.spec().await?;
    find(tables.connection, &spec).await.map_err(migration_error)
}

async fn find(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Vec<Finding>, DbErr> {
    let unsuitable = match usable_columns(connection, spec).await? {
        Ok(unsuitable) => unsuitable,
        Err(finding) => return Ok(vec![finding]),
    };
    let inexact = unsuitable.iter().any(|column| column.problem == ColumnProblem::Risk(SchemaRisk::InexactIds));
    let keys = catalog::SessionKey::find_all(connection, spec).await?;
    let mut findings = Vec::new();
    if layout::lacks_version(connection, spec).await? {
        findings.push(no_version(spec));
    }
    findings.extend(half_of_own_tables(connection, spec).await?);
    if inexact {
        findings.push(content::inexact_ids(connection, spec, &keys, &unsuitable).await?);
    }
    findings.extend(unsuitable.iter().filter_map(|column| repair::column(spec, &keys, column)));
    findings.extend(spec.risks(connection).await?.iter().map(|found| repair::risk(spec, found)));
    findings.extend(catalog::keys_and_indexes(connection, spec).await?);
    let missing_rights = rights::missing(connection, spec).await?;
    let is_readable = missing_rights.iter().all(|missing| missing.right != "SELECT");
    // Only exact ids show which rows belong together.
    for key in &keys {
        let has_orphans = is_readable && !inexact && content::has_orphans(connection, spec, key.table()).await?;
        findings.extend(catalog::foreign_key(spec, key, has_orphans));
    }
    if is_readable && !inexact {
        findings.extend(content::rows(connection, spec).await?);
    }
    findings.extend(missing_rights.into_iter().map(missing_right));
    Ok(findings)
}

/// Returns the unsuitable columns of tables that have all their columns, and a finding about any other tables.
async fn usable_columns(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
) -> Result<Result<Vec<UnsuitableColumn>, Finding>, DbErr> {
    let layout = Layout::of(connection, spec).await?;
    if layout != Layout::V1 {
        return Ok(Err(wrong_layout(&layout)));
    }
    let columns = spec.columns(connection).await?;
    let unsuitable = unsuitable_columns(spec.dialect, &columns);
    let missing = unsuitable.iter().find(|column| column.problem == ColumnProblem::Missing);
    Ok(match missing.map(|missing| missing_column(&columns, missing)) {
        Some(finding) => Err(finding),
        None => Ok(unsuitable),
    })
}

fn wrong_layout(layout: &Layout) -> Finding {
    let advice = match layout {
        Layout::Empty => "create them: seabed-migrate up",
        Layout::Other(other) => other.advice(),
        Layout::V1 | Layout::Unknown(_) => {
            "use a release of Seabed that supports them, or another database, schema or table prefix"
        }
    };
    Finding::error("tables", layout.describe(), DOES_NOT_START, Repair::Advice(advice.to_owned()))
}

fn missing_column(columns: &[Column], missing: &UnsuitableColumn) -> Finding {
    let table_exists = columns.iter().any(|column| column.table_name == missing.table);
    let advice = if table_exists {
        "add the column by hand; `seabed-migrate up --sql` on an empty database prints its definition"
    } else {
        "create the missing tables: seabed-migrate up"
    };
    Finding::error(missing.table, missing.to_string(), DOES_NOT_START, Repair::Advice(advice.to_owned()))
}

fn no_version(spec: &SchemaSpec) -> Finding {
    let table = adk_internal_metadata::Entity.table_name();
    Finding::error(
        table,
        format!("{table} has no {SCHEMA_VERSION_KEY}"),
        "no Seabed service and no google-adk starts on these tables",
        Repair::Safe(vec![schema::insert_version(spec)]),
    )
}

/// The finding that only one of Seabed's own tables is there. A database may do without both.
async fn half_of_own_tables(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Option<Finding>, DbErr> {
    let [missing] = own_tables::missing(connection, spec).await?[..] else { return Ok(None) };
    let create = own_tables::create_sql(connection, spec).await?;
    let consequence = "titles and labels cannot be set";
    Ok(Some(Finding::warning(missing, format!("there is no table {missing}"), consequence, Repair::Safe(create))))
}

fn missing_right(missing: rights::Missing) -> Finding {
    let rights::Missing { table, right, reason } = missing;
    Finding::error(
        table,
        format!("this account may not {right} here: {reason}"),
        "operations that need it fail",
        Repair::Advice("an administrator runs what `seabed-migrate grants --account NAME` prints".to_owned()),
    )
}

/// The consequence of tables that a service refuses.
const DOES_NOT_START: &str = "no Seabed service starts on these tables";

/// How often [`repair()`] verifies again: one repair may reveal the need for another.
const ROUNDS: usize = 3;

/// Runs the statements of all safe repairs in `findings`, under the lock that migrations take.
///
/// # Errors
/// Those of the database. On PostgreSQL and SQLite nothing is then changed. On MySQL and MariaDB, where each statement
/// commits by itself, verify again and continue.
///
/// # Cancel safety
/// The work runs in its own task, and continues when the future is dropped.
pub async fn run_repairs(tables: impl Into<SessionTables<'_>>, findings: &[Finding]) -> Result<()> {
    run_safe_repairs(&tables.into(), findings).await
}

async fn run_safe_repairs(tables: &SessionTables<'_>, findings: &[Finding]) -> Result<()> {
    let safe = findings.iter().filter_map(|finding| match &finding.repair {
        Repair::Safe(statements) => Some(statements.clone()),
        Repair::Unsafe(_) | Repair::Advice(_) => None,
    });
    let statements: Vec<String> = safe.flatten().collect();
    let run = || {
        let statements = statements.clone();
        lock::run_locked(tables, move |transaction, spec| {
            Box::pin(async move {
                // Elsewhere the statements before the one that gave up would stay.
                if spec.database == Database::Postgres {
                    lock::wait_briefly(transaction, spec).await.map_err(migration_error)?;
                }
                crate::execute(transaction, statements).await.map_err(migration_error)
            })
        })
    };
    crate::with_locks(spec::is_lock_not_available, run).await
}

/// Repeats [`verify`] and [`run_repairs`] while there is something to repair, at most three times. Returns the
/// remaining findings.
///
/// # Errors
/// Those of [`run_repairs`].
pub async fn repair(tables: impl Into<SessionTables<'_>>) -> Result<Vec<Finding>> {
    let tables = tables.into();
    let mut found = findings(&tables).await?;
    for _ in 0..ROUNDS {
        if !found.iter().any(Finding::is_safe) {
            break;
        }
        run_safe_repairs(&tables, &found).await?;
        found = findings(&tables).await?;
    }
    Ok(found)
}
