//! Shared rows in the queue: they hold up only writes that change them.

use super::ops::{Append, Gate, session, write};
use super::{ONE, SEVERAL, outcome, run, submit, writer};

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
