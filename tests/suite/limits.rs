//! Writes that are larger than a server accepts.

use anyhow::ensure;
use futures_util::future::{join, join_all};
use seabed::migration::{Selection, copy};
use seabed::sea_orm::{DatabaseConnection, TransactionTrait};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession, MySqlOptions,
    ServiceOptions, SessionKey, State, UserKey,
};

use tokio::sync::Mutex;

use crate::fixture::Fixture;
use crate::transfer::Other;

crate::database_cases! {
    MySql: [
        a_write_larger_than_the_server_accepts_is_refused_alone,
        a_row_larger_than_the_server_accepts_is_left_out_of_a_copy_by_name,
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
