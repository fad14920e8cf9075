//! How MySQL and MariaDB describe google-adk's schema.

use sea_orm::DbBackend;
use sea_orm::sea_query::Expr;
use seabed_core::sql::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, is_at_least, name_type};

use crate::MySql;

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
        let schema = schema.map_or_else(|| "DATABASE()".to_owned(), |schema| format!("'{schema}'"));
        let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        format!(
            "SELECT CAST(table_name AS CHAR) AS table_name, CAST(column_name AS CHAR) AS column_name, \
             CAST(LOWER(column_type) AS CHAR) AS data_type, CAST(collation_name AS CHAR) AS collation \
             FROM information_schema.columns WHERE table_schema = {schema} AND table_name IN ({})",
            names.join(", ")
        )
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
                (!found.collation.as_deref().is_some_and(is_exact))
                    .then_some(ColumnProblem::Risk(SchemaRisk::InexactIds))
            }
            ColumnRole::Json => match data_type {
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
