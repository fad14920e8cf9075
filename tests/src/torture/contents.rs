//! Reads the entire database without using Seabed's reading code.

use futures_util::TryStreamExt;
use seabed::sea_orm::prelude::DateTime;
use seabed::sea_orm::{DatabaseConnection, DbBackend, QueryResult, Statement, StreamTrait};
use serde_json::{Map, Value};

use super::checker::{Contents, StoredEvent, StoredSession};

pub(crate) async fn read(database: &DatabaseConnection) -> anyhow::Result<Contents> {
    let mut contents = Contents::default();
    for (table, key) in [("app_states", "app_name"), ("user_states", "app_name, user_id")] {
        each(database, &format!("SELECT {key}, CAST(state AS TEXT) AS body FROM {table}"), |row| {
            let user = row.try_get("", "user_id").map(|user: String| format!("/{user}")).unwrap_or_default();
            contents.shared.insert(row.try_get::<String>("", "app_name")? + &user, object(&row)?);
            Ok(())
        })
        .await?;
    }
    let sessions = "SELECT app_name, user_id, id, create_time, update_time, CAST(state AS TEXT) AS body FROM sessions";
    each(database, sessions, |row| {
        let (create_time, update_time) = (micros(&row, "create_time")?, micros(&row, "update_time")?);
        let session = StoredSession { create_time, update_time, state: object(&row)? };
        contents.sessions.insert(name(&row, "id")?, session);
        Ok(())
    })
    .await?;
    let events =
        "SELECT app_name, user_id, session_id, id, timestamp AS time, CAST(event_data AS TEXT) AS body FROM events";
    each(database, events, |row| {
        let delta =
            object(&row)?.remove("actions").and_then(|mut actions| Some(actions.get_mut("state_delta")?.take()));
        let delta = delta.and_then(|delta| delta.as_object().cloned()).unwrap_or_default();
        let event = StoredEvent { id: row.try_get("", "id")?, timestamp: micros(&row, "time")?, delta };
        contents.events.entry(name(&row, "session_id")?).or_default().push(event);
        Ok(())
    })
    .await?;
    for events in contents.events.values_mut() {
        events.sort_by_key(|event| event.timestamp);
    }
    Ok(contents)
}

async fn each(
    database: &DatabaseConnection,
    query: &str,
    mut take: impl FnMut(QueryResult) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let backend = database.get_database_backend();
    let query = if backend == DbBackend::MySql { query.replace("AS TEXT", "AS CHAR") } else { query.to_owned() };
    let mut rows = database.stream_raw(Statement::from_string(backend, query)).await?;
    while let Some(row) = rows.try_next().await? {
        take(row)?;
    }
    Ok(())
}

fn name(row: &QueryResult, id: &str) -> anyhow::Result<String> {
    let [app, user, id] = ["app_name", "user_id", id].map(|column| row.try_get::<String>("", column));
    Ok(format!("{}/{}/{}", app?, user?, id?))
}

fn micros(row: &QueryResult, column: &str) -> anyhow::Result<i64> {
    Ok(row.try_get::<DateTime>("", column)?.and_utc().timestamp_micros())
}

fn object(row: &QueryResult) -> anyhow::Result<Map<String, Value>> {
    Ok(serde_json::from_str(&row.try_get::<String>("", "body")?)?)
}
