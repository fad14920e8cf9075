//! Batches: what they commit together, and what becomes of the writes that they leave out.

use std::time::Duration;

use super::engine::End;
use super::ops::{Alone, Append, Bulk, Create, Gate, Outcome, Reading, STORED, Update, Write, session, write};
use super::{FakeWriter, HOMOGENEOUS, ONE, SEVERAL, UNBATCHED, failure, outcome, run, settle, submit, writer};
use crate::sql::write::QueuePolicy;
use crate::sql::write::op::LockMode;
use crate::{BackendErrorKind, Error, Result, State};

/// A policy under which all batches but one are busy after [`occupy`].
const TWO: QueuePolicy = QueuePolicy { max_concurrent_batches: 2, ..SEVERAL };

fn append(id: &str) -> Write<Append> {
    write(id)
}

/// Keeps all batches busy, so that the next writes gather in one.
async fn occupy(writer: &FakeWriter, batches: usize, gate: &Gate) {
    for number in 0..batches {
        submit(writer, append(&format!("busy {number}")).behind(gate)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_merges_each_shared_row_once_and_completes_each_outcome() -> Result<()> {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    occupy(&writer, 1, &gate).await;
    let first = submit(&writer, append("1").sharing("a")).await;
    let second = submit(&writer, append("2").sharing("a").sharing("b")).await;
    let third = submit(&writer, append("3")).await;
    gate.open();
    let a = State::new().with("1", 1).with("2", 1);
    assert_eq!(outcome(first).await?, Outcome::Stored(vec![a.clone()]));
    assert_eq!(outcome(second).await?, Outcome::Stored(vec![a, State::new().with("2", 1)]));
    assert_eq!(outcome(third).await?, STORED);
    assert_eq!(engine.lock().commits[1], ["1", "2", "3", "merge app \"a\"", "merge app \"b\""]);
    assert_eq!(engine.lock().transactions, ["Append", "a batch of writes"]);
    Ok(())
}

/// What was read before the batch's first write is out of date after it.
#[tokio::test(start_paused = true)]
async fn a_prefetched_target_serves_the_first_write_to_it() {
    let (writer, engine) = writer(QueuePolicy { batch_size: 8, ..ONE });
    let gate = Gate::closed();
    occupy(&writer, 1, &gate).await;
    let mut callers = Vec::new();
    for (id, target) in [("1", "a"), ("2", "b"), ("3", "a")] {
        callers.push(submit(&writer, write::<Reading>(id).to(target)).await);
    }
    callers.push(submit(&writer, append("4").to("c")).await);
    callers.push(submit(&writer, write::<Reading>("5").to("c")).await);
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().prefetched, [["a", "b", "c"].map(session)]);
    assert_eq!(engine.lock().found_prefetched, ["1", "2", "4"], "4 only takes it away from 5");
}

/// A server that is gone takes its time to say so, and need not be asked for each of them.
#[tokio::test(start_paused = true)]
async fn writes_to_one_target_do_not_each_wait_for_a_server_that_is_gone() {
    let (writer, engine) = writer(QueuePolicy { batch_size: 16, ..TWO });
    engine.lock().locked.insert(session("a"));
    let gate = Gate::closed();
    occupy(&writer, 2, &gate).await;
    let mut callers = Vec::new();
    for number in 0..10 {
        callers.push(submit(&writer, append(&number.to_string()).to("a")).await);
    }
    gate.open();
    settle().await;
    for number in 0..10 {
        engine.lock().failing.insert(number.to_string(), BackendErrorKind::Unavailable);
    }
    engine.lock().duration = Duration::from_secs(5);
    engine.lock().locked.clear();
    let begun = tokio::time::Instant::now();
    for caller in callers {
        assert_eq!(failure(caller).await, Some(BackendErrorKind::Unavailable));
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn updates_of_one_target_share_a_homogeneous_batch_without_a_bulk_statement() {
    let (writer, engine) = writer(HOMOGENEOUS);
    let gate = Gate::closed();
    occupy(&writer, 3, &gate).await;
    let mut callers = Vec::new();
    for id in ["1", "2", "3"] {
        callers.push(submit(&writer, append(id).to("a")).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert!(engine.lock().commits.iter().any(|commit| commit == &["1", "2", "3"]), "{:?}", engine.lock().commits);
}

#[tokio::test(start_paused = true)]
async fn a_batch_locks_rows_in_their_order() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    occupy(&writer, 1, &gate).await;
    let mut callers = Vec::new();
    for (id, target) in [("1", "c"), ("2", "a"), ("3", "c"), ("4", "b")] {
        callers.push(submit(&writer, append(id).to(target)).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().commits[1], ["2", "4", "1", "3"], "the order of arrival stays within a target");
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_leaves_the_rest_of_its_batch_alone() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    engine.lock().refused.insert("2".to_owned());
    occupy(&writer, 1, &gate).await;
    let first = submit(&writer, append("1").sharing("a")).await;
    let refused = submit(&writer, append("2").sharing("b")).await;
    gate.open();
    assert!(outcome(first).await.is_ok());
    assert!(matches!(outcome(refused).await, Err(Error::Invalid { .. })));
    assert_eq!(engine.lock().commits[1], ["1", "merge app \"a\""]);
    assert_eq!(engine.lock().attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_a_write_commits_nothing() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().refused.insert("1".to_owned());
    assert!(matches!(run(&writer, append("1")).await, Err(Error::Invalid { .. })));
    assert_eq!(engine.lock().commits.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn contention_is_retried_and_stored_once() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        let (writer, engine) = writer(policy);
        engine.end("1", [End::Fails(BackendErrorKind::Contention); 2]);
        assert_eq!(run(&writer, append("1")).await.ok(), Some(STORED));
        assert_eq!(engine.lock().stored(), ["1"]);
        assert_eq!(engine.lock().attempts.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_meets_other_writers_is_retried_one_write_after_the_other() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    occupy(&writer, 1, &gate).await;
    let mut callers = Vec::new();
    for id in ["1", "2", "3"] {
        callers.push(submit(&writer, append(id).to("s")).await);
    }
    engine.end("1", [End::Fails(BackendErrorKind::Contention)]);
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().commits, [vec!["busy 0"], vec!["1"], vec!["2"], vec!["3"]]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_batch_is_the_error_of_the_culprit_alone() {
    for policy in [ONE, TWO] {
        let (writer, engine) = writer(policy);
        let gate = Gate::closed();
        engine.lock().failing.insert("2".to_owned(), BackendErrorKind::Unexpected);
        occupy(&writer, policy.max_concurrent_batches, &gate).await;
        let first = submit(&writer, append("1")).await;
        let culprit = submit(&writer, append("2")).await;
        let third = submit(&writer, append("3")).await;
        gate.open();
        assert!(outcome(first).await.is_ok() && outcome(third).await.is_ok());
        assert_eq!(failure(culprit).await, Some(BackendErrorKind::Unexpected));
        let mut stored: Vec<String> = engine.lock().stored().into_iter().map(str::to_owned).collect();
        stored.retain(|id| !id.starts_with("busy"));
        assert_eq!(stored, ["1", "3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_lone_write_is_final_unless_another_attempt_may_get_past_it() {
    let kinds =
        [BackendErrorKind::Unexpected, BackendErrorKind::Corrupt, BackendErrorKind::Schema, BackendErrorKind::TooLarge];
    for kind in kinds {
        let (writer, engine) = writer(SEVERAL);
        engine.lock().failing.insert("1".to_owned(), kind);
        assert_eq!(failure(submit(&writer, append("1")).await).await, Some(kind));
        assert_eq!(engine.lock().attempts.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_is_the_error_of_every_write_of_a_batch() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    occupy(&writer, 1, &gate).await;
    let callers = [submit(&writer, append("1")).await, submit(&writer, append("2")).await];
    engine.lock().duration = Duration::from_secs(2);
    engine.lock().failing.insert("2".to_owned(), BackendErrorKind::Unavailable);
    gate.open();
    for caller in callers {
        assert_eq!(failure(caller).await, Some(BackendErrorKind::Unavailable));
    }
    assert_eq!(engine.lock().attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_locked_row_holds_up_its_write_and_no_other() {
    let (writer, engine) = writer(TWO);
    let gate = Gate::closed();
    occupy(&writer, 2, &gate).await;
    engine.lock().locked.extend([session("locked"), session("locked too")]);
    let locked = submit(&writer, append("1").to("locked")).await;
    let free = submit(&writer, append("2")).await;
    gate.open();
    assert!(outcome(free).await.is_ok());
    let behind = submit(&writer, append("3").to("locked")).await;
    // As many locked sessions as batches.
    let other = submit(&writer, append("7").to("locked too")).await;
    for id in ["4", "5", "6"] {
        assert!(run(&writer, append(id)).await.is_ok());
    }
    assert!(!locked.is_finished() && !behind.is_finished());
    engine.lock().locked.clear();
    assert!(outcome(locked).await.is_ok() && outcome(behind).await.is_ok() && outcome(other).await.is_ok());
    let attempts = engine.lock().attempts.clone();
    assert!(attempts.contains(&("1".to_owned(), LockMode::SkipLocked)));
    assert!(attempts.contains(&("1".to_owned(), LockMode::Wait)));
}

#[tokio::test(start_paused = true)]
async fn the_only_batch_waits_for_locked_rows() {
    let (writer, engine) = writer(ONE);
    engine.lock().locked.insert(session("locked"));
    let locked = submit(&writer, append("1").to("locked")).await;
    engine.lock().locked.clear();
    assert!(outcome(locked).await.is_ok());
    assert_eq!(engine.lock().attempts, [("1".to_owned(), LockMode::Wait)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_with_a_reason_to_refuse_it_does_not_wait_for_the_locked_row() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().locked.insert(session("locked"));
    let write = append("1").to("locked").diagnosed();
    assert!(matches!(run(&writer, write).await, Err(Error::Invalid { .. })));
    assert_eq!(engine.lock().attempts, [("1".to_owned(), LockMode::SkipLocked)]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_not_attempted_when_none_of_its_writes_can_leave_a_locked_row_out() {
    let (writer, engine) = writer(SEVERAL);
    assert_eq!(run(&writer, write::<Update>("1")).await.ok(), Some(STORED));
    assert_eq!(engine.lock().attempts, [("1".to_owned(), LockMode::Wait)]);
    let (writer, engine) = super::writer(ONE);
    assert_eq!(run(&writer, write::<Update>("1")).await.ok(), Some(STORED));
    assert_eq!(engine.lock().attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn writes_that_share_nothing_are_transactions_of_their_own() {
    let (writer, engine) = writer(UNBATCHED);
    let gate = Gate::closed();
    occupy(&writer, 3, &gate).await;
    let callers = [submit(&writer, append("1")).await, submit(&writer, append("2").diagnosed()).await];
    gate.open();
    for caller in callers {
        assert_eq!(outcome(caller).await.ok(), Some(STORED));
    }
    assert!(engine.lock().commits.iter().all(|commit| commit.len() == 1));
    assert!(engine.lock().attempts.iter().all(|(_, lock)| *lock == LockMode::Wait));
}

#[tokio::test(start_paused = true)]
async fn writes_that_a_bulk_statement_leaves_out_are_attempted_alone() {
    let (writer, engine) = writer(HOMOGENEOUS);
    let gate = Gate::closed();
    occupy(&writer, 3, &gate).await;
    engine.lock().locked.insert(session("locked"));
    let first = submit(&writer, write::<Bulk>("1")).await;
    let left_out = submit(&writer, write::<Bulk>("2").to("locked")).await;
    gate.open();
    assert_eq!(outcome(first).await.ok(), Some(STORED));
    assert!(!left_out.is_finished());
    engine.lock().locked.clear();
    assert_eq!(outcome(left_out).await.ok(), Some(STORED));
    assert_eq!(engine.lock().bulk_statements, [["1", "2"]]);
    assert!(engine.lock().commits.contains(&vec!["1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn after_the_error_of_a_bulk_statement_the_portable_algorithm_names_the_culprit() {
    let (writer, engine) = writer(HOMOGENEOUS);
    let gate = Gate::closed();
    occupy(&writer, 3, &gate).await;
    engine.lock().failing.insert("2".to_owned(), BackendErrorKind::Unexpected);
    let first = submit(&writer, write::<Bulk>("1")).await;
    let culprit = submit(&writer, write::<Bulk>("2")).await;
    gate.open();
    assert_eq!(outcome(first).await.ok(), Some(STORED));
    assert_eq!(failure(culprit).await, Some(BackendErrorKind::Unexpected));
    engine.lock().attempts.clear();
    assert_eq!(failure(submit(&writer, write::<Bulk>("2")).await).await, Some(BackendErrorKind::Unexpected));
    assert_eq!(engine.lock().attempts, [("2".to_owned(), LockMode::Wait)], "a lone write is attempted as well");
}

#[tokio::test(start_paused = true)]
async fn a_lone_write_needs_no_transaction_where_one_statement_can_do_it() {
    let (writer, engine) = writer(SEVERAL);
    engine.end("1", [End::Fails(BackendErrorKind::Contention)]);
    assert_eq!(run(&writer, write::<Alone>("1")).await.ok(), Some(STORED));
    assert_eq!(run(&writer, write::<Alone>("1")).await.ok(), Some(Outcome::Replayed));
    assert!(engine.lock().transactions.is_empty());
    assert_eq!(engine.lock().stored(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reaches_the_caller_as_it_is() {
    let (writer, _engine) = writer(SEVERAL);
    assert_eq!(run(&writer, write::<Create>("1")).await.ok(), Some(STORED));
    assert!(matches!(run(&writer, write::<Create>("1")).await, Err(Error::AlreadyExists { .. })));
}

#[tokio::test(start_paused = true)]
async fn writes_to_one_target_keep_their_order_when_their_batch_fails() {
    let (writer, engine) = writer(TWO);
    let gate = Gate::closed();
    occupy(&writer, 2, &gate).await;
    engine.lock().failing.insert("1".to_owned(), BackendErrorKind::Contention);
    let first = submit(&writer, append("1").to("s").sharing("hot")).await;
    let second = submit(&writer, append("2").to("s")).await;
    gate.open();
    settle().await;
    let behind = submit(&writer, append("behind").sharing("hot")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!second.is_finished());
    engine.lock().failing.clear();
    engine.lock().failing.insert("2".to_owned(), BackendErrorKind::Contention);
    assert!(outcome(first).await.is_ok());
    assert!(outcome(behind).await.is_ok(), "the row of the first is free");
    assert!(!second.is_finished());
    let third = submit(&writer, append("3").to("s")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!third.is_finished(), "the second holds its row still");
    engine.lock().failing.clear();
    assert!(outcome(second).await.is_ok() && outcome(third).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn writes_to_one_target_keep_their_order_when_a_batch_leaves_the_first_out() {
    let (writer, engine) = writer(TWO);
    let (gate, last) = (Gate::closed(), Gate::closed());
    occupy(&writer, 2, &gate).await;
    engine.lock().locked.insert(session("s"));
    let first = submit(&writer, append("1").to("s")).await;
    let second = submit(&writer, append("2").to("s").behind(&last)).await;
    gate.open();
    settle().await;
    engine.lock().locked.clear();
    last.open();
    assert!(outcome(first).await.is_ok() && outcome(second).await.is_ok());
    let stored: Vec<String> = engine.lock().stored().into_iter().map(str::to_owned).collect();
    assert!(stored.ends_with(&["1".to_owned(), "2".to_owned()]), "{stored:?}");
}
