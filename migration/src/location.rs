//! Where the tables of a store are.
//!
//! A name without a schema is looked for in several places: along PostgreSQL's search path, or in all databases that
//! are attached to SQLite. A new table goes to one of these places, and may hide an old one in another. So whoever
//! creates or drops tables first looks their names up as a statement would, and then names the schema.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};

use crate::schema;
use crate::spec::{Database, SchemaSpec};

/// What a statement with the name of a table would use.
#[derive(FromQueryResult)]
struct Found {
    schema_name: String,
    object_name: String,
    /// `table`, or in words what else it is.
    kind: String,
}

/// The spec with the schema in which the tables are, or will be created.
///
/// # Errors
/// Those of the database; for tables in several schemas; for an object that has the name of a table and is none.
pub(crate) async fn located(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<SchemaSpec, DbErr> {
    let found = found(connection, spec).await?;
    if let Some(Found { schema_name, object_name, kind }) = found.iter().find(|found| found.kind != "table") {
        let message =
            format!("{object_name} in the schema {schema_name} is a {kind} and no table; nothing was changed");
        return Err(DbErr::Migration(message));
    }
    let schemas: BTreeSet<&str> = found.iter().map(|found| found.schema_name.as_str()).collect();
    if schemas.len() > 1 {
        let places: Vec<String> =
            found.iter().map(|found| format!("{} in {}", found.object_name, found.schema_name)).collect();
        return Err(DbErr::Migration(format!(
            "the tables are in several schemas ({}); name one (--schema, Tables::with_schema); nothing was changed",
            places.join(", ")
        )));
    }
    let schema = match (spec.tables.schema(), schemas.first()) {
        (Some(_), _) => None,
        (None, Some(schema)) => Some((*schema).to_owned()),
        (None, None) => home(connection, spec).await?,
    };
    let tables = schema.map(|schema| spec.tables.clone().with_schema(schema));
    // A schema whose name is no plain word is left to the search path.
    let tables = tables.filter(|tables| tables.check().is_ok());
    Ok(SchemaSpec { tables: tables.unwrap_or_else(|| spec.tables.clone()), ..spec.clone() })
}

/// The spec with the database of SQLite in which statements find the tables, if that is one that is attached, or the
/// temporary one. SQLite describes the tables of one database at a time.
pub(crate) async fn attached(connection: &impl ConnectionTrait, spec: SchemaSpec) -> SchemaSpec {
    if spec.database != Database::Sqlite || spec.tables.schema().is_some() {
        return spec;
    }
    // What is wrong with the tables is for the command to say.
    match located(connection, &spec).await {
        Ok(located) if located.tables.schema() != Some("main") => located,
        _ => spec,
    }
}

/// What the names of the tables stand for.
async fn found(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Vec<Found>, DbErr> {
    let names = schema::tables().map(|table| format!("'{}'", spec.name(table))).join(", ");
    let query = match spec.database {
        Database::Postgres => format!(
            "SELECT CAST(nspname AS text) AS schema_name, CAST(relname AS text) AS object_name, \
             CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' \
             WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'relation' END AS kind \
             FROM pg_catalog.unnest(ARRAY[{}]) AS name \
             JOIN pg_catalog.pg_class ON pg_class.oid = CAST(pg_catalog.to_regclass(name) AS oid) \
             JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace",
            schema::tables().map(|table| format!("'{}'", spec.full_name(table))).join(", ")
        ),
        Database::MySql => format!(
            "SELECT CAST(table_schema AS CHAR) AS schema_name, CAST(table_name AS CHAR) AS object_name, \
             CASE WHEN table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') THEN 'table' \
             ELSE CAST(LOWER(table_type) AS CHAR) END AS kind \
             FROM information_schema.tables WHERE table_schema = {} AND table_name IN ({names})",
            spec.catalog_schema()
        ),
        // Temporary tables come first, which have the number 1.
        Database::Sqlite => format!(
            "SELECT databases.name AS schema_name, lower(tables.name) AS object_name, tables.type AS kind \
             FROM pragma_table_list AS tables JOIN pragma_database_list AS databases ON databases.name = tables.schema \
             WHERE object_name IN ({names}) AND {} ORDER BY databases.seq <> 1, databases.seq",
            spec.tables
                .schema()
                .map_or_else(|| "TRUE".to_owned(), |schema| format!("schema_name = '{schema}' COLLATE NOCASE"))
        ),
    };
    let mut by_name = BTreeMap::new();
    for row in connection.query_all_raw(spec.query(query)).await? {
        let found = Found::from_query_result(&row, "")?;
        by_name.entry(found.object_name.clone()).or_insert(found);
    }
    Ok(by_name.into_values().collect())
}

/// The schema of a new table whose name has none; `None` where there is no choice.
async fn home(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Option<String>, DbErr> {
    match spec.database {
        Database::Postgres => {
            let query = spec.query("SELECT CAST(current_schema() AS text) AS schema_name");
            let row = connection.query_one_raw(query).await?;
            Ok(row.map(|row| row.try_get("", "schema_name")).transpose()?.flatten())
        }
        Database::MySql => Ok(None),
        Database::Sqlite => Ok(Some("main".to_owned())),
    }
}
