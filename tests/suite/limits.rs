//! Writes that are larger than a server accepts.

use std::io::Cursor;

use anyhow::ensure;
use futures_util::future::{join, join_all};
use seabed::migration::{Selection, Summary, copy, export, import};
use seabed::sea_orm::{DatabaseConnection, TransactionTrait};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession, MySqlOptions,
    ServiceOptions, SessionKey, State, UserKey,
};

use tokio::sync::Mutex;

use crate::fixture::Fixture;
use crate::lines::File;
use crate::transfer::Other;

crate::database_cases! {
    MySql: [
        a_write_larger_than_the_server_accepts_is_refused_alone,
        a_row_larger_than_the_server_accepts_is_left_out_of_a_copy_by_name,
        rows_of_many_megabytes_stop_no_others_of_a_copy,
        a_state_that_grows_too_large_in_the_target_is_left_out_by_name,
    ],
}

/// More than any other case sends in one statement.
const LIMIT: usize = 1 << 20;

/// A pool of one connection, whose statements the server limits to [`LIMIT`] bytes.
async fn limited(fixture: &Fixture) -> anyhow::Result<DatabaseConnection> {
    /// Cases run at the same time.
    static SETTING: Mutex<()> = Mutex::const_new(());
    let _setting = SETTING.lock().await;
    let set = |limit: &str| format!("SET GLOBAL max_allowed_packet = {limit}");
    let usual = fixture.query_text("SELECT CAST(@@global.max_allowed_packet AS CHAR) AS text").await?;
    fixture.execute(&set(&LIMIT.to_string())).await?;
    let opened = async {
        let pool = fixture.service_url.parse::<MySqlOptions>()?.with_max_connections(1).open().await?;
        pool.ping().await?;
        anyhow::Ok(pool)
    };
    let opened = opened.await;
    // A connection keeps the limit that it was opened with.
    fixture.execute(&set(&usual)).await?;
    opened
}

fn append(key: &SessionKey, text: &str) -> AppendEvent {
    let content = serde_json::json!({"role": "user", "parts": [{"text": text}]});
    AppendEvent::new(key.clone(), Event::new("user").with_content(content), ExpectedRevision::Any)
}

fn expect_refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> anyhow::Result<()> {
    let kind = outcome.as_ref().err().and_then(Error::backend_kind);
    ensure!(kind == Some(BackendErrorKind::TooLarge), "{outcome:?}");
    ensure!(outcome.is_err_and(|error| !error.is_retryable() && error.to_string().contains("max_allowed_packet")));
    Ok(())
}

/// A little too large, which the server answers, and much too large, for which it closes the connection. On another
/// connection, with the usual limit, these writes would succeed.
async fn a_write_larger_than_the_server_accepts_is_refused_alone(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?.close().await?;
    let pool = limited(fixture).await?;
    let options = ServiceOptions::new().with_shared_pool().with_max_state_bytes(usize::MAX);
    let service = seabed::from_connection_with(pool.clone(), options).await?;
    let alice = UserKey::try_new("app", "alice")?;
    let key = service.create_session(CreateSession::new(alice.clone())).await?.key;
    for size in [LIMIT, 12 * LIMIT] {
        let large = "x".repeat(size);
        let small = join_all((0..5).map(|_| service.append_event(append(&key, "small"))));
        let (refused, stored) = join(service.append_event(append(&key, &large)), small).await;
        expect_refused(refused)?;
        stored.into_iter().collect::<Result<Vec<_>, _>>()?;
        for name in ["large", "app:large"] {
            let create = CreateSession::new(alice.clone()).with_state(State::new().with(name, large.as_str()));
            expect_refused(service.create_session(create).await)?;
        }
        let transaction = pool.begin_with_options(service.transaction_options()).await?;
        expect_refused(service.append_event_in(&transaction, append(&key, &large)).await)?;
        service.append_event_in(&transaction, append(&key, "small")).await?;
        transaction.commit().await?;
    }
    let read = service.get_session(GetSession::new(key)).await?;
    ensure!(read.is_some_and(|session| session.events.len() == 12 && session.state.is_empty()), "not what was stored");
    let sessions = fixture.query_text("SELECT CAST(COUNT(*) AS CHAR) AS text FROM sessions").await?;
    ensure!(sessions == "1", "{sessions} sessions");
    Ok(())
}

async fn a_row_larger_than_the_server_accepts_is_left_out_of_a_copy_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?.close().await?;
    let (pool, there) = (limited(fixture).await?, Other::new().await?);
    let source = seabed::from_connection(there.pool.clone()).await?;
    let key = source.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    // Two of these fit by themselves, and not together.
    for size in [1, LIMIT * 2 / 3, LIMIT * 2 / 3, 12 * LIMIT, 1] {
        source.append_event(append(&key, &"x".repeat(size))).await?;
    }
    let summary = copy(&there.pool, &pool, Selection::default(), &mut |_| {}).await?;
    ensure!(summary.new_events == 4 && summary.different.is_empty(), "{summary:?}");
    ensure!(summary.refused.len() == 1 && summary.refused[0].reason.contains("max_allowed_packet"), "{summary:?}");
    Ok(())
}

/// More than MariaDB accepts in one statement by default, and perhaps in one row.
async fn rows_of_many_megabytes_stop_no_others_of_a_copy(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = seabed::from_connection(there.pool.clone()).await?;
    let key = source.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    for size in [1, 12_000_000, 17_000_000, 1] {
        source.append_event(append(&key, &"x".repeat(size))).await?;
    }
    let expect = |summary: Summary| {
        let named = summary.refused.iter().all(|refused| refused.row.starts_with("event \""));
        ensure!(named && summary.different.is_empty(), "{:#?} {:#?}", summary.refused, summary.different);
        ensure!(summary.events + summary.refused.len() as u64 == 4 && summary.refused.len() <= 2, "{summary:?}");
        ensure!(summary.content == summary.stored_content, "{summary:?}");
        Ok(())
    };
    expect(copy(&there.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?)?;
    let read = here.get_session(GetSession::new(key)).await?;
    ensure!(read.is_some_and(|session| session.events.len() >= 2), "the small events are gone");
    fixture.execute("DELETE FROM events;\nDELETE FROM sessions").await?;
    let file = File::default();
    export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    expect(import(Cursor::new(file.bytes()), &fixture.admin, &mut |_| {}).await?)
}

/// Each of the two states fits by itself.
async fn a_state_that_grows_too_large_in_the_target_is_left_out_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = seabed::from_connection(there.pool.clone()).await?;
    let alice = UserKey::try_new("app", "alice")?;
    let large = "x".repeat(LIMIT * 2 / 3);
    here.create_session(CreateSession::new(alice.clone()).with_state(State::new().with("app:here", large.as_str())))
        .await?;
    let create = CreateSession::new(alice).with_state(State::new().with("app:there", large.as_str()));
    let key = source.create_session(create).await?.key;
    source.append_event(append(&key, "small")).await?;
    let summary = copy(&there.pool, &limited(fixture).await?, Selection::default(), &mut |_| {}).await?;
    ensure!(summary.refused.len() == 1 && summary.different.is_empty(), "{summary:?}");
    let refused = &summary.refused[0];
    ensure!(refused.row == "app_states row of app \"app\"" && refused.reason.contains("merged with"), "{refused:?}");
    ensure!((summary.new_sessions, summary.new_events) == (1, 1), "{summary:?}");
    Ok(())
}
