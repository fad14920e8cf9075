//! Keys and indexes.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, FromQueryResult, Statement};

use super::{Finding, Mend};
use crate::schema::{self, Flavor};

/// A column of an index, as the database describes it.
#[derive(FromQueryResult)]
struct IndexColumn {
    table_name: String,
    index_name: String,
    is_primary: i64,
    column_name: String,
}

/// Returns the query for the columns of all indexes on Seabed's tables, in index order.
fn index_query(flavor: Flavor) -> String {
    let names = schema::tables().map(|table| format!("'{table}'")).join(", ");
    match flavor {
        Flavor::Postgres => format!(
            "SELECT CAST(name AS text) AS table_name, CAST(indexrelid AS text) AS index_name, \
             CAST(indisprimary AS int)::bigint AS is_primary, CAST(attname AS text) AS column_name \
             FROM unnest(ARRAY[{names}]) AS name JOIN pg_index ON indrelid = to_regclass(name) AND indisvalid \
             CROSS JOIN LATERAL unnest(indkey) WITH ORDINALITY AS key (number, place) \
             JOIN pg_attribute ON attrelid = indrelid AND attnum = key.number ORDER BY indexrelid, place"
        ),
        Flavor::Sqlite => format!(
            "SELECT tables.name AS table_name, indexes.name AS index_name, indexes.origin = 'pk' AS is_primary, \
             keys.name AS column_name FROM sqlite_master AS tables, pragma_index_list(tables.name) AS indexes, \
             pragma_index_info(indexes.name) AS keys WHERE tables.type = 'table' AND tables.name IN ({names}) \
             ORDER BY tables.name, indexes.name, keys.seqno"
        ),
        Flavor::MySql | Flavor::MariaDb => format!(
            "SELECT CAST(table_name AS CHAR) AS table_name, CAST(index_name AS CHAR) AS index_name, \
             CAST(index_name = 'PRIMARY' AS SIGNED) AS is_primary, CAST(column_name AS CHAR) AS column_name \
             FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name IN ({names}) \
             ORDER BY table_name, index_name, seq_in_index"
        ),
    }
}

/// The foreign key from `events` to `sessions`.
pub(super) struct SessionKey {
    /// Its name; empty on SQLite.
    pub(super) name: String,
    /// Whether deleting a session deletes its events.
    pub(super) cascades: bool,
}

const KEY: &str = "(app_name, user_id, session_id) REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE";

impl SessionKey {
    pub(super) async fn find(connection: &DatabaseConnection, flavor: Flavor) -> Result<Option<Self>, DbErr> {
        let query = match flavor {
            Flavor::Postgres => {
                "SELECT CAST(conname AS text) AS name, confdeltype = 'c' AS cascades FROM pg_constraint \
                 WHERE contype = 'f' AND conrelid = to_regclass('events') AND confrelid = to_regclass('sessions')"
            }
            Flavor::Sqlite => {
                "SELECT '' AS name, on_delete = 'CASCADE' AS cascades FROM pragma_foreign_key_list('events') \
                 WHERE \"table\" = 'sessions'"
            }
            // The catalog shows constraints only to accounts with more privileges than a service needs.
            Flavor::MySql | Flavor::MariaDb => "SHOW CREATE TABLE events",
        };
        let row = connection.query_one_raw(Statement::from_string(connection.get_database_backend(), query)).await?;
        let Some(row) = row else { return Ok(None) };
        if matches!(flavor, Flavor::Postgres | Flavor::Sqlite) {
            return Ok(Some(Self { name: row.try_get("", "name")?, cascades: row.try_get("", "cascades")? }));
        }
        let created: String = row.try_get_by_index(1)?;
        Ok(created.lines().find_map(|line| {
            let (before, _) =
                line.split_once(" FOREIGN KEY ").filter(|(_, after)| after.contains("REFERENCES `sessions`"))?;
            let name = before.trim().strip_prefix("CONSTRAINT `")?.strip_suffix('`')?.to_owned();
            Some(Self { name, cascades: line.contains("ON DELETE CASCADE") })
        }))
    }

    /// Wraps `changes` in statements that drop the key before and add it again after: MySQL and MariaDB cannot change a
    /// column that is part of a key.
    pub(super) fn around(key: Option<&Self>, flavor: Flavor, changes: Vec<String>) -> Vec<String> {
        let Some(Self { name, .. }) = key else { return changes };
        let name = flavor.quote(name);
        let drop = format!("ALTER TABLE events DROP FOREIGN KEY {name}");
        let add = format!("ALTER TABLE events ADD CONSTRAINT {name} FOREIGN KEY {KEY}");
        [vec![drop], changes, vec![add]].concat()
    }
}

pub(super) async fn keys_and_indexes(
    connection: &DatabaseConnection,
    flavor: Flavor,
    key: Option<&SessionKey>,
    has_orphans: bool,
) -> Result<Vec<Finding>, DbErr> {
    let backend = connection.get_database_backend();
    let rows = connection.query_all_raw(Statement::from_string(backend, index_query(flavor))).await?;
    let mut primary_keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut indexes: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for row in &rows {
        let IndexColumn { table_name, index_name, is_primary, column_name } = IndexColumn::from_query_result(row, "")?;
        if is_primary != 0 {
            primary_keys.entry(table_name.clone()).or_default().push(column_name.clone());
        }
        indexes.entry((table_name, index_name)).or_default().push(column_name);
    }
    let mut findings = Vec::new();
    for (table, key) in schema::primary_keys() {
        let mut found = primary_keys.get(table).cloned().unwrap_or_default();
        let mut wanted: Vec<String> = key.iter().map(ToString::to_string).collect();
        found.sort();
        wanted.sort();
        if found != wanted {
            let quoted = key.iter().map(|name| flavor.quote(name)).collect::<Vec<_>>().join(", ");
            findings.push(Finding::error(
                table,
                format!("the primary key is ({}) instead of ({})", found.join(", "), key.join(", ")),
                "concurrent writers store rows twice, or fail",
                match flavor {
                    Flavor::Sqlite => Mend::Advice("copy into a new database with `seabed-migrate copy`".to_owned()),
                    _ => Mend::Unsafe(vec![format!("ALTER TABLE {} ADD PRIMARY KEY ({quoted})", flavor.quote(table))]),
                },
            ));
        }
    }
    let order = ["app_name", "user_id", "session_id", "timestamp"];
    let is_ours = |((table, _), columns): (&(String, String), &Vec<String>)| {
        table == "events" && columns.iter().zip(order).filter(|(found, wanted)| found == wanted).count() == order.len()
    };
    if !indexes.iter().any(is_ours) {
        findings.push(Finding::warning(
            "events",
            "there is no index on (app_name, user_id, session_id, timestamp, id)",
            "reading one session reads the events of all",
            Mend::Safe(vec![schema::create_events_index(flavor)]),
        ));
    }
    if !key.is_some_and(|key| key.cascades) {
        findings.push(Finding::warning(
            "events",
            "no foreign key takes the events of a session away with it",
            "google-adk's delete_session leaves events behind, which the next session of that id would have",
            match flavor {
                Flavor::Sqlite => Mend::Advice("copy into a new database with `seabed-migrate copy`".to_owned()),
                // For example after a repair that was interrupted between dropping the key and adding it again.
                _ if key.is_none() && !has_orphans => {
                    Mend::Safe(vec![format!("ALTER TABLE events ADD FOREIGN KEY {KEY}")])
                }
                _ => Mend::Unsafe(vec![format!("ALTER TABLE events ADD FOREIGN KEY {KEY}")]),
            },
        ));
    }
    Ok(findings)
}
