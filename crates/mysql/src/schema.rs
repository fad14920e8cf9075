//! How MySQL and MariaDB describe google-adk's schema.

use sea_orm::DbBackend;
use sea_orm::sea_query::Expr;
use seabed_core::sql::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, is_at_least, name_type};

use crate::MySql;

/// Whether a session's transactions are read-only: a variable with two names, each for one of the servers.
const READ_ONLY: &str = "/*M! @@tx_read_only */ /*!80000 @@transaction_read_only */";

impl SchemaDialect for MySql {
    fn backend(&self) -> DbBackend {
        DbBackend::MySql
    }

    fn quote(&self, name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    fn json_type(&self) -> &'static str {
        "longtext"
    }

    fn current_time(&self) -> Expr {
        Expr::cust("UTC_TIMESTAMP(6)")
    }

    fn timestamp_type(&self) -> &'static str {
        "datetime(6)"
    }

    fn version_query(&self) -> Option<&'static str> {
        Some("SELECT VERSION() AS version")
    }

    /// Binary, and without padding: under `utf8mb4_bin`, `bob` and `bob␠` would still be equal.
    fn id_collation(&self, version: &str) -> Option<&'static str> {
        Some(if version.contains("MariaDB") { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" })
    }

    fn columns_query(&self, schema: Option<&str>, names: &[String]) -> String {
        format!(
            "SELECT CAST(table_name AS CHAR) AS table_name, CAST(column_name AS CHAR) AS column_name, \
             CAST(LOWER(column_type) AS CHAR) AS data_type, CAST(collation_name AS CHAR) AS collation, \
             CAST(is_nullable = 'NO' AND column_default IS NULL AND extra NOT LIKE '%auto_increment%' \
             AND extra NOT LIKE '%GENERATED%' AS SIGNED) AS is_required \
             FROM information_schema.columns WHERE {}",
            of_tables(schema, names)
        )
    }

    fn risk_queries(&self, schema: Option<&str>, names: &[String]) -> Vec<(SchemaRisk, String)> {
        let without_transactions = format!(
            "SELECT CAST(table_name AS CHAR) AS subject, CAST(found.engine AS CHAR) AS found \
             FROM information_schema.tables AS found \
             JOIN information_schema.engines AS engines ON engines.engine = found.engine \
             WHERE {} AND transactions = 'NO'",
            of_tables(schema, names)
        );
        let settings = [
            ("autocommit", "@@autocommit", "@@autocommit = 0"),
            ("sql_mode", "'without strict mode'", "@@sql_mode NOT LIKE '%STRICT%'"),
            ("sql_mode", "'EMPTY_STRING_IS_NULL'", "@@sql_mode LIKE '%EMPTY_STRING_IS_NULL%'"),
            // There, BEGIN begins no transaction.
            ("sql_mode", "'ORACLE'", "@@sql_mode LIKE '%ORACLE%'"),
            ("character_set_client", "@@character_set_client", "@@character_set_client <> 'utf8mb4'"),
            ("character_set_results", "@@character_set_results", "@@character_set_results <> 'utf8mb4'"),
            ("transaction_read_only", READ_ONLY, &format!("{READ_ONLY} = 1")),
        ];
        // With a binary log, MariaDB and MySQL recover from the log, and roll back what it lacks. Only MariaDB has the
        // value 3, which also syncs the commit in InnoDB. It reports switches as numbers or words, depending on its
        // version.
        let settings_of_server = [
            (SchemaRisk::UnsafeCommits, "innodb_flush_log_at_trx_commit", "IN (0, 2)"),
            (
                SchemaRisk::ReducedDurability,
                "sync_binlog",
                "<> 1 AND @@innodb_flush_log_at_trx_commit <> 3 AND CAST(@@log_bin AS CHAR) NOT IN ('0', 'OFF')",
            ),
            (SchemaRisk::ReducedDurability, "innodb_doublewrite", "IN ('0', 'OFF', 'DETECT_ONLY')"),
            (SchemaRisk::ReadOnlyServer, "read_only", "NOT IN ('0', 'OFF')"),
            // A reader of Amazon Aurora.
            (SchemaRisk::ReadOnlyServer, "innodb_read_only", "NOT IN ('0', 'OFF')"),
        ];
        // By its mode, not by the members that are there just now. MariaDB and MySQL list these in different schemas.
        let clusters = [
            ("global_status", "wsrep_cluster_size", "CAST(variable_value AS SIGNED) > 0"),
            ("global_variables", "group_replication_single_primary_mode", "variable_value = 'OFF'"),
        ];
        let cluster = |(list, name, condition): (&str, &str, &str)| {
            let query = format!(
                "SELECT '{name}' AS subject, CAST(variable_value AS CHAR) AS found \
                 FROM /*M! information_schema.{list} */ /*!80000 performance_schema.{list} */ \
                 WHERE variable_name = '{name}' AND {condition}"
            );
            (SchemaRisk::MultiPrimary, query)
        };
        let bent = |(name, found, condition): (&str, &str, &str)| {
            format!("SELECT '{name}' AS subject, CAST({found} AS CHAR) AS found FROM DUAL WHERE {condition}")
        };
        let of_settings = settings.map(|setting| (SchemaRisk::SessionSettings, bent(setting)));
        let of_server = settings_of_server.map(|(risk, name, bad)| {
            let (found, condition) = (format!("@@{name}"), format!("CAST(@@{name} AS CHAR) {bad}"));
            (risk, bent((name, &found, &condition)))
        });
        let first = [(SchemaRisk::NoTransactions, without_transactions)].into_iter();
        let version = "SELECT 'server' AS subject, CAST(VERSION() AS CHAR) AS found FROM DUAL".to_owned();
        let of_product = clusters.map(cluster).into_iter().chain([(SchemaRisk::OtherServer, version)]);
        first.chain(of_settings).chain(of_server).chain(of_product).collect()
    }

    fn column_problem(&self, found: &Column, role: ColumnRole) -> Option<ColumnProblem> {
        let data_type = found.data_type.as_str();
        match role {
            ColumnRole::Name { length } => {
                let limit = data_type.strip_prefix("varchar");
                if !limit.is_some_and(|limit| is_at_least(limit, length)) {
                    return ColumnRole::wrong_type(name_type(length));
                }
                let is_exact = |name: &str| name == "utf8mb4_0900_bin" || name.ends_with("_nopad_bin");
                if !found.collation.as_deref().is_some_and(is_exact) {
                    return Some(ColumnProblem::Risk(SchemaRisk::InexactIds));
                }
                lacks_characters(found).then_some(ColumnProblem::Risk(SchemaRisk::LossyText))
            }
            ColumnRole::Json => match data_type {
                "longtext" | "mediumtext" if lacks_characters(found) => {
                    Some(ColumnProblem::Risk(SchemaRisk::LossyText))
                }
                "longtext" | "mediumtext" => None,
                "text" | "tinytext" => Some(ColumnProblem::Risk(SchemaRisk::ShortText)),
                _ => ColumnRole::wrong_type("longtext"),
            },
            ColumnRole::Time => match data_type {
                "datetime(6)" => None,
                _ if data_type.starts_with("datetime") => Some(ColumnProblem::Risk(SchemaRisk::CoarseTimes)),
                _ => ColumnRole::wrong_type("datetime(6)"),
            },
        }
    }
}

/// The tables in a query on `information_schema`.
fn of_tables(schema: Option<&str>, names: &[String]) -> String {
    let schema = schema.map_or_else(|| "DATABASE()".to_owned(), |schema| format!("'{schema}'"));
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("table_schema = {schema} AND table_name IN ({})", names.join(", "))
}

/// Whether the character set of a column is not one of all of Unicode. The name of a collation begins with it.
fn lacks_characters(found: &Column) -> bool {
    let is_unicode = |name: &str| ["utf8mb4_", "utf16", "utf32_", "gb18030_"].iter().any(|set| name.starts_with(set));
    !found.collation.as_deref().is_some_and(is_unicode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(data_type: &str, collation: &str, role: ColumnRole) -> Option<ColumnProblem> {
        let (data_type, collation) = (data_type.to_owned(), Some(collation.to_owned()));
        MySql.column_problem(&Column { data_type, collation, ..Column::default() }, role)
    }

    const ID: ColumnRole = ColumnRole::Name { length: 128 };

    #[test]
    fn collations_that_fold_ids_are_named() {
        for exact in ["utf8mb4_0900_bin", "utf8mb4_nopad_bin"] {
            assert_eq!(problem("varchar(128)", exact, ID), None, "{exact}");
        }
        for inexact in ["utf8mb4_0900_ai_ci", "utf8mb4_general_ci", "utf8mb4_bin", "latin1_swedish_ci"] {
            let folding = Some(ColumnProblem::Risk(SchemaRisk::InexactIds));
            assert_eq!(problem("varchar(128)", inexact, ID), folding, "{inexact}");
        }
    }

    #[test]
    fn character_sets_that_lose_text_are_named() {
        for lossy in ["latin1_swedish_ci", "utf8mb3_bin", "utf8_general_ci", "ascii_bin"] {
            let lost = Some(ColumnProblem::Risk(SchemaRisk::LossyText));
            assert_eq!(problem("longtext", lossy, ColumnRole::Json), lost, "{lossy}");
        }
        for unicode in ["utf8mb4_0900_bin", "utf8mb4_general_ci", "utf16_bin", "utf16le_bin"] {
            assert_eq!(problem("longtext", unicode, ColumnRole::Json), None, "{unicode}");
        }
        let exact_but_lossy = Some(ColumnProblem::Risk(SchemaRisk::LossyText));
        assert_eq!(problem("varchar(128)", "latin1_nopad_bin", ID), exact_but_lossy);
    }

    #[test]
    fn types_that_cannot_keep_the_laws_are_named() {
        let of = |data_type, role| problem(data_type, "utf8mb4_0900_bin", role);
        assert_eq!(of("datetime(6)", ColumnRole::Time), None);
        assert_eq!(of("datetime", ColumnRole::Time), Some(ColumnProblem::Risk(SchemaRisk::CoarseTimes)));
        assert_eq!(of("timestamp(6)", ColumnRole::Time), ColumnRole::wrong_type("datetime(6)"));
        assert_eq!(of("longtext", ColumnRole::Json), None);
        assert_eq!(of("text", ColumnRole::Json), Some(ColumnProblem::Risk(SchemaRisk::ShortText)));
        assert_eq!(of("json", ColumnRole::Json), ColumnRole::wrong_type("longtext"));
        assert_eq!(of("varchar(64)", ID), ColumnRole::wrong_type("varchar(128)"));
    }
}
