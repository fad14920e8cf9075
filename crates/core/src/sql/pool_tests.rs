//! Cached connections: what is reused, what returns to the driver's pool, and what is closed.

#[path = "pool_fakes.rs"]
mod fakes;
#[path = "pool_own_tests.rs"]
mod own;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sea_orm::{ConnAcquireErr, DatabaseConnection, DbBackend, DbErr, Statement};
use tokio::time::Instant;

use self::fakes::{Embedded, Networked, events, server};
use super::{ConnectionGuard, Pool};
use crate::sql::connections::Connections;
use crate::sql::error::StatementError;
use crate::sql::executor::Executor as _;
use crate::sql::timeout::StatementTimeout;
use crate::sql::{DatabaseFiles, Dialect};

/// A pool on connections that others use in turn.
fn pool<D: Dialect>() -> Pool<D> {
    let shared = Connections::out_of_shared(DatabaseConnection::default());
    Pool::new(shared, None, StatementTimeout(Duration::from_secs(5)))
}

fn statement(sql: &str) -> Statement {
    Statement::from_string(DbBackend::Sqlite, sql)
}

async fn run<D: Dialect>(mut pool: &Pool<D>, sql: &str) -> Result<u64, StatementError> {
    pool.execute(statement(sql)).await
}

async fn run_in<D: Dialect>(guard: &mut ConnectionGuard<'_, D>, sql: &str) -> Result<u64, StatementError> {
    guard.execute(statement(sql)).await
}

async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_good_order_is_reused_the_last_used_first() {
    let pool = pool::<Networked>();
    let first = pool.begin().await.expect("a connection");
    let second = pool.begin().await.expect("a connection");
    first.release();
    second.release();
    assert_eq!(run(&pool, "a").await.ok(), Some(1));
    let reused = pool.begin().await.expect("a connection");
    assert_eq!(run(&pool, "b").await.ok(), Some(1));
    reused.release();
    assert_eq!(events(), ["1 BEGIN", "2 BEGIN", "2 a", "2 BEGIN", "1 b"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_failed_statement_is_closed() {
    let pool = pool::<Networked>();
    assert!(run(&pool, "failure").await.is_err());
    assert_eq!(events(), ["1 failure", "1 closed"]);
    let mut guard = pool.begin().await.expect("a connection");
    assert!(run_in(&mut guard, "failure").await.is_err());
    assert!(run_in(&mut guard, "a").await.is_ok());
    guard.release();
    assert_eq!(events(), ["2 BEGIN", "2 failure", "2 a", "2 closed"], "a later success does not make up for it");
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_a_cancel_safe_driver_survives_a_failed_statement() {
    let pool = pool::<Embedded>();
    assert!(run(&pool, "failure").await.is_err());
    assert!(run(&pool, "a").await.is_ok());
    assert_eq!(events(), ["1 failure", "1 a"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_survives_a_conflict_with_other_writers() {
    let pool = pool::<Networked>();
    assert!(run(&pool, "contention").await.is_err());
    assert!(run(&pool, "a").await.is_ok());
    assert_eq!(events(), ["1 contention", "1 a"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_statement_is_dropped_is_closed() {
    let pool = pool::<Networked>();
    assert!(run(&pool, "hang").now_or_never().is_none());
    assert_eq!(events(), ["1 hang", "1 closed"]);
    let mut guard = pool.begin().await.expect("a connection");
    assert!(run_in(&mut guard, "hang").now_or_never().is_none());
    drop(guard);
    assert_eq!(events(), ["2 BEGIN", "2 hang", "2 closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_statement_times_out_is_closed() {
    let pool = pool::<Networked>();
    assert!(matches!(run(&pool, "hang").await, Err(StatementError::Timeout)));
    assert_eq!(events(), ["1 hang", "1 closed"]);
    server(|server| server.begin = "hang");
    assert!(matches!(pool.begin().await, Err(StatementError::Timeout)));
    assert_eq!(events(), ["2 BEGIN", "2 closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_safe_driver_keeps_the_connection_of_a_statement_that_is_dropped_or_times_out() {
    let pool = pool::<Embedded>();
    assert!(run(&pool, "hang").now_or_never().is_none());
    assert_eq!(events(), ["1 hang", "1 returned"]);
    assert!(matches!(run(&pool, "hang").await, Err(StatementError::Timeout)));
    assert!(run(&pool, "a").await.is_ok());
    assert_eq!(events(), ["2 hang", "2 returned", "3 a"], "it is not kept for as long as that");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_dropped_is_rolled_back() {
    let networked = pool::<Networked>();
    drop(networked.begin().await);
    assert_eq!(events(), ["1 BEGIN", "1 closed"], "the server rolls back what its connection has left");
    let embedded = pool::<Embedded>();
    drop(embedded.begin().await);
    let mut guard = embedded.begin().await.expect("a connection");
    assert!(run_in(&mut guard, "hang").now_or_never().is_none());
    drop(guard);
    sleep(1).await;
    let expected = ["2 BEGIN", "3 BEGIN", "3 hang", "2 ROLLBACK", "2 returned", "3 ROLLBACK", "3 returned"];
    assert_eq!(events(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_cannot_begin_keeps_its_connection_after_contention_alone() {
    let pool = pool::<Networked>();
    server(|server| server.begin = "contention");
    assert!(pool.begin().await.is_err());
    assert!(run(&pool, "a").await.is_ok());
    assert_eq!(events(), ["1 BEGIN", "1 a"]);
    server(|server| server.begin = "failure");
    assert!(pool.begin().await.is_err());
    assert_eq!(events(), ["1 BEGIN", "1 closed"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_returns_after_two_milliseconds() {
    let networked = pool::<Networked>();
    for connection in ["1", "2"] {
        assert!(run(&networked, "a").await.is_ok());
        sleep(1).await;
        assert_eq!(events(), [format!("{connection} a")]);
        sleep(2).await;
        assert_eq!(events(), [format!("{connection} ping"), format!("{connection} returned")]);
    }
    let embedded = pool::<Embedded>();
    assert!(run(&embedded, "a").await.is_ok());
    sleep(3).await;
    assert_eq!(events(), ["3 a", "3 returned"], "the driver's pool needs no test first");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_idle_connection_begins_with_its_last_use() {
    let pool = pool::<Embedded>();
    let first = pool.begin().await.expect("a connection");
    let second = pool.begin().await.expect("a connection");
    first.release();
    sleep(1).await;
    second.release();
    events();
    sleep(2).await;
    assert_eq!(events(), ["1 returned"]);
    sleep(2).await;
    assert_eq!(events(), ["2 returned"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_answer_when_it_returns_is_closed() {
    let pool = pool::<Networked>();
    server(|server| server.is_silent = true);
    assert!(run(&pool, "a").await.is_ok());
    sleep(1900).await;
    assert_eq!(events(), ["1 a", "1 ping"]);
    sleep(200).await;
    assert_eq!(events(), ["1 closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_twenty_milliseconds_under_any_load() {
    let pool = pool::<Embedded>();
    for _ in 0..20 {
        assert!(run(&pool, "a").await.is_ok());
        sleep(1).await;
    }
    assert_eq!(server(|server| server.opened), 1);
    assert!(run(&pool, "a").await.is_ok());
    assert_eq!(events().last().map(String::as_str), Some("1 returned"));
    assert!(run(&pool, "b").await.is_ok());
    assert_eq!(events(), ["2 b"]);
}

#[tokio::test(start_paused = true)]
async fn the_only_connection_of_a_pool_is_not_kept() {
    server(|server| server.max_connections = 1);
    let pool = pool::<Embedded>();
    for connection in ["1", "2"] {
        assert!(run(&pool, "a").await.is_ok());
        assert_eq!(events(), [format!("{connection} a"), format!("{connection} returned")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_waits_gets_the_connection_that_comes_back() {
    server(|server| server.max_connections = 2);
    let pool = pool::<Networked>();
    let first = pool.begin().await.expect("a connection");
    let _second = pool.begin().await.expect("a connection");
    let waiting = run(&pool, "a");
    let release = async {
        sleep(1).await;
        first.release();
    };
    let (ran, ()) = tokio::join!(waiting, release);
    assert!(ran.is_ok());
    assert_eq!(events(), ["1 BEGIN", "2 BEGIN", "1 a"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_a_connection_for_as_long_as_the_pool_says() {
    let begun = Instant::now();
    let timed_out =
        |ran| matches!(ran, Err(StatementError::Database(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))));
    server(|server| server.max_connections = 1);
    let pool = pool::<Networked>();
    let guard = pool.begin().await.expect("a connection");
    assert!(timed_out(run(&pool, "a").await));
    assert_eq!(begun.elapsed(), Duration::from_secs(8));
    guard.release();
    server(|server| server.is_exhausted = true);
    assert!(timed_out(run(&pool, "a").await), "other users of the driver's pool have its connection");
    assert_eq!(begun.elapsed(), Duration::from_secs(16));
}

/// The files of a database that are gone.
#[derive(Debug)]
struct Gone;

impl DatabaseFiles for Gone {
    fn problem(&self) -> Option<String> {
        None
    }

    fn problem_while_open(&self) -> Option<String> {
        Some("the file is gone".to_owned())
    }
}

/// They may be lost at any moment before the acknowledgement, also during the commit.
#[tokio::test(start_paused = true)]
async fn a_commit_to_lost_files_is_an_error() {
    let is_lost = |ran| matches!(ran, Err(StatementError::LostFiles(_)));
    let connections = Connections::out_of_shared(DatabaseConnection::default());
    let pool = Pool::<Embedded>::new(connections, Some(Arc::new(Gone)), StatementTimeout(Duration::from_secs(5)));
    let guard = pool.begin().await.expect("a connection");
    assert!(is_lost(guard.end("COMMIT").await.map(|()| 0)));
    assert!(is_lost(pool.run_checked(|| Some(statement("a")), &mut |_| ()).await));
    assert_eq!(run(&pool, "b").await.ok(), Some(1));
    assert_eq!(events(), ["1 BEGIN", "1 COMMIT", "1 a", "1 b"]);
}

/// Uses a connection in a runtime that ends before the pool does.
fn outlive_a_runtime<D: Dialect>() -> Vec<String> {
    let pool = pool::<D>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { assert!(run(&pool, "a").await.is_ok()) });
    drop(runtime);
    drop(pool);
    events()
}

#[test]
fn a_connection_is_closed_where_no_runtime_is() {
    assert_eq!(outlive_a_runtime::<Networked>(), ["1 a", "1 closed"]);
    assert_eq!(outlive_a_runtime::<Embedded>(), ["2 a", "2 closed"]);
}

/// The runtime drops the task that would return the connection before it begins.
#[test]
fn a_connection_comes_back_while_its_runtime_ends() {
    let (ended, has_ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let handle = runtime.handle().clone();
        drop(runtime);
        let _inside = handle.enter();
        let pool = pool::<Embedded>();
        let guard = pool.begin().now_or_never().expect("no wait").expect("a connection");
        guard.release();
        ended.send(super::lock(&pool.shared.cache).has_reaper).expect("the test waits");
    });
    assert_eq!(has_ended.recv_timeout(Duration::from_secs(20)), Ok(false), "a task that never ran counts as running");
}
