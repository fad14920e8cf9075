//! `seabed-migrate copy`, `export` and `import` of rows whose keys no service can use, or violate a key that others
//! added: they are named, soon, and stop no others.

use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use seabed::migration::{Selection, export, import};
use seabed::{AppendEvent, Event, ExpectedRevision, GetSession};

use crate::fixture::Fixture;
use crate::lines::File;
use crate::odd_rows::{copy_all, fill};
use crate::transfer::Other;

crate::database_cases! {
    Everywhere: [
        a_row_that_violates_a_key_of_others_is_found_without_delay,
        rows_with_keys_that_no_service_can_use_are_named_and_stop_no_others,
    ],
}

async fn a_row_that_violates_a_key_of_others_is_found_without_delay(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    let key = fill(&source, "s").await?;
    for number in 0..300 {
        let event = Event::new("user").with_invocation_id(format!("i{number}"));
        source.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    there.execute("UPDATE events SET invocation_id = 'first' WHERE id = 'e1'").await?;
    there.execute("UPDATE events SET invocation_id = 'i7' WHERE id = 'e2'").await?;
    fixture.execute("CREATE UNIQUE INDEX of_others ON events (invocation_id)").await?;
    let started = Instant::now();
    let summary = copy_all(&there.pool, &fixture.admin).await?;
    let took = started.elapsed();
    let refused: Vec<_> = summary.refused.iter().map(|refused| refused.reason.as_str()).collect();
    ensure!(refused.len() == 1 && refused[0].starts_with("the target rejects its data"), "{summary:#?}");
    ensure!(took < Duration::from_secs(15), "{took:?}");
    let copied = here.get_session(GetSession::new(key)).await?.context("no session")?;
    ensure!(copied.events.len() == 301 && copied.state.get("m").is_some(), "{copied:?}");
    Ok(())
}

/// SQLite keeps any of them.
async fn rows_with_keys_that_no_service_can_use_are_named_and_stop_no_others(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    let mut keys = Vec::new();
    for number in 0..25 {
        keys.push(fill(&source, &format!("s{number}")).await?);
    }
    there.execute("PRAGMA foreign_keys = OFF").await?;
    let columns = "state, create_time, update_time FROM sessions WHERE id = 's0'";
    for id in ["''", "x'73'", "hex(zeroblob(65))"] {
        there.execute(&format!("INSERT INTO sessions SELECT app_name, user_id, {id}, {columns}")).await?;
    }
    there.execute(&format!("INSERT INTO sessions SELECT app_name, x'61', id, {columns}")).await?;
    there.execute("INSERT INTO app_states VALUES ('', '{}', '2026-01-01 00:00:00.000000'), (x'61', '{}', '2026-01-01 00:00:00.000000')").await?;
    there.execute("INSERT INTO user_states VALUES ('app', x'61', '{}', '2026-01-01 00:00:00.000000')").await?;
    there.execute("UPDATE events SET id = x'6531' WHERE id = 'e1' AND session_id = 's24'").await?;
    there.execute("UPDATE events SET id = '' WHERE id = 'e2' AND session_id = 's24'").await?;
    let copied = copy_all(&there.pool, &fixture.admin).await?;
    let file = File::default();
    let exported = export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    let imported = import(Cursor::new(file.bytes()), &fixture.admin, &mut |_| {}).await?;
    let of = |id: &str| format!("session \"{id}\" of user \"alice\" of app \"app\"");
    let mut expected = [
        ("app_states row with the key (X'61')".to_owned(), "its key is not text"),
        ("user_states row with the key ('app', X'61')".to_owned(), "its key is not text"),
        ("sessions row with the key ('app', 'alice', X'73')".to_owned(), "its key is not text"),
        ("sessions row with the key ('app', X'61', 's0')".to_owned(), "its key is not text"),
        ("app_states row of app \"\"".to_owned(), "an id is empty"),
        (of(""), "an id is empty"),
        (of(&"0".repeat(130)), "an id is longer than 128 characters"),
        (format!("event \"(not text)\" of {}", of("s24")), "its id is not text"),
        (format!("event \"\" of {}", of("s24")), "an id is empty"),
    ];
    expected.sort_unstable();
    // What a file cannot hold, the export names.
    let of_both = exported.refused.iter().chain(&imported.refused).collect();
    for refused in [copied.refused.iter().collect::<Vec<_>>(), of_both] {
        let mut refused: Vec<_> = refused.iter().map(|row| (row.row.clone(), row.reason.as_str())).collect();
        refused.sort_unstable();
        let is_expected =
            |(found, wanted): (&(String, &str), &(String, &str))| found.0 == wanted.0 && found.1.starts_with(wanted.1);
        ensure!(refused.len() == expected.len() && refused.iter().zip(&expected).all(is_expected), "{refused:#?}");
    }
    ensure!(copied.different.is_empty() && imported.different.is_empty(), "{copied:#?}, {imported:#?}");
    for key in keys {
        let session = here.get_session(GetSession::new(key.clone())).await?.context("no session")?;
        ensure!(session.events.len() == if key.session_id.as_str() == "s24" { 0 } else { 2 }, "{session:?}");
    }
    Ok(())
}
