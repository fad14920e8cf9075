//! The repair of a column, and of risks that no column shows.

use seabed_core::sql::{ColumnProblem, FoundRisk, SchemaRisk, UnsuitableColumn};

use super::catalog::SessionKey;
use super::{DOES_NOT_START, Finding, Repair, Severity};
use crate::spec::{Database, SchemaSpec};
use crate::{rights, schema};

/// Returns the finding for an unsuitable column. Excludes [`SchemaRisk::InexactIds`], which is one finding for all
/// columns.
pub(super) fn column(spec: &SchemaSpec, keys: &[SessionKey], unsuitable: &UnsuitableColumn) -> Option<Finding> {
    let found = unsuitable.found.as_ref().map_or("", |found| found.data_type.as_str());
    let wanted = match unsuitable.problem {
        ColumnProblem::WrongType { wanted } => wanted,
        ColumnProblem::Risk(SchemaRisk::CoarseTimes) => spec.dialect.timestamp_type(),
        ColumnProblem::Risk(SchemaRisk::ShortText) => spec.dialect.json_type(),
        // The same type, with another character set.
        ColumnProblem::Risk(SchemaRisk::LossyText) => found,
        ColumnProblem::Required => return Some(required(unsuitable)),
        _ => return None,
    };
    let consequence = match unsuitable.problem {
        ColumnProblem::Risk(risk) => risk.consequence(),
        _ => DOES_NOT_START,
    };
    let subject = format!("{}.{}", unsuitable.table, unsuitable.column);
    let repair = change_type(spec, keys, unsuitable, found, wanted);
    Some(Finding::error(&subject, unsuitable.to_string(), consequence, repair))
}

fn required(unsuitable: &UnsuitableColumn) -> Finding {
    let advice = "let the column be null, or give it a default value".to_owned();
    Finding::error(unsuitable.table, unsuitable.to_string(), DOES_NOT_START, Repair::Advice(advice))
}

/// Returns the finding for a risk that no column shows.
pub(super) fn risk(spec: &SchemaSpec, found: &FoundRisk) -> Finding {
    let FoundRisk { risk, subject, .. } = found;
    let table = spec.full_name(subject);
    let repair = match risk {
        SchemaRisk::NoTransactions => Repair::Safe(vec![format!("ALTER TABLE {table} ENGINE = InnoDB")]),
        SchemaRisk::Unlogged => Repair::Safe(vec![format!("ALTER TABLE {table} SET LOGGED")]),
        SchemaRisk::RowSecurity => Repair::Unsafe(vec![format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")]),
        SchemaRisk::OpenSchema => Repair::Unsafe(vec![rights::close_schema(spec, subject)]),
        SchemaRisk::SessionSettings => {
            Repair::Advice("correct the setting, for this account, this database or the server".to_owned())
        }
        SchemaRisk::UnsafeCommits | SchemaRisk::ReducedDurability => Repair::Advice(format!(
            "set {subject} so that a commit is on disk before it is acknowledged, for this account, this database or the \
             server"
        )),
        SchemaRisk::ReadOnlyServer => Repair::Advice("connect to the primary, which takes writes".to_owned()),
        SchemaRisk::MultiPrimary => {
            Repair::Advice("let all writers use the same node, and accept the risk in the service".to_owned())
        }
        SchemaRisk::OtherServer => Repair::Advice("use PostgreSQL, MySQL or MariaDB itself".to_owned()),
        SchemaRisk::WalResetBug => Repair::Advice(
            "link SQLite 3.51.3 or later (3.50.7 and 3.44.6 have the fix too), and find out which SQLite other programs \
             use on this file"
                .to_owned(),
        ),
        _ => Repair::Advice(
            "create a database in UTF-8 with `seabed-migrate up`, and copy into it with `seabed-migrate copy`"
                .to_owned(),
        ),
    };
    let severity = if risk.is_refused() { Severity::Error } else { Severity::Warning };
    Finding::new(severity, subject, found.to_string(), risk.consequence(), repair)
}

fn change_type(
    spec: &SchemaSpec,
    keys: &[SessionKey],
    unsuitable: &UnsuitableColumn,
    found: &str,
    wanted: &str,
) -> Repair {
    let (table, column) = (spec.full_name(unsuitable.table), spec.quote(&unsuitable.column));
    match spec.database {
        Database::Sqlite => Repair::Advice(
            "SQLite cannot change a column: create another database with `seabed-migrate up`, and copy into it with \
             `seabed-migrate copy`"
                .to_owned(),
        ),
        Database::Postgres => {
            let value = match found {
                "timestamp with time zone" => format!("{column} AT TIME ZONE 'UTC'"),
                _ => format!("{column}::{wanted}"),
            };
            let change = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted} USING {value}");
            keeping(&["timestamp", "character varying", "json", "text"], found, vec![change])
        }
        Database::MySql => {
            let null = if schema::is_nullable(unsuitable.table, &unsuitable.column) { "NULL" } else { "NOT NULL" };
            let collation = match (wanted.starts_with("datetime"), spec.id_collation) {
                (false, Some(name)) => format!(" CHARACTER SET utf8mb4 COLLATE {name}"),
                _ => String::new(),
            };
            let change = format!("ALTER TABLE {table} MODIFY {column} {wanted}{collation} {null}");
            // MySQL shows a `timestamp` column in the session's time zone, and a migrator's session uses UTC.
            let keys = if wanted.starts_with("varchar") { keys } else { &[] };
            let kept = ["datetime", "timestamp", "varchar", "text", "tinytext", "mediumtext", "longtext", "json"];
            keeping(&kept, found, SessionKey::around(keys, spec, vec![change]))
        }
    }
}

/// `changes` to a column are safe if its type is one of `kept`, whose values they preserve.
fn keeping(kept: &[&str], found: &str, changes: Vec<String>) -> Repair {
    if kept.iter().any(|name| found.starts_with(name)) { Repair::Safe(changes) } else { Repair::Unsafe(changes) }
}
