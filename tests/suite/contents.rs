//! `seabed-migrate verify --contents`.

use anyhow::{Context as _, ensure};
use seabed::migration::{ContentsOptions, Finding, Repair, Severity, verify_contents};
use seabed::{AppendEvent, CreateSession, DynSessionService, Event, ExpectedRevision, SessionKey, State};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        what_cannot_be_decoded_is_found_and_named,
        many_rows_are_read_in_batches_up_to_a_limit,
        missing_tables_have_no_contents,
    ],
    ExceptMySql: [
        times_that_no_calendar_has_are_found,
    ],
    ExceptPostgres: [
        numbers_that_are_not_finite_are_found,
    ],
}

async fn fill(service: &DynSessionService, user: &str, id: &str) -> anyhow::Result<()> {
    let key = SessionKey::try_new("app", user, id)?;
    let state = State::new().with("app:n", 1).with("user:n", 1).with("n", 1.5);
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
    service.create_session(create).await?;
    let event = Event::new("user").with_id(format!("of {id}"));
    service.append_event(AppendEvent::new(key, event, ExpectedRevision::Any)).await?;
    Ok(())
}

async fn found(fixture: &Fixture, max_rows: Option<u64>) -> anyhow::Result<Vec<Finding>> {
    let mut options = ContentsOptions::default();
    options.max_rows = max_rows.unwrap_or(options.max_rows);
    Ok(verify_contents(&fixture.admin, options).await?)
}

/// Checks the only finding about `subject`.
#[track_caller]
fn expect(found: &[Finding], subject: &str, severity: Severity, words: &[&str]) -> anyhow::Result<()> {
    let mut about = found.iter().filter(|finding| finding.subject == subject);
    let finding = about.next().with_context(|| format!("nothing about {subject}: {found:#?}"))?;
    ensure!(about.next().is_none() && finding.severity == severity, "{found:#?}");
    ensure!(words.iter().all(|word| finding.problem.contains(word)), "{finding:#?} does not contain {words:?}");
    ensure!(!format!("{finding:?}").contains("secret"), "{finding:#?}");
    ensure!(matches!(&finding.repair, Repair::Advice(advice) if !advice.is_empty()), "{finding:#?}");
    Ok(())
}

async fn what_cannot_be_decoded_is_found_and_named(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for id in ["s1", "s2", "s3"] {
        fill(&service, "alice", id).await?;
    }
    ensure!(found(fixture, None).await?.is_empty(), "{:#?}", found(fixture, None).await?);
    for statement in [
        "UPDATE app_states SET state = '[\"secret\"]'",
        "UPDATE user_states SET state = '\"secret\"'",
        "UPDATE sessions SET state = 'null' WHERE id = 's2'",
        "UPDATE events SET event_data = '{\"author\": {\"secret\": 1}}' WHERE id = 'of s1'",
        "UPDATE events SET event_data = NULL WHERE id = 'of s3'",
    ] {
        fixture.execute(statement).await?;
    }
    let found = found(fixture, None).await?;
    ensure!(found.len() == 4, "{found:#?}");
    let error = Severity::Error;
    expect(&found, "app_states.state", error, &["1 row (app_name \"app\") has no JSON"])?;
    expect(&found, "user_states.state", error, &["app_name \"app\", user_id \"alice\""])?;
    expect(&found, "sessions.state", error, &["1 row (", "id \"s2\""])?;
    expect(&found, "events.event_data", error, &["2 rows (", "id \"of s1\"", "id \"of s3\"", "session_id \"s3\""])
}

async fn times_that_no_calendar_has_are_found(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    fill(&service, "alice", "s").await?;
    for column in ["app_states SET update_time", "sessions SET create_time", "events SET timestamp"] {
        fixture.execute(&format!("UPDATE {column} = 'infinity'")).await?;
    }
    let found = found(fixture, None).await?;
    ensure!(found.len() == 3, "{found:#?}");
    for column in ["app_states.update_time", "sessions.create_time", "events.timestamp"] {
        expect(&found, column, Severity::Error, &["1 row (", "no time"])?;
    }
    Ok(())
}

async fn numbers_that_are_not_finite_are_found(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    fill(&service, "alice", "s").await?;
    fixture.execute("UPDATE app_states SET state = '{\"n\": NaN}'").await?;
    let event = "{\"author\": \"user\", \"custom_metadata\": {\"n\": -Infinity}}";
    fixture.execute(&format!("UPDATE events SET event_data = '{event}'")).await?;
    let found = found(fixture, None).await?;
    ensure!(found.len() == 2, "{found:#?}");
    for column in ["app_states.state", "events.event_data"] {
        expect(&found, column, Severity::Warning, &["1 row (", "NaN"])?;
    }
    Ok(())
}

/// Keys of several users, so that a batch ends in the midst of a user's sessions.
async fn many_rows_are_read_in_batches_up_to_a_limit(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for number in 0..120 {
        let user = ["a", "B", "\u{17c}"][number % 3];
        fill(&service, user, &format!("{number}")).await?;
    }
    fixture.execute("UPDATE sessions SET state = '[]' WHERE id LIKE '%7'").await?;
    let all = found(fixture, Some(120)).await?;
    ensure!(all.len() == 1, "{all:#?}");
    expect(&all, "sessions.state", Severity::Error, &["12 rows (", "; and 2 more) have"])?;
    for limit in [119, 100, 50, 49, 3] {
        let found = found(fixture, Some(limit)).await?;
        for table in ["sessions", "events"] {
            expect(&found, table, Severity::Warning, &[&format!("only the first {limit} rows were read")])?;
        }
        ensure!(found.iter().all(|finding| finding.subject != "user_states" || limit < 3), "{found:#?}");
    }
    let none = found(fixture, Some(0)).await?;
    ensure!(none.len() == 4 && none.iter().all(|finding| finding.severity == Severity::Warning), "{none:#?}");
    Ok(())
}

async fn missing_tables_have_no_contents(fixture: &Fixture) -> anyhow::Result<()> {
    ensure!(found(fixture, None).await?.is_empty());
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("ALTER TABLE app_states DROP COLUMN update_time").await?;
    ensure!(found(fixture, None).await?.is_empty());
    Ok(())
}
