//! Finds differences between a database and what Seabed expects, and describes them in plain words, with repairs.

mod catalog;
mod content;
mod mend;

use crate::schema::{columns, dialect_of};
use sea_orm::DatabaseConnection;
use seabed_core::Result;
use seabed_core::sql::{ColumnProblem, SchemaRisk, UnsuitableColumn, unsuitable_columns};
use serde::Serialize;

use crate::layout::Layout;
use crate::schema::Flavor;
use crate::{lock, migration_error, rights};

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
pub enum Mend {
    /// SQL that loses nothing, and that [`repair`] runs: it widens columns, gives ids an exact collation, creates keys
    /// and indexes, adds empty state rows, and sets the time of a session to that of its last event. Tables are locked
    /// while a statement runs.
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
    /// The table, or the table and column, that the finding is about.
    pub subject: String,
    /// What was found.
    pub problem: String,
    /// What the problem leads to.
    pub consequence: String,
    /// How to repair it.
    pub mend: Mend,
}

impl Finding {
    fn new(
        severity: Severity,
        subject: impl Into<String>,
        problem: impl Into<String>,
        consequence: impl Into<String>,
        mend: Mend,
    ) -> Self {
        Self { severity, subject: subject.into(), problem: problem.into(), consequence: consequence.into(), mend }
    }

    /// Whether [`repair`] can repair it.
    pub fn is_safe(&self) -> bool {
        matches!(self.mend, Mend::Safe(_))
    }

    fn error(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, mend: Mend) -> Self {
        Self::new(Severity::Error, subject, problem, consequence, mend)
    }

    fn warning(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, mend: Mend) -> Self {
        Self::new(Severity::Warning, subject, problem, consequence, mend)
    }
}

/// Compares a database with what Seabed expects: layout, columns, keys, indexes, the account's privileges, and rows
/// that only other programs can have left. Changes nothing. Counts rows, which takes time on large tables.
///
/// # Errors
/// Those of the database.
pub async fn verify(connection: &DatabaseConnection) -> Result<Vec<Finding>> {
    let layout = Layout::of(connection).await.map_err(migration_error)?;
    if layout != Layout::V1 {
        let advice = match layout {
            Layout::Empty => "make them: seabed-migrate up",
            Layout::V0 => "seabed-migrate upgrade",
            Layout::Unknown(_) => "use a release of Seabed that knows them, or another database",
            _ => "copy them into another database: seabed-migrate upgrade --to URL",
        };
        let consequence = "no service of Seabed's starts on this database";
        return Ok(vec![Finding::error("tables", layout.describe(), consequence, Mend::Advice(advice.to_owned()))]);
    }
    let flavor = Flavor::of(connection).await.map_err(migration_error)?;
    let columns = columns(connection).await.map_err(migration_error)?;
    let unfit = unsuitable_columns(dialect_of(connection).map_err(migration_error)?, &columns);
    let is_missing = |unfit: &&UnsuitableColumn| unfit.problem == ColumnProblem::Missing;
    if let Some(missing) = unfit.iter().find(is_missing) {
        let is_table_there = columns.iter().any(|column| column.table_name == missing.table);
        let advice = if is_table_there {
            "add the column by hand; `seabed-migrate up --sql` on an empty database says how"
        } else {
            "make the tables that are missing: seabed-migrate up"
        };
        let mend = Mend::Advice(advice.to_owned());
        return Ok(vec![Finding::error(
            missing.table,
            missing.to_string(),
            "no service of Seabed's starts here",
            mend,
        )]);
    }
    let inexact = unfit.iter().any(|unfit| unfit.problem == ColumnProblem::Risk(SchemaRisk::InexactIds));
    let key = catalog::SessionKey::find(connection, flavor).await.map_err(migration_error)?;
    let key = key.as_ref();
    let mut findings = Vec::new();
    if inexact {
        findings.push(content::inexact_ids(connection, flavor, key, &unfit).await.map_err(migration_error)?);
    }
    findings.extend(unfit.iter().filter_map(|unfit| mend::column(flavor, key, unfit)));
    let has_orphans = !inexact && content::has_orphans(connection).await.map_err(migration_error)?;
    let keys = catalog::keys_and_indexes(connection, flavor, key, has_orphans).await;
    findings.extend(keys.map_err(migration_error)?);
    // Only exact ids show which rows belong together.
    if !inexact {
        findings.extend(content::rows(connection, flavor).await.map_err(migration_error)?);
    }
    findings.extend(rights::missing(connection, flavor).await.map_err(migration_error)?.into_iter().map(|missing| {
        let rights::Missing { table, right, told } = missing;
        Finding::error(
            table,
            format!("this account may not {right} here: {told}"),
            "operations that need it fail",
            Mend::Advice("an administrator runs what `seabed-migrate grants --account NAME` prints".to_owned()),
        )
    }));
    Ok(findings)
}

/// How often [`repair`] verifies again: one repair may reveal the need for another.
const ROUNDS: usize = 3;

/// Runs the statements of all safe repairs in `findings`, under the lock that migrations take.
///
/// # Errors
/// Those of the database. On PostgreSQL and SQLite nothing is then changed. On MySQL and MariaDB, where each statement
/// commits by itself, verify again and continue.
///
/// # Cancel safety
/// The work runs in its own task, and continues when the future is dropped.
pub async fn mend(connection: &DatabaseConnection, findings: &[Finding]) -> Result<()> {
    let safe = findings.iter().filter_map(|finding| match &finding.mend {
        Mend::Safe(statements) => Some(statements.clone()),
        _ => None,
    });
    let statements: Vec<String> = safe.flatten().collect();
    lock::run_locked(connection, move |transaction| {
        Box::pin(async move { crate::execute(transaction, statements).await.map_err(migration_error) })
    })
    .await
}

/// Repeats [`verify`] and [`mend`] while there is something to repair, at most three times. Returns the remaining
/// findings.
///
/// # Errors
/// Those of [`mend`].
pub async fn repair(connection: &DatabaseConnection) -> Result<Vec<Finding>> {
    let mut found = verify(connection).await?;
    for _ in 0..ROUNDS {
        if !found.iter().any(Finding::is_safe) {
            break;
        }
        mend(connection, &found).await?;
        found = verify(connection).await?;
    }
    Ok(found)
}
