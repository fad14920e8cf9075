//! Many, large or bad writes beside those of others.

use std::time::Duration;

use super::engine::{End, FakeEngine};
use super::ops::{Append, Bulk, Gate, Kind, Write, session, write};
use super::{FakeWriter, HOMOGENEOUS, ONE, SEVERAL, close, outcome, settle, submit, writer};
use crate::BackendErrorKind;
use crate::sql::write::QueuePolicy;
use crate::sync::Arc;

const LARGE: usize = 8 << 20;

/// A writer whose batches are all busy until the gate opens, so that the next writes gather.
async fn busy_writer(policy: QueuePolicy) -> (FakeWriter, Arc<FakeEngine>, Gate) {
    let (writer, engine) = writer(policy);
    let gate = Gate::closed();
    for number in 0..policy.max_concurrent_batches {
        submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await;
    }
    (writer, engine, gate)
}

fn append(id: &str) -> Write<Append> {
    write(id)
}

/// The commits, without the first, which kept the writer busy.
fn commits(engine: &FakeEngine, busy: usize) -> Vec<Vec<String>> {
    engine.lock().commits.iter().skip(busy).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn the_culprit_of_a_batch_is_found_by_halves() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let policy = QueuePolicy { batch_size: 32, ..policy };
        let (writer, engine, gate) = busy_writer(policy).await;
        engine.lock().failing.insert("13".to_owned(), BackendErrorKind::Unexpected);
        let mut callers = Vec::new();
        for number in 10..42 {
            callers.push((number, submit(&writer, write::<K>(&number.to_string())).await));
        }
        gate.open();
        for (number, caller) in callers {
            assert_eq!(outcome(caller).await.is_ok(), number != 13);
        }
        let commits = commits(&engine, policy.max_concurrent_batches);
        assert!(commits.len() <= 5, "{commits:?}");
    }
    check::<Append>(ONE).await;
    check::<Append>(QueuePolicy { max_concurrent_batches: 2, ..SEVERAL }).await;
    check::<Bulk>(HOMOGENEOUS).await;
}

/// Where many writes fail, something else is at fault, and halves would make it worse.
#[tokio::test(start_paused = true)]
async fn halves_are_given_up_where_many_fail() {
    let (writer, engine, gate) = busy_writer(QueuePolicy { batch_size: 32, ..ONE }).await;
    let mut callers = Vec::new();
    for number in 10..42 {
        engine.lock().failing.insert(number.to_string(), BackendErrorKind::Unexpected);
        callers.push(submit(&writer, append(&number.to_string())).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_err());
    }
    let attempts = engine.lock().attempts.len();
    assert!(attempts < 50, "{attempts} attempts of 32 writes");
}

#[tokio::test(start_paused = true)]
async fn a_write_does_not_overtake_one_that_was_left_out_of_the_first_half() {
    let policy = QueuePolicy { max_concurrent_batches: 2, ..SEVERAL };
    let (writer, engine, gate) = busy_writer(policy).await;
    engine.lock().locked.insert(session("a"));
    engine.lock().failing.insert("culprit".to_owned(), BackendErrorKind::Unexpected);
    let second_half = Gate::closed();
    let mut callers = Vec::new();
    for id in ["1", "2"] {
        callers.push(submit(&writer, append(id).to("a")).await);
    }
    callers.push(submit(&writer, append("3").to("a").behind(&second_half)).await);
    let culprit = submit(&writer, append("culprit").to("z")).await;
    gate.open();
    settle().await;
    engine.lock().locked.clear();
    second_half.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert!(outcome(culprit).await.is_err());
    let stored: Vec<String> = engine.lock().stored().into_iter().map(str::to_owned).collect();
    assert_eq!(stored[2..], ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_target_at_fault_is_kept_out_of_batches_for_a_while() {
    let (writer, engine) = writer(ONE);
    let together = async |fails: bool| {
        engine.lock().attempts.clear();
        let gate = Gate::closed();
        let busy = submit(&writer, append("busy").behind(&gate)).await;
        engine.lock().failing.insert("bad".to_owned(), BackendErrorKind::Unexpected);
        let first = submit(&writer, append("1")).await;
        let bad = submit(&writer, append("bad").to("bad")).await;
        let last = submit(&writer, append("2")).await;
        gate.open();
        assert_eq!(outcome(bad).await.is_err(), fails);
        for caller in [busy, first, last] {
            assert!(outcome(caller).await.is_ok());
        }
        engine.lock().commits.clear();
        engine.lock().attempts.iter().filter(|(id, _)| id == "1").count()
    };
    assert!(together(true).await > 1, "the first time, its batch fails");
    assert_eq!(together(true).await, 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(together(true).await > 1, "it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_shared_row_that_others_hold_is_kept_out_of_the_batches_of_others() {
    let (writer, engine) = writer(ONE);
    let together = async || {
        engine.lock().commits.clear();
        let gate = Gate::closed();
        let mut callers = vec![submit(&writer, append("busy").behind(&gate)).await];
        for (id, app) in [("1", "a"), ("2", "held"), ("3", "b"), ("4", "held")] {
            callers.push(submit(&writer, append(id).sharing(app)).await);
        }
        gate.open();
        for caller in callers {
            assert!(outcome(caller).await.is_ok());
        }
        commits(&engine, 1)
    };
    engine.end("2", [End::Fails(BackendErrorKind::Contention)]);
    let held = submit(&writer, append("2").sharing("held")).await;
    assert!(outcome(held).await.is_ok());
    let (a, b, held) = ("merge app \"a\"", "merge app \"b\"", "merge app \"held\"");
    assert_eq!(together().await, [vec!["1", "3", a, b], vec!["2", "4", held]]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(together().await, [["1", "2", "3", "4", a, b, held]]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_weighed() {
    let (writer, engine, gate) = busy_writer(QueuePolicy { batch_size: 64, ..ONE }).await;
    let mut callers = Vec::new();
    for number in 10..30 {
        callers.push(submit(&writer, append(&number.to_string()).of(200 << 10)).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(commits(&engine, 1).iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5, 5]);
}

#[tokio::test(start_paused = true)]
async fn small_writes_take_turns_with_large_ones() {
    let (writer, engine, gate) = busy_writer(ONE).await;
    let mut callers = Vec::new();
    for id in ["large 1", "large 2", "large 3"] {
        callers.push(submit(&writer, append(id).of(LARGE)).await);
    }
    for id in ["1", "2", "3", "4", "5", "6"] {
        callers.push(submit(&writer, append(id)).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    let expected: [&[&str]; 5] = [&["large 1"], &["1", "2", "3", "4"], &["large 2"], &["5", "6"], &["large 3"]];
    assert_eq!(commits(&engine, 1), expected);
}

#[tokio::test(start_paused = true)]
async fn large_writes_leave_half_of_the_batches_to_small_ones() {
    let (writer, engine) = writer(QueuePolicy { max_concurrent_batches: 4, ..SEVERAL });
    let gate = Gate::closed();
    let mut callers = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        callers.push(submit(&writer, append(id).of(LARGE).behind(&gate)).await);
    }
    assert_eq!(engine.lock().attempts.len(), 2);
    let small = submit(&writer, append("small")).await;
    assert!(outcome(small).await.is_ok());
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_writer_gets_into_the_next_batch_beside_many_of_one_session() {
    for policy in [ONE, SEVERAL, HOMOGENEOUS] {
        let (writer, engine, gate) = busy_writer(policy).await;
        for number in 0..2000 {
            let (writer, write) = (writer.clone(), append(&format!("hot {number}")).to("hot"));
            tokio::spawn(async move { writer.submit(write, super::FOREVER).await });
        }
        settle().await;
        let lone = submit(&writer, append("lone").to("lone")).await;
        gate.open();
        assert!(outcome(lone).await.is_ok());
        let before = engine.lock().stored().iter().position(|id| *id == "lone");
        assert!(before.is_some_and(|before| before <= 2 * policy.batch_size), "{before:?} writes were first");
        close(&writer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_locked_session_who_have_gone_leave_their_places() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().locked.insert(session("locked"));
    let mut callers = Vec::new();
    for number in 0..1100 {
        let (writer, write) = (writer.clone(), append(&number.to_string()).to("locked"));
        callers.push(tokio::spawn(async move { writer.submit(write, super::FOREVER).await }));
    }
    settle().await;
    for caller in &callers {
        caller.abort();
    }
    settle().await;
    for number in 0..1000 {
        let (writer, write) = (writer.clone(), append(&format!("other {number}")).for_app(&number.to_string()));
        callers.push(tokio::spawn(async move { writer.submit(write, super::FOREVER).await }));
    }
    for caller in callers.split_off(1100) {
        assert!(outcome(caller).await.is_ok());
    }
    engine.lock().locked.clear();
    close(&writer).await;
}
