//! `seabed-migrate copy`, `export`, `import` and `upgrade` of rows that are hard to carry: numbers that are not finite
//! or very large, texts that are not JSON, and very early times. They move, or they are named; and they stop no others.

use std::io::Cursor;

use anyhow::{Context as _, ensure};
use seabed::migration::{Selection, Summary, UpgradeOptions, copy, export, import, upgrade_in_place};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppendEvent, CreateSession, DynSessionService, Event, ExpectedRevision, GetSession, Json, SessionKey, State,
};
use seabed_tests::{Family, Kind};

use crate::fixture::{Fixture, query_text};
use crate::lines::File;
use crate::transfer::Other;
use crate::upgrade::make_v0;

crate::database_cases! {
    Everywhere: [
        numbers_that_are_not_finite_move_or_are_named,
        the_largest_and_smallest_numbers_move,
        the_largest_numbers_are_upgraded,
        times_of_the_first_centuries_move,
        a_state_in_the_target_that_is_no_object_stays_and_is_named,
        rows_that_the_target_rejects_are_named_and_stop_no_others,
        what_is_imported_is_checked_like_what_is_appended,
    ],
    ExceptPostgres: [
        numbers_that_are_not_finite_are_upgraded,
    ],
    ExceptMySql: [
        a_time_in_the_target_that_no_calendar_has_stays_and_is_named,
    ],
}

/// A session with state in every scope and two events.
pub(crate) async fn fill(service: &DynSessionService, id: &str) -> anyhow::Result<SessionKey> {
    let key = SessionKey::try_new("app", "alice", id)?;
    let state = State::new().with("app:n", 1).with("user:n", 1).with("n", 1);
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    service.create_session(create).await?;
    for event in ["e1", "e2"] {
        let event = Event::new("user").with_id(event).with_state_delta(State::new().with("m", 1));
        service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    Ok(key)
}

pub(crate) async fn copy_all(from: &DatabaseConnection, to: &DatabaseConnection) -> anyhow::Result<Summary> {
    Ok(copy(from, to, Selection::default(), &mut |_| {}).await?)
}

/// Exports, then imports what was written.
async fn through_a_file(from: &DatabaseConnection, to: &DatabaseConnection) -> anyhow::Result<Summary> {
    let file = File::default();
    let written = export(from, Selection::default(), file.clone(), &mut |_| {}).await?;
    ensure!(written.is_complete(), "{written:?}");
    let read = import(Cursor::new(file.bytes()), to, &mut |_| {}).await?;
    ensure!(read.content == written.content || !read.is_complete(), "{read:?} is not {written:?}");
    Ok(read)
}

fn expect_moved(summary: &Summary) -> anyhow::Result<()> {
    ensure!(summary.is_complete() && summary.content == summary.stored_content, "{summary:#?}");
    Ok(())
}

/// Expects that a session stays as it is when everything is copied `there` and into `file`, the latter by way of a
/// file, and back.
async fn expect_round_trip(
    fixture: &Fixture,
    here: &DynSessionService,
    key: &SessionKey,
    [there, file]: [&Other; 2],
) -> anyhow::Result<()> {
    let read = here.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    expect_moved(&copy_all(&fixture.admin, &there.pool).await?)?;
    expect_moved(&through_a_file(&fixture.admin, &file.pool).await?)?;
    for moved in [there, file] {
        let session = moved.service().await?.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session == read, "{session:?} is not {read:?}");
        expect_moved(&copy_all(&moved.pool, &fixture.admin).await?)?;
    }
    fixture.execute("DELETE FROM events;\nDELETE FROM sessions;\nDELETE FROM app_states").await?;
    expect_moved(&copy_all(&there.pool, &fixture.admin).await?)?;
    ensure!(here.get_session(GetSession::new(key.clone())).await?.as_ref() == Some(&read));
    Ok(())
}

async fn numbers_that_are_not_finite_move_or_are_named(fixture: &Fixture) -> anyhow::Result<()> {
    let (there, whole) = (Other::new().await?, fixture.migrated().await?);
    let source = there.service().await?;
    for id in ["s1", "s2"] {
        fill(&source, id).await?;
    }
    for (table, row, column, text) in ODD {
        there.execute(&format!("UPDATE {table} SET {column} = '{text}' WHERE {row}")).await?;
    }
    // An event that is none would make its session unreadable.
    there.execute("UPDATE events SET event_data = 'no JSON' WHERE id = 'e2' AND session_id = 's2'").await?;
    let summaries = [copy_all(&there.pool, &fixture.admin).await?, through_a_file(&there.pool, &fixture.admin).await?];
    let no_event = "event \"e2\" of session \"s2\" of user \"alice\" of app \"app\"";
    if fixture.kind.map(Kind::family) != Some(Family::Postgres) {
        for summary in &summaries {
            let refused: Vec<_> = summary.refused.iter().map(|refused| refused.row.as_str()).collect();
            ensure!(refused == [no_event] && summary.different.is_empty(), "{summary:#?}");
            ensure!(summary.content == summary.stored_content, "{summary:#?}");
        }
        for (table, row, column, text) in ODD {
            let stored = fixture.query_text(&format!("SELECT {column} AS text FROM {table} WHERE {row}")).await?;
            ensure!(stored == text, "{table}: {stored}");
        }
        // What both sides add is merged around it.
        for (side, key) in [(&whole, "app:target"), (&source, "app:source")] {
            let event = Event::new("user").with_state_delta(State::new().with(key, 2));
            let session = SessionKey::try_new("app", "alice", "s2")?;
            side.append_event(AppendEvent::new(session, event, ExpectedRevision::Any)).await?;
        }
        copy_all(&there.pool, &fixture.admin).await?;
        let stored = fixture.query_text("SELECT state AS text FROM app_states").await?;
        ensure!(stored == r#"{"n":[NaN],"source":2,"target":2}"#, "{stored}");
        return Ok(());
    }
    for summary in &summaries {
        let rows: Vec<_> = summary.refused.iter().map(|refused| refused.row.as_str()).collect();
        let of_s1 = "of session \"s1\" of user \"alice\" of app \"app\"";
        let expected = [
            "app_states row of app \"app\"".to_owned(),
            "user_states row of user \"alice\" of app \"app\"".to_owned(),
            "session \"s1\" of user \"alice\" of app \"app\"".to_owned(),
            format!("event \"e1\" {of_s1}"),
            format!("event \"e2\" {of_s1}"),
            "event \"e1\" of session \"s2\" of user \"alice\" of app \"app\"".to_owned(),
            no_event.to_owned(),
        ];
        ensure!(rows == expected && summary.different.is_empty(), "{summary:#?}");
        ensure!(summary.refused[0].reason.contains("NaN") && summary.refused[5].reason.contains("NaN"), "{summary:#?}");
    }
    let left = whole.get_session(GetSession::new(SessionKey::try_new("app", "alice", "s2")?)).await?;
    ensure!(left.is_some_and(|session| session.events.is_empty() && session.state.get("n").is_some()));
    Ok(())
}

/// Texts that other programs left in columns for JSON.
const ODD: [(&str, &str, &str, &str); 4] = [
    ("app_states", "app_name = 'app'", "state", r#"{"n": [NaN]}"#),
    ("user_states", "user_id = 'alice'", "state", r#"{"n": Infinity}"#),
    ("sessions", "id = 's1'", "state", r#"{"m": -Infinity}"#),
    (
        "events",
        "id = 'e1' AND session_id = 's2'",
        "event_data",
        r#"{"author": "a", "actions": {"state_delta": {"m": NaN}}}"#,
    ),
];

async fn numbers_that_are_not_finite_are_upgraded(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    fixture.execute("UPDATE app_states SET state = '{\"n\": NaN}'").await?;
    fixture.execute("UPDATE events SET custom_metadata = '{\"score\": NaN}'").await?;
    let summary = upgrade_in_place(&fixture.admin, UpgradeOptions::default(), &mut |_| {}).await?;
    ensure!(summary.is_complete() && summary.events > 0, "{summary:#?}");
    let kept = fixture.query_text("SELECT CAST(COUNT(*) AS CHAR) AS text FROM app_states WHERE state = '{\"n\": NaN}'");
    ensure!(kept.await? == summary.app_states.to_string());
    let kept = "SELECT CAST(COUNT(*) AS CHAR) AS text FROM events \
                WHERE event_data LIKE '%\"custom_metadata\":{\"score\": NaN}%'";
    ensure!(fixture.query_text(kept).await? == summary.events.to_string());
    Ok(())
}

/// PostgreSQL's `jsonb` writes them out, the largest in 309 digits and the smallest in 1077.
const EXTREMES: [&str; 3] = ["1.7976931348623157e308", "-2.2250738585072014e-308", "5e-324"];

async fn the_largest_and_smallest_numbers_move(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there, file) = (fixture.migrated().await?, Other::new().await?, Other::new().await?);
    let key = fill(&here, "s").await?;
    for scope in ["app:", "user:", ""] {
        let mut state = State::new();
        for number in EXTREMES {
            state.insert(format!("{scope}{number}"), Json::parse(number)?);
        }
        let event = Event::new("user").with_state_delta(state);
        here.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    expect_round_trip(fixture, &here, &key, [&there, &file]).await
}

async fn the_largest_numbers_are_upgraded(fixture: &Fixture) -> anyhow::Result<()> {
    make_v0(fixture).await?;
    let extremes = format!("{{\"n\": [{}]}}", EXTREMES.join(", "));
    for (table, column) in
        [("app_states", "state"), ("user_states", "state"), ("sessions", "state"), ("events", "custom_metadata")]
    {
        fixture.execute(&format!("UPDATE {table} SET {column} = '{extremes}'")).await?;
    }
    let summary = upgrade_in_place(&fixture.admin, UpgradeOptions::default(), &mut |_| {}).await?;
    expect_moved(&summary)?;
    ensure!(summary.events > 0 && summary.app_states > 0);
    Ok(())
}

/// Go's zero time, and another time before the year 1000.
async fn times_of_the_first_centuries_move(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there, file) = (fixture.migrated().await?, Other::new().await?, Other::new().await?);
    let key = fill(&here, "s").await?;
    for (row, time) in [("e1", "0001-01-01 00:00:00.000000"), ("e2", "0999-12-31 23:59:59.999999")] {
        fixture.execute(&format!("UPDATE events SET timestamp = '{time}' WHERE id = '{row}'")).await?;
    }
    fixture.execute("UPDATE sessions SET update_time = '0999-12-31 23:59:59.999999'").await?;
    fixture.execute("UPDATE app_states SET update_time = '0001-01-01 00:00:00.000000'").await?;
    expect_round_trip(fixture, &here, &key, [&there, &file]).await?;
    let text = query_text(&there.pool, "SELECT CAST(timestamp AS TEXT) AS text FROM events WHERE id = 'e1'").await?;
    ensure!(text == "0001-01-01 00:00:00.000000", "{text}");
    Ok(())
}

async fn a_state_in_the_target_that_is_no_object_stays_and_is_named(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let key = fill(&there.service().await?, "s").await?;
    let elsewhere = CreateSession::new(key.user()).with_state(State::new().with("app:n", 1));
    here.create_session(elsewhere).await?;
    fixture.execute("UPDATE app_states SET state = '[\"secret\"]'").await?;
    let summary = copy_all(&there.pool, &fixture.admin).await?;
    ensure!(summary.refused.is_empty() && summary.different.len() == 1, "{summary:#?}");
    ensure!(summary.different[0].contains("app_states") && !summary.different[0].contains("secret"), "{summary:#?}");
    ensure!(summary.new_sessions == 1 && summary.new_events == 2, "{summary:#?}");
    let stored = fixture.query_text("SELECT CAST(state AS CHAR(20)) AS text FROM app_states").await?;
    ensure!(stored.trim() == "[\"secret\"]", "{stored}");
    Ok(())
}

async fn a_time_in_the_target_that_no_calendar_has_stays_and_is_named(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&there.service().await?, "s").await?;
    fill(&here, "s").await?;
    fixture.execute("UPDATE sessions SET update_time = 'infinity'").await?;
    fixture.execute("UPDATE events SET timestamp = 'infinity' WHERE id = 'e1'").await?;
    let summary = copy_all(&there.pool, &fixture.admin).await?;
    let named = |word: &str| summary.different.iter().any(|different| different.contains(word));
    ensure!(named("sessions row") && named("event \"e1\""), "{summary:#?}");
    ensure!(summary.refused.is_empty() && summary.new_events == 0, "{summary:#?}");
    Ok(())
}

/// A constraint that others added to the target, or a trigger.
async fn rows_that_the_target_rejects_are_named_and_stop_no_others(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    for id in ["s1", "s2", "s3"] {
        fill(&source, id).await?;
    }
    for (table, row) in [("sessions", "id = 's2'"), ("events", "id = 'e1' AND session_id = 's3'")] {
        let rejected = if fixture.kind.is_some() {
            format!("ALTER TABLE {table} ADD CONSTRAINT {table}_rejected CHECK (NOT ({row}))")
        } else {
            let row = row.replace("id = 'e", "NEW.id = 'e").replace("session_id", "NEW.session_id");
            let row = row.replace("id = 's2'", "NEW.id = 's2'");
            format!(
                "CREATE TRIGGER {table}_rejected BEFORE INSERT ON {table} WHEN {row} \
                 BEGIN SELECT RAISE(ABORT, 'secret'); END"
            )
        };
        fixture.admin.execute_unprepared(&rejected).await?;
    }
    let summary = copy_all(&there.pool, &fixture.admin).await?;
    let mut rows: Vec<_> = summary.refused.iter().map(|refused| refused.row.as_str()).collect();
    rows.sort_unstable();
    let of = |session: &str| format!("session \"{session}\" of user \"alice\" of app \"app\"");
    let expected = [
        format!("event \"e1\" of {}", of("s2")),
        format!("event \"e1\" of {}", of("s3")),
        format!("event \"e2\" of {}", of("s2")),
        of("s2"),
    ];
    ensure!(rows == expected && summary.different.is_empty(), "{summary:#?}");
    ensure!(summary.refused.iter().all(|refused| !refused.reason.contains("secret")), "{summary:#?}");
    // A session that is rejected is not blamed on its events.
    for refused in &summary.refused {
        let is_blamed = refused.row == expected[1] || refused.row == expected[3];
        let reason = if is_blamed { "the target rejects its data" } else { "its session was skipped" };
        ensure!(refused.reason.starts_with(reason), "{summary:#?}");
    }
    ensure!((summary.sessions, summary.events) == (2, 3) && summary.content == summary.stored_content, "{summary:?}");
    for (id, events) in [("s1", 2), ("s3", 1)] {
        let key = SessionKey::try_new("app", "alice", id)?;
        let session = here.get_session(GetSession::new(key)).await?.context("no session")?;
        ensure!(session.events.len() == events && session.state.get("n").is_some(), "{session:?}");
    }
    Ok(())
}

async fn what_is_imported_is_checked_like_what_is_appended(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    for id in ["s1", "s2"] {
        fill(&source, id).await?;
    }
    for event_data in ["'[1]' WHERE id = 'e1'", "NULL WHERE id = 'e2'"] {
        there.execute(&format!("UPDATE events SET event_data = {event_data} AND session_id = 's2'")).await?;
    }
    there.execute("UPDATE sessions SET update_time = '2001-01-01 00:00:00.000000' WHERE id = 's1'").await?;
    let file = File::default();
    export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    // Rows that come two more times, which leaves the hash as it is.
    let mut lines = Vec::new();
    for line in String::from_utf8(file.bytes())?.lines() {
        let is_of_s1 = line.contains("\"s1\"");
        let is_repeated = line.starts_with("{\"app_state") || is_of_s1 && !line.contains("\"e2\"");
        lines.extend(std::iter::repeat_n(line.to_owned(), if is_repeated { 3 } else { 1 }));
        if line.starts_with("{\"user_state") {
            let no_state = r#"{"app_state":{"app_name":"none","state":"[1]","update_time":0}}"#;
            lines.extend([no_state.to_owned(), no_state.to_owned()]);
        }
    }
    let rows = lines.len() - 2;
    let end = lines.pop().context("no last line")?;
    let (_, content) = end.split_once(",\"content\"").context("no content")?;
    lines.push(format!("{{\"end\":{{\"rows\":{rows},\"content\"{content}\n"));
    let summary = import(Cursor::new(lines.join("\n")), &fixture.admin, &mut |_| {}).await?;
    let mut refused: Vec<_> =
        summary.refused.iter().map(|refused| refused.row.replace(" of user \"alice\"", "")).collect();
    refused.sort_unstable();
    let expected = [
        "app_states row of app \"none\"",
        "app_states row of app \"none\"",
        "event \"e1\" of session \"s1\" of app \"app\"",
        "event \"e1\" of session \"s1\" of app \"app\"",
        "event \"e1\" of session \"s2\" of app \"app\"",
        "event \"e2\" of session \"s2\" of app \"app\"",
    ];
    ensure!(refused == expected && summary.different.is_empty(), "{summary:#?}");
    ensure!((summary.new_sessions, summary.new_events) == (2, 2), "{summary:#?}");
    // The session is as old as its newest event, so the next event comes after it.
    let found = seabed::migration::verify(&fixture.admin).await?;
    ensure!(found.is_empty(), "{found:#?}");
    let key = SessionKey::try_new("app", "alice", "s1")?;
    let session = here.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(session.events.len() == 2 && session.revision.timestamp() > session.revision.create_time(), "{session:?}");
    Ok(())
}
