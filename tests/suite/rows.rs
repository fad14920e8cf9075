//! Rows that cannot be decoded are named, and hide no other rows.

use anyhow::{Context as _, bail, ensure};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, DynSessionService, Error, Event, EventCursor, ExpectedRevision,
    GetSession, Json, ListEvents, ListSessions, Order, Revision, SessionId, SessionKey, SessionScope, State,
    StateTarget, Timestamp, UpdateState, UserKey,
};

use seabed_tests::{Family, Kind};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_corrupt_event_is_named_and_hides_no_other,
        a_corrupt_session_is_named_and_hides_no_other,
        a_corrupt_app_state_is_named_and_nothing_is_written,
        times_are_stored_as_google_adk_stores_them,
        times_of_the_first_centuries_are_read,
        a_clock_at_its_end_takes_no_more_events,
    ],
    ExceptMySql: [
        a_time_that_no_calendar_has_is_named,
    ],
    ExceptPostgres: [
        a_number_that_is_not_finite_hides_nothing,
    ],
    Sqlite: [
        times_of_other_writers_are_read,
    ],
}

async fn session(service: &DynSessionService, id: &str) -> anyhow::Result<SessionKey> {
    let request = CreateSession::new(UserKey::try_new("app", "alice")?).with_session_id(SessionId::try_new(id)?);
    Ok(service.create_session(request.with_state(State::new().with("app:k", 1))).await?.key)
}

fn append(key: &SessionKey, event: Event) -> AppendEvent {
    AppendEvent::new(key.clone(), event, ExpectedRevision::Any)
}

/// Checks that the error is of kind `Corrupt`, contains each of `words`, and no stored value.
#[track_caller]
fn expect_corrupt(error: &Error, words: &[&str]) -> anyhow::Result<()> {
    let message = error.to_string();
    ensure!(error.backend_kind() == Some(BackendErrorKind::Corrupt) && !error.is_retryable(), "{error:?}");
    ensure!(words.iter().all(|word| message.contains(word)), "{message:?} does not name {words:?}");
    ensure!(!message.contains("secret"), "{message:?} tells a stored value");
    Ok(())
}

async fn a_corrupt_event_is_named_and_hides_no_other(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    for id in ["e1", "e2", "e3"] {
        service.append_event(append(&key, Event::new("user").with_id(id))).await?;
    }
    fixture.execute("UPDATE events SET event_data = '{\"author\": {\"secret\": 1}}' WHERE id = 'e2'").await?;
    let error = service.get_session(GetSession::new(key.clone())).await.err().context("a corrupt event was read")?;
    expect_corrupt(&error, &["events.event_data", "e2", "alice"])?;
    let page = service.list_events(ListEvents::new(key.clone())).await?;
    let ids: Vec<_> = page.items.iter().map(|item| item.as_ref().ok().map(|event| event.id.as_str())).collect();
    ensure!(ids == [Some("e1"), None, Some("e3")], "{ids:?}");
    let error = page.items[1].as_ref().err().context("a corrupt event was read")?;
    expect_corrupt(error, &["events.event_data", "e2"])?;
    fixture.execute("UPDATE events SET event_data = NULL WHERE id = 'e2'").await?;
    let long_ago = Timestamp::try_from_micros(0)?;
    let stale = ExpectedRevision::Exact(Revision::new(long_ago, long_ago));
    for expected in [stale, ExpectedRevision::Any] {
        let again = AppendEvent::new(key.clone(), Event::new("user").with_id("e2"), expected);
        let error = service.append_event(again).await.err().context("an event without data was replayed")?;
        expect_corrupt(&error, &["events.event_data", "e2"])?;
    }
    // The session still accepts events.
    service.append_event(append(&key, Event::new("user").with_id("e4"))).await?;
    Ok(())
}

/// MySQL's columns hold none. PostgreSQL's driver would panic.
async fn a_time_that_no_calendar_has_is_named(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    service.append_event(append(&key, Event::new("user").with_id("e"))).await?;
    fixture.execute("UPDATE events SET timestamp = 'infinity'").await?;
    for id in ["f", "g"] {
        service.append_event(append(&key, Event::new("user").with_id(id))).await?;
    }
    let first = service.list_events(ListEvents::new(key.clone()).with_order(Order::Descending).with_limit(2)).await?;
    let [infinite, last] = &first.items[..] else { bail!("{first:?}") };
    expect_corrupt(infinite.as_ref().err().context("a time without end was read")?, &["events.timestamp", "\"e\""])?;
    ensure!(last.as_ref().is_ok_and(|event| event.id == "g"));
    let rest = ListEvents::new(key.clone()).with_order(Order::Descending);
    let rest = service.list_events(rest.with_cursor(first.next.context("a next page")?)).await?.try_into_items()?;
    ensure!(rest.len() == 1 && rest[0].id == "f", "{rest:?}");
    let only = service.list_events(ListEvents::new(key.clone()).with_order(Order::Descending).with_limit(1)).await;
    expect_corrupt(&only.err().context("there is no way past it")?, &["events.timestamp"])?;
    let error = service.get_session(GetSession::new(key.clone())).await.err().context("it was read")?;
    expect_corrupt(&error, &["events.timestamp"])?;
    let other = session(&service, "t").await?;
    fixture.execute("UPDATE sessions SET update_time = 'infinity' WHERE id = 's'").await?;
    let error = service.get_session(GetSession::new(key.clone())).await.err().context("it was read")?;
    expect_corrupt(&error, &["sessions.update_time"])?;
    let listed = service.list_sessions(ListSessions::new(SessionScope::User(key.user()))).await?.items;
    ensure!(listed.iter().flatten().map(|session| &session.key).eq([&other]), "{listed:?}");
    let error = listed.into_iter().find_map(Result::err).context("it was listed")?;
    expect_corrupt(&error, &["sessions.update_time", "\"s\""])?;

    fixture.execute("UPDATE sessions SET create_time = 'infinity' WHERE id = 't'").await?;
    let error = service.append_event(append(&other, Event::new("user"))).await.err().context("it was appended to")?;
    expect_corrupt(&error, &["sessions.create_time", "\"t\""])?;
    let events = service.list_events(ListEvents::new(other)).await?.items;
    ensure!(events.is_empty(), "the event of an append that failed is stored: {events:?}");
    Ok(())
}

/// Go's zero time, in the rows of another program. All that reads it must agree.
async fn times_of_the_first_centuries_are_read(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    for id in ["zero", "later"] {
        service.append_event(append(&key, Event::new("user").with_id(id))).await?;
    }
    fixture.execute("UPDATE events SET timestamp = '0001-01-01 00:00:00.000000' WHERE id = 'zero'").await?;
    let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    ensure!(read.events.iter().map(|event| &*event.id).eq(["zero", "later"]), "{:?}", read.events);
    let first = service.list_events(ListEvents::new(key.clone()).with_limit(1)).await?;
    let next: EventCursor = serde_json::from_str(&serde_json::to_string(&first.next)?)?;
    ensure!(next.timestamp().to_string().starts_with("0001-01-01"), "{next:?}");
    let rest = service.list_events(ListEvents::new(key.clone()).with_cursor(next)).await?.try_into_items()?;
    ensure!(first.try_into_items()?[0].id == "zero" && rest.len() == 1 && rest[0].id == "later", "{rest:?}");
    fixture.execute("UPDATE sessions SET update_time = '0001-01-01 00:00:00.000000'").await?;
    let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    let event = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Exact(read.revision));
    ensure!(service.append_event(event).await?.revision() > Some(read.revision));
    Ok(())
}

/// Two writers at one revision would otherwise both store their event there.
async fn a_clock_at_its_end_takes_no_more_events(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    service.append_event(append(&key, Event::new("user"))).await?;
    for table in ["events SET timestamp", "sessions SET update_time"] {
        fixture.execute(&format!("UPDATE {table} = '9999-12-31 23:59:59.999999'")).await?;
    }
    let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    for expected in [ExpectedRevision::Any, ExpectedRevision::Exact(read.revision)] {
        let state = State::new().with("app:k", 2);
        let event = AppendEvent::new(key.clone(), Event::new("user").with_state_delta(state), expected);
        let error = service.append_event(event).await.err().context("the clock moved past its end")?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Unexpected), "{error:?}");
        ensure!(error.to_string().contains("end of the year 9999"), "{error}");
    }
    ensure!(service.get_session(GetSession::new(key)).await?.as_ref() == Some(&read), "a refused event was stored");
    Ok(())
}

async fn a_corrupt_session_is_named_and_hides_no_other(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for id in ["s1", "s2", "s3"] {
        session(&service, id).await?;
    }
    fixture.execute("UPDATE sessions SET state = '[\"secret\"]' WHERE id = 's2'").await?;
    let page = service.list_sessions(ListSessions::new(SessionScope::User(UserKey::try_new("app", "alice")?))).await?;
    let (sessions, errors): (Vec<_>, Vec<_>) = page.items.into_iter().partition(Result::is_ok);
    ensure!(sessions.len() == 2 && errors.len() == 1);
    for error in errors.into_iter().filter_map(Result::err) {
        expect_corrupt(&error, &["sessions.state", "s2"])?;
    }
    Ok(())
}

async fn a_corrupt_app_state_is_named_and_nothing_is_written(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    service.append_event(append(&key, Event::new("user").with_id("e"))).await?;
    fixture.execute("UPDATE app_states SET state = '\"secret\"'").await?;
    let event = Event::new("user").with_state_delta(State::new().with("app:k", 2));
    let listed = ListSessions::new(SessionScope::User(key.user()));
    let update = UpdateState::new(StateTarget::App(key.app_name.clone()), State::new().with("k", 2));
    let errors = [
        ("append", service.append_event(append(&key, event)).await.err()),
        ("get", service.get_session(GetSession::new(key.clone())).await.err()),
        ("create", service.create_session(CreateSession::new(key.user())).await.err()),
        ("list", service.list_sessions(listed).await?.items.into_iter().find_map(Result::err)),
        ("get the state", service.get_app_state(&key.app_name).await.err()),
        ("update the state", service.update_state(update).await.err()),
    ];
    for (operation, error) in errors {
        let error = error.with_context(|| format!("a corrupt state was taken for another: {operation}"))?;
        let words = ["app_states.state", "\"app\"", "verify --contents", "list_events"];
        expect_corrupt(&error, &words).context(operation)?;
    }
    // The events need no state.
    let events = service.list_events(ListEvents::new(key)).await?.try_into_items()?;
    ensure!(events.len() == 1, "an event without its state was stored: {events:?}");
    let sessions = fixture.query_text("SELECT CAST(COUNT(*) AS CHAR(9)) AS text FROM sessions").await?;
    ensure!(sessions.trim() == "1", "a session without its state was stored");
    Ok(())
}

/// Python writes `NaN` into JSON, which has none.
async fn a_number_that_is_not_finite_hides_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    let event = Event::new("user").with_id("e").with_state_delta(State::new().with("n", 1));
    service.append_event(append(&key, event.clone())).await?;
    fixture.execute("UPDATE app_states SET state = '{\"k\": NaN, \"whole\": 1.50}'").await?;
    fixture.execute("UPDATE sessions SET state = '{\"n\": [-Infinity]}'").await?;
    fixture.execute("UPDATE events SET event_data = REPLACE(event_data, '\"n\":1', '\"n\":NaN')").await?;

    let read = service.get_session(GetSession::new(key.clone())).await?.context("no session")?;
    ensure!(read.state.unreadable_keys().eq(["app:k", "n"]), "{:?}", read.state);
    ensure!(read.state.get("app:k").is_some_and(Json::is_null) && read.events.len() == 1);
    ensure!(read.events[0].actions.state_delta.get("n").is_some_and(Json::is_null), "{:?}", read.events);
    ensure!(service.list_events(ListEvents::new(key.clone())).await?.try_into_items()? == read.events);
    let listed = ListSessions::new(SessionScope::User(key.user()));
    ensure!(service.list_sessions(listed).await?.try_into_items()?[0].state == read.state);
    let app = service.get_app_state(&key.app_name).await?;
    ensure!(app.unreadable_keys().eq(["k"]), "{app:?}");

    let request = CreateSession::new(key.user()).with_state(State::new().with("app:new", 2));
    ensure!(service.create_session(request).await?.state.unreadable_keys().eq(["app:k"]));
    service.append_event(append(&key, Event::new("user").with_state_delta(State::new().with("m", 2)))).await?;
    let stored = async |table: &str| fixture.query_text(&format!("SELECT state AS text FROM {table}")).await;
    ensure!(stored("app_states").await? == r#"{"k":NaN,"new":2,"whole":1.50}"#, "{}", stored("app_states").await?);
    ensure!(stored("sessions WHERE id = 's'").await? == r#"{"m":2,"n":[-Infinity]}"#);
    let again = State::new().with("app:k", 3).with("n", 4);
    service.append_event(append(&key, Event::new("user").with_state_delta(again))).await?;
    ensure!(stored("app_states").await? == r#"{"k":3,"new":2,"whole":1.50}"#, "{}", stored("app_states").await?);
    ensure!(stored("sessions WHERE id = 's'").await? == r#"{"m":2,"n":4}"#);
    Ok(())
}

/// On SQLite times are text, and google-adk reads `.5` as five microseconds.
async fn times_are_stored_as_google_adk_stores_them(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    service.append_event(append(&key, Event::new("user").with_timestamp(1_763_900_000.5))).await?;
    let text = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => "to_char(timestamp, 'YYYY-MM-DD HH24:MI:SS.US')",
        Some(Family::MySql) => "CAST(timestamp AS CHAR)",
        None => "CAST(timestamp AS TEXT)",
    };
    let stored = fixture.query_text(&format!("SELECT {text} AS text FROM events")).await?;
    ensure!(stored == "2025-11-23 12:13:20.500000", "{stored}");
    Ok(())
}

/// SQLite itself and other programs write times in other formats. A number may be of seconds or milliseconds.
async fn times_of_other_writers_are_read(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service, "s").await?;
    for (written, micros) in [
        ("'2025-11-23 12:13:20.123456'", 123_456),
        ("'2025-11-23 12:13:20.25'", 250_000),
        ("'2025-11-23 12:13:20'", 0),
        ("'2025-11-23T12:13:20.250Z'", 250_000),
        ("'2025-11-23 14:13:20.000001+02:00'", 1),
    ] {
        fixture.execute(&format!("UPDATE sessions SET update_time = {written}")).await?;
        let read = service.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
        let read = read.revision.timestamp().as_micros();
        ensure!(read == 1_763_900_000_000_000 + micros, "{written} was read as {read}");
    }
    for written in ["'secret'", "1763900000", "1763900000000", "1763900000.5", "x'31'", "'10000-01-01 00:00:00'"] {
        fixture.execute(&format!("UPDATE sessions SET update_time = {written}")).await?;
        let error = service.get_session(GetSession::new(key.clone())).await.err().context("no time was read as one")?;
        expect_corrupt(&error, &["sessions.update_time", "alice"])?;
    }
    Ok(())
}
