//! Writes that panic: each ends by itself, and the queue goes on.

use super::ops::{Append, Gate, Kind, STORED, Update, Write, write};
use super::{ONE, SEVERAL, UNBATCHED, close, failure, outcome, run, submit, writer};
use crate::BackendErrorKind;
use crate::sql::write::QueuePolicy;

#[tokio::test(start_paused = true)]
async fn a_write_that_panics_ends_as_unknown_and_frees_its_row_and_its_place() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        let (writer, engine) = writer(policy);
        let Err(error) = run(&writer, write::<Append>("1").to("s").panicking()).await else { panic!("it panics") };
        assert_eq!(error.backend_kind(), Some(BackendErrorKind::CommitUnknown));
        assert!(error.to_string().contains("interrupted"));
        assert_eq!(run(&writer, write::<Append>("2").to("s")).await.ok(), Some(STORED));
        assert_eq!(engine.lock().stored(), ["2"]);
        close(&writer).await;
    }
}

async fn a_write_that_panics_fails_alone<K: Kind>(policy: QueuePolicy, panicking: Write<K>) {
    let (writer, engine) = writer(policy);
    let gate = Gate::closed();
    let panics = submit(&writer, panicking.to("s").behind(&gate).panicking()).await;
    let waiting = submit(&writer, write::<Append>("2").to("s")).await;
    gate.open();
    assert_eq!(failure(panics).await, Some(BackendErrorKind::CommitUnknown));
    assert!(outcome(waiting).await.is_ok());
    assert_eq!(engine.lock().stored(), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn writes_that_wait_for_one_that_panics_go_on() {
    a_write_that_panics_fails_alone(ONE, write::<Append>("1")).await;
    a_write_that_panics_fails_alone(SEVERAL, write::<Append>("1")).await;
}

#[tokio::test(start_paused = true)]
async fn writes_that_wait_for_one_that_panics_beside_the_batches_go_on() {
    a_write_that_panics_fails_alone(SEVERAL, write::<Update>("1")).await;
}
