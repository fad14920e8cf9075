//! How SQLite describes google-adk's schema.

use sea_orm::sea_query::Expr;
use sea_orm::{DbBackend, Value};
use seabed_core::Timestamp;
use seabed_core::sql::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, name_type};

use crate::{Sqlite, TIMESTAMP};

impl SchemaDialect for Sqlite {
    fn backend(&self) -> DbBackend {
        DbBackend::Sqlite
    }

    /// The text that google-adk (SQLAlchemy) writes, always with six digits: it reads a shorter fraction as that many
    /// microseconds, and texts of one width compare as the times do.
    fn timestamp(&self, timestamp: Timestamp) -> Value {
        timestamp.to_naive_utc().format_with_items(TIMESTAMP.iter()).to_string().into()
    }

    fn json_type(&self) -> &'static str {
        "TEXT"
    }

    fn current_time(&self) -> Expr {
        Expr::cust("strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    }

    fn timestamp_type(&self) -> &'static str {
        "DATETIME"
    }

    fn columns_query(&self, schema: Option<&str>, names: &[String]) -> String {
        format!(
            "SELECT tables.name AS table_name, columns.name AS column_name, lower(columns.type) AS data_type, \
             (SELECT keys.coll FROM pragma_index_list(tables.name, tables.schema) AS indexes, \
             pragma_index_xinfo(indexes.name, tables.schema) AS keys \
             WHERE indexes.origin = 'pk' AND keys.name = columns.name) AS collation, \
             columns.\"notnull\" AND columns.dflt_value IS NULL AND columns.pk = 0 AS is_required \
             FROM ({}) AS tables, pragma_table_info(tables.name, tables.schema) AS columns \
             WHERE tables.place = 1 AND tables.type = 'table'",
            looked_up(schema, names)
        )
    }

    /// A database in memory has no file to lose.
    fn risk_queries(&self, schema: Option<&str>, names: &[String]) -> Vec<(SchemaRisk, String)> {
        let tables = looked_up(schema, names);
        let of_file = |subject: &str, found: &str, condition: &str| {
            format!(
                "SELECT '{subject}' AS subject, {found} AS found FROM pragma_database_list AS databases, \
                 pragma_journal_mode(databases.name) AS journal, pragma_synchronous(databases.name) AS sync \
                 WHERE databases.name IN (SELECT schema FROM ({tables}) WHERE place = 1) \
                 AND databases.file <> '' AND {condition}"
            )
        };
        vec![
            (SchemaRisk::WalResetBug, of_file("SQLite", "sqlite_version()", "journal.journal_mode = 'wal'")),
            (SchemaRisk::UnsafeCommits, of_file("synchronous", "'OFF'", "sync.synchronous = 0")),
            (
                SchemaRisk::UnsafeCommits,
                of_file("journal_mode", "journal.journal_mode", "journal.journal_mode IN ('memory', 'off')"),
            ),
            (SchemaRisk::ReducedDurability, of_file("synchronous", "'NORMAL'", "sync.synchronous = 1")),
        ]
    }

    fn confirms_risk(&self, risk: SchemaRisk, found: &str) -> bool {
        risk != SchemaRisk::WalResetBug || has_wal_reset_bug(found)
    }

    /// SQLite stores any text in any column but a numeric one, whatever its type says.
    fn column_problem(&self, found: &Column, role: ColumnRole) -> Option<ColumnProblem> {
        let is_number = ["real", "floa", "doub", "int"].iter().any(|name| found.data_type.contains(name));
        let wanted = match role {
            ColumnRole::Name { .. } if found.collation.as_deref().is_some_and(|name| name != "BINARY") => {
                return Some(ColumnProblem::Risk(SchemaRisk::InexactIds));
            }
            ColumnRole::Name { length } => name_type(length),
            ColumnRole::Json => "text",
            ColumnRole::Time => "datetime",
        };
        if is_number { ColumnRole::wrong_type(wanted) } else { None }
    }
}

/// A query for what the names of tables stand for: in a database, or where SQLite looks names up. There the first
/// `place` is the temporary database, which has the number 1, then the main one, then the attached ones.
pub(crate) fn looked_up(schema: Option<&str>, names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let of_schema = schema.map_or_else(String::new, |schema| format!(" AND list.schema = '{schema}' COLLATE NOCASE"));
    format!(
        "SELECT lower(list.name) AS name, list.schema, list.type, \
         row_number() OVER (PARTITION BY lower(list.name) ORDER BY databases.seq <> 1, databases.seq) AS place \
         FROM pragma_table_list AS list JOIN pragma_database_list AS databases ON databases.name = list.schema \
         WHERE lower(list.name) IN ({}){of_schema}",
        names.join(", ")
    )
}

/// Whether a version of SQLite has the bug that 3.51.3 fixed. The fix is in two older releases too. A version that
/// cannot be read is taken for an old one.
fn has_wal_reset_bug(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    match (next(), next(), next()) {
        (3, 50, patch) => patch < 7,
        (3, 44, patch) => patch < 6,
        version => version < (3, 51, 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_wal_reset_bug_are_known() {
        for affected in ["3.7.17", "3.44.5", "3.45.0", "3.46.0", "3.50.6", "3.51", "3.51.2", "unknown"] {
            assert!(Sqlite.confirms_risk(SchemaRisk::WalResetBug, affected), "{affected}");
        }
        for sound in ["3.44.6", "3.50.7", "3.51.3", "3.53.0", "4.0.0"] {
            assert!(!Sqlite.confirms_risk(SchemaRisk::WalResetBug, sound), "{sound}");
        }
        assert!(Sqlite.confirms_risk(SchemaRisk::UnsafeCommits, "OFF"));
    }

    fn problem(data_type: &str, collation: Option<&str>, role: ColumnRole) -> Option<ColumnProblem> {
        let (data_type, collation) = (data_type.to_owned(), collation.map(str::to_owned));
        Sqlite.column_problem(&Column { data_type, collation, ..Column::default() }, role)
    }

    #[test]
    fn numbers_and_collations_that_fold_ids_are_named() {
        assert_eq!(problem("datetime", None, ColumnRole::Time), None);
        assert_eq!(problem("real", None, ColumnRole::Time), ColumnRole::wrong_type("datetime"));
        let folding = Some(ColumnProblem::Risk(SchemaRisk::InexactIds));
        assert_eq!(problem("varchar(128)", Some("NOCASE"), ColumnRole::Name { length: 128 }), folding);
    }
}
