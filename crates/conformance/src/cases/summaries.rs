//! A summary says what a session is called, what was said last, and how much there is of it.

use anyhow::{Context as _, ensure};
use seabed_core::{DirectoryServiceExt as _, Event, SessionSummary};
use serde_json::json;

use crate::Context;

super::case_list![
    needs Directory:
    a_summary_is_of_the_session_as_it_is,
    the_last_text_is_found_behind_events_without_one,
    summaries_leave_out_what_does_not_exist,
];

async fn a_summary_is_of_the_session_as_it_is(context: Context) -> anyhow::Result<()> {
    let (key, other) = (context.key("alice", "s")?, context.key("alice", "S")?);
    let directory = context.directory()?;
    ensure!(directory.summarize_session(&key).await?.is_none());
    for key in [&key, &other] {
        context.create(key, seabed_core::State::new()).await?;
    }
    let empty = directory.summarize_session(&key).await?.context("a summary")?;
    ensure!((empty.events, &empty.title, &empty.last_text) == (0, &None, &None), "{empty:?}");
    for text in ["To Rome", "By \"train\"? \u{1F682}"] {
        context.append(&key, Event::new("user").with_text(text)).await?;
    }
    context.append(&other, Event::new("user").with_text("another")).await?;
    directory.set_title(&key, Some("Rome")).await?;

    let summary = directory.summarize_session(&key).await?.context("a summary")?;
    ensure!(summary.last_text.as_deref() == Some("By \"train\"? \u{1F682}"), "{summary:?}");
    ensure!(summary.title.as_deref() == Some("Rome") && summary.events == 2 && summary.key == key, "{summary:?}");
    ensure!(summary.revision == context.get(&key).await?.revision, "{summary:?}");
    Ok(())
}

/// Calls of tools may have arguments named so, and thoughts are not said.
async fn the_last_text_is_found_behind_events_without_one(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    context.create(&key, seabed_core::State::new()).await?;
    context.append(&key, Event::new("user").with_text("said")).await?;
    let silent = [
        json!({"role": "model", "parts": [{"text": "hm", "thought": true}]}),
        json!({"role": "model", "parts": [{"function_call": {"name": "f", "args": {"text": "written"}}}]}),
        json!({"role": "model", "parts": [{"text": ""}]}),
    ];
    for content in [silent.clone(), silent].concat() {
        context.append(&key, Event::new("agent").with_content(content)).await?;
    }
    for _ in 0..SessionSummary::RECENT_EVENTS - 7 {
        context.append(&key, Event::new("agent")).await?;
    }
    let last_text = async || {
        let summary = context.directory()?.summarize_session(&key).await?;
        anyhow::Ok(summary.context("a summary")?.last_text)
    };
    ensure!(last_text().await?.as_deref() == Some("said"));
    // One more is one too many.
    context.append(&key, Event::new("agent")).await?;
    ensure!(last_text().await?.is_none());
    Ok(())
}

async fn summaries_leave_out_what_does_not_exist(context: Context) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    for number in 0..10 {
        let key = context.key("alice", &format!("s{number}"))?;
        if number != 4 {
            context.create(&key, seabed_core::State::new()).await?;
            context.append(&key, Event::new("user").with_text(number.to_string())).await?;
        }
        keys.push(key);
    }
    let found = context.directory()?.summarize_sessions(&keys).await?;
    let texts: Vec<_> = found.iter().filter_map(|summary| summary.last_text.as_deref()).collect();
    ensure!(texts == ["0", "1", "2", "3", "5", "6", "7", "8", "9"], "{texts:?}");
    Ok(())
}
