//! Retries: which errors another attempt may get past, how often, and how long to wait in between.

use std::time::Duration;

use tokio::time::Instant;

use crate::{BackendErrorKind, Error, Result};

/// How often an operation is attempted that meets deadlocks, serialization failures or a busy database.
const ATTEMPTS: u32 = 10;
/// No attempt begins later than this after the first: a lock that somebody holds for long is not waited for ten times.
const RETRY_WITHIN: Duration = Duration::from_secs(15);
/// The same after a connection that broke before anything was stored. Opening one has its own, longer limit, and a
/// caller wants to know that the server is down. Long enough for two statements whose deadlines have to pass first.
const RECONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The same for a server that is behind another one. It may catch up at once; later, the caller's own retry finds out,
/// and does not keep others from the session.
const BEHIND_WITHIN: Duration = Duration::from_millis(100);
/// The wait before the second attempt. It doubles up to [`LONGEST_WAIT`], and each wait is cut at random to between
/// half of it and all.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The attempts of one operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    attempts: u32,
    wait: Duration,
    started: Instant,
    /// For how long a server that is gone is waited for, if that is longer than usual.
    patience: Option<Duration>,
}

impl Retries {
    /// The first attempt begins now. With `patience`, a server that is gone is waited for as long as that.
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self { attempts: 1, wait: FIRST_WAIT, started: Instant::now(), patience }
    }

    /// The same attempts, as if the first began now: the wait behind other writes does not count.
    pub(super) fn restarted(self) -> Self {
        Self { started: Instant::now(), ..self }
    }

    /// The same attempts; if there was none before, the first begins now.
    pub(super) fn begun(self) -> Self {
        if self.attempts == 1 { self.restarted() } else { self }
    }

    /// How often the operation was retried so far.
    pub(super) fn count_so_far(self) -> u32 {
        self.attempts - 1
    }

    /// Whether another attempt after `error` may end differently, and is not too late.
    pub(super) fn are_left(self, error: &Error) -> bool {
        let patience = self.patience.unwrap_or_default();
        let (within, is_patient) = match error.backend_kind() {
            _ if error.is_behind() => (BEHIND_WITHIN, false),
            Some(BackendErrorKind::Contention) => (RETRY_WITHIN, false),
            // Nothing was stored; or, when that is unknown, the next attempt finds what was.
            Some(BackendErrorKind::CommitUnknown) => (RETRY_WITHIN.max(patience), !patience.is_zero()),
            Some(BackendErrorKind::Unavailable) => (RECONNECT_WITHIN.max(patience), !patience.is_zero()),
            _ => return false,
        };
        (is_patient || self.attempts < ATTEMPTS) && self.started.elapsed() < within
    }

    /// Counts an attempt that failed and that another one follows.
    pub(super) fn count(&mut self) {
        self.attempts += 1;
    }

    /// Says that another attempt follows.
    pub(super) fn log(self, error: &Error) {
        tracing::info!(target: "seabed", retry = self.attempts, because = error.outcome(), "trying again");
    }

    /// Waits as long as is good before another attempt.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.jittered_wait()).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Whether to try again after `error`; waits before it returns true.
    pub(super) async fn wait(&mut self, error: &Error) -> bool {
        let again = self.are_left(error);
        if again {
            self.pause().await;
            self.log(error);
            self.count();
        }
        again
    }

    #[allow(clippy::disallowed_methods, reason = "spreads the retries of writers that met each other")]
    fn jittered_wait(self) -> Duration {
        self.wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Repeats a read while it ends in contention or its connection breaks; see [`Retries::new`].
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(
    patience: Option<Duration>,
    read: impl Fn() -> F,
) -> Result<T> {
    let mut retries = Retries::new(patience);
    loop {
        match read().await {
            Err(error) if retries.wait(&error).await => {}
            outcome => {
                tracing::Span::current().record("retries", retries.count_so_far());
                return outcome;
            }
        }
    }
}
