//! Shared rows in the queue: they hold up only writes that change them.

use std::time::Duration;

use tokio::time::Instant;

use super::ops::{Append, Bulk, Gate, Kind, Update, app, session, write};
use super::{HOMOGENEOUS, ONE, SEVERAL, failure, outcome, run, submit, writer};
use crate::BackendErrorKind;
use crate::sql::write::{QueuePolicy, Row};

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_session_holds_up_nobody_who_shares_its_app() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().locked.insert(session("locked"));
    let locked = submit(&writer, write::<Append>("1").to("locked").sharing("a")).await;
    assert!(run(&writer, write::<Append>("2").sharing("a")).await.is_ok());
    assert!(!locked.is_finished());
    engine.lock().locked.clear();
    assert!(outcome(locked).await.is_ok());
}

/// It may wait for a lock on that row, and no other write should wait along.
#[tokio::test(start_paused = true)]
async fn a_write_to_an_app_shares_its_batch_only_with_writes_to_that_app() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    let busy = submit(&writer, write::<Append>("busy").behind(&gate)).await;
    let mut callers = vec![busy];
    for id in ["1", "2"] {
        callers.push(submit(&writer, write::<Append>(id).for_app("a")).await);
    }
    callers.push(submit(&writer, write::<Append>("3").for_app("b")).await);
    callers.push(submit(&writer, write::<Append>("4")).await);
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().commits, [vec!["busy"], vec!["1", "2"], vec!["3"], vec!["4"]]);
}

/// Batches are left to everybody else, whether the batch has one statement or not.
#[tokio::test(start_paused = true)]
async fn a_batch_does_not_wait_for_an_app_that_others_hold() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let (writer, engine) = writer(policy);
        let gate = Gate::closed();
        let mut callers = Vec::new();
        for number in 0..policy.max_concurrent_batches {
            callers.push(submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await);
        }
        engine.lock().locked.insert(Row::Shared(app("held")));
        let held = submit(&writer, write::<K>("held").sharing("held")).await;
        let behind = submit(&writer, write::<K>("behind").to("held")).await;
        for id in ["1", "2"] {
            callers.push(submit(&writer, write::<K>(id).sharing(id)).await);
        }
        let begun = Instant::now();
        gate.open();
        for caller in callers {
            assert!(outcome(caller).await.is_ok());
        }
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        assert!(!held.is_finished() && !behind.is_finished(), "{:?}", engine.lock().commits);
        engine.lock().locked.clear();
        assert!(outcome(held).await.is_ok() && outcome(behind).await.is_ok());
        let order: Vec<String> = engine.lock().stored().into_iter().map(str::to_owned).collect();
        assert!(order.ends_with(&["held".to_owned(), "behind".to_owned()]), "{order:?}");
    }
    check::<Append>(SEVERAL).await;
    check::<Append>(QueuePolicy { max_concurrent_batches: 2, ..SEVERAL }).await;
    check::<Bulk>(HOMOGENEOUS).await;
}

/// An operation that waits for its target is not attempted in a batch. It went back only because of the write before
/// it.
#[tokio::test(start_paused = true)]
async fn a_write_behind_one_that_waits_for_an_app_does_not_go_back_for_ever() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let mut callers = Vec::new();
    for number in 0..SEVERAL.max_concurrent_batches {
        callers.push(submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await);
    }
    engine.lock().locked.insert(Row::Shared(app("held")));
    let held = submit(&writer, write::<Append>("held").sharing("held")).await;
    let behind = submit(&writer, write::<Update>("behind").to("held")).await;
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.lock().locked.clear();
    assert!(outcome(held).await.is_ok() && outcome(behind).await.is_ok());
}

/// They take one connection, and go on waiting when the database ends a wait.
#[tokio::test(start_paused = true)]
async fn the_writers_of_an_app_that_others_hold_wait_together() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let (writer, engine) = writer(QueuePolicy { batch_size: 64, ..policy });
        engine.lock().locked.insert(Row::Shared(app("held")));
        let mut callers = Vec::new();
        for number in 0..30 {
            callers.push(submit(&writer, write::<K>(&format!("{number}")).sharing("held")).await);
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        engine.lock().locked.clear();
        for caller in callers {
            assert!(outcome(caller).await.is_ok());
        }
        let database = engine.lock();
        assert!(database.most_running <= 1, "{} transactions at once", database.most_running);
        assert!(database.commits.len() <= 3, "{:?}", database.commits);
    }
    check::<Append>(SEVERAL).await;
    check::<Bulk>(HOMOGENEOUS).await;
}

#[tokio::test(start_paused = true)]
async fn apps_that_others_hold_leave_half_of_the_batches_to_the_rest() {
    let (writer, engine) = writer(QueuePolicy { max_concurrent_batches: 4, ..SEVERAL });
    let mut callers = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        engine.lock().locked.insert(Row::Shared(app(name)));
        callers.push(submit(&writer, write::<Append>(name).sharing(name)).await);
    }
    let begun = Instant::now();
    assert!(run(&writer, write::<Append>("free").sharing("free")).await.is_ok());
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    engine.lock().locked.clear();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
}

/// Nobody keeps count of so many rows. The writes wait by themselves then.
#[tokio::test(start_paused = true)]
async fn writers_of_very_many_apps_that_others_hold_have_their_outcomes() {
    let (writer, engine) = writer(SEVERAL);
    let mut callers = Vec::new();
    for number in 0..100 {
        let name = format!("{number}");
        engine.lock().locked.insert(Row::Shared(app(&name)));
        callers.push(submit(&writer, write::<Append>(&name).sharing(&name)).await);
    }
    engine.lock().locked.clear();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_does_not_end_with_one_that_has_waited_longer() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().locked.insert(Row::Shared(app("held")));
    let early = submit(&writer, write::<Append>("early").sharing("held")).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let late = submit(&writer, write::<Append>("late").sharing("held")).await;
    // The database has ended two waits by then.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(early.is_finished() && !late.is_finished());
    assert_eq!(failure(early).await, Some(BackendErrorKind::Contention));
    engine.lock().locked.clear();
    assert!(outcome(late).await.is_ok());
}
