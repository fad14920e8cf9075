//! `seabed-migrate copy` between each database and SQLite, and thus between any two.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use seabed::migration::{Selection, Summary, copy};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppendEvent, CreateSession, DynSessionService, Event, ExpectedRevision, GetSession, ListSessions, Session,
    SessionKey, SessionScope, State, UserKey,
};
use seabed_tests::{Family, Kind};
use tempfile::TempDir;

use crate::fixture::Fixture;
use crate::targets::sqlite_url;

crate::database_cases! {
    Everywhere: [
        a_copy_is_equal_there_and_back,
        copying_again_adds_what_is_new_and_changes_nothing_else,
        an_interrupted_copy_goes_on,
        states_that_both_sides_changed_are_merged_by_key,
        a_selection_copies_no_more,
        a_source_that_is_being_written_is_copied_as_of_one_moment,
        a_target_that_is_being_written_keeps_what_both_sides_write,
        tables_that_do_not_fit_are_refused_before_anything_is_written,
        events_without_a_session_are_told,
        what_was_changed_in_the_target_is_told,
    ],
    Servers: [
        rows_that_a_server_cannot_hold_are_left_out_by_name,
    ],
}

/// A second database, in an SQLite file.
pub(crate) struct Other {
    _folder: TempDir,
    pub(crate) pool: DatabaseConnection,
}

impl Other {
    pub(crate) async fn without_tables() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let pool = seabed::open(&sqlite_url(&folder)).await?;
        Ok(Self { _folder: folder, pool })
    }

    pub(crate) async fn new() -> anyhow::Result<Self> {
        let other = Self::without_tables().await?;
        seabed::migrate(&other.pool).await?;
        Ok(other)
    }

    pub(crate) async fn service(&self) -> anyhow::Result<DynSessionService> {
        Ok(seabed::from_connection(self.pool.clone()).await?)
    }

    /// Runs statements separated by semicolons at line ends.
    pub(crate) async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        for statement in statements.split(";\n") {
            self.pool.execute_unprepared(statement).await?;
        }
        Ok(())
    }
}

const APPS: [&str; 2] = ["app", "App"];
const USERS: [&str; 3] = ["alice", "Alice", "żółw 🐢"];

/// Creates sessions with awkward content; one of them is too long for a single transaction of the copy.
pub(crate) async fn fill(service: &DynSessionService, long: u32) -> anyhow::Result<()> {
    for app in APPS {
        for user in USERS {
            for session in ["s1", "s2", "empty"] {
                let key = SessionKey::try_new(app, user, session)?;
                let state = State::new()
                    .with("app:greeting", "grüß \u{1}\u{2028}\"\\")
                    .with(format!("app:{user}"), serde_json::json!({"nested": [null, true, 1.5e-7]}))
                    .with("user:null", serde_json::Value::Null)
                    .with("big", seabed::Json::parse("123456789012345678901234567890.10")?);
                let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state);
                service.create_session(create).await?;
                if session == "empty" {
                    continue;
                }
                for number in 0..4 {
                    append(service, &key, number).await?;
                }
            }
        }
    }
    let key = SessionKey::try_new("app", "alice", "s1")?;
    for number in 4..long {
        append(service, &key, number).await?;
    }
    Ok(())
}

async fn append(service: &DynSessionService, key: &SessionKey, number: u32) -> anyhow::Result<()> {
    let content = serde_json::json!({"role": "user", "parts": [{"text": format!("{number} {}", "x".repeat(number as usize % 7 * 900))}]});
    let event = Event::new("user")
        .with_id(format!("event-{number}"))
        .with_invocation_id("run")
        // Equal times: only their positions show the order.
        .with_timestamp(1_700_000_000.25)
        .with_content(content)
        .with_state_delta(State::new().with("number", number).with("app:last", number));
    service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    Ok(())
}

/// Reads the entire database through the service.
async fn contents(service: &DynSessionService) -> anyhow::Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for app in APPS {
        let scope = SessionScope::App(seabed::AppName::try_new(app)?);
        for listed in service.list_sessions(ListSessions::new(scope).with_limit(500)).await?.try_into_items()? {
            let read = service.get_session(GetSession::new(listed.key)).await?;
            sessions.push(read.context("a session is gone")?);
        }
    }
    sessions.sort_by_key(|session| format!("{:?}", session.key));
    Ok(sessions)
}

async fn copy_all(from: &DatabaseConnection, to: &DatabaseConnection) -> anyhow::Result<Summary> {
    let summary = copy(from, to, Selection::default(), &mut |_| {}).await?;
    ensure!(summary.is_complete(), "{summary:?}");
    Ok(summary)
}

pub(crate) async fn expect_equal(left: &DynSessionService, right: &DynSessionService) -> anyhow::Result<()> {
    let (left, right) = (contents(left).await?, contents(right).await?);
    ensure!(left == right && left.len() == APPS.len() * USERS.len() * 3, "{left:#?}\nis not\n{right:#?}");
    Ok(())
}

async fn a_copy_is_equal_there_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there, back) = (fixture.migrated().await?, Other::new().await?, Other::new().await?);
    fill(&there.service().await?, 700).await?;
    let copied = copy_all(&there.pool, &fixture.admin).await?;
    ensure!(copied.events == 12 * 4 + 696 && copied.new_events == copied.events, "{copied:?}");
    ensure!(copied.sessions == 18 && copied.new_sessions == 18 && copied.expected_events == Some(copied.events));
    ensure!(copied.content == copied.stored_content);
    expect_equal(&there.service().await?, &here).await?;
    let returned = copy_all(&fixture.admin, &back.pool).await?;
    ensure!(returned.content == copied.content, "{returned:?} is not {copied:?}");
    expect_equal(&here, &back.service().await?).await?;
    // The copy is a store like any other: the next append comes after the copied events.
    let key = SessionKey::try_new("app", "alice", "s1")?;
    append(&here, &key, 700).await?;
    let read = here.get_session(GetSession::new(key)).await?.context("the session is gone")?;
    ensure!(read.events.last().is_some_and(|event| event.id == "event-700"));
    Ok(())
}

async fn copying_again_adds_what_is_new_and_changes_nothing_else(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    fill(&source, 10).await?;
    copy_all(&there.pool, &fixture.admin).await?;
    let again = copy_all(&there.pool, &fixture.admin).await?;
    ensure!((again.new_sessions, again.new_events, again.changed_states) == (0, 0, 0), "{again:?}");
    append(&source, &SessionKey::try_new("app", "alice", "s1")?, 10).await?;
    append(&source, &SessionKey::try_new("App", "Alice", "empty")?, 0).await?;
    let third = copy_all(&there.pool, &fixture.admin).await?;
    // Two sessions, and the state of their two apps.
    ensure!((third.new_sessions, third.new_events, third.changed_states) == (0, 2, 4), "{third:?}");
    expect_equal(&source, &here).await
}

async fn an_interrupted_copy_goes_on(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    fill(&source, 1300).await?;
    // Stopped at its first or second report, in the middle of the long session or after it.
    for reports in [1, 2] {
        let (from, to) = (there.pool.clone(), fixture.admin.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let stop = Mutex::new((reports, Some(stop)));
        let copying = tokio::spawn(async move {
            let mut progress = |_: &Summary| {
                let mut stop = stop.lock().unwrap_or_else(PoisonError::into_inner);
                stop.0 -= 1;
                if stop.0 == 0
                    && let Some(stop) = stop.1.take()
                {
                    let _: Result<(), ()> = stop.send(());
                }
            };
            copy(&from, &to, Selection::default(), &mut progress).await
        });
        stopped.await?;
        copying.abort();
        ensure!(copying.await.is_err_and(|error| error.is_cancelled()), "the copy was not interrupted");
        // Every session present is complete up to one of its events.
        for session in contents(&here).await? {
            let of_source = source.get_session(GetSession::new(session.key)).await?.context("a session of nobody")?;
            let is_prefix = of_source.events.starts_with(&session.events);
            ensure!(is_prefix, "events are missing in the midst of a session");
        }
    }
    let rest = copy_all(&there.pool, &fixture.admin).await?;
    ensure!(rest.new_events > 0 && rest.new_events < rest.events, "{rest:?}");
    expect_equal(&source, &here).await
}

async fn states_that_both_sides_changed_are_merged_by_key(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    let key = SessionKey::try_new("app", "alice", "s")?;
    let create = || CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    let set = |service: DynSessionService, state: State| {
        let event = Event::new("user").with_state_delta(state);
        let append = AppendEvent::new(key.clone(), event, ExpectedRevision::Any);
        async move { service.append_event(append).await }
    };
    source.create_session(create().with_state(State::new().with("app:both", "source").with("both", "source"))).await?;
    set(source.clone(), State::new().with("app:source", 1).with("source", 1)).await?;
    here.create_session(create().with_state(State::new().with("app:target", 1).with("target", 1))).await?;
    set(here.clone(), State::new().with("app:both", "target").with("both", "target")).await?;
    copy(&there.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    let merged = here.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    for (name, value) in [("app:both", "\"target\""), ("both", "\"target\""), ("app:source", "1"), ("target", "1")] {
        ensure!(merged.state.get(name).is_some_and(|json| json.as_str() == value), "{name} of {merged:?}");
    }
    ensure!(merged.events.len() == 2, "{merged:?}");
    // In the opposite direction, the source has the later row.
    copy(&fixture.admin, &there.pool, Selection::default(), &mut |_| {}).await?;
    let there = source.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    ensure!(there.state == merged.state && there.events == merged.events, "{there:?} is not {merged:?}");
    Ok(())
}

async fn a_selection_copies_no_more(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&there.service().await?, 4).await?;
    let mut selection = Selection::default();
    selection.app_name = Some("App".to_owned());
    selection.user_id = Some("alice".to_owned());
    let summary = copy(&there.pool, &fixture.admin, selection, &mut |_| {}).await?;
    ensure!(summary.is_complete() && (summary.app_states, summary.user_states, summary.sessions) == (1, 1, 3));
    let copied = contents(&here).await?;
    ensure!(copied.len() == 3 && copied.iter().all(|session| session.key.user() == copied[0].key.user()));
    ensure!(copied[0].key.user() == UserKey::try_new("App", "alice")?);
    Ok(())
}

async fn a_source_that_is_being_written_is_copied_as_of_one_moment(fixture: &Fixture) -> anyhow::Result<()> {
    let (source, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&source, 600).await?;
    let key = SessionKey::try_new("app", "alice", "s1")?;
    let writing = {
        let (source, key) = (source.clone(), key.clone());
        tokio::spawn(async move {
            for number in 10_000..10_150 {
                append(&source, &key, number).await?;
            }
            anyhow::Ok(())
        })
    };
    copy_all(&fixture.admin, &there.pool).await?;
    let copied = there.service().await?;
    let session = copied.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    let last = session.events.last().and_then(|event| event.actions.state_delta.get("number")).cloned();
    ensure!(session.state.get("number") == last.as_ref(), "state and events are of different moments");
    ensure!(copied.get_app_state(&key.app_name).await?.get("last") == last.as_ref());
    writing.await??;
    copy_all(&fixture.admin, &there.pool).await?;
    expect_equal(&source, &copied).await
}

/// While rows are copied, writers in the target create the rows of the same new apps, and set other keys in them.
async fn a_target_that_is_being_written_keeps_what_both_sides_write(fixture: &Fixture) -> anyhow::Result<()> {
    const APPS: u32 = 20;
    const WRITERS: usize = 6;
    async fn create(service: &DynSessionService, app: &str, writer: &str) -> anyhow::Result<()> {
        let state = State::new().with(format!("app:{writer}"), 1);
        service.create_session(CreateSession::new(UserKey::try_new(app, writer)?).with_state(state)).await?;
        Ok(())
    }
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    for round in 0..5 {
        let apps: Vec<String> = (0..APPS).map(|app| format!("app-{round}-{app}")).collect();
        for app in &apps {
            create(&source, app, "source").await?;
        }
        let writing = (0..WRITERS).map(|writer| {
            let (here, apps) = (here.clone(), apps.clone());
            tokio::spawn(async move {
                for app in &apps {
                    create(&here, app, &format!("target-{writer}")).await?;
                }
                anyhow::Ok(())
            })
        });
        let writing: Vec<_> = writing.collect();
        copy_all(&there.pool, &fixture.admin).await?;
        for writer in writing {
            writer.await??;
        }
        for app in &apps {
            let state = here.get_app_state(&seabed::AppName::try_new(app)?).await?;
            ensure!(state.len() == WRITERS + 1, "{app} has {} keys of {}", state.len(), WRITERS + 1);
        }
    }
    Ok(())
}

async fn tables_that_do_not_fit_are_refused_before_anything_is_written(fixture: &Fixture) -> anyhow::Result<()> {
    let there = Other::new().await?;
    fill(&there.service().await?, 4).await?;
    for (from, to, word) in [(&there.pool, &fixture.admin, "target"), (&fixture.admin, &there.pool, "source")] {
        let told = copy(from, to, Selection::default(), &mut |_| {}).await.err().context("copied without tables")?;
        ensure!(told.to_string().contains(word) && told.to_string().contains("seabed-migrate up"), "{told}");
    }
    Ok(())
}

async fn events_without_a_session_are_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&there.service().await?, 4).await?;
    let orphan = "PRAGMA foreign_keys = OFF; DELETE FROM sessions WHERE id = 's2'; PRAGMA foreign_keys = ON";
    there.execute(orphan).await?;
    let summary = copy(&there.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    ensure!(summary.refused.len() == 1 && summary.refused[0].row == "24 events", "{summary:?}");
    Ok(())
}

async fn what_was_changed_in_the_target_is_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&there.service().await?, 4).await?;
    copy_all(&there.pool, &fixture.admin).await?;
    fixture.execute("UPDATE events SET event_data = '{\"author\": \"mallory\"}' WHERE id = 'event-2'").await?;
    fixture.execute("UPDATE user_states SET state = '{\"null\": 1}' WHERE user_id = 'alice'").await?;
    let summary = copy(&there.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    ensure!(!summary.is_complete() && summary.different.len() == 12 + 2, "{summary:?}");
    ensure!(summary.content != summary.stored_content && summary.new_events == 0);
    Ok(())
}

async fn rows_that_a_server_cannot_hold_are_left_out_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    fill(&source, 4).await?;
    let nul = "UPDATE events SET event_data = '{\"author\": \"\\u0000\"}' WHERE id = 'event-1' AND app_name = 'app'";
    let long = "INSERT INTO sessions SELECT app_name, user_id, hex(zeroblob(65)), state, create_time, update_time \
                FROM sessions WHERE id = 'empty' AND app_name = 'App' AND user_id = 'alice'";
    for statement in [nul, long, "UPDATE sessions SET state = 'no JSON' WHERE user_id = 'Alice' AND id = 's1'"] {
        there.execute(statement).await?;
    }
    let summary = copy(&there.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    let nul_rows = if fixture.kind.map(Kind::family) == Some(Family::Postgres) { 5 } else { 0 };
    // Two sessions without a readable state; one line for their events; a session whose id is too long.
    ensure!(summary.refused.len() == 2 + 1 + 1 + nul_rows, "{:#?}", summary.refused);
    ensure!(summary.refused.last().is_some_and(|refused| refused.row == "8 events"), "{:#?}", summary.refused);
    ensure!(!summary.is_complete() && summary.different.is_empty(), "{summary:?}");
    ensure!(contents(&here).await?.len() == 18 - 2);
    Ok(())
}
