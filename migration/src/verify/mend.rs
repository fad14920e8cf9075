//! The repair of a column.

use seabed_core::sql::{ColumnProblem, SchemaRisk, UnsuitableColumn};

use super::catalog::SessionKey;
use super::{Finding, Mend};
use crate::schema::Flavor;

/// Returns the finding for an unsuitable column. Excludes [`SchemaRisk::InexactIds`], which is one finding for all
/// columns.
pub(super) fn column(flavor: Flavor, key: Option<&SessionKey>, unfit: &UnsuitableColumn) -> Option<Finding> {
    let wanted = match unfit.problem {
        ColumnProblem::WrongType { wanted } => wanted,
        ColumnProblem::Risk(SchemaRisk::CoarseTimes) => flavor.timestamp_type(),
        ColumnProblem::Risk(SchemaRisk::ShortText) => flavor.json_type(),
        _ => return None,
    };
    let consequence = match unfit.problem {
        ColumnProblem::Risk(weakness) => weakness.consequence(),
        _ => "no service of Seabed's starts on this database",
    };
    let subject = format!("{}.{}", unfit.table, unfit.column);
    let found = unfit.found.as_ref().map_or("", |found| found.data_type.as_str());
    Some(Finding::error(&subject, unfit.to_string(), consequence, change_type(flavor, key, unfit, found, wanted)))
}

fn change_type(flavor: Flavor, key: Option<&SessionKey>, unfit: &UnsuitableColumn, found: &str, wanted: &str) -> Mend {
    let (table, column) = (flavor.quote(unfit.table), flavor.quote(unfit.column));
    match flavor {
        Flavor::Sqlite => Mend::Advice(
            "SQLite changes no column: make another database with `seabed-migrate up`, and copy into it with \
             `seabed-migrate copy`"
                .to_owned(),
        ),
        Flavor::Postgres => {
            let value = match found {
                "timestamp with time zone" => format!("{column} AT TIME ZONE 'UTC'"),
                _ => format!("{column}::{wanted}"),
            };
            let change = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted} USING {value}");
            keeping(&["timestamp", "character varying", "json", "text"], found, vec![change])
        }
        Flavor::MySql | Flavor::MariaDb => {
            let null = if unfit.column == "event_data" { "NULL" } else { "NOT NULL" };
            let collation = match (wanted.starts_with("datetime"), flavor.collation()) {
                (false, Some(name)) => format!(" CHARACTER SET utf8mb4 COLLATE {name}"),
                _ => String::new(),
            };
            let change = format!("ALTER TABLE {table} MODIFY {column} {wanted}{collation} {null}");
            // MySQL shows a `timestamp` column in the session's time zone, and a migrator's session uses UTC.
            let key = key.filter(|_| wanted.starts_with("varchar"));
            let kept = ["datetime", "timestamp", "varchar", "text", "tinytext", "json"];
            keeping(&kept, found, SessionKey::around(key, flavor, vec![change]))
        }
    }
}

/// `changes` to a column are safe if its type is one of `kept`, whose values they preserve.
fn keeping(kept: &[&str], found: &str, changes: Vec<String>) -> Mend {
    if kept.iter().any(|name| found.starts_with(name)) { Mend::Safe(changes) } else { Mend::Unsafe(changes) }
}
