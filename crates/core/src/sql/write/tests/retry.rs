//! How often a write is attempted, and for how long.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Id, Record};
use tracing::{Instrument as _, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;

use super::engine::{End, error};
use super::ops::{Append, Gate, write};
use super::{FOREVER, ONE, SEVERAL, UNBATCHED, close, failure, outcome, settle, submit, writer};
use crate::BackendErrorKind;
use crate::sql::write::retry;
use crate::sql::write::retry::Retries;
use crate::sync::Arc;

const CONTENTION: End = End::Fails(BackendErrorKind::Contention);

/// How often a write is attempted when every attempt takes `duration` and fails with `kind`.
async fn attempts(kind: BackendErrorKind, duration: Duration) -> usize {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().duration = duration;
    engine.lock().failing.insert("1".to_owned(), kind);
    assert_eq!(failure(submit(&writer, write::<Append>("1")).await).await, Some(kind));
    engine.lock().attempts.len()
}

#[tokio::test(start_paused = true)]
async fn a_write_is_attempted_ten_times() {
    assert_eq!(attempts(BackendErrorKind::Contention, Duration::ZERO).await, 10);
    assert_eq!(attempts(BackendErrorKind::CommitUnknown, Duration::ZERO).await, 10);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_later_than_fifteen_seconds_after_the_first() {
    assert_eq!(attempts(BackendErrorKind::Contention, Duration::from_millis(4900)).await, 4);
    assert_eq!(attempts(BackendErrorKind::Contention, Duration::from_millis(5100)).await, 3);
    assert_eq!(attempts(BackendErrorKind::CommitUnknown, Duration::from_millis(5100)).await, 3);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_later_than_two_seconds_after_the_first_when_the_server_is_gone() {
    assert_eq!(attempts(BackendErrorKind::Unavailable, Duration::from_millis(600)).await, 4);
    assert_eq!(attempts(BackendErrorKind::Unavailable, Duration::from_millis(1010)).await, 2);
}

/// As long as it was told to, and until its caller gives up.
#[tokio::test(start_paused = true)]
async fn a_patient_write_waits_for_a_failover() {
    const PATIENCE: Duration = Duration::from_secs(30);
    for policy in [ONE, SEVERAL, UNBATCHED] {
        for kind in [BackendErrorKind::Unavailable, BackendErrorKind::CommitUnknown] {
            let (writer, engine) = super::writer(policy);
            engine.lock().patience = Some(PATIENCE);
            engine.lock().failing.insert("1".to_owned(), kind);
            let started = Instant::now();
            assert_eq!(failure(submit(&writer, write::<Append>("1")).await).await, Some(kind));
            assert!(started.elapsed() >= PATIENCE && started.elapsed() < PATIENCE * 2, "{:?}", started.elapsed());

            let started = Instant::now();
            let limited = writer.submit(write::<Append>("1"), Duration::from_secs(5)).await;
            assert!(limited.is_err() && started.elapsed() <= Duration::from_secs(6), "{:?}", started.elapsed());
        }
        let (writer, engine) = super::writer(policy);
        engine.lock().patience = Some(PATIENCE);
        engine.lock().failing.insert("1".to_owned(), BackendErrorKind::Contention);
        assert_eq!(failure(submit(&writer, write::<Append>("1")).await).await, Some(BackendErrorKind::Contention));
        assert_eq!(engine.lock().attempts.len(), 10, "patience is for servers");
        let (writer, engine) = super::writer(policy);
        engine.lock().patience = Some(PATIENCE);
        engine.lock().failing.insert("1".to_owned(), BackendErrorKind::Unavailable);
        let caller = submit(&writer, write::<Append>("1")).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        engine.lock().failing.clear();
        assert!(super::outcome(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_of_a_batch_counts_for_each_of_its_writes() {
    let (writer, engine) = writer(ONE);
    let gate = Gate::closed();
    submit(&writer, write::<Append>("busy").behind(&gate)).await;
    for id in ["1", "2"] {
        engine.lock().failing.insert(id.to_owned(), BackendErrorKind::Contention);
    }
    let callers = [submit(&writer, write::<Append>("1")).await, submit(&writer, write::<Append>("2")).await];
    gate.open();
    for caller in callers {
        assert_eq!(failure(caller).await, Some(BackendErrorKind::Contention));
    }
    let attempts = |id: &str| engine.lock().attempts.iter().filter(|(attempt, _)| attempt == id).count();
    assert_eq!((attempts("1"), attempts("2")), (10, 9), "the batch failed at the first write");
}

#[tokio::test(start_paused = true)]
async fn waits_double_up_to_a_quarter_of_a_second() {
    let mut retries = Retries::new(None);
    for longest in [2, 4, 8, 16, 32, 64, 128, 250, 250] {
        let begun = Instant::now();
        assert!(retries.wait(&error(BackendErrorKind::Contention)).await);
        let waited = begun.elapsed();
        // The clock of tokio goes in milliseconds.
        let longest = Duration::from_millis(longest);
        assert!(waited >= longest / 2 && waited <= longest + Duration::from_millis(1), "{waited:?} of {longest:?}");
    }
    assert!(!retries.wait(&error(BackendErrorKind::Contention)).await);
    assert_eq!(retries.count_so_far(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_caller_is_gone_is_not_retried() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().duration = Duration::from_millis(100);
    engine.lock().failing.insert("1".to_owned(), BackendErrorKind::Contention);
    let caller = submit(&writer, write::<Append>("1")).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    caller.abort();
    close(&writer).await;
    assert_eq!(engine.lock().attempts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_its_batch_left_out_is_not_attempted_for_a_caller_who_is_gone() {
    let (writer, engine) = writer(ONE);
    engine.lock().duration = Duration::from_millis(100);
    engine.end("1", [CONTENTION]);
    let caller = submit(&writer, write::<Append>("1")).await;
    caller.abort();
    settle().await;
    close(&writer).await;
    assert_eq!(engine.lock().attempts.len(), 1);
    assert!(engine.lock().stored().is_empty());
}

/// Remembers what is recorded as `retries`.
struct Recorder(Arc<AtomicU64>);

impl Visit for Recorder {
    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "retries" {
            self.0.store(value, Ordering::Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_record(&self, _span: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        values.record(&mut Self(self.0.clone()));
    }
}

/// What `work` records as `retries`.
async fn recorded<T>(work: impl Future<Output = T>) -> u64 {
    let retries = Arc::new(AtomicU64::new(u64::MAX));
    let _subscriber = tracing::subscriber::set_default(Registry::default().with(Recorder(retries.clone())));
    let span = tracing::info_span!("call", retries = tracing::field::Empty);
    work.instrument(span).await;
    retries.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted_for_the_caller() {
    for policy in [ONE, SEVERAL, UNBATCHED] {
        let (writer, engine) = writer(policy);
        engine.end("1", [CONTENTION; 3]);
        assert_eq!(recorded(writer.submit(write::<Append>("1"), FOREVER)).await, 3);
        assert_eq!(recorded(writer.submit(write::<Append>("2"), FOREVER)).await, 0);
    }
    let reads = AtomicU64::new(0);
    let read = || async {
        if reads.fetch_add(1, Ordering::Relaxed) < 2 { Err(error(BackendErrorKind::Contention)) } else { Ok(()) }
    };
    assert_eq!(recorded(retry(None, read)).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_while_it_meets_other_writers() {
    let reads = AtomicU64::new(0);
    let read = || async {
        match reads.fetch_add(1, Ordering::Relaxed) {
            0 => Err(error(BackendErrorKind::Contention)),
            1 => Err(error(BackendErrorKind::Unavailable)),
            read => Ok(read),
        }
    };
    assert_eq!(retry(None, read).await.ok(), Some(2));
    let read = || async { Err::<(), _>(error(BackendErrorKind::Unexpected)) };
    assert!(retry(None, read).await.is_err());
    let begun = Instant::now();
    let read = || async { Err::<(), _>(error(BackendErrorKind::Contention)) };
    assert!(retry(None, read).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(2));
}

/// It may catch up at once. If not, the caller finds out by itself.
#[tokio::test(start_paused = true)]
async fn a_write_to_a_server_that_is_behind_does_not_keep_others_from_its_session() {
    let (writer, engine) = writer(SEVERAL);
    engine.lock().behind.insert("ahead".to_owned());
    let begun = Instant::now();
    let ahead = submit(&writer, write::<Append>("ahead").to("session")).await;
    let next = submit(&writer, write::<Append>("next").to("session")).await;
    assert!(outcome(next).await.is_ok());
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(failure(ahead).await, Some(BackendErrorKind::Unavailable));
    assert!(engine.lock().attempts.len() > 3, "it was not tried again");
}
