//! Trying again what met others.

use std::time::{Duration, Instant};

use crate::{BackendErrorKind, Error, Result};

/// How often an operation is tried that meets deadlocks, serialization failures or a busy database.
const TRIES: u32 = 10;
/// No try begins later than this after the first: a lock that somebody holds for long is not waited for ten times.
const TRY_WITHIN: Duration = Duration::from_secs(15);
/// The wait before the second try; it doubles up to [`LONGEST_WAIT`], and each is cut by chance to between half and all.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The tries of one operation.
pub(super) struct Tries {
    left: u32,
    wait: Duration,
    started: Instant,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self { left: TRIES, wait: FIRST_WAIT, started: Instant::now() }
    }

    /// Whether to try again after `error`; waits before it says yes. Contention means that nothing was stored.
    pub(super) async fn again(&mut self, error: &Error) -> bool {
        self.left -= 1;
        let again = error.backend_kind() == Some(BackendErrorKind::Contention)
            && self.left > 0
            && self.started.elapsed() < TRY_WITHIN;
        if again {
            tokio::time::sleep(self.wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        again
    }
}

/// Repeats a read while it ends in contention.
pub(super) async fn retry<T, F: Future<Output = Result<T>>>(read: impl Fn() -> F) -> Result<T> {
    let mut tries = Tries::new();
    loop {
        match read().await {
            Err(error) if tries.again(&error).await => {}
            outcome => return outcome,
        }
    }
}
