//! The privileges that an account needs to run a service, and no others.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, EntityName};
use seabed_core::entity::{
    adk_internal_metadata, app_states, events, seabed_labels, seabed_sessions, sessions, user_states,
};
use seabed_core::sql::SchemaRisk;

use crate::own_tables;
use crate::spec::{Database, SchemaSpec};

/// The tables, and the privileges that a service needs on each. Events are never changed, but PostgreSQL locks
/// a row only for an account that may update one of its columns. Seabed's own tables come last.
fn needed(spec: &SchemaSpec) -> [(&'static str, &'static [&'static str]); 7] {
    let events_rights: &[&str] = match spec.database {
        Database::Postgres => &["SELECT", "INSERT", "DELETE", "UPDATE (id)"],
        Database::MySql | Database::Sqlite => &["SELECT", "INSERT", "DELETE"],
    };
    [
        (adk_internal_metadata::Entity.table_name(), &["SELECT"]),
        (app_states::Entity.table_name(), &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        (user_states::Entity.table_name(), &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        (sessions::Entity.table_name(), &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        (events::Entity.table_name(), events_rights),
        (seabed_sessions::Entity.table_name(), &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        (seabed_labels::Entity.table_name(), &["SELECT", "INSERT", "DELETE"]),
    ]
}

/// What is [`needed`] on the tables that there are: Seabed's own may be missing.
async fn needed_here(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
) -> Result<Vec<(&'static str, &'static [&'static str])>, DbErr> {
    let missing = own_tables::missing(connection, spec).await?;
    Ok(needed(spec).into_iter().filter(|(table, _)| !missing.contains(table)).collect())
}

/// The statement that lets only the owner, and who was granted it by name, create in a schema of PostgreSQL's.
pub(crate) fn close_schema(spec: &SchemaSpec, schema: &str) -> String {
    format!("REVOKE CREATE ON SCHEMA {} FROM PUBLIC", spec.quote(schema))
}

/// Returns the statements that let `account` run a service. On MySQL an account is a name and a host.
///
/// # Errors
/// Those of the database.
pub(crate) async fn grants(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    account: &str,
) -> Result<Vec<String>, DbErr> {
    let mut statements = Vec::new();
    let account = match spec.database {
        Database::Sqlite => return Ok(statements),
        Database::Postgres => spec.quote(account),
        Database::MySql => {
            let (name, host) = account.rsplit_once('@').unwrap_or((account, "%"));
            let text = |part: &str| format!("'{}'", part.trim_matches('\'').replace('\\', "\\\\").replace('\'', "''"));
            format!("{}@{}", text(name), text(host))
        }
    };
    // Up to PostgreSQL 14, every account may create in `public`, this one included.
    let open = spec.risks(connection).await?.into_iter().filter(|found| found.risk == SchemaRisk::OpenSchema);
    statements.extend(open.map(|found| close_schema(spec, &found.subject)));
    // PostgreSQL lets everybody use `public`, and nobody another schema. MySQL knows no such privilege.
    if let (Database::Postgres, Some(schema)) = (spec.database, spec.tables.schema()) {
        statements.push(format!("GRANT USAGE ON SCHEMA {} TO {account}", spec.quote(schema)));
    }
    let grant = |(table, rights): (&str, &[&str])| {
        format!("GRANT {} ON {} TO {account}", rights.join(", "), spec.full_name(table))
    };
    statements.extend(needed_here(connection, spec).await?.into_iter().map(grant));
    Ok(statements)
}

/// A privilege that the connection's account lacks.
pub(crate) struct Missing {
    pub(crate) table: &'static str,
    pub(crate) right: &'static str,
    /// The server's answer.
    pub(crate) reason: DbErr,
}

/// Tests each privilege with a statement that affects no row. SQLite has no privileges but those of its file.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn missing(connection: &DatabaseConnection, spec: &SchemaSpec) -> Result<Vec<Missing>, DbErr> {
    let mut missing = Vec::new();
    match spec.database {
        Database::Sqlite => return Ok(missing),
        Database::Postgres | Database::MySql => {}
    }
    for (table, rights) in needed_here(connection, spec).await? {
        for &right in rights {
            let name = spec.full_name(table);
            // A part of the key is never null. With `sql_safe_updates`, MySQL and MariaDB reject statements that search
            // no index, even for `1 = 0`.
            let no_row = "WHERE app_name IS NULL";
            let statement = match right {
                "SELECT" => format!("SELECT 1 FROM {name} WHERE 1 = 0"),
                "INSERT" => format!("INSERT INTO {name} SELECT * FROM {name} WHERE 1 = 0"),
                "UPDATE" => format!("UPDATE {name} SET update_time = update_time {no_row}"),
                "DELETE" => format!("DELETE FROM {name} {no_row}"),
                _ => format!("UPDATE {name} SET id = id {no_row}"),
            };
            match connection.execute_unprepared(&statement).await {
                Ok(_) => {}
                Err(error @ (DbErr::Conn(_) | DbErr::ConnectionAcquire(_))) => return Err(error),
                Err(reason) => missing.push(Missing { table, right, reason }),
            }
        }
    }
    Ok(missing)
}
