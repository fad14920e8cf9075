//! What a database has that Seabed would have otherwise, in plain words, with what mends it.

mod catalog;
mod content;
mod mend;

use sea_orm::DatabaseConnection;
use seabed_core::Result;
use seabed_core::sql::{Objection, Unfit, Weakness, columns, unfit_columns};
use serde::Serialize;

use crate::layout::Layout;
use crate::schema::Flavor;
use crate::{lock, migration_error, rights};

#[cfg(feature = "transfer")]
pub(crate) use content::missing_states;

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Slow, or a trap for later.
    Warning,
    /// The service does not start, or data is at risk.
    Error,
}

/// What mends a [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mend {
    /// SQL that changes no stored value, and that [`repair`] runs. On MySQL and MariaDB the tables are locked meanwhile.
    Safe(Vec<String>),
    /// SQL for somebody to decide upon, because it may fail or change what readers see.
    Unsafe(Vec<String>),
    /// What to do instead.
    Advice(String),
}

/// Something about a database that Seabed would have otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a table, or a table and a column.
    pub subject: String,
    /// What was found.
    pub problem: String,
    /// What follows from it.
    pub consequence: String,
    /// What mends it.
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

    fn error(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, mend: Mend) -> Self {
        Self::new(Severity::Error, subject, problem, consequence, mend)
    }

    fn warning(subject: &str, problem: impl Into<String>, consequence: impl Into<String>, mend: Mend) -> Self {
        Self::new(Severity::Warning, subject, problem, consequence, mend)
    }
}

/// Compares a database with what Seabed expects: layout, columns, keys, indexes, rights of the account, and rows that others must
/// have left. Changes nothing. Rows are counted, which takes its time on large tables.
///
/// # Errors
/// Those of the database.
pub async fn verify(connection: &DatabaseConnection) -> Result<Vec<Finding>> {
    let layout = Layout::of(connection).await.map_err(migration_error)?;
    if layout != Layout::V1 {
        let advice = match layout {
            Layout::Empty => "make them: seabed-migrate up",
            Layout::Unknown(_) => "use a release of Seabed that knows them, or another database",
            _ => "seabed-migrate upgrade",
        };
        let consequence = "no service of Seabed's starts on this database";
        return Ok(vec![Finding::error("tables", layout.describe(), consequence, Mend::Advice(advice.to_owned()))]);
    }
    let flavor = Flavor::of(connection).await.map_err(migration_error)?;
    let columns = columns(connection).await.map_err(migration_error)?;
    let unfit = unfit_columns(connection.get_database_backend(), &columns);
    let is_missing = |unfit: &&Unfit| unfit.objection == Objection::Missing;
    if let Some(missing) = unfit.iter().find(is_missing) {
        let mend = Mend::Advice("make the tables that are missing: seabed-migrate up".to_owned());
        return Ok(vec![Finding::error(
            missing.table,
            missing.to_string(),
            "no service of Seabed's starts here",
            mend,
        )]);
    }
    let inexact = unfit.iter().any(|unfit| unfit.objection == Objection::Weak(Weakness::InexactIds));
    let key = catalog::SessionKey::find(connection, flavor).await.map_err(migration_error)?;
    let key = key.as_ref();
    let mut findings = Vec::new();
    if inexact {
        findings.push(content::inexact_ids(connection, flavor, key, &unfit).await.map_err(migration_error)?);
    }
    findings.extend(unfit.iter().filter_map(|unfit| mend::column(flavor, key, unfit)));
    findings.extend(catalog::keys_and_indexes(connection, flavor, key).await.map_err(migration_error)?);
    // Which rows belong together can only be told by exact ids.
    if !inexact {
        findings.extend(content::rows(connection, flavor).await.map_err(migration_error)?);
    }
    findings.extend(rights::missing(connection, flavor).await.into_iter().map(|missing| {
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

/// Runs the statements of the safe findings, under the lock that migrations take, and answers what is left.
///
/// # Errors
/// Those of the database. On PostgreSQL and SQLite nothing is changed then; on MySQL and MariaDB, where each statement commits
/// by itself, run it again.
///
/// # Cancel safety
/// The work goes on in its own task when the future is dropped.
pub async fn repair(connection: &DatabaseConnection) -> Result<Vec<Finding>> {
    // One mend may bring to light what another needs: rows are missing only once ids are exact.
    let mut found = verify(connection).await?;
    loop {
        let statements: Vec<String> = found
            .iter()
            .filter_map(|finding| match &finding.mend {
                Mend::Safe(statements) => Some(statements.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        if statements.is_empty() {
            return Ok(found);
        }
        lock::run_locked(connection, move |transaction| {
            Box::pin(async move { crate::execute(transaction, statements).await.map_err(migration_error) })
        })
        .await?;
        let left = verify(connection).await?;
        if left == found {
            return Ok(left);
        }
        found = left;
    }
}
