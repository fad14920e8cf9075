//! Trying again what met others, or lost its connection.

use std::time::{Duration, Instant};

use crate::{BackendErrorKind, Error, Result};

/// How often an operation is tried that meets deadlocks, serialization failures or a busy database.
const TRIES: u32 = 10;
/// No try begins later than this after the first: a lock that somebody holds for long is not waited for ten times.
const TRY_WITHIN: Duration = Duration::from_secs(15);
/// The same after a connection that broke before anything was stored. One that was not to be had took longer to say so, and
/// the caller wants to know.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The wait before the second try; it doubles up to [`LONGEST_WAIT`], and each is cut by chance to between half and all.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The tries of one operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    made: u32,
    wait: Duration,
    started: Instant,
}

impl Tries {
    /// The first of them begins now.
    pub(super) fn new() -> Self {
        Self { made: 1, wait: FIRST_WAIT, started: Instant::now() }
    }

    /// How often it was tried again.
    pub(super) fn retries(self) -> u32 {
        self.made - 1
    }

    /// Whether another try after `error` may come to something else, and is not too late.
    pub(super) fn are_left(self, error: &Error) -> bool {
        let within = match error.backend_kind() {
            // Nothing was stored; or, when that is unknown, what is stored is looked at before.
            Some(BackendErrorKind::Contention | BackendErrorKind::CommitUnknown) => TRY_WITHIN,
            Some(BackendErrorKind::Unavailable) => RECONNECT_WITHIN,
            _ => return false,
        };
        self.made < TRIES && self.started.elapsed() < within
    }

    /// Counts a try that failed, to be followed by another.
    pub(super) fn count(&mut self, error: &Error) {
        tracing::info!(target: "seabed", retry = self.made, because = error.outcome(), "trying again");
        self.made += 1;
    }

    /// Whether to try again after `error`; waits before it says yes.
    pub(super) async fn again(&mut self, error: &Error) -> bool {
        let again = self.are_left(error);
        if again {
            tokio::time::sleep(self.wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            self.count(error);
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        again
    }
}

/// Repeats a read while it ends in contention or its connection breaks.
pub(super) async fn retry<T, F: Future<Output = Result<T>>>(read: impl Fn() -> F) -> Result<T> {
    let mut tries = Tries::new();
    loop {
        match read().await {
            Err(error) if tries.again(&error).await => {}
            outcome => {
                tracing::Span::current().record("retries", tries.retries());
                return outcome;
            }
        }
    }
}
