//! How PostgreSQL describes google-adk's schema.

use sea_orm::DbBackend;
use sea_orm::sea_query::{Expr, ExprTrait};
use seabed_core::sql::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, is_at_least, name_type};

use crate::Postgres;

impl SchemaDialect for Postgres {
    fn backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    /// There is no built-in operator on `varchar`.
    fn read_name(&self, column: Expr) -> Expr {
        column.cast_as("text")
    }

    fn read_json(&self, column: Expr) -> Expr {
        column.cast_as("text")
    }

    fn write_json(&self, text: Expr) -> Expr {
        text.cast_as("jsonb")
    }

    fn position_function(&self) -> &'static str {
        "pg_catalog.strpos"
    }

    fn json_type(&self) -> &'static str {
        "jsonb"
    }

    fn current_time(&self) -> Expr {
        Expr::cust("pg_catalog.timezone('UTC', pg_catalog.clock_timestamp())")
    }

    fn timestamp_type(&self) -> &'static str {
        "timestamp without time zone"
    }

    /// With `quote_all_identifiers`, `format_type` quotes most types.
    fn columns_query(&self, schema: Option<&str>, names: &[String]) -> String {
        format!(
            "SELECT CAST(class.relname AS text) AS table_name, CAST(attname AS text) AS column_name, \
             pg_catalog.replace(pg_catalog.format_type(atttypid, atttypmod), '\"', '') AS data_type, \
             CAST(collname AS text) AS \"collation\", \
             attnotnull AND NOT atthasdef AND attidentity = CAST('' AS \"char\") AS is_required \
             FROM {} JOIN pg_catalog.pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped \
             LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = attcollation AND NOT collisdeterministic",
            classes(schema, names)
        )
    }

    /// Functions are called by their schema, and types are exact, as in statements: an open schema is one of the risks.
    fn risk_queries(&self, schema: Option<&str>, names: &[String]) -> Vec<(SchemaRisk, String)> {
        let classes = classes(schema, names);
        let of_tables = |found: &str, condition: &str| {
            format!(
                "SELECT CAST(class.relname AS text) AS subject, '{found}' AS found FROM {classes} WHERE {condition}"
            )
        };
        let of_setting = |subject: &str, setting: &str, condition: &str| {
            let found = current(setting);
            format!("SELECT '{subject}' AS subject, {found} AS found WHERE {found} {condition}")
        };
        let other_than = |subject: &str, setting: &str, wanted: &str| of_setting(subject, setting, &other(wanted));
        // Of those who wait for a standby, each commit is on another machine.
        let standbys = current("synchronous_standby_names");
        let alone = format!("AND {standbys} = CAST('' AS text)");
        let beside_standby = format!("AND {standbys} {}", other(""));
        let of_commits = |value: &str, and: &str| {
            let condition = format!("= CAST('{value}' AS text) {and}");
            of_setting("synchronous_commit", "synchronous_commit", &condition)
        };
        let without_fsync = |and: &str| of_setting("fsync", "fsync", &format!("{} {and}", other("on")));
        let standby = "SELECT 'server' AS subject, 'in recovery' AS found WHERE pg_catalog.pg_is_in_recovery()";
        let open_schemas = format!(
            "SELECT CAST(nspname AS text) AS subject, 'CREATE' AS found FROM pg_catalog.pg_namespace \
             WHERE (nspname = ANY (pg_catalog.current_schemas(false)) \
             OR pg_namespace.oid IN (SELECT relnamespace FROM {classes})) \
             AND pg_catalog.has_schema_privilege(CAST('public' AS name), pg_namespace.oid, CAST('CREATE' AS text))"
        );
        vec![
            (SchemaRisk::Unlogged, of_tables("unlogged", "relpersistence = CAST('u' AS \"char\")")),
            (SchemaRisk::RowSecurity, of_tables("active", "pg_catalog.row_security_active(class.oid)")),
            (SchemaRisk::LossyText, other_than("database", "server_encoding", "UTF8")),
            (
                SchemaRisk::SessionSettings,
                other_than("default_transaction_read_only", "default_transaction_read_only", "off"),
            ),
            (SchemaRisk::OpenSchema, open_schemas),
            (SchemaRisk::UnsafeCommits, without_fsync(&alone)),
            (SchemaRisk::UnsafeCommits, of_commits("off", "")),
            (SchemaRisk::ReducedDurability, without_fsync(&beside_standby)),
            (SchemaRisk::ReducedDurability, of_commits("local", &beside_standby)),
            (SchemaRisk::ReducedDurability, other_than("full_page_writes", "full_page_writes", "on")),
            (SchemaRisk::ReadOnlyServer, standby.to_owned()),
            (SchemaRisk::OtherServer, "SELECT 'server' AS subject, pg_catalog.version() AS found".to_owned()),
        ]
    }

    fn column_problem(&self, found: &Column, role: ColumnRole) -> Option<ColumnProblem> {
        let data_type = found.data_type.as_str();
        match role {
            ColumnRole::Name { .. } if found.collation.is_some() => Some(ColumnProblem::Risk(SchemaRisk::InexactIds)),
            ColumnRole::Name { length } => {
                let limit = data_type.strip_prefix("character varying");
                if data_type == "text" || limit.is_some_and(|limit| is_at_least(limit, length)) {
                    return None;
                }
                ColumnRole::wrong_type(name_type(length))
            }
            ColumnRole::Json if data_type == "jsonb" => None,
            ColumnRole::Json => ColumnRole::wrong_type("jsonb"),
            ColumnRole::Time => match data_type {
                "timestamp without time zone" | "timestamp(6) without time zone" => None,
                _ if data_type.ends_with("without time zone") => Some(ColumnProblem::Risk(SchemaRisk::CoarseTimes)),
                _ => ColumnRole::wrong_type("timestamp without time zone"),
            },
        }
    }
}

/// A setting as text.
fn current(setting: &str) -> String {
    format!("pg_catalog.current_setting(CAST('{setting}' AS text))")
}

/// The condition that a text is another than `wanted`.
fn other(wanted: &str) -> String {
    format!("<> CAST('{wanted}' AS text)")
}

/// The tables in the catalog, as `class`. `to_regclass` looks a name up as a statement would.
fn classes(schema: Option<&str>, names: &[String]) -> String {
    let schema = schema.map_or_else(String::new, |schema| format!("{}.", Postgres.quote(schema)));
    let names: Vec<String> = names.iter().map(|name| format!("'{schema}{}'", Postgres.quote(name))).collect();
    format!(
        "pg_catalog.unnest(ARRAY[{}]) AS name JOIN pg_catalog.pg_class class \
         ON class.oid = CAST(pg_catalog.to_regclass(name) AS oid)",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(data_type: &str, collation: Option<&str>, role: ColumnRole) -> Option<ColumnProblem> {
        let (data_type, collation) = (data_type.to_owned(), collation.map(str::to_owned));
        Postgres.column_problem(&Column { data_type, collation, ..Column::default() }, role)
    }

    const ID: ColumnRole = ColumnRole::Name { length: 128 };

    #[test]
    fn types_that_cannot_keep_the_laws_are_named() {
        assert_eq!(problem("timestamp without time zone", None, ColumnRole::Time), None);
        assert_eq!(
            problem("timestamp(3) without time zone", None, ColumnRole::Time),
            Some(ColumnProblem::Risk(SchemaRisk::CoarseTimes))
        );
        assert_eq!(
            problem("timestamp with time zone", None, ColumnRole::Time),
            ColumnRole::wrong_type("timestamp without time zone")
        );
        assert_eq!(problem("jsonb", None, ColumnRole::Json), None);
        assert_eq!(problem("json", None, ColumnRole::Json), ColumnRole::wrong_type("jsonb"));
        for fits in ["character varying", "character varying(128)", "text"] {
            assert_eq!(problem(fits, None, ID), None, "{fits}");
        }
        assert_eq!(problem("character varying(64)", None, ID), ColumnRole::wrong_type("varchar(128)"));
        let folding = Some(ColumnProblem::Risk(SchemaRisk::InexactIds));
        assert_eq!(problem("character varying(128)", Some("ci"), ID), folding);
    }
}
