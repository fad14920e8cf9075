//! Invalid input: a typed error, and nothing written.

use anyhow::{bail, ensure};
use seabed_core::{Error, Event, Json, State};

use crate::Context;

super::case_list![
    times_that_no_server_holds_are_refused,
    json_that_not_every_backend_holds_is_refused,
    events_that_google_adk_cannot_read_are_refused,
    an_extra_key_that_doubles_a_field_is_refused,
    the_earliest_and_latest_times_are_stored,
    creating_an_existing_id_is_refused_and_writes_nothing,
];

async fn times_that_no_server_holds_are_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let years = [-62_135_596_801.0, -62_135_596_800.0, -30_610_224_001.0, 253_402_214_401.0, 253_402_300_800.0];
    for seconds in years.into_iter().chain([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300]) {
        let refused = context.append(&session.key, Event::new("user").with_timestamp(seconds)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event.timestamp", .. })), "{seconds}: {refused:?}");
    }
    ensure!(context.get(&session.key).await? == session);
    Ok(())
}

async fn json_that_not_every_backend_holds_is_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    // Each is small, and PostgreSQL writes them out.
    let growing = format!("[{}]", vec!["1e-900"; 1200].join(","));
    for text in [
        r#""\u0000""#,
        r#"{"\u0000": 1}"#,
        r#""\ud800""#,
        r#"["\udc00\ud800"]"#,
        "1e400",
        "-1e999999",
        "1e-20000",
        &growing,
    ] {
        let json = Json::parse(text)?;
        let mut in_output = Event::new("user");
        in_output.extra.insert("output".to_owned(), json.clone());
        let in_state = Event::new("user").with_state_delta(State::new().with("k", json.clone()));
        for event in [in_output, in_state] {
            let refused = context.append(&session.key, event).await;
            ensure!(matches!(refused, Err(Error::Invalid { field: "event", .. })), "{text}: {refused:?}");
        }
        let refused = context.create(&context.key("bob", "s")?, State::new().with("app:k", json)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "state", .. })), "{text}: {refused:?}");
    }
    ensure!(context.get(&session.key).await? == session);
    ensure!(context.service.get_app_state(&session.key.app_name).await?.is_empty());
    Ok(())
}

/// google-adk could not read the session any more.
async fn events_that_google_adk_cannot_read_are_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    for (unreadable, path) in [
        (r#"{"content": "hello"}"#, "content:"),
        (r#"{"content": {"parts": [{"text": "a"}, {"txt": "b"}]}}"#, "content.parts[1].txt:"),
        (r#"{"content": {"parts": [{"inline_data": {"data": "no Base64"}}]}}"#, "content.parts[0].inline_data.data:"),
        (r#"{"actions": {"unknown": 1}}"#, "actions.unknown:"),
        (r#"{"actions": {"compaction": {"start_timestamp": 1}}}"#, "actions.compaction.end_timestamp:"),
        (r#"{"usage_metadata": {"total_token_count": "many"}}"#, "usage_metadata.total_token_count:"),
        (r#"{"custom_metadata": ["a"]}"#, "custom_metadata:"),
        (r#"{"node_info": null}"#, "node_info:"),
        (r#"{"state": "busy"}"#, "state:"),
        (r#"{"content": {}, "message": "hello"}"#, "message:"),
        (r#"{"content": "hi", "partial": true}"#, "content:"),
    ] {
        let event = Event { id: "e".to_owned(), timestamp: 1e9, ..Json::parse(unreadable)?.decode()? };
        let refused = context.append(&session.key, event).await;
        let Err(Error::Invalid { field: "event", reason }) = &refused else { bail!("{unreadable}: {refused:?}") };
        ensure!(reason.contains(path), "{unreadable}: {reason}");
    }
    ensure!(context.get(&session.key).await? == session);
    Ok(())
}

async fn an_extra_key_that_doubles_a_field_is_refused(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let mut event = Event::new("user");
    event.extra.insert("author".to_owned(), "somebody else".into());
    let refused = context.append(&key, event).await;
    ensure!(matches!(refused, Err(Error::Invalid { field: "event", .. })), "{refused:?}");
    Ok(())
}

async fn the_earliest_and_latest_times_are_stored(context: Context) -> anyhow::Result<()> {
    for (user, seconds) in [("early", -30_610_224_000.0), ("late", 253_402_214_400.0)] {
        let key = context.session(user).await?.key;
        for _ in 0..3 {
            context.append(&key, Event::new("user").with_timestamp(seconds)).await?;
        }
        let session = context.get(&key).await?;
        ensure!(session.events.len() == 3);
        context.append_at(&key, Event::new("user"), session.revision).await?;
    }
    Ok(())
}

async fn creating_an_existing_id_is_refused_and_writes_nothing(context: Context) -> anyhow::Result<()> {
    let session = context.create(&context.key("alice", "s")?, State::new().with("k", 1)).await?;
    let other = State::new().with("k", 2).with("user:k", 2).with("app:k", 2);
    let refused = context.create(&session.key, other).await;
    ensure!(matches!(&refused, Err(Error::AlreadyExists { key }) if **key == session.key), "{refused:?}");
    ensure!(context.get(&session.key).await? == session);
    Ok(())
}
