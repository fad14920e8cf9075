//! `seabed-migrate upgrade` from google-adk's `SqliteSessionService`, and from the crate adk-session.

use anyhow::{Context as _, ensure};
use seabed::Json;
use seabed::migration::{Layout, OtherLayout, layout, verify};

use crate::fixture::Fixture;
use crate::transfer::Other;
use crate::upgrade::{read, upgrade};

crate::database_cases! {
    Everywhere: [
        the_sqlite_session_service_is_upgraded_in_its_order,
        adk_session_is_upgraded,
    ],
}

async fn the_sqlite_session_service_is_upgraded_in_its_order(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let source = Other::without_tables().await?;
    source.execute(include_str!("../adk/sqlite_session_service.sql")).await?;
    source
        .execute(
            "CREATE TABLE app_states (app_name TEXT PRIMARY KEY, state TEXT NOT NULL, update_time REAL NOT NULL);\n\
             CREATE TABLE user_states (app_name TEXT NOT NULL, user_id TEXT NOT NULL, state TEXT NOT NULL, \
             update_time REAL NOT NULL, PRIMARY KEY (app_name, user_id));\n\
             INSERT INTO app_states VALUES ('app', '{\"k\": 1.50}', 1700000000.25);\n\
             INSERT INTO sessions VALUES ('app', 'alice', 's', '{\"é\": null}', 1700000000.25, 1700000001.0)",
        )
        .await?;
    for id in ["z", "b", "a"] {
        let data = format!("{{\"id\":\"{id}\",\"author\":\"user\",\"timestamp\":1700000001.0}}");
        source
            .execute(&format!("INSERT INTO events VALUES ('{id}', 'app', 'alice', 's', '', 1700000001.0, '{data}')"))
            .await?;
    }
    ensure!(layout(&source.pool).await? == Layout::Other(OtherLayout::SqliteSessionService));
    let summary = upgrade(&source.pool, &fixture.admin).await?;
    ensure!(summary.events == 3, "{summary:?}");
    let session = read(fixture, "alice", "s").await?;
    let ids: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
    ensure!(ids == ["z", "b", "a"], "{ids:?}");
    ensure!(session.state.get("é").is_some_and(Json::is_null) && session.state.decode::<f64>("app:k")? == Some(1.5));
    ensure!(session.revision.timestamp().as_micros() == 1_700_000_001_000_002, "{:?}", session.revision);
    // google-adk needs a row of user state; a second run finds no differences.
    let found = verify(&fixture.admin).await?;
    ensure!(found.is_empty(), "{found:#?}");
    let again = upgrade(&source.pool, &fixture.admin).await?;
    ensure!((again.new_events, again.changed_states) == (0, 0), "{again:?}");
    Ok(())
}

async fn adk_session_is_upgraded(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let source = Other::without_tables().await?;
    source.execute(include_str!("../adk/adk_session.sql").trim_end()).await?;
    ensure!(layout(&source.pool).await? == Layout::Other(OtherLayout::AdkSession));
    let summary = upgrade(&source.pool, &fixture.admin).await?;
    // The ninth event is a streamed fragment.
    ensure!(summary.events == 8 && summary.sessions == 2, "{summary:?}");
    let session = read(fixture, "user", "session-1").await?;
    ensure!(session.state.get("made here").is_some() && session.state.get("app:made").is_some(), "{session:?}");
    let old = read(fixture, "other", "session-2").await?;
    ensure!(old.state.decode::<String>("app:shared")?.is_some_and(|text| text != "old"), "{old:?}");
    let event = |id: &str| {
        let found = session.events.iter().find(|event| event.id == id).context("an event is missing")?;
        anyhow::Ok(serde_json::to_value(found)?)
    };
    let call = event("event-02")?;
    ensure!(call["branch"] == "root.booking" && call["finish_reason"] == "STOP", "{call:#}");
    ensure!(
        call["content"]["parts"][0] == serde_json::json!({"text": "hm", "thought": true, "thought_signature": "c2ln"})
    );
    ensure!(call["content"]["parts"][1]["function_call"]["args"]["to"].is_string(), "{call:#}");
    let response = event("event-03")?;
    ensure!(response["content"]["role"] == "user", "{response:#}");
    let part = &response["content"]["parts"][0]["function_response"];
    ensure!(part["id"] == "call-1" && part["parts"][0]["inline_data"]["data"] == "AP_-", "{response:#}");
    let usage = event("event-05")?;
    ensure!(
        usage["usage_metadata"]["cached_content_token_count"] == 4
            && usage["citation_metadata"]["citations"][0]["start_index"] == 0
    );
    ensure!(usage["custom_metadata"]["adk_session"]["usage_metadata"]["cost"] == 0.001, "{usage:#}");
    let confirmation = event("event-06")?;
    ensure!(
        confirmation["actions"]["requested_tool_confirmations"]["call-1"]["confirmed"] == false,
        "{confirmation:#}"
    );
    let compaction = event("event-08")?;
    ensure!(compaction["actions"]["compaction"]["end_timestamp"] == 1_767_323_050.123, "{compaction:#}");
    Ok(())
}
