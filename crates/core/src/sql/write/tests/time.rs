//! The limit on a call: what a caller gets when it has passed.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::End;
use super::ops::{Alone, Append, Bulk, Delete, Gate, Kind, Outcome, STORED, Write, session, write};
use super::{FakeWriter, HOMOGENEOUS, ONE, SEVERAL, UNBATCHED, close, outcome, settle, submit, writer};
use crate::sql::write::QueuePolicy;
use crate::{BackendErrorKind, Result};

const LIMIT: Duration = Duration::from_secs(2);
const POLICIES: [QueuePolicy; 4] = [ONE, SEVERAL, HOMOGENEOUS, UNBATCHED];

/// Submits a write that has so much time. Its caller must wait no longer than that and a second.
async fn submit_within<K: Kind>(writer: &FakeWriter, write: Write<K>, limit: Duration) -> JoinHandle<Result<Outcome>> {
    let writer = writer.clone();
    let caller = tokio::spawn(async move {
        let begun = Instant::now();
        let outcome = writer.submit(write, limit).await;
        assert!(begun.elapsed() < limit + Duration::from_secs(1), "the caller waited for {:?}", begun.elapsed());
        outcome
    });
    settle().await;
    caller
}

async fn kind(caller: JoinHandle<Result<Outcome>>) -> Option<BackendErrorKind> {
    outcome(caller).await.expect_err("the write succeeded").backend_kind()
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_turn_too_long_is_not_stored() {
    for policy in [ONE, SEVERAL, HOMOGENEOUS] {
        let (writer, engine) = writer(policy);
        let gate = Gate::closed();
        for number in 0..policy.max_concurrent_batches {
            submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await;
        }
        let late = submit_within(&writer, write::<Append>("late"), LIMIT).await;
        assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
        gate.open();
        close(&writer).await;
        assert!(!engine.lock().holds("late"), "its caller was told that it is not stored");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_a_connection_too_long_is_not_stored() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let (writer, engine) = writer(policy);
        engine.lock().wait_for_connection = Duration::from_secs(5);
        let late = submit_within(&writer, write::<K>("late"), LIMIT).await;
        assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
        close(&writer).await;
        assert!(!engine.lock().holds("late"), "its caller was told that it is not stored");
    }
    for policy in POLICIES {
        check::<Append>(policy).await;
    }
    check::<Bulk>(HOMOGENEOUS).await;
}

/// A batch goes on for those who still wait, without the writes whose callers have given up.
#[tokio::test(start_paused = true)]
async fn a_batch_leaves_out_the_writes_whose_callers_have_given_up() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let (writer, engine) = writer(policy);
        let gate = Gate::closed();
        for number in 0..policy.max_concurrent_batches {
            submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await;
        }
        let late = submit_within(&writer, write::<K>("1"), LIMIT).await;
        let early = submit_within(&writer, write::<K>("2"), LIMIT * 10).await;
        engine.lock().wait_for_connection = Duration::from_secs(5);
        gate.open();
        assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
        assert_eq!(outcome(early).await.ok(), Some(STORED));
        close(&writer).await;
        assert!(!engine.lock().holds("1"), "its caller was told that it is not stored");
    }
    for policy in [ONE, SEVERAL] {
        check::<Append>(policy).await;
    }
    check::<Bulk>(HOMOGENEOUS).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_a_lock_too_long_is_not_stored() {
    for policy in POLICIES {
        let (writer, engine) = writer(policy);
        engine.lock().locked.insert(session("locked"));
        let late = submit_within(&writer, write::<Append>("late").to("locked"), LIMIT).await;
        let patient = submit_within(&writer, write::<Append>("patient").to("locked"), LIMIT * 10).await;
        assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
        engine.lock().locked.clear();
        assert_eq!(outcome(patient).await.ok(), Some(STORED), "the time of one caller is not that of another");
        close(&writer).await;
        assert!(!engine.lock().holds("late"), "its caller was told that it is not stored");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_caller_is_not_that_of_the_caller_behind_it() {
    let (writer, engine) = writer(SEVERAL);
    let gate = Gate::closed();
    for number in 0..SEVERAL.max_concurrent_batches {
        submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await;
    }
    engine.lock().locked.insert(session("locked"));
    let late = submit_within(&writer, write::<Append>("1").to("locked"), LIMIT).await;
    let patient = submit_within(&writer, write::<Append>("2").to("locked"), LIMIT * 10).await;
    gate.open();
    assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
    engine.lock().locked.clear();
    assert_eq!(outcome(patient).await.ok(), Some(STORED));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_nobody_waits_for_holds_up_nobody() {
    for policy in [ONE, HOMOGENEOUS] {
        let (writer, engine) = writer(policy);
        engine.lock().wait_for_connection = Duration::from_hours(1);
        for number in 0..policy.max_concurrent_batches {
            submit_within(&writer, write::<Bulk>(&number.to_string()), LIMIT).await;
        }
        engine.lock().wait_for_connection = Duration::ZERO;
        let next = submit_within(&writer, write::<Bulk>("next"), LIMIT * 2).await;
        assert_eq!(outcome(next).await.ok(), Some(STORED));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_leaves_no_doubt() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        let (writer, engine) = writer(policy);
        engine.end("late", [End::Fails(BackendErrorKind::Contention)]);
        engine.lock().duration = Duration::from_millis(100);
        let late = submit_within(&writer, write::<Append>("late"), LIMIT).await;
        engine.lock().wait_for_connection = Duration::from_secs(5);
        assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
        close(&writer).await;
        assert!(engine.lock().stored().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_commit_takes_too_long_may_be_stored() {
    for policy in POLICIES {
        let (writer, engine) = writer(policy);
        engine.lock().commit_takes = Duration::from_secs(5);
        let late = submit_within(&writer, write::<Append>("late"), LIMIT).await;
        assert_eq!(kind(late).await, Some(BackendErrorKind::CommitUnknown));
        close(&writer).await;
        assert!(engine.lock().holds("late"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_lasts_while_nobody_resolves_it_in_time() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        let (writer, engine) = writer(policy);
        engine.end("late", [End::Unanswered { stored: true }]);
        engine.lock().resolve_fails = Some(BackendErrorKind::Contention);
        let late = submit_within(&writer, write::<Delete>("late"), LIMIT).await;
        assert_eq!(kind(late).await, Some(BackendErrorKind::CommitUnknown));
        close(&writer).await;
    }
}

/// An attempt that failed leaves nothing behind, whatever it had sent.
#[tokio::test(start_paused = true)]
async fn a_write_whose_attempts_fail_until_it_is_too_late_is_not_stored() {
    async fn check<K: Kind>(policy: QueuePolicy) {
        let (writer, engine) = writer(policy);
        engine.lock().failing.insert("late".to_owned(), BackendErrorKind::Contention);
        engine.end("late", [End::Fails(BackendErrorKind::Contention); 10]);
        engine.lock().duration = Duration::from_millis(300);
        let late = submit_within(&writer, write::<K>("late"), Duration::from_millis(500)).await;
        let failed = kind(late).await;
        assert!(matches!(failed, Some(BackendErrorKind::Unavailable | BackendErrorKind::Contention)), "{failed:?}");
        let attempts = engine.lock().attempts.len();
        close(&writer).await;
        assert_eq!(engine.lock().attempts.len(), attempts, "nobody waits for another attempt");
    }
    for policy in POLICIES {
        check::<Append>(policy).await;
    }
    check::<Bulk>(HOMOGENEOUS).await;
    check::<Alone>(SEVERAL).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_a_place_no_longer_than_its_limit() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    submit(&writer, write::<Append>("busy").behind(&gate)).await;
    for number in 0..1023 {
        let (writer, write) = (writer.clone(), write::<Append>(&number.to_string()).for_app(&number.to_string()));
        tokio::spawn(async move { writer.submit(write, Duration::MAX).await });
    }
    settle().await;
    let late = submit_within(&writer, write::<Append>("late"), LIMIT).await;
    assert_eq!(kind(late).await, Some(BackendErrorKind::Unavailable));
    gate.open();
    close(&writer).await;
    assert!(!engine.lock().holds("late"));
}

/// A server that hangs: each has its error in time, however many wait.
#[tokio::test(start_paused = true)]
async fn two_thousand_callers_of_a_server_that_hangs_wait_for_their_limits_only() {
    for policy in [ONE, HOMOGENEOUS] {
        let (writer, engine) = writer(policy);
        engine.lock().wait_for_connection = Duration::from_secs(5);
        let mut callers = Vec::new();
        for number in 0..2000 {
            let (writer, write) = (writer.clone(), write::<Append>(&number.to_string()));
            callers.push(tokio::spawn(async move { writer.submit(write, LIMIT).await }));
        }
        let begun = Instant::now();
        for caller in callers {
            assert_eq!(kind(caller).await, Some(BackendErrorKind::Unavailable));
        }
        assert!(begun.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", begun.elapsed());
        close(&writer).await;
        assert!(engine.lock().stored().is_empty());
    }
}
