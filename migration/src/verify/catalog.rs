//! Keys and indexes.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, FromQueryResult};

use super::create_table::{ForeignKey, foreign_keys};
use super::{Finding, Repair, content};
use crate::spec::{Database, SchemaSpec};
use crate::{own_tables, schema};

/// What to do about a table that SQLite cannot change.
const COPY: &str = "copy into a new database with `seabed-migrate copy`";

/// A column of an index, as the database describes it.
#[derive(FromQueryResult)]
struct IndexColumn {
    table_name: String,
    index_name: String,
    is_primary: i64,
    column_name: String,
}

/// Returns the query for the columns of all indexes on Seabed's tables, in index order.
fn index_query(spec: &SchemaSpec) -> String {
    let schema = spec.catalog_schema();
    let names = schema::tables().map(|table| format!("'{}'", spec.name(table))).join(", ");
    match spec.database {
        Database::Postgres => format!(
            "SELECT CAST(class.relname AS text) AS table_name, CAST(indexrelid AS text) AS index_name, \
             CAST(indisprimary AS int)::bigint AS is_primary, CAST(attname AS text) AS column_name \
             FROM pg_catalog.unnest(ARRAY[{}]) AS name \
             JOIN pg_catalog.pg_class class ON class.oid = CAST(pg_catalog.to_regclass(name) AS oid) \
             JOIN pg_catalog.pg_index ON indrelid = class.oid AND indisvalid \
             CROSS JOIN LATERAL pg_catalog.unnest(indkey) WITH ORDINALITY AS key (number, place) \
             JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = key.number ORDER BY indexrelid, place",
            schema::tables().map(|table| format!("'{}'", spec.full_name(table))).join(", ")
        ),
        Database::Sqlite => format!(
            "SELECT tables.name AS table_name, indexes.name AS index_name, indexes.origin = 'pk' AS is_primary, \
             keys.name AS column_name FROM {}.sqlite_master AS tables, \
             pragma_index_list(tables.name, {schema}) AS indexes, pragma_index_info(indexes.name, {schema}) AS keys \
             WHERE tables.type = 'table' AND tables.name IN ({names}) \
             ORDER BY tables.name, indexes.name, keys.seqno",
            spec.quote(spec.tables.schema().unwrap_or("main"))
        ),
        Database::MySql => format!(
            "SELECT CAST(table_name AS CHAR) AS table_name, CAST(index_name AS CHAR) AS index_name, \
             CAST(index_name = 'PRIMARY' AS SIGNED) AS is_primary, CAST(column_name AS CHAR) AS column_name \
             FROM information_schema.statistics WHERE table_schema = {schema} AND table_name IN ({names}) \
             ORDER BY table_name, index_name, seq_in_index"
        ),
    }
}

/// The foreign key from a table to `sessions`. A table may have it several times, under different names.
pub(super) struct SessionKey {
    /// The table.
    table: &'static str,
    /// Its names; none if there is no such key, and empty ones on SQLite.
    names: Vec<String>,
    /// Whether deleting a session deletes its rows.
    cascades: bool,
}

impl SessionKey {
    /// Returns the keys of `events` and of those of Seabed's own tables that there are.
    pub(super) async fn find_all(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Vec<Self>, DbErr> {
        let mut keys = Vec::new();
        for table in ["events"].into_iter().chain(own_tables::existing(connection, spec).await?) {
            keys.push(Self::find(connection, spec, table).await?);
        }
        Ok(keys)
    }

    async fn find(connection: &DatabaseConnection, spec: &SchemaSpec, table: &'static str) -> Result<Self, DbErr> {
        let (dependent, sessions) = (spec.name(table), spec.name("sessions"));
        let query = match spec.database {
            Database::Postgres => format!(
                "SELECT CAST(conname AS text) AS name, confdeltype = 'c' AS cascades FROM pg_catalog.pg_constraint \
                 WHERE contype = 'f' AND conrelid = CAST(pg_catalog.to_regclass('{}') AS oid) \
                 AND confrelid = CAST(pg_catalog.to_regclass('{}') AS oid)",
                spec.full_name(table),
                spec.full_name("sessions")
            ),
            Database::Sqlite => format!(
                "SELECT '' AS name, on_delete = 'CASCADE' AS cascades \
                 FROM pragma_foreign_key_list('{dependent}', {}) WHERE \"table\" = '{sessions}'",
                spec.catalog_schema()
            ),
            Database::MySql => format!("SHOW CREATE TABLE {}", spec.full_name(table)),
        };
        let mut keys = Vec::new();
        for row in connection.query_all_raw(spec.query(query)).await? {
            match spec.database {
                Database::Postgres | Database::Sqlite => {
                    keys.push(ForeignKey { name: row.try_get("", "name")?, cascades: row.try_get("", "cascades")? });
                }
                Database::MySql => keys.extend(foreign_keys(&row.try_get_by_index::<String>(1)?, &sessions)),
            }
        }
        let cascades = keys.iter().any(|key| key.cascades);
        Ok(Self { table, names: keys.into_iter().map(|key| key.name).collect(), cascades })
    }

    /// The table that has the key.
    pub(super) fn table(&self) -> &'static str {
        self.table
    }

    /// Wraps `changes` in statements that drop the keys before and add each again, once, after: MySQL and MariaDB
    /// cannot change a column that is part of a key.
    pub(super) fn around(keys: &[Self], spec: &SchemaSpec, changes: Vec<String>) -> Vec<String> {
        let (mut drops, mut adds) = (Vec::new(), Vec::new());
        for Self { table, names, .. } in keys {
            let table = spec.full_name(table);
            let drop = |name: &String| format!("ALTER TABLE {table} DROP FOREIGN KEY {}", spec.quote(name));
            let add = |name: &String| {
                format!("ALTER TABLE {table} ADD CONSTRAINT {} {}", spec.quote(name), foreign_key_sql(spec))
            };
            drops.extend(names.iter().map(drop));
            adds.extend(names.iter().take(1).map(add));
        }
        [drops, changes, adds].concat()
    }
}

fn foreign_key_sql(spec: &SchemaSpec) -> String {
    format!(
        "FOREIGN KEY (app_name, user_id, session_id) REFERENCES {} (app_name, user_id, id) ON DELETE CASCADE",
        spec.full_name("sessions")
    )
}

/// Findings about primary keys and indexes.
pub(super) async fn keys_and_indexes(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
) -> Result<Vec<Finding>, DbErr> {
    let mut primary_keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut indexes: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for row in connection.query_all_raw(spec.query(index_query(spec))).await? {
        let IndexColumn { table_name, index_name, is_primary, column_name } = IndexColumn::from_query_result(&row, "")?;
        let table = spec.base_name(&table_name).to_owned();
        if is_primary != 0 {
            primary_keys.entry(table.clone()).or_default().push(column_name.clone());
        }
        indexes.entry((table, index_name)).or_default().push(column_name);
    }
    let mut findings = Vec::new();
    let missing = own_tables::missing(connection, spec).await?;
    for (table, key) in schema::primary_keys().into_iter().filter(|(table, _)| !missing.contains(table)) {
        let found = primary_keys.remove(table).unwrap_or_default();
        findings.extend(primary_key(spec, table, &key, found));
    }
    let has_index = |table: &str, order: &[&str]| {
        let begins =
            |columns: &Vec<String>| columns.len() >= order.len() && columns.iter().zip(order).all(|(a, b)| a == b);
        indexes.iter().any(|((of, _), columns)| of == table && begins(columns))
    };
    if !has_index("events", &["app_name", "user_id", "session_id", "timestamp"]) {
        findings.push(Finding::warning(
            "events",
            "there is no index on (app_name, user_id, session_id, timestamp, id)",
            "reading one session reads the events of all",
            Repair::Safe(vec![schema::create_events_index(spec)]),
        ));
    }
    let labels = own_tables::LABELS_INDEX;
    if !missing.contains(&labels.table) && !has_index(labels.table, &["app_name", "name", "value"]) {
        findings.push(Finding::warning(
            labels.table,
            "there is no index on (app_name, name, value, user_id, session_id)",
            "finding sessions by a label reads the labels of all",
            Repair::Safe(vec![schema::create_index(spec, "INDEX", &labels)]),
        ));
    }
    Ok(findings)
}

fn primary_key(spec: &SchemaSpec, table: &str, key: &[&str], mut found: Vec<String>) -> Option<Finding> {
    let mut wanted: Vec<String> = key.iter().map(ToString::to_string).collect();
    found.sort();
    wanted.sort();
    if found == wanted {
        return None;
    }
    let repair = match spec.database {
        Database::Sqlite => Repair::Advice(COPY.to_owned()),
        Database::Postgres | Database::MySql => {
            let quoted = key.iter().map(|name| spec.quote(name)).collect::<Vec<_>>().join(", ");
            Repair::Unsafe(vec![format!("ALTER TABLE {} ADD PRIMARY KEY ({quoted})", spec.full_name(table))])
        }
    };
    Some(Finding::error(
        table,
        format!("the primary key is ({}) instead of ({})", found.join(", "), key.join(", ")),
        "concurrent writers store rows twice, or fail",
        repair,
    ))
}

/// The finding that no foreign key deletes the rows of a deleted session.
pub(super) fn foreign_key(spec: &SchemaSpec, key: &SessionKey, has_orphans: bool) -> Option<Finding> {
    if key.cascades {
        return None;
    }
    let table = key.table;
    let repair = match spec.database {
        Database::Sqlite => Repair::Advice(COPY.to_owned()),
        Database::Postgres | Database::MySql => {
            // Safe for example after a repair that was interrupted between dropping the key and adding it again.
            let add = vec![format!("ALTER TABLE {} ADD {}", spec.full_name(table), foreign_key_sql(spec))];
            if key.names.is_empty() && !has_orphans { Repair::Safe(add) } else { Repair::Unsafe(add) }
        }
    };
    let what = content::rows_of(table);
    Some(Finding::warning(
        table,
        format!("no foreign key deletes the {what} of a session with it"),
        format!("google-adk's delete_session leaves {what} behind, and the next session with that id would have them"),
        repair,
    ))
}
