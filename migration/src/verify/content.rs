//! Findings about rows that other programs have written, by their keys and times; the database compares them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};
use seabed_core::sql::{ColumnProblem, SchemaRisk, UnsuitableColumn};

use super::catalog::SessionKey;
use super::{Finding, Repair};
use crate::spec::{Database, SchemaSpec};
use crate::{own_tables, schema};

/// The maximum number of ids, or of rows, that a finding names.
pub(super) const NAMED: usize = 10;

/// Those of the columns whose collation treats different ids as equal.
fn inexact(unsuitable: &[UnsuitableColumn]) -> impl Iterator<Item = &UnsuitableColumn> {
    unsuitable.iter().filter(|column| column.problem == ColumnProblem::Risk(SchemaRisk::InexactIds))
}

/// Returns one finding for all columns whose collation treats different ids as equal: they are repaired together or not
/// at all.
pub(super) async fn inexact_ids(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    keys: &[SessionKey],
    unsuitable: &[UnsuitableColumn],
) -> Result<Finding, DbErr> {
    let columns: Vec<String> =
        inexact(unsuitable).map(|column| format!("{}.{}", column.table, column.column)).collect();
    let first = inexact(unsuitable).next().map(ToString::to_string).unwrap_or_default();
    let mut problem = format!("{first} ({} such columns)", columns.len());
    let repair = match spec.id_collation {
        None => Repair::Advice(
            "create another database with `seabed-migrate up`, and copy into it with `seabed-migrate copy`".to_owned(),
        ),
        Some(collation) => {
            let convert = |table: &str| {
                format!("ALTER TABLE {} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}", spec.full_name(table))
            };
            let missing = own_tables::missing(connection, spec).await?;
            let tables = schema::tables().into_iter().filter(|table| !missing.contains(table));
            let statements = SessionKey::around(keys, spec, tables.map(convert).collect());
            let collisions = collisions(connection, spec, unsuitable).await?;
            if collisions.is_empty() {
                Repair::Safe(statements)
            } else {
                problem.push_str("; treated as one id now:");
                for ids in collisions.iter().take(NAMED) {
                    write!(problem, " {ids};").map_err(|error| DbErr::Custom(error.to_string()))?;
                }
                if collisions.len() > NAMED {
                    problem.push_str(" and others;");
                }
                problem.push_str(" once ids are exact, they no longer share state, and events may lose their session");
                Repair::Unsafe(statements)
            }
        }
    };
    Ok(Finding::error(&columns.join(", "), problem, SchemaRisk::InexactIds.consequence(), repair))
}

/// Returns ids that are stored in several spellings that a collation treats as equal, on MySQL and MariaDB.
pub(crate) async fn collisions(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    unsuitable: &[UnsuitableColumn],
) -> Result<BTreeSet<String>, DbErr> {
    let folding = inexact(unsuitable).filter_map(|column| column.found.as_ref()?.collation.as_deref());
    let folding = folding.map(|name| if name.starts_with("utf8mb4") { name } else { "utf8mb4_general_ci" });
    let mut collisions = BTreeSet::new();
    for collation in folding.collect::<BTreeSet<&str>>() {
        collisions.extend(collisions_under(connection, spec, collation).await?);
    }
    Ok(collisions)
}

async fn collisions_under(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    collation: &str,
) -> Result<Vec<String>, DbErr> {
    let id = |column: &str, name: &str| format!("CONVERT({column} USING utf8mb4) COLLATE {collation} AS {name}");
    let (app, user) = (id("app_name", "app"), id("user_id", "user"));
    let spelled = |name: &str, scope: &str, selects: &[String]| {
        format!(
            "SELECT CAST(GROUP_CONCAT(DISTINCT CAST({name} AS BINARY) ORDER BY {name} SEPARATOR ', ') AS CHAR) AS ids \
             FROM ({}) AS ids GROUP BY {scope}{name} HAVING COUNT(DISTINCT CAST({name} AS BINARY)) > 1 LIMIT {}",
            selects.join(" UNION ALL "),
            NAMED + 1
        )
    };
    let select = |columns: &str, table: &str| format!("SELECT {columns} FROM {}", spec.full_name(table));
    let apps = ["app_states", "user_states", "sessions", "events"].map(|table| select(&app, table));
    let users = ["user_states", "sessions", "events"].map(|table| select(&format!("{app}, {user}"), table));
    let sessions = [("sessions", "id"), ("events", "session_id")]
        .map(|(table, column)| select(&format!("{app}, {user}, {}", id(column, "session")), table));
    let mut found = Vec::new();
    for query in
        [spelled("app", "", &apps), spelled("user", "app, ", &users), spelled("session", "app, user, ", &sessions)]
    {
        for row in connection.query_all_raw(spec.query(query)).await? {
            found.push(row.try_get("", "ids")?);
        }
    }
    Ok(found)
}

/// The tables of shared state and their keys.
const STATE_TABLES: [(&str, &str); 2] = [("app_states", "app_name"), ("user_states", "app_name, user_id")];

/// Selects the sessions that have no row in a table of shared state.
fn without_state(spec: &SchemaSpec, table: &str) -> String {
    let (sessions, states) = (spec.full_name("sessions"), spec.full_name(table));
    let key: &[&str] = if table == "user_states" { &["app_name", "user_id"] } else { &["app_name"] };
    let same = key.iter().map(|column| spec.same(("states", column), (&sessions, column)));
    let same = same.collect::<Vec<_>>().join(" AND ");
    format!("FROM {sessions} WHERE NOT EXISTS (SELECT 1 FROM {states} states WHERE {same})")
}

fn insert_states(spec: &SchemaSpec, table: &str, key: &str) -> String {
    let state = match spec.database {
        Database::Postgres => "CAST('{}' AS jsonb)",
        Database::MySql | Database::Sqlite => "'{}'",
    };
    format!(
        "INSERT INTO {} ({key}, state, update_time) SELECT {key}, {state}, MIN(create_time) {} GROUP BY {key}",
        spec.full_name(table),
        without_state(spec, table)
    )
}

/// Returns the statements that add the rows of shared state that sessions lack.
#[cfg(feature = "transfer")]
pub(crate) async fn missing_states(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Vec<String>, DbErr> {
    let mut statements = Vec::new();
    for (table, key) in STATE_TABLES {
        if count(connection, spec, &without_state(spec, table)).await? > 0 {
            statements.push(insert_states(spec, table, key));
        }
    }
    Ok(statements)
}

/// What the rows of a table are to a session.
pub(super) fn rows_of(table: &str) -> &'static str {
    match table {
        "events" => "events",
        "seabed_labels" => "labels",
        _ => "titles",
    }
}

/// The condition that a row of `table` belongs to a session. It has the tables' full names: MariaDB takes no alias in
/// DELETE.
fn belongs(spec: &SchemaSpec, table: &str) -> String {
    let (sessions, dependents) = (spec.full_name("sessions"), spec.full_name(table));
    let key = [("app_name", "app_name"), ("user_id", "user_id"), ("id", "session_id")];
    key.map(|(session, dependent)| spec.same((&sessions, session), (&dependents, dependent))).join(" AND ")
}

/// Selects the rows of `table` that have no session.
fn orphans(spec: &SchemaSpec, table: &str) -> String {
    let (sessions, dependents) = (spec.full_name("sessions"), spec.full_name(table));
    format!("FROM {dependents} WHERE NOT EXISTS (SELECT 1 FROM {sessions} WHERE {})", belongs(spec, table))
}

/// Whether there are rows of `table` without a session.
pub(super) async fn has_orphans(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    table: &str,
) -> Result<bool, DbErr> {
    Ok(count(connection, spec, &orphans(spec, table)).await? > 0)
}

/// Returns findings about rows that must not exist, whoever wrote them.
pub(super) async fn rows(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Vec<Finding>, DbErr> {
    let mut findings = Vec::new();
    for (table, key) in STATE_TABLES {
        let count = count(connection, spec, &without_state(spec, table)).await?;
        if count > 0 {
            findings.push(Finding::error(
                table,
                format!("{count} sessions have no row here"),
                "google-adk cannot append to them",
                Repair::Safe(vec![insert_states(spec, table, key)]),
            ));
        }
    }
    for table in ["events"].into_iter().chain(own_tables::existing(connection, spec).await?) {
        let orphans = orphans(spec, table);
        let count_of_orphans = count(connection, spec, &orphans).await?;
        if count_of_orphans > 0 {
            findings.push(Finding::warning(
                table,
                format!("{count_of_orphans} {} have no session", rows_of(table)),
                "nobody reads them, but the next session created with that id would have them",
                Repair::Unsafe(vec![format!("DELETE {orphans}{}", all_rows(spec))]),
            ));
        }
    }
    let (sessions, events) = (spec.full_name("sessions"), spec.full_name("events"));
    let belongs = belongs(spec, "events");
    let timestamp = format!("{events}.{}", spec.quote("timestamp"));
    let later = format!("EXISTS (SELECT 1 FROM {events} WHERE {belongs} AND {timestamp} > {sessions}.update_time)");
    let count_of_later = count(connection, spec, &format!("FROM {sessions} WHERE {later}")).await?;
    if count_of_later > 0 {
        findings.push(Finding::warning(
            "sessions.update_time",
            format!("{count_of_later} sessions have events later than their last update"),
            "google-adk stored them by clocks that disagree; the next event may be sorted before them",
            Repair::Safe(vec![format!(
                "UPDATE {sessions} SET update_time = (SELECT MAX({timestamp}) FROM {events} WHERE {belongs}) \
                 WHERE {later}{}",
                all_rows(spec)
            )]),
        ));
    }
    Ok(findings)
}

/// The end of a statement that changes every row that a condition finds. With `sql_safe_updates`, MySQL and MariaDB
/// reject one that neither searches an index nor has a limit, and they take `u64::MAX` for no limit.
fn all_rows(spec: &SchemaSpec) -> String {
    match spec.database {
        Database::MySql => format!(" LIMIT {}", i64::MAX),
        Database::Postgres | Database::Sqlite => String::new(),
    }
}

async fn count(connection: &DatabaseConnection, spec: &SchemaSpec, rows: &str) -> Result<i64, DbErr> {
    let query = spec.query(format!("SELECT COUNT(*) AS rows_found {rows}"));
    connection.query_one_raw(query).await?.map_or(Ok(0), |row| row.try_get("", "rows_found"))
}
