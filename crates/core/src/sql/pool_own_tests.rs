//! A service's own connections: for how long they are kept, when they are tested, and what is told of a server that
//! refuses one.

use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr, RuntimeErr};
use tokio::time::Instant;

use super::fakes::{Networked, events, server};
use super::{run, sleep};
use crate::sql::connections::Connections;
use crate::sql::error::StatementError;
use crate::sql::pool::Pool;
use crate::sql::servers::Servers;
use crate::sql::target::{Address, TargetServer};
use crate::sql::timeout::StatementTimeout;

fn pool_of(connections: Connections<Networked>) -> Pool<Networked> {
    Pool::new(connections, None, StatementTimeout(Duration::from_secs(5)))
}

/// A pool that connects to servers, which are all alike.
fn own(servers: usize) -> Pool<Networked> {
    let other = Address { host: String::new(), port: 1 };
    let servers = Servers::new((), &vec![other; servers - 1], TargetServer::Any, String::new());
    pool_of(Connections::to_servers(DatabaseConnection::default(), servers))
}

fn is_told<T>(outcome: &Result<T, StatementError>, by: &str) -> bool {
    matches!(outcome, Err(StatementError::Database(DbErr::Conn(RuntimeErr::Internal(text)))) if text == by)
}

#[tokio::test(start_paused = true)]
async fn one_caller_needs_one_connection() {
    let pool = own(1);
    for pause in [0, 1, 10, 100, 999] {
        assert!(run(&pool, "a").await.is_ok());
        sleep(pause).await;
    }
    assert_eq!(server(|server| server.opened), 1);
    drop(pool);
    sleep(1).await;
    assert_eq!(events().last().map(String::as_str), Some("1 ended"));
}

#[tokio::test(start_paused = true)]
async fn services_with_other_timeouts_use_the_same_connections() {
    let pool = own(1);
    assert!(run(&pool, "a").await.is_ok());
    assert!(run(&pool.with_statement_timeout(StatementTimeout(Duration::from_secs(1))), "b").await.is_ok());
    assert_eq!(events(), ["1 a", "1 b"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_idle_for_a_second_is_tested_first() {
    let pool = own(1);
    assert!(run(&pool, "a").await.is_ok());
    sleep(999).await;
    assert!(run(&pool, "b").await.is_ok());
    sleep(1000).await;
    assert!(run(&pool, "c").await.is_ok());
    assert_eq!(events(), ["1 a", "1 b", "1 ping", "1 c"]);
    server(|server| server.is_silent = true);
    sleep(1000).await;
    assert!(run(&pool, "d").await.is_ok());
    assert_eq!(events(), ["1 ping", "1 closed", "2 d"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_broken_connection_the_others_are_tested_first() {
    let pool = own(1);
    let (first, second) = (pool.begin().await.expect("a connection"), pool.begin().await.expect("a connection"));
    first.release();
    second.release();
    assert!(run(&pool, "broken").await.is_err());
    events();
    server(|server| server.is_silent = true);
    assert!(run(&pool, "a").await.is_ok());
    assert!(run(&pool, "b").await.is_ok());
    assert_eq!(events(), ["1 ping", "1 closed", "3 a", "3 b"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_its_time() {
    let pool = own(1);
    assert!(run(&pool, "a").await.is_ok());
    tokio::time::sleep(Duration::from_mins(21)).await;
    assert_eq!(events(), ["1 a", "1 ended"], "nobody used it for ten minutes");
    for _ in 0..6 {
        assert!(run(&pool, "b").await.is_ok());
        tokio::time::sleep(Duration::from_mins(5)).await;
    }
    assert!(run(&pool, "c").await.is_ok());
    sleep(1).await;
    assert_eq!(events().last().map(String::as_str), Some("2 ended"), "it was half an hour old");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_all_connections_and_waits_for_those_in_use() {
    let pool = own(1);
    let (first, second) = (pool.begin().await.expect("a connection"), pool.begin().await.expect("a connection"));
    second.release();
    events();
    let release = async {
        sleep(10).await;
        first.release();
    };
    tokio::join!(pool.close(), release);
    let mut ended = events();
    ended.sort();
    assert_eq!(ended, ["1 ended", "2 ended"]);
    assert!(run(&pool, "a").await.is_err());
    pool.close().await;
    assert_eq!(events(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_a_moment_is_waited_for() {
    let pool = own(1);
    server(|server| server.connects = vec!["broken", "broken", "broken"]);
    assert!(run(&pool, "a").await.is_ok());
    server(|server| server.connects = vec!["failure"]);
    let started = Instant::now();
    let pool = own(1);
    assert!(is_told(&run(&pool, "a").await, "failure"), "what would fail again is told at once");
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn why_a_server_cannot_be_reached_is_told_and_not_that_time_is_up() {
    for (reason, within) in [("broken", 7..9), ("full", 0..2)] {
        server(|server| server.connects = vec![reason; 10_000]);
        let started = Instant::now();
        assert!(is_told(&run(&own(1), "a").await, reason));
        assert!(within.contains(&started.elapsed().as_secs()), "{reason}: {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_drivers_pool_hides_is_told() {
    server(|server| {
        server.is_exhausted = true;
        server.connects = vec!["full"; 10_000];
    });
    let pool = pool_of(Connections::out_of_sibling(DatabaseConnection::default()));
    let started = Instant::now();
    assert!(is_told(&run(&pool, "a").await, "full"));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn addresses_are_tried_in_turn_and_the_last_one_first() {
    let pool = own(2);
    server(|server| server.connects = vec!["broken", "ok", "ok"]);
    let started = Instant::now();
    let first = pool.begin().await.expect("the second address");
    let second = pool.begin().await.expect("the second address again");
    assert_eq!(started.elapsed(), Duration::ZERO, "a refused address costs no wait");
    drop((first, second));
    assert_eq!(server(|server| server.connects.len()), 0);
    server(|server| server.connects = vec!["broken", "full"]);
    server(|server| server.connects.extend(vec!["broken"; 10_000]));
    assert!(is_told(&run(&pool, "a").await, "broken"));
}
