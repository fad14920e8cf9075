//! `seabed-migrate upgrade` from google-adk's schema v0.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use seabed::migration::{
    Layout, OtherLayout, Selection, Summary, UpgradeOptions, copy, finish_upgrade, layout, upgrade_in_place,
    upgrade_into, verify,
};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use seabed::{AppendEvent, Event, ExpectedRevision, GetSession, Json, Session, SessionKey, State};
use seabed_tests::{Family, Kind};
use serde::Deserialize;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::transfer::Other;

crate::database_cases! {
    Everywhere: [
        schema_v0_becomes_what_google_adk_makes_of_it,
        schema_v0_is_upgraded_in_its_place_and_kept_until_it_is_finished,
        an_upgrade_that_was_interrupted_goes_on,
        a_pickle_that_is_refused_is_named_and_nothing_of_it_is_lost,
        a_pickle_that_grows_to_many_megabytes_stops_no_other,
        what_was_deleted_since_an_upgrade_does_not_come_back,
        times_of_schema_v0_are_those_of_a_time_zone,
        only_what_needs_it_is_upgraded,
    ],
}

/// A database of schema v0 that google-adk 1.21.0 wrote, and what google-adk 2.13.0's migration turned it into.
#[derive(Deserialize)]
struct Sample {
    v0: Tables,
    v1: Tables,
}

#[derive(Deserialize)]
struct Tables {
    app_states: Vec<Row>,
    user_states: Vec<Row>,
    sessions: Vec<Row>,
    events: Vec<Row>,
}

type Row = BTreeMap<String, Value>;

impl Sample {
    fn read() -> anyhow::Result<Self> {
        Ok(serde_json::from_str(include_str!("../adk/v0_database.json"))?)
    }
}

/// Returns the statements that create google-adk 1.21.0's tables.
fn v0_tables(family: Option<Family>) -> String {
    let (blob, json, time) = match family {
        Some(Family::Postgres) => ("bytea", "jsonb", "timestamp"),
        Some(Family::MySql) => ("longblob", "longtext", "datetime(6)"),
        None => ("BLOB", "TEXT", "DATETIME"),
    };
    let id = "varchar(128) NOT NULL";
    let state = format!("state {json} NOT NULL, update_time {time} NOT NULL");
    [
        format!("CREATE TABLE app_states (app_name {id}, {state}, PRIMARY KEY (app_name))"),
        format!("CREATE TABLE user_states (app_name {id}, user_id {id}, {state}, PRIMARY KEY (app_name, user_id))"),
        format!(
            "CREATE TABLE sessions (app_name {id}, user_id {id}, id {id}, create_time {time} NOT NULL, {state}, \
             PRIMARY KEY (app_name, user_id, id))"
        ),
        format!(
            "CREATE TABLE events (id {id}, app_name {id}, user_id {id}, session_id {id}, invocation_id varchar(256) NOT NULL, \
             author varchar(256) NOT NULL, actions {blob} NOT NULL, long_running_tool_ids_json text, branch varchar(256), \
             timestamp {time} NOT NULL, content {json}, grounding_metadata {json}, custom_metadata {json}, \
             usage_metadata {json}, citation_metadata {json}, partial boolean, turn_complete boolean, \
             error_code varchar(256), error_message varchar(1024), interrupted boolean, input_transcription {json}, \
             output_transcription {json}, PRIMARY KEY (id, app_name, user_id, session_id), \
             FOREIGN KEY (app_name, user_id, session_id) REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE)"
        ),
    ]
    .join(";\n")
}

/// Converts a value of the sample, which comes from SQLite, to SQL.
fn literal(family: Option<Family>, column: &str, value: &Value) -> String {
    let quoted = |text: &str| {
        let text = text.replace('\'', "''");
        format!("'{}'", if family == Some(Family::MySql) { text.replace('\\', "\\\\") } else { text })
    };
    match value {
        Value::String(hex) if column == "actions" && family == Some(Family::Postgres) => format!("'\\x{hex}'"),
        Value::String(hex) if column == "actions" => format!("X'{hex}'"),
        Value::String(text) => quoted(text),
        Value::Number(flag) if ["partial", "turn_complete", "interrupted"].contains(&column) => {
            if flag.as_i64() == Some(0) { "false".to_owned() } else { "true".to_owned() }
        }
        other => other.to_string().replace("null", "NULL"),
    }
}

/// Creates the sample's database of schema v0.
pub(crate) async fn make_v0(fixture: &Fixture) -> anyhow::Result<()> {
    let family = fixture.kind.map(Kind::family);
    fixture.execute(&v0_tables(family)).await?;
    let sample = Sample::read()?.v0;
    for (table, rows) in [
        ("app_states", sample.app_states),
        ("user_states", sample.user_states),
        ("sessions", sample.sessions),
        ("events", sample.events),
    ] {
        for row in rows {
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            let values: Vec<String> = row.iter().map(|(column, value)| literal(family, column, value)).collect();
            let insert = format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), values.join(", "));
            fixture.admin.execute_unprepared(&insert).await?;
        }
    }
    Ok(())
}

/// Reads columns of a table of the other database, as text.
async fn stored_rows(other: &Other, table: &str, columns: &[&str]) -> anyhow::Result<BTreeSet<Vec<String>>> {
    let query = format!("SELECT {} FROM {table}", columns.join(", "));
    let rows = other.pool.query_all_raw(Statement::from_string(other.pool.get_database_backend(), query)).await?;
    rows.iter().map(|row| columns.iter().map(|column| Ok(row.try_get("", column)?)).collect()).collect()
}

/// Normalizes JSON: canonical values, with the ids sorted that Python keeps in a set, and so in any order.
fn normal(event_data: &str) -> anyhow::Result<String> {
    let mut event: BTreeMap<String, Json> = serde_json::from_str(event_data)?;
    if let Some(ids) = event.get_mut("long_running_tool_ids") {
        *ids = Json::from_serialize(&ids.decode::<BTreeSet<String>>()?)?;
    }
    Ok(Json::from_serialize(&event)?.canonical())
}

/// Compares an SQLite database with the result of google-adk's migration.
async fn expect_google_adks(other: &Other) -> anyhow::Result<()> {
    let sample = Sample::read()?.v1;
    let canonical = |text: &str| anyhow::Ok(Json::parse(text)?.canonical());
    for (table, columns, rows) in [
        ("app_states", &["app_name", "update_time", "state"][..], sample.app_states),
        ("user_states", &["app_name", "user_id", "update_time", "state"], sample.user_states),
        ("sessions", &["app_name", "user_id", "id", "create_time", "update_time", "state"], sample.sessions),
        (
            "events",
            &["app_name", "user_id", "session_id", "id", "invocation_id", "timestamp", "event_data"],
            sample.events,
        ),
    ] {
        let written = |mut row: Vec<String>| {
            let json = row.pop().context("no JSON")?;
            row.push(if table == "events" { normal(&json)? } else { canonical(&json)? });
            anyhow::Ok(row)
        };
        let expected: Result<BTreeSet<Vec<String>>, _> = rows
            .iter()
            .map(|row| {
                written(columns.iter().map(|column| row[*column].as_str().unwrap_or_default().to_owned()).collect())
            })
            .collect();
        let found: Result<BTreeSet<Vec<String>>, _> =
            stored_rows(other, table, columns).await?.into_iter().map(written).collect();
        let (expected, found) = (expected?, found?);
        let (missing, strange) = (expected.difference(&found).next(), found.difference(&expected).next());
        ensure!(missing.is_none() && strange.is_none(), "{table}: expected {missing:#?}, found {strange:#?}");
        ensure!(!found.is_empty());
    }
    Ok(())
}

pub(crate) async fn upgrade(from: &DatabaseConnection, to: &DatabaseConnection) -> anyhow::Result<Summary> {
    let summary = upgrade_into(from, to, UpgradeOptions::default(), &mut |_| {}).await?;
    ensure!(summary.is_complete(), "{:#?} {:#?}", summary.refused, summary.different);
    Ok(summary)
}

async fn in_place(fixture: &Fixture) -> anyhow::Result<Summary> {
    Ok(upgrade_in_place(&fixture.admin, UpgradeOptions::default(), &mut |_| {}).await?)
}

async fn schema_v0_becomes_what_google_adk_makes_of_it(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    ensure!(layout(&fixture.admin).await? == Layout::Other(OtherLayout::V0));
    let other = Other::new().await?;
    let summary = upgrade(&fixture.admin, &other.pool).await?;
    ensure!(summary.events == 96 && summary.expected_events == Some(96), "{summary:?}");
    expect_google_adks(&other).await?;
    // In the target of google-adk's migration, a set has any order.
    let (sorted, turned) = (r#"["call-1","call-2"]"#, r#"["call-2","call-1"]"#);
    other.execute(&format!("UPDATE events SET event_data = replace(event_data, '{sorted}', '{turned}')")).await?;
    let turned = format!("SELECT id FROM events WHERE event_data LIKE '%{turned}%'");
    let turned = Statement::from_string(other.pool.get_database_backend(), turned);
    ensure!(other.pool.query_one_raw(turned).await?.is_some(), "the sample has no set of two");
    let again = upgrade(&fixture.admin, &other.pool).await?;
    ensure!((again.new_events, again.new_sessions, again.changed_states) == (0, 0, 0), "{again:?}");
    // The source is unchanged.
    ensure!(layout(&fixture.admin).await? == Layout::Other(OtherLayout::V0));
    Ok(())
}

async fn schema_v0_is_upgraded_in_its_place_and_kept_until_it_is_finished(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    for _ in 0..2 {
        let summary = in_place(fixture).await?;
        ensure!(summary.is_complete() && summary.events == 96, "{summary:?}");
        ensure!(fixture.query_text(&count_as_text("seabed_v0_events")).await? == "96");
    }
    let other = Other::new().await?;
    copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    expect_google_adks(&other).await?;
    let summary = finish_upgrade(&fixture.admin, UpgradeOptions::default(), false, &mut |_| {}).await?;
    ensure!(summary.is_complete() && summary.new_events == 0, "{summary:?}");
    ensure!(fixture.execute("SELECT 1 FROM seabed_v0_sessions").await.is_err(), "kept after the end");
    let found = verify(&fixture.admin).await?;
    ensure!(found.is_empty(), "{found:#?}");
    let finished = finish_upgrade(&fixture.admin, UpgradeOptions::default(), false, &mut |_| {}).await;
    ensure!(finished.is_err_and(|error| error.to_string().contains("no upgrade to finish")));
    // Agents continue where they stopped.
    let service = fixture.service().await?;
    let session = &Sample::read()?.v1.sessions[0];
    let text = |column: &str| session[column].as_str().unwrap_or_default();
    let key = SessionKey::try_new(text("app_name"), text("user_id"), text("id"))?;
    let event = Event::new("user").with_id("next").with_state_delta(State::new().with("app:next", 1));
    service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    let read = service.get_session(GetSession::new(key)).await?.context("the session is gone")?;
    ensure!(read.events.last().is_some_and(|event| event.id == "next") && read.events.len() > 1);
    Ok(())
}

fn count_as_text(table: &str) -> String {
    format!("SELECT CONCAT(COUNT(*), '') AS text FROM {table}")
}

async fn an_upgrade_that_was_interrupted_goes_on(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    let admin = fixture.admin.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut stop = Some(stop);
    let upgrading = tokio::spawn(async move {
        let mut progress = |_: &Summary| {
            if let Some(stop) = stop.take() {
                let _: Result<(), ()> = stop.send(());
            }
        };
        upgrade_in_place(&admin, UpgradeOptions::default(), &mut progress).await
    });
    stopped.await?;
    upgrading.abort();
    // It is stopped, or has just finished.
    let _: Result<_, _> = upgrading.await;
    // Simulates a stop between the renaming and the creation of the new tables.
    fixture.execute("DROP TABLE adk_internal_metadata;\nDROP TABLE events").await?;
    let summary = in_place(fixture).await?;
    ensure!(summary.is_complete() && summary.events == 96, "{summary:?}");
    let other = Other::new().await?;
    copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    expect_google_adks(&other).await
}

async fn a_pickle_that_is_refused_is_named_and_nothing_of_it_is_lost(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    // os.system("id") as a pickle.
    let hostile = Value::String("80048c026f738c0673797374656d938c02696485522e".to_owned());
    let literal = literal(fixture.kind.map(Kind::family), "actions", &hostile);
    fixture.execute(&format!("UPDATE events SET actions = {literal} WHERE id = 'event-0000003'")).await?;
    let summary = in_place(fixture).await?;
    ensure!(summary.refused.len() == 1 && summary.events == 95, "{summary:?}");
    ensure!(summary.refused[0].row.contains("event-0000003") && summary.refused[0].reason.contains("os.system"));
    let finished = finish_upgrade(&fixture.admin, UpgradeOptions::default(), false, &mut |_| {}).await?;
    ensure!(!finished.is_complete());
    ensure!(fixture.query_text(&count_as_text("seabed_v0_events")).await? == "96", "dropped what was not upgraded");
    finish_upgrade(&fixture.admin, UpgradeOptions::default(), true, &mut |_| {}).await?;
    ensure!(fixture.execute("SELECT 1 FROM seabed_v0_events").await.is_err());
    Ok(())
}

/// 17 MB of JSON from references to one string of 50 KB. Not every server accepts that in one statement.
async fn a_pickle_that_grows_to_many_megabytes_stops_no_other(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    let start = b"\x80\x04\x8c\x1fgoogle.adk.events.event_actions\x8c\x0cEventActions\x93)\x81}\x8c\x08__dict__}\
        \x8c\x0bstate_delta}\x8c\x01k](X\x50\xc3\x00\x00";
    let pickle = [&start[..], &b"x".repeat(50_000), b"q\x00", &b"h\x00".repeat(339), b"esssb."].concat();
    let hex = pickle.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let literal = literal(fixture.kind.map(Kind::family), "actions", &Value::String(hex));
    fixture.execute(&format!("UPDATE events SET actions = {literal} WHERE id = 'event-0000003'")).await?;
    let summary = in_place(fixture).await?;
    ensure!(summary.events + summary.refused.len() as u64 == 96 && summary.refused.len() <= 1, "{summary:?}");
    ensure!(summary.refused.iter().all(|refused| refused.row.contains("event-0000003")), "{:?}", summary.refused);
    ensure!(summary.different.is_empty() && summary.content == summary.stored_content, "{summary:?}");
    Ok(())
}

async fn what_was_deleted_since_an_upgrade_does_not_come_back(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    in_place(fixture).await?;
    fixture.execute("DELETE FROM events;\nDELETE FROM sessions").await?;
    let summary = finish_upgrade(&fixture.admin, UpgradeOptions::default(), false, &mut |_| {}).await?;
    ensure!(!summary.is_complete() && summary.new_sessions == 0, "{summary:?}");
    ensure!(fixture.query_text(&count_as_text("sessions")).await? == "0", "a deleted session came back");
    ensure!(fixture.query_text(&count_as_text("seabed_v0_events")).await? == "96", "dropped what is nowhere else");
    finish_upgrade(&fixture.admin, UpgradeOptions::default(), true, &mut |_| {}).await?;
    ensure!(fixture.execute("SELECT 1 FROM seabed_v0_events").await.is_err());
    Ok(())
}

async fn times_of_schema_v0_are_those_of_a_time_zone(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    let other = Other::new().await?;
    let mut options = UpgradeOptions::default();
    options.time_zone = "America/New_York".parse()?;
    let summary = upgrade_into(&fixture.admin, &other.pool, options, &mut |_| {}).await?;
    ensure!(summary.is_complete(), "{summary:?}");
    let columns = ["id", "timestamp"];
    let found = stored_rows(&other, "events", &columns).await?;
    let utc = Sample::read()?.v1.events;
    for event in &utc {
        // The whole sample is from one day in November, after the change from daylight saving time.
        let shown: seabed::sea_orm::prelude::DateTime =
            event["timestamp"].as_str().unwrap_or_default().replace(' ', "T").parse()?;
        let moment = (shown + std::time::Duration::from_hours(5)).format("%Y-%m-%d %H:%M:%S%.6f").to_string();
        let row = vec![event["id"].as_str().unwrap_or_default().to_owned(), moment];
        ensure!(found.contains(&row), "{row:?} is not in {found:?}");
    }
    Ok(())
}

/// Reads a session from the fixture's database.
pub(crate) async fn read(fixture: &Fixture, user: &str, session: &str) -> anyhow::Result<Session> {
    let key = SessionKey::try_new("app", user, session)?;
    fixture.service().await?.get_session(GetSession::new(key)).await?.context("the session is not there")
}

async fn only_what_needs_it_is_upgraded(fixture: &Fixture) -> anyhow::Result<()> {
    let other = Other::new().await?;
    let told = |result: seabed::Result<Summary>| result.err().map(|error| error.to_string()).unwrap_or_default();
    let empty = told(upgrade_into(&fixture.admin, &other.pool, UpgradeOptions::default(), &mut |_| {}).await);
    ensure!(empty.contains("no session tables"), "{empty}");
    let empty = told(upgrade_in_place(&fixture.admin, UpgradeOptions::default(), &mut |_| {}).await);
    ensure!(empty.contains("no session tables"), "{empty}");
    seabed::migrate(&fixture.admin).await?;
    let v1 = told(upgrade_into(&fixture.admin, &other.pool, UpgradeOptions::default(), &mut |_| {}).await);
    ensure!(v1.contains("already ha"), "{v1}");
    let v1 = told(upgrade_in_place(&fixture.admin, UpgradeOptions::default(), &mut |_| {}).await);
    ensure!(v1.contains("already ha"), "{v1}");
    Ok(())
}
