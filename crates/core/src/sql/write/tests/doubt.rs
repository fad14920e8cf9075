//! What a caller gets when a commit ends without an answer.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::engine::{End, FakeEngine, error};
use super::ops::{AloneDelete, Append, Bulk, BulkCreate, Create, Delete, Gate, Kind, Outcome, STORED, session, write};
use super::{FakeWriter, HOMOGENEOUS, ONE, SEVERAL, UNBATCHED, failure, outcome, run, submit, writer};
use crate::sql::write::QueuePolicy;
use crate::sql::write::pending::{PendingWrite, ends_doubt, pending};
use crate::sync::Arc;
use crate::{BackendErrorKind, Error, Result, Revision, SessionKey, Timestamp};

const STORED_UNANSWERED: End = End::Unanswered { stored: true };
const LOST_UNANSWERED: End = End::Unanswered { stored: false };

const POLICIES: [QueuePolicy; 3] = [ONE, SEVERAL, UNBATCHED];

/// Submits a write of `K` whose first commit ends in `end`. Returns the outcome, and the number of attempts.
async fn outcome_after<K: Kind>(policy: QueuePolicy, end: End) -> (Result<Outcome>, usize) {
    let (writer, engine) = writer(policy);
    engine.end("1", [end]);
    let outcome = run(&writer, write::<K>("1")).await;
    let is_stored = engine.lock().stored() == ["1"];
    assert_eq!(is_stored, outcome.is_ok(), "an acknowledged write is stored once, and no other");
    let attempts = engine.lock().attempts.len();
    (outcome, attempts)
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_write_is_attempted_again_and_finds_itself() {
    for policy in POLICIES {
        let (outcome, attempts) = outcome_after::<Append>(policy, STORED_UNANSWERED).await;
        assert_eq!((outcome.ok(), attempts), (Some(Outcome::Replayed), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_finds_itself_does_not_change_shared_rows_again() {
    let (writer, engine) = writer(SEVERAL);
    engine.end("1", [STORED_UNANSWERED]);
    assert_eq!(run(&writer, write::<Append>("1").sharing("a")).await.ok(), Some(Outcome::Replayed));
    assert_eq!(engine.lock().commits[1..], [[""; 0]]);
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_write_that_was_not_stored_is_stored() {
    for policy in POLICIES {
        let (outcome, attempts) = outcome_after::<Append>(policy, LOST_UNANSWERED).await;
        assert_eq!((outcome.ok(), attempts), (Some(STORED), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_its_own_earlier_attempt_refuses_has_succeeded() {
    for policy in POLICIES {
        let (outcome, attempts) = outcome_after::<Create>(policy, STORED_UNANSWERED).await;
        assert_eq!((outcome.ok(), attempts), (Some(Outcome::Resolved), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_write_is_only_resolved() {
    for policy in POLICIES {
        let (outcome, attempts) = outcome_after::<Delete>(policy, STORED_UNANSWERED).await;
        assert_eq!((outcome.ok(), attempts), (Some(Outcome::Resolved), 1));
        let (outcome, attempts) = outcome_after::<AloneDelete>(policy, STORED_UNANSWERED).await;
        assert_eq!((outcome.ok(), attempts), (Some(Outcome::Resolved), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_write_that_nobody_can_resolve_stays_in_doubt() {
    for policy in POLICIES {
        let (outcome, attempts) = outcome_after::<Delete>(policy, LOST_UNANSWERED).await;
        let kind = outcome.err().and_then(|error| error.backend_kind());
        assert_eq!((kind, attempts), (Some(BackendErrorKind::CommitUnknown), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_outlives_a_server_that_is_gone() {
    for policy in POLICIES {
        let (writer, engine) = writer(policy);
        engine.end("1", [STORED_UNANSWERED]);
        engine.lock().resolve_fails = Some(BackendErrorKind::Unavailable);
        let unresolved = submit(&writer, write::<Delete>("1")).await;
        assert_eq!(failure(unresolved).await, Some(BackendErrorKind::CommitUnknown));

        engine.lock().duration = Duration::from_millis(5);
        engine.end("2", [LOST_UNANSWERED]);
        let unrepeated = submit(&writer, write::<Append>("2")).await;
        engine.lock().failing.insert("2".to_owned(), BackendErrorKind::Unavailable);
        assert_eq!(failure(unrepeated).await, Some(BackendErrorKind::CommitUnknown));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_doubt_that_nobody_can_resolve() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().duration = Duration::from_millis(5);
    engine.end("1", [LOST_UNANSWERED]);
    let write = submit(&writer, write::<Append>("1")).await;
    engine.lock().refused.insert("1".to_owned());
    assert!(matches!(outcome(write).await, Err(Error::Invalid { .. })));
}

/// The next attempt reaches a server that does not know the session, and the one after it the first server again.
#[tokio::test(start_paused = true)]
async fn a_server_that_knows_nothing_of_the_session_does_not_end_a_doubt() {
    for policy in POLICIES {
        for (end, expected) in [(STORED_UNANSWERED, Outcome::Resolved), (LOST_UNANSWERED, STORED)] {
            let (writer, engine) = writer(policy);
            engine.lock().duration = Duration::from_millis(5);
            engine.end("1", [end]);
            let write = submit(&writer, write::<Append>("1")).await;
            engine.lock().unknown.insert("1".to_owned());
            assert_eq!(outcome(write).await.ok(), Some(expected));
        }
    }
}

/// What is found without a lock and a commit may be undone.
#[tokio::test(start_paused = true)]
async fn a_write_in_doubt_is_not_diagnosed() {
    let (writer, engine) = writer(SEVERAL);
    engine.end("1", [STORED_UNANSWERED]);
    assert_eq!(run(&writer, write::<Append>("1").diagnosed()).await.ok(), Some(Outcome::Replayed));
}

/// A writer whose batches are all busy until the gate opens, so that the next writes gather in one batch.
async fn busy_writer(policy: QueuePolicy) -> (FakeWriter, Arc<FakeEngine>, Gate) {
    let (writer, engine) = writer(policy);
    let gate = Gate::closed();
    for number in 0..policy.max_concurrent_batches {
        submit(&writer, write::<Append>(&format!("busy {number}")).behind(&gate)).await;
    }
    (writer, engine, gate)
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_answer_leaves_in_doubt_what_it_has_written() {
    for policy in [ONE, SEVERAL] {
        let (writer, engine, gate) = busy_writer(policy).await;
        engine.lock().refused.insert("refused".to_owned());
        engine.end("append", [STORED_UNANSWERED]);
        let append = submit(&writer, write::<Append>("append")).await;
        let delete = submit(&writer, write::<Delete>("delete")).await;
        let refused = submit(&writer, write::<Delete>("refused")).await;
        gate.open();
        assert_eq!(outcome(append).await.ok(), Some(Outcome::Replayed));
        assert_eq!(outcome(delete).await.ok(), Some(Outcome::Resolved));
        assert!(matches!(outcome(refused).await, Err(Error::Invalid { .. })), "it wrote nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_write_that_a_batch_without_an_answer_has_left_out_is_attempted() {
    let (writer, engine, gate) = busy_writer(SEVERAL).await;
    engine.lock().locked.insert(session("locked"));
    engine.end("append", [LOST_UNANSWERED]);
    let append = submit(&writer, write::<Append>("append")).await;
    let delete = submit(&writer, write::<Delete>("delete").to("locked")).await;
    gate.open();
    assert_eq!(outcome(append).await.ok(), Some(STORED));
    engine.lock().locked.clear();
    assert_eq!(outcome(delete).await.ok(), Some(STORED));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_statement_without_an_answer_leaves_all_its_writes_in_doubt() {
    for (end, expected) in [(STORED_UNANSWERED, Outcome::Resolved), (LOST_UNANSWERED, STORED)] {
        let (writer, engine, gate) = busy_writer(HOMOGENEOUS).await;
        engine.end("1", [end]);
        let callers =
            [submit(&writer, write::<BulkCreate>("1")).await, submit(&writer, write::<BulkCreate>("2")).await];
        gate.open();
        for caller in callers {
            assert_eq!(outcome(caller).await.ok().as_ref(), Some(&expected));
        }
        assert_eq!(engine.lock().bulk_statements, [["1", "2"]]);
        assert_eq!(engine.lock().stored().iter().filter(|id| !id.starts_with("busy")).count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_a_bulk_statement_leaves_in_doubt_is_attempted_again() {
    let (writer, engine) = writer(HOMOGENEOUS);
    engine.lock().doubtful.insert("1".to_owned());
    assert_eq!(run(&writer, write::<Bulk>("1")).await.ok(), Some(Outcome::Replayed));
    assert_eq!(engine.lock().stored(), ["1"]);
}

/// What the caller of a write gets that was in doubt when it failed with `last`.
fn outcome_in_doubt(last: Error) -> Result<Outcome> {
    let (mut write, caller): (Box<dyn PendingWrite<FakeEngine>>, _) = pending(write::<Append>("1"), Instant::now());
    write.doubt(error(BackendErrorKind::CommitUnknown));
    write.fail(last);
    write.reply(3);
    let reply = caller.now_or_never().expect("it has its outcome").expect("it replied");
    assert_eq!(reply.retries, 3);
    reply.outcome
}

#[test]
fn a_later_error_of_the_backend_does_not_replace_a_doubt_and_a_refusal_does() {
    let kinds = [BackendErrorKind::Unavailable, BackendErrorKind::Contention, BackendErrorKind::Unexpected];
    for kind in kinds {
        let outcome = outcome_in_doubt(error(kind));
        assert_eq!(outcome.err().and_then(|error| error.backend_kind()), Some(BackendErrorKind::CommitUnknown));
    }
    assert!(matches!(outcome_in_doubt(Error::invalid("id", "on request")), Err(Error::Invalid { .. })));
}

#[test]
fn only_a_server_that_knows_more_ends_a_doubt() {
    let key = SessionKey::try_new("app", "user", "session").expect("a valid key");
    let at = |micros| Revision::new(Timestamp::clamped(1), Timestamp::clamped(micros));
    let conflict = |expected, actual| {
        ends_doubt(&Error::RevisionConflict { key: Box::new(key.clone()), expected: at(expected), actual: at(actual) })
    };
    assert!(conflict(5, 6) && !conflict(5, 4));
    assert!(!ends_doubt(&Error::not_found(&key)));
    assert!(ends_doubt(&Error::invalid("id", "on request")));
}
