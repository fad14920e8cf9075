//! Findings about rows that other programs have written.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, Statement};
use seabed_core::sql::{ColumnProblem, SchemaRisk, UnsuitableColumn};

use super::catalog::SessionKey;
use super::{Finding, Mend};
use crate::schema::{self, Flavor};

/// The maximum number of ids named.
const NAMED: usize = 10;

/// Returns one finding for all columns whose collation treats different ids as equal: they are repaired together or not
/// at all.
pub(super) async fn inexact_ids(
    connection: &DatabaseConnection,
    flavor: Flavor,
    key: Option<&SessionKey>,
    unfit: &[UnsuitableColumn],
) -> Result<Finding, DbErr> {
    let weak = || unfit.iter().filter(|unfit| unfit.problem == ColumnProblem::Risk(SchemaRisk::InexactIds));
    let columns: Vec<String> = weak().map(|unfit| format!("{}.{}", unfit.table, unfit.column)).collect();
    let first = weak().next().map(ToString::to_string).unwrap_or_default();
    let mut problem = format!("{first} ({} such columns)", columns.len());
    let mend = match flavor.collation() {
        None => Mend::Advice(
            "make another database with `seabed-migrate up`, and copy into it with `seabed-migrate copy`".to_owned(),
        ),
        Some(collation) => {
            let convert = |table: &str| {
                format!("ALTER TABLE {} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}", flavor.quote(table))
            };
            let statements = SessionKey::around(key, flavor, schema::tables().map(convert).into());
            let collisions = collisions(connection, unfit).await?;
            if collisions.is_empty() {
                Mend::Safe(statements)
            } else {
                problem.push_str("; taken for one now:");
                for ids in collisions.iter().take(NAMED) {
                    write!(problem, " {ids};").map_err(|error| DbErr::Custom(error.to_string()))?;
                }
                if collisions.len() > NAMED {
                    problem.push_str(" and others;");
                }
                problem.push_str(" once ids are exact they share no state any more, and events may lose their session");
                Mend::Unsafe(statements)
            }
        }
    };
    Ok(Finding::error(&columns.join(", "), problem, SchemaRisk::InexactIds.consequence(), mend))
}

/// Returns ids that are stored in several spellings that a collation treats as equal, on MySQL and MariaDB.
pub(crate) async fn collisions(
    connection: &DatabaseConnection,
    unfit: &[UnsuitableColumn],
) -> Result<BTreeSet<String>, DbErr> {
    let weak = unfit.iter().filter(|unfit| unfit.problem == ColumnProblem::Risk(SchemaRisk::InexactIds));
    let folding = weak.filter_map(|unfit| unfit.found.as_ref()?.collation.as_deref());
    let folding = folding.map(|name| if name.starts_with("utf8mb4") { name } else { "utf8mb4_general_ci" });
    let mut collisions = BTreeSet::new();
    for collation in folding.collect::<BTreeSet<&str>>() {
        collisions.extend(collisions_under(connection, collation).await?);
    }
    Ok(collisions)
}

async fn collisions_under(connection: &DatabaseConnection, collation: &str) -> Result<Vec<String>, DbErr> {
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
    let apps = ["app_states", "user_states", "sessions", "events"].map(|table| format!("SELECT {app} FROM {table}"));
    let users = ["user_states", "sessions", "events"].map(|table| format!("SELECT {app}, {user} FROM {table}"));
    let sessions = [("sessions", "id"), ("events", "session_id")]
        .map(|(table, column)| format!("SELECT {app}, {user}, {} FROM {table}", id(column, "session")));
    let mut found = Vec::new();
    for query in
        [spelled("app", "", &apps), spelled("user", "app, ", &users), spelled("session", "app, user, ", &sessions)]
    {
        let rows = connection.query_all_raw(Statement::from_string(connection.get_database_backend(), query)).await?;
        for row in rows {
            found.push(row.try_get("", "ids")?);
        }
    }
    Ok(found)
}

/// The tables of shared state and their keys.
const STATE_TABLES: [(&str, &str); 2] = [("app_states", "app_name"), ("user_states", "app_name, user_id")];

/// Selects the sessions that have no row in a table of shared state.
fn without_state(table: &str) -> String {
    let same_user = if table == "user_states" { " AND states.user_id = sessions.user_id" } else { "" };
    format!(
        "FROM sessions WHERE NOT EXISTS (SELECT 1 FROM {table} states WHERE states.app_name = sessions.app_name{same_user})"
    )
}

fn insert_states(flavor: Flavor, table: &str, key: &str) -> String {
    let state = if flavor == Flavor::Postgres { "CAST('{}' AS jsonb)" } else { "'{}'" };
    let missing = without_state(table);
    format!(
        "INSERT INTO {table} ({key}, state, update_time) SELECT {key}, {state}, MIN(create_time) {missing} GROUP BY {key}"
    )
}

/// Returns the statements that add the rows of shared state that sessions lack.
#[cfg(feature = "transfer")]
pub(crate) async fn missing_states(connection: &DatabaseConnection, flavor: Flavor) -> Result<Vec<String>, DbErr> {
    let mut statements = Vec::new();
    for (table, key) in STATE_TABLES {
        if count(connection, &without_state(table)).await? > 0 {
            statements.push(insert_states(flavor, table, key));
        }
    }
    Ok(statements)
}

const BELONGS: &str =
    "sessions.app_name = events.app_name AND sessions.user_id = events.user_id AND sessions.id = events.session_id";

/// Selects the events that have no session.
fn orphans() -> String {
    format!("FROM events WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE {BELONGS})")
}

/// Whether there are events without a session.
pub(super) async fn has_orphans(connection: &DatabaseConnection) -> Result<bool, DbErr> {
    Ok(count(connection, &orphans()).await? > 0)
}

/// Returns findings about rows that must not exist, whoever wrote them.
pub(super) async fn rows(connection: &DatabaseConnection, flavor: Flavor) -> Result<Vec<Finding>, DbErr> {
    let mut findings = Vec::new();
    for (table, key) in STATE_TABLES {
        let missing = without_state(table);
        let count = count(connection, &missing).await?;
        if count > 0 {
            findings.push(Finding::error(
                table,
                format!("{count} sessions have no row here"),
                "google-adk cannot append to them",
                Mend::Safe(vec![insert_states(flavor, table, key)]),
            ));
        }
    }
    let orphans = orphans();
    let count_of_orphans = count(connection, &orphans).await?;
    if count_of_orphans > 0 {
        findings.push(Finding::warning(
            "events",
            format!("{count_of_orphans} events have no session"),
            "nobody reads them, until a session of that id is created: it would have them",
            Mend::Unsafe(vec![format!("DELETE {orphans}")]),
        ));
    }
    let timestamp = flavor.quote("timestamp");
    let later = format!("EXISTS (SELECT 1 FROM events WHERE {BELONGS} AND events.{timestamp} > sessions.update_time)");
    let count_of_later = count(connection, &format!("FROM sessions WHERE {later}")).await?;
    if count_of_later > 0 {
        findings.push(Finding::warning(
            "sessions.update_time",
            format!("{count_of_later} sessions have events later than their last update"),
            "google-adk stored them by clocks that disagree; the next event may be sorted before them",
            Mend::Safe(vec![format!(
                "UPDATE sessions SET update_time = (SELECT MAX(events.{timestamp}) FROM events WHERE {BELONGS}) WHERE {later}"
            )]),
        ));
    }
    Ok(findings)
}

async fn count(connection: &DatabaseConnection, rows: &str) -> Result<i64, DbErr> {
    let query =
        Statement::from_string(connection.get_database_backend(), format!("SELECT COUNT(*) AS rows_found {rows}"));
    connection.query_one_raw(query).await?.map_or(Ok(0), |row| row.try_get("", "rows_found"))
}
