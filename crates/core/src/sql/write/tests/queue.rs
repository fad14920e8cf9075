//! Which writes wait, which start, and in which batches.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::engine::FakeEngine;
use super::ops::{Alone, Append, Bulk, Create, Gate, STORED, Write, write};
use super::{HOMOGENEOUS, ONE, SEVERAL, UNBATCHED, close, error, failure, outcome, run, settle, submit, writer};
use crate::sql::write::pending::pending;
use crate::sql::write::queue::{Queue, RunningWrite};
use crate::sql::write::{LockMode, QueuePolicy};
use crate::sync::Arc;
use crate::{BackendErrorKind, Result};

/// A write of the operation that most cases need.
fn append(id: &str) -> Write<Append> {
    write(id)
}

#[tokio::test(start_paused = true)]
async fn writes_to_one_target_keep_their_order() {
    for policy in [ONE, SEVERAL, HOMOGENEOUS] {
        let (writer, engine) = writer(policy);
        let gate = Gate::closed();
        let mut callers = vec![submit(&writer, append("0").to("s").behind(&gate)).await];
        for id in ["1", "2", "3", "4", "5", "6"] {
            callers.push(submit(&writer, append(id).to("s")).await);
        }
        gate.open();
        for caller in callers {
            assert_eq!(outcome(caller).await.ok(), Some(STORED));
        }
        assert_eq!(engine.lock().stored(), ["0", "1", "2", "3", "4", "5", "6"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_write_to_a_target_does_not_overtake_one_that_waits_for_a_row() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let holder = submit(&writer, append("holder").sharing("hot").behind(&gate)).await;
    let first = submit(&writer, append("first").to("s").sharing("hot")).await;
    let second = submit(&writer, append("second").to("s")).await;
    assert!(!second.is_finished());
    gate.open();
    for caller in [holder, first, second] {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().stored(), ["holder", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_later_write_to_a_target_does_not_overtake_one_that_does_not_fit_the_batch() {
    let (writer, engine) = writer(QueuePolicy { max_concurrent_batches: 1, lock: LockMode::Wait, ..HOMOGENEOUS });
    let gate = Gate::closed();
    let holder = submit(&writer, append("holder").behind(&gate)).await;
    let other = submit(&writer, append("other")).await;
    let first = submit(&writer, write::<Create>("first").to("s")).await;
    let second = submit(&writer, append("second").to("s")).await;
    gate.open();
    for caller in [holder, other, first, second] {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().stored(), ["holder", "other", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn writes_to_different_targets_run_at_once_up_to_the_limit() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let mut callers = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        callers.push(submit(&writer, append(id).behind(&gate)).await);
    }
    assert_eq!(engine.lock().attempts.len(), 3);
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().most_running, 3);
    assert!(engine.lock().commits.contains(&vec!["4".to_owned(), "5".to_owned()]), "those that waited share a commit");
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_at_most_its_size() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    let mut callers = vec![submit(&writer, append("0").behind(&gate)).await];
    for id in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        callers.push(submit(&writer, append(id)).await);
    }
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    let sizes: Vec<usize> = engine.lock().commits.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 4, 4, 1]);
}

#[tokio::test(start_paused = true)]
async fn homogeneous_batches_hold_one_operation_and_different_targets() {
    let (writer, engine) = writer(QueuePolicy { max_concurrent_batches: 1, lock: LockMode::Wait, ..HOMOGENEOUS });
    let gate = Gate::closed();
    let bulk = |id, target| write::<Bulk>(id).to(target);
    let callers = [
        submit(&writer, bulk("0", "s0").behind(&gate)).await,
        submit(&writer, bulk("1", "s1")).await,
        submit(&writer, append("2").to("s2")).await,
        submit(&writer, bulk("3", "s1")).await,
        submit(&writer, bulk("4", "s4")).await,
        submit(&writer, append("5").to("s5")).await,
    ];
    gate.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
    assert_eq!(engine.lock().bulk_statements, [vec!["0"], vec!["1", "4"], vec!["3"]]);
    assert_eq!(engine.lock().commits, [vec!["0"], vec!["1", "4"], vec!["2", "5"], vec!["3"]]);
}

#[tokio::test(start_paused = true)]
async fn rows_of_running_writes_keep_other_batches_out() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let first = submit(&writer, append("first").to("s").behind(&gate)).await;
    let second = submit(&writer, append("second").to("s")).await;
    let other = submit(&writer, append("other")).await;
    assert!(!second.is_finished());
    assert!(outcome(other).await.is_ok());
    gate.open();
    assert!(outcome(first).await.is_ok() && outcome(second).await.is_ok());
    assert_eq!(engine.lock().stored(), ["other", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn rows_are_left_to_the_database_where_the_policy_says_so() {
    let (writer, engine) = writer(UNBATCHED);
    let gate = Gate::closed();
    let first = submit(&writer, append("first").to("s").behind(&gate)).await;
    let second = submit(&writer, append("second").to("s").behind(&gate)).await;
    assert_eq!(engine.lock().attempts.len(), 2);
    gate.open();
    assert!(outcome(first).await.is_ok() && outcome(second).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn writers_of_a_hot_shared_row_take_turns_and_share_a_commit() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let first = submit(&writer, append("1").sharing("hot").behind(&gate)).await;
    let waiting =
        [submit(&writer, append("2").sharing("hot")).await, submit(&writer, append("3").sharing("hot")).await];
    let other = submit(&writer, append("4")).await;
    assert!(outcome(other).await.is_ok());
    assert!(waiting.iter().all(|caller| !caller.is_finished()));
    gate.open();
    assert!(outcome(first).await.is_ok());
    for caller in waiting {
        assert!(outcome(caller).await.is_ok());
    }
    let merge = "merge app \"hot\"";
    assert_eq!(engine.lock().commits, [vec!["4"], vec!["1", merge], vec!["2", "3", merge]]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_row_that_is_made_and_not_changed_keeps_nobody_out() {
    let (writer, _engine) = writer(SEVERAL);
    let gate = Gate::closed();
    let first = submit(&writer, append("1").making("hot").behind(&gate)).await;
    assert!(run(&writer, append("2").sharing("hot")).await.is_ok());
    gate.open();
    assert!(outcome(first).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn writes_that_a_batch_has_no_room_for_start_in_another_at_once() {
    let (writer, engine) = writer(SEVERAL);
    let (first, last) = (Gate::closed(), Gate::closed());
    let hot = ["1", "2", "3", "4", "5"];
    let holder = hot.iter().fold(append("holder").behind(&first), |write, name| write.sharing(name));
    let mut callers = vec![submit(&writer, holder).await];
    for name in hot {
        callers.push(submit(&writer, append(name).sharing(name).behind(&last)).await);
    }
    first.open();
    settle().await;
    assert_eq!(engine.lock().transactions, ["Append", "a batch of writes", "Append"]);
    last.open();
    for caller in callers {
        assert!(outcome(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_behind_a_hot_row_is_next_however_many_come_later() {
    let (writer, engine) = writer(QueuePolicy { batch_size: 2, ..SEVERAL });
    let gate = Gate::closed();
    let holder = submit(&writer, append("holder").sharing("hot").behind(&gate)).await;
    let waiting = submit(&writer, append("0").sharing("hot")).await;
    let mut later = Vec::new();
    for id in ["1", "2", "3", "4", "5", "6"] {
        let (hot, other) = (append(id).sharing("hot"), append(&format!("other {id}")));
        later.push(submit(&writer, hot).await);
        assert!(run(&writer, other).await.is_ok());
    }
    gate.open();
    assert!(outcome(holder).await.is_ok() && outcome(waiting).await.is_ok());
    for caller in later {
        assert!(outcome(caller).await.is_ok());
    }
    let stored: Vec<String> = engine.lock().stored().into_iter().map(str::to_owned).collect();
    let hot: Vec<&String> = stored.iter().filter(|id| !id.starts_with("other")).collect();
    assert_eq!(hot, ["holder", "0", "1", "2", "3", "4", "5", "6"]);
}

/// Others take turns on the two rows, so that one of them is always taken.
#[tokio::test(start_paused = true)]
async fn a_write_that_needs_two_hot_rows_gets_its_turn() {
    let (writer, engine) = writer(SEVERAL);
    let (mut gate, mut next_gate) = (Gate::closed(), Gate::closed());
    submit(&writer, write::<Append>("first").sharing("a").behind(&gate)).await;
    let patient = submit(&writer, write::<Append>("patient").sharing("a").sharing("b")).await;
    for round in 0..50 {
        let row = if round % 2 == 0 { "b" } else { "a" };
        submit(&writer, write::<Append>(&format!("round {round}")).sharing(row).behind(&next_gate)).await;
        gate.open();
        settle().await;
        gate = std::mem::replace(&mut next_gate, Gate::closed());
    }
    assert!(patient.is_finished(), "{:?}", engine.lock().stored());
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_accepted_writes_and_refuses_later_ones() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    let running = submit(&writer, append("running").behind(&gate)).await;
    let waiting = submit(&writer, append("waiting")).await;
    let closing = tokio::spawn({
        let writer = writer.clone();
        async move { close(&writer).await }
    });
    settle().await;
    let late = submit(&writer, append("late")).await;
    assert!(!closing.is_finished());
    gate.open();
    closing.await.expect("closing ends");
    assert_eq!(engine.lock().stored(), ["running", "waiting"]);
    assert!(outcome(running).await.is_ok() && outcome(waiting).await.is_ok());
    assert_eq!(failure(late).await, Some(BackendErrorKind::Unavailable));
    close(&writer).await;
    assert_eq!(failure(submit(&writer, append("later")).await).await, Some(BackendErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_is_gone_before_its_turn_leaves_no_trace() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    let running = submit(&writer, append("running").behind(&gate)).await;
    let gone = submit(&writer, append("gone").to("s")).await;
    let next = submit(&writer, append("next").to("s")).await;
    gone.abort();
    settle().await;
    gate.open();
    assert!(outcome(running).await.is_ok() && outcome(next).await.is_ok());
    assert_eq!(engine.lock().attempts.len(), 2);
    assert_eq!(engine.lock().stored(), ["running", "next"]);
    close(&writer).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_is_gone_does_not_interrupt_a_running_write() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    submit(&writer, append("running").behind(&gate)).await.abort();
    settle().await;
    gate.open();
    close(&writer).await;
    assert_eq!(engine.lock().stored(), ["running"]);
}

/// Adds a write to a queue. Returns whether it could start, and where its outcome arrives; `None` when it has to wait
/// for a place.
fn accept(queue: &Queue<FakeEngine>, write: Write<Append>) -> Option<(bool, impl Future + use<>)> {
    let (write, outcome) = pending(write, Instant::now());
    let accepted = queue.accept(write, None).now_or_never()?.expect("the queue is open");
    let could_start = accepted.could_start;
    Some((could_start, async move {
        let _accepted = accepted;
        outcome.await
    }))
}

fn next_batch(queue: &Queue<FakeEngine>) -> Vec<RunningWrite<FakeEngine>> {
    queue.batch_permit().and_then(|mut permit| permit.next_batch()).map(|batch| batch.writes).unwrap_or_default()
}

#[test]
fn a_write_too_many_waits_for_a_place_and_gets_the_first_that_is_free() {
    let queue = Queue::new(SEVERAL);
    let of_app = |number: u32| append(&number.to_string()).for_app(&number.to_string());
    let callers: Vec<_> = (0..1024).map(|number| accept(&queue, of_app(number))).collect();
    assert!(callers.iter().all(Option::is_some));
    let (write, _outcome) = pending(of_app(1024), Instant::now());
    let mut accepted = pin!(queue.accept(write, None));
    let mut context = Context::from_waker(Waker::noop());
    assert!(accepted.as_mut().poll(&mut context).is_pending());
    let (later, _outcome) = pending(of_app(1025), Instant::now());
    let mut later = pin!(queue.accept(later, None));
    assert!(later.as_mut().poll(&mut context).is_pending());
    let first = next_batch(&queue);
    assert!(accepted.as_mut().poll(&mut context).is_pending());
    drop(first);
    let Poll::Ready(Ok(accepted)) = accepted.as_mut().poll(&mut context) else { panic!("no place is free") };
    assert!(accepted.could_start);
    assert!(later.as_mut().poll(&mut context).is_pending());
    drop(next_batch(&queue));
    assert!(later.as_mut().poll(&mut context).is_ready());
}

#[test]
fn as_many_batches_run_as_may() {
    let queue = Queue::<FakeEngine>::new(SEVERAL);
    let mut permits: Vec<_> = std::iter::from_fn(|| queue.batch_permit()).collect();
    assert_eq!(permits.len(), 3);
    assert!(permits[0].next_batch().is_none());
    assert!(queue.batch_permit().is_some(), "no batch: the permit is free");
    drop(permits);
    assert_eq!(std::iter::from_fn(|| queue.batch_permit()).take(9).collect::<Vec<_>>().len(), 3);
}

#[test]
fn a_write_could_start_unless_its_rows_or_all_permits_are_taken() {
    let queue = Queue::new(SEVERAL);
    let could_start = |id, target| accept(&queue, append(id).to(target)).map(|(could_start, _)| could_start);
    let (_, _outcome) = accept(&queue, append("1").to("s")).expect("there is room");
    let batch = next_batch(&queue);
    assert_eq!(could_start("2", "s"), Some(false));
    assert_eq!(could_start("3", "other"), Some(true));
    let permits: Vec<_> = std::iter::from_fn(|| queue.batch_permit()).collect();
    assert_eq!(could_start("4", "other"), Some(false));
    drop((permits, batch));
    assert_eq!(could_start("5", "s"), Some(true));
}

/// Asks a question at the moment when the caller gets its outcome.
struct Probe<F> {
    question: F,
    answer: AtomicBool,
}

impl<F: Fn() -> bool + Send + Sync + 'static> Wake for Probe<F> {
    fn wake(self: Arc<Self>) {
        self.answer.store((self.question)(), Ordering::Relaxed);
    }
}

/// What `question` returns when the outcome of a write to the session `s` arrives.
fn when_the_outcome_arrives(question: impl Fn(&Queue<FakeEngine>) -> bool + Send + Sync + 'static) -> bool {
    let queue = Arc::new(Queue::new(SEVERAL));
    let (_, caller) = accept(&queue, append("first").to("s")).expect("there is room");
    let mut running = next_batch(&queue).pop().expect("a batch of one");
    let asked = queue.clone();
    let probe = Arc::new(Probe { question: move || question(&asked), answer: AtomicBool::new(false) });
    let mut caller = pin!(caller);
    assert!(caller.as_mut().poll(&mut Context::from_waker(&probe.clone().into())).is_pending());
    running.write.fail(error(BackendErrorKind::Unexpected));
    running.reply();
    probe.answer.load(Ordering::Relaxed)
}

#[test]
fn the_next_write_of_a_caller_who_got_its_outcome_starts_at_once() {
    let starts = |queue: &Queue<FakeEngine>| accept(queue, append("next").to("s")).is_some_and(|(starts, _)| starts);
    assert!(when_the_outcome_arrives(starts));
}

#[test]
fn the_place_of_a_caller_who_got_its_outcome_is_free() {
    assert!(when_the_outcome_arrives(|queue| queue.close().now_or_never().is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_meets_no_other_starts_alone() -> Result<()> {
    let (writer, engine) = writer(SEVERAL);
    assert_eq!(run(&writer, append("1")).await?, STORED);
    assert_eq!(run(&writer, write::<Alone>("2")).await?, STORED);
    assert_eq!(engine.lock().transactions, ["Append"]);
    Ok(())
}
