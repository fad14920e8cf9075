//! How long a server is waited for.
//!
//! A server that hangs, or a network that swallows packets, ends no connection: only a limit does.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{DbErr, RuntimeErr};

/// How long a ping may take before the connection is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long connections that come back are closed, after one was not answered: that one is among them.
const SUSPICION: Duration = Duration::from_secs(5);
const UNANSWERED: &str = "the server did not answer within the statement timeout";

/// When a server, whichever it was, last had not answered in time.
static LAST_UNANSWERED: Mutex<Option<Instant>> = Mutex::new(None);

/// The limit on one statement, or on the statements of one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// What `work` comes to, or an error that [`is_unanswered`] when it takes too long.
    ///
    /// `work` is dropped then, and with it the connection goes back to its pool in whatever state it is: never begin a
    /// transaction in it, for the driver does not notice one that has begun and was not told so.
    pub(super) async fn wait<T>(self, work: impl Future<Output = T>) -> Result<T, DbErr> {
        tokio::time::timeout(self.0, work).await.map_err(|_| {
            *LAST_UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            DbErr::Query(RuntimeErr::Internal(UNANSWERED.to_owned()))
        })
    }

    /// The limit on what only tidies up.
    pub(super) fn short() -> Self {
        Self(PING_TIMEOUT)
    }
}

/// Whether an error is one of [`Patience::wait`].
pub(super) fn is_unanswered(error: &DbErr) -> bool {
    matches!(error, DbErr::Query(RuntimeErr::Internal(text)) if text == UNANSWERED)
}

/// Whether a connection that comes back to its pool should be closed. The pool's own test has no limit: on a server that hangs,
/// it would keep a place of the pool for as long as the operating system keeps the connection; and on one that does not, a
/// connection that was given up midway may pass it by answers that come late.
pub fn is_suspicious() -> bool {
    let last = *LAST_UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    last.is_some_and(|last| last.elapsed() < SUSPICION)
}

/// Whether a connection answers a ping soon.
///
/// # Errors
/// The ping's.
pub async fn answers<E>(ping: impl Future<Output = Result<(), E>>) -> Result<bool, E> {
    tokio::time::timeout(PING_TIMEOUT, ping).await.map_or(Ok(false), |answered| answered.map(|()| true))
}
