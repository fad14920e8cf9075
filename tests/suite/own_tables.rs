//! Seabed's own tables beside google-adk's: made by `up`, missed by nobody who does without, and deleted with sessions.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use seabed::history::ForkSession;
use seabed::migration::{
    MigrationStatus, Repair, StoredData, UpOptions, down, grants, repair, status, up_sql, verify, verify_contents,
};
use seabed::sea_orm::{ConnectionTrait as _, IsolationLevel, TransactionTrait as _};
use seabed::{
    AnnotateSession, AppendEvent, BackendErrorKind, CreateSession, DeleteSession, DirectoryService as _,
    DirectoryServiceExt as _, DynSessionService, Error, Event, ExpectedRevision, FindSessions, GetSession,
    HistoryService as _, Json, ListSessions, Order, SessionFilter, SessionKey, SessionScope, State,
    TransactionalService as _,
};
use seabed_tests::{ADK_2_13, Family, Kind};

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        a_database_without_own_tables_serves_everything_else,
        tables_that_google_adk_made_get_own_tables_beside_them,
        own_tables_are_checked_and_mended,
        labels_that_cannot_be_decoded_are_named,
        annotations_are_stored_with_the_transaction_of_their_caller,
    ],
    Servers: [
        up_holds_no_writers_up,
    ],
    MySql: [
        an_old_snapshot_of_its_caller_loses_no_label,
        ids_of_own_tables_are_made_exact_with_the_others,
    ],
    Sqlite: [
        own_rows_go_by_name_where_no_foreign_key_deletes_them,
        a_page_looks_at_no_more_states_than_it_says,
    ],
    BesideAdk: [
        google_adk_works_beside_own_tables,
    ],
}

pub(crate) fn key(id: &str) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::try_new("app", "alice", id)?)
}

pub(crate) async fn create(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<()> {
    service.create_session(CreateSession::new(key.user()).with_session_id(key.session_id.clone())).await?;
    Ok(())
}

/// Creates a session with a title and two labels.
pub(crate) async fn create_named(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<()> {
    create(service, key).await?;
    let request = AnnotateSession::new(key.clone()).with_title("Rome").with_label("a", "1").with_label("b", "2");
    service.annotate_session(request).await?;
    Ok(())
}

/// The number of rows of Seabed's own tables.
async fn rows(fixture: &Fixture) -> anyhow::Result<(String, String)> {
    let text = if fixture.kind.map(Kind::family) == Some(Family::MySql) { "CHAR" } else { "TEXT" };
    let count =
        async |table| fixture.query_text(&format!("SELECT CAST(COUNT(*) AS {text}) AS text FROM {table}")).await;
    Ok((count("seabed_sessions").await?, count("seabed_labels").await?))
}

async fn expect_rows(fixture: &Fixture, annotations: u32, labels: u32) -> anyhow::Result<()> {
    let found = rows(fixture).await?;
    ensure!(found == (annotations.to_string(), labels.to_string()), "{found:?}");
    Ok(())
}

fn expect_advice<T: std::fmt::Debug>(refused: seabed::Result<T>) -> anyhow::Result<()> {
    let error = refused.err().context("it worked without the tables")?;
    ensure!(error.backend_kind() == Some(BackendErrorKind::Schema) && !error.is_retryable(), "{error:?}");
    ensure!(error.to_string().contains("`seabed-migrate up`"), "{error}");
    Ok(())
}

async fn a_database_without_own_tables_serves_everything_else(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("DROP TABLE seabed_labels;\nDROP TABLE seabed_sessions").await?;
    ensure!(verify(&fixture.admin).await?.is_empty(), "nobody needs them");
    let service = fixture.service().await?;
    let key = key("s")?;
    create(&service, &key).await?;
    let event = Event::new("user").with_state_delta(State::new().with("k", 1));
    service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    ensure!(service.get_session(GetSession::new(key.clone())).await?.is_some_and(|read| read.events.len() == 1));
    let scope = SessionScope::User(key.user());
    ensure!(service.list_sessions(ListSessions::new(scope.clone())).await?.items.len() == 1);
    let since = SessionFilter::new().with_state("k", 1);
    ensure!(service.count_sessions(&scope, &since).await? == 1, "a count that needs no titles");
    expect_advice(service.set_title(&key, Some("Rome")).await)?;
    let with_history = CreateSession::new(key.user()).with_history();
    expect_advice(service.create_session(with_history).await)?;
    expect_advice(service.get_origin(&key).await)?;
    expect_advice(service.fork_session(ForkSession::new(key.clone(), "e")).await)?;
    ensure!(service.list_sessions(ListSessions::new(scope.clone())).await?.items.len() == 1, "half of a create");
    expect_advice(service.set_labels(&key, &[("a", Some("1"))]).await)?;
    expect_advice(service.find_sessions(FindSessions::new(scope.clone())).await)?;
    expect_advice(service.count_sessions(&scope, &SessionFilter::new().with_any_label("a")).await)?;
    expect_advice(service.count_sessions(&scope, &SessionFilter::new().with_title_containing("a")).await)?;
    service.delete_session(DeleteSession::new(key.clone())).await?;
    // The same service, once the tables are there.
    seabed::migrate(&fixture.admin).await?;
    fixture.service().await?.close().await?;
    create_named(&service, &key).await?;
    ensure!(service.find_sessions(FindSessions::new(scope)).await?.items.len() == 1);
    service.delete_session(DeleteSession::new(key)).await?;
    expect_rows(fixture, 0, 0).await
}

async fn tables_that_google_adk_made_get_own_tables_beside_them(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(fixture.adk_schema_v1()).await?;
    repair(&fixture.admin).await?;
    ensure!(rows(fixture).await.is_err(), "a repair makes no tables");
    ensure!(grants(&fixture.admin, "agent").await?.iter().all(|grant| !grant.contains("seabed_")));
    let pending = status(&fixture.admin).await?;
    ensure!(pending.iter().all(|(_, status)| *status == MigrationStatus::Pending), "{pending:?}");
    ensure!(!up_sql(&fixture.admin, UpOptions::default()).await?.is_empty());
    let key = key("s")?;
    create(&fixture.service().await?, &key).await?;
    seabed::migrate(&fixture.admin).await?;
    ensure!(up_sql(&fixture.admin, UpOptions::default()).await?.is_empty());
    let service = fixture.service().await?;
    service.set_labels(&key, &[("a", Some("1"))]).await?;
    expect_rows(fixture, 1, 1).await?;
    ensure!(verify(&fixture.admin).await?.is_empty());
    ensure!(down(&fixture.admin, StoredData::Keep).await.is_err());
    down(&fixture.admin, StoredData::Drop).await?;
    ensure!(rows(fixture).await.is_err(), "a table outlived down");
    Ok(())
}

async fn own_tables_are_checked_and_mended(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    // The account of `fixture.service()` has no rights on tables that `repair` creates.
    let service = seabed::from_connection(fixture.admin.clone()).await?;
    let odd_name = "a.\"-\\$";
    create_named(&service, &key("odd")?).await?;
    service.annotate_session(AnnotateSession::new(key("odd")?).with_label(odd_name, "\"\\ é")).await?;
    let is_mysql = fixture.kind.map(Kind::family) == Some(Family::MySql);
    let drop_index = if is_mysql {
        "DROP INDEX seabed_labels_by_value ON seabed_labels"
    } else {
        "DROP INDEX seabed_labels_by_value"
    };
    for (damage, word) in
        [(drop_index, "reads the labels of all"), ("DROP TABLE seabed_labels", "labels cannot be set")]
    {
        fixture.execute(damage).await?;
        let found = verify(&fixture.admin).await?;
        let is_told = found.len() == 1 && found[0].consequence.contains(word);
        ensure!(is_told && matches!(found[0].repair, Repair::Safe(_)), "{damage}: {found:#?}");
        let left = repair(&fixture.admin).await?;
        ensure!(left.is_empty(), "{damage}: {left:#?}");
        let labelled = SessionFilter::new().with_label(odd_name, "\"\\ é");
        let found = service
            .find_sessions(FindSessions::new(SessionScope::User(key("odd")?.user())).with_filter(labelled))
            .await?;
        ensure!(found.items.len() == 1, "{damage}: the labels are lost");
        ensure!(
            verify(&fixture.admin).await?.is_empty() && up_sql(&fixture.admin, UpOptions::default()).await?.is_empty()
        );
    }
    create_named(&fixture.service().await?, &key("s")?).await
}

/// A table that refers to `sessions` locks it to be created. `up` may have to wait for another transaction, and nobody
/// waits behind it.
async fn up_holds_no_writers_up(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for id in ["s", "other"] {
        create(&service, &key(id)?).await?;
    }
    fixture.execute("DROP TABLE seabed_labels;\nDROP TABLE seabed_sessions").await?;
    let others = fixture.admin.begin().await?;
    others.execute_unprepared("UPDATE sessions SET state = '{}' WHERE id = 'other'").await?;
    let admin = fixture.admin.clone();
    let up = tokio::spawn(async move { seabed::migrate(&admin).await });
    for number in 0..25 {
        let event = Event::new("user").with_id(format!("e{number}"));
        service.append_event(AppendEvent::new(key("s")?, event, ExpectedRevision::Any)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // MariaDB locks nothing.
    ensure!(!up.is_finished() || fixture.kind == Some(Kind::MariaDb), "{:?}", up.await);
    others.rollback().await?;
    up.await??;
    expect_rows(fixture, 0, 0).await
}

async fn labels_that_cannot_be_decoded_are_named(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    for id in ["s", "t"] {
        create_named(&service, &key(id)?).await?;
    }
    fixture.execute("UPDATE seabed_sessions SET labels = '{\"secret\": 1}' WHERE session_id = 's'").await?;
    let scope = SessionScope::User(key("s")?.user());
    let found = service.find_sessions(FindSessions::new(scope)).await?.items;
    ensure!(found.iter().filter(|item| item.is_ok()).count() == 1, "{found:?}");
    let refused = service.set_title(&key("s")?, Some("Oslo")).await.err();
    for error in found.into_iter().filter_map(Result::err).chain(refused) {
        let message = error.to_string();
        ensure!(error.backend_kind() == Some(BackendErrorKind::Corrupt), "{error:?}");
        ensure!(message.contains("seabed_sessions.labels") && message.contains("\"s\""), "{message}");
        ensure!(!message.contains("secret"), "{message} tells a stored value");
    }
    let contents = verify_contents(&fixture.admin, seabed::migration::ContentsOptions::default()).await?;
    ensure!(contents.len() == 1 && contents[0].subject == "seabed_sessions.labels", "{contents:#?}");
    Ok(())
}

async fn annotations_are_stored_with_the_transaction_of_their_caller(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = key("s")?;
    create(&service, &key).await?;
    let scope = SessionScope::User(key.user());
    let pool = seabed::open(&fixture.service_url).await?;
    let labelled = SessionFilter::new().with_any_label("a");
    for is_kept in [false, true] {
        let transaction = pool.begin_with_options(service.transaction_options()).await?;
        let request = AnnotateSession::new(key.clone()).with_title("Rome").with_label("a", "1");
        service.annotate_session_in(&transaction, request).await?;
        let full = (0..64).fold(AnnotateSession::new(key.clone()), |request, n| request.with_label(n.to_string(), ""));
        let refused = service.annotate_session_in(&transaction, full).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "labels", .. })), "{refused:?}");
        let request = FindSessions::new(scope.clone()).with_filter(labelled.clone());
        ensure!(service.find_sessions_in(&transaction, request).await?.items.len() == 1);
        ensure!(service.count_sessions_in(&transaction, &scope, &labelled).await? == 1);
        if is_kept {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        ensure!(service.count_sessions(&scope, &labelled).await? == u64::from(is_kept));
    }
    expect_rows(fixture, 1, 1).await
}

/// At REPEATABLE READ, a plain read would see the labels as of the first read of the transaction.
async fn an_old_snapshot_of_its_caller_loses_no_label(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = key("s")?;
    create_named(&service, &key).await?;
    let scope = SessionScope::User(key.user());
    let pool = seabed::open(&fixture.service_url).await?;
    let transaction = pool.begin_with_config(Some(IsolationLevel::RepeatableRead), None).await?;
    ensure!(service.find_sessions_in(&transaction, FindSessions::new(scope.clone())).await?.items.len() == 1);
    service.set_labels(&key, &[("c", Some("3"))]).await?;
    service.annotate_session_in(&transaction, AnnotateSession::new(key.clone()).with_label("d", "4")).await?;
    transaction.commit().await?;
    let found = service.find_sessions(FindSessions::new(scope)).await?.try_into_items()?;
    ensure!(found[0].annotations.labels.keys().eq(["a", "b", "c", "d"]), "{found:?}");
    Ok(())
}

async fn ids_of_own_tables_are_made_exact_with_the_others(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    create_named(&fixture.service().await?, &key("s")?).await?;
    crate::verify::fold_ids(fixture).await?;
    ensure!(fixture.service().await.is_err(), "connected to columns that fold case");
    let left = repair(&fixture.admin).await?;
    ensure!(left.is_empty(), "{left:#?}");
    let service = fixture.service().await?;
    create_named(&service, &key("S")?).await?;
    expect_rows(fixture, 2, 4).await?;
    service.delete_session(DeleteSession::new(key("s")?)).await?;
    expect_rows(fixture, 1, 2).await
}

async fn a_page_looks_at_no_more_states_than_it_says(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    fixture
        .execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500) \
             INSERT INTO sessions SELECT 'app', 'alice', printf('s%04d', n), json_object('n', n), \
             printf('2026-01-01 00:00:00.%06d', n), printf('2026-01-01 00:00:00.%06d', n) FROM n",
        )
        .await?;
    let scope = SessionScope::User(key("s")?.user());
    let filter = SessionFilter::new().with_state("n", 2400);
    let mut request = FindSessions::new(scope.clone()).with_order(Order::Ascending).with_filter(filter.clone());
    let mut pages = Vec::new();
    loop {
        let page = service.find_sessions(request.clone()).await?;
        pages.push(page.items.len());
        let Some(next) = page.next else { break };
        request = request.with_cursor(next);
    }
    ensure!(pages == [0, 0, 1], "{pages:?}");
    ensure!(service.count_sessions(&scope, &filter).await? == 1);
    Ok(())
}

/// On SQLite connections may turn foreign keys off. A cluster of MySQL servers may refuse tables with such keys.
async fn own_rows_go_by_name_where_no_foreign_key_deletes_them(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = fixture.service_url.parse::<seabed::SqliteOptions>()?;
    let pool = options.with_driver(|driver| driver.foreign_keys(false)).open().await?;
    let service = seabed::from_connection(pool).await?;
    let (key, other) = (key("s")?, key("other")?);
    create_named(&service, &key).await?;
    create_named(&service, &other).await?;
    service.delete_session(DeleteSession::new(key.clone())).await?;
    expect_rows(fixture, 1, 2).await?;
    let transaction = seabed::open(&fixture.service_url).await?;
    let transaction = transaction.begin_with_options(service.transaction_options()).await?;
    service.delete_session_in(&transaction, DeleteSession::new(other)).await?;
    transaction.commit().await?;
    expect_rows(fixture, 0, 0).await
}

async fn google_adk_works_beside_own_tables(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.admin_url).await?;
    let (ours, theirs) = (key("ours")?, key("theirs")?);
    create_named(&service, &ours).await?;
    adk.create(&theirs, &State::new().with("k", 1)).await?;
    service.set_labels(&theirs, &[("a", Some("1"))]).await?;
    for key in [&ours, &theirs] {
        ensure!(adk.get(key).await?.is_some());
        adk.append(key, &Json::from_serialize(&Event::new("agent").with_id("e"))?).await?;
    }
    let labelled = SessionFilter::new().with_label("a", "1");
    let request = FindSessions::new(SessionScope::User(ours.user())).with_filter(labelled);
    let found = service.find_sessions(request).await?.try_into_items()?;
    ensure!(found.len() == 2 && found.iter().all(|found| found.last_update_time() > found.create_time()), "{found:?}");
    // google-adk deletes the session's row, and the database those that belong to it.
    for key in [&ours, &theirs] {
        adk.delete(key).await?;
    }
    expect_rows(fixture, 0, 0).await?;
    adk.create(&ours, &State::new()).await?;
    let found = service.find_sessions(FindSessions::new(SessionScope::User(ours.user()))).await?.try_into_items()?;
    ensure!(found.len() == 1 && found[0].annotations == seabed::Annotations::default(), "{found:?}");
    adk.stop().await
}
