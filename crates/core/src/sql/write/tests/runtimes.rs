//! Runtimes that end while writes run on them: the writes of the others go on.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::ops::{Append, Gate, Kind, Update, Write, write};
use super::{ONE, SEVERAL, UNBATCHED, submit, writer};
use crate::sql::write::QueuePolicy;

/// Long enough for a write in memory.
const A_WHILE: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn a_write_goes_on<K: Kind>(policy: QueuePolicy, ending_with: Write<K>) {
    let (writer, engine) = writer(policy);
    let (ending, lasting) = (runtime(), runtime());
    let gate = Gate::closed();
    ending.block_on(submit(&writer, ending_with.to("s").behind(&gate)));
    let waiting = lasting.block_on(submit(&writer, write::<Append>("2").to("s")));
    drop(ending);
    gate.open();
    lasting.block_on(async {
        let outcome = timeout(A_WHILE, waiting).await.expect("the write waits for ever").expect("no panic");
        assert!(outcome.is_ok());
        assert_eq!(engine.lock().stored(), ["2"]);
        timeout(A_WHILE, writer.close()).await.expect("closing waits for ever");
    });
}

#[test]
fn writes_that_wait_for_a_runtime_that_ended_go_on() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        a_write_goes_on(policy, write::<Append>("1"));
    }
}

#[test]
fn writes_that_wait_for_a_write_beside_the_batches_go_on_when_its_runtime_ends() {
    a_write_goes_on(SEVERAL, write::<Update>("1"));
}

#[test]
fn closing_does_not_wait_for_the_callers_of_a_runtime_that_ended() {
    let (writer, engine) = writer(ONE);
    let (ending, lasting) = (runtime(), runtime());
    let gate = Gate::closed();
    ending.block_on(async {
        submit(&writer, write::<Append>("1").to("s").behind(&gate)).await;
        submit(&writer, write::<Append>("2").to("s")).await;
    });
    drop(ending);
    lasting.block_on(async { timeout(A_WHILE, writer.close()).await }).expect("closing waits for ever");
    assert!(engine.lock().stored().is_empty());
}
