//! How long a server is waited for.
//!
//! A server that hangs, or a network that swallows packets, ends no connection: only a limit does.

use std::time::Duration;

use sea_orm::{DbErr, RuntimeErr};

/// How long a ping may take before the connection is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const UNANSWERED: &str = "the server did not answer within the statement timeout";

/// The limit on one statement, or on the statements of one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// What `work` comes to, or an error that [`is_unanswered`] when it takes too long; `work` is dropped then.
    pub(super) async fn wait<T>(self, work: impl Future<Output = T>) -> Result<T, DbErr> {
        let unanswered = |_| DbErr::Query(RuntimeErr::Internal(UNANSWERED.to_owned()));
        tokio::time::timeout(self.0, work).await.map_err(unanswered)
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

/// Whether a connection answers a ping soon.
///
/// # Errors
/// The ping's.
pub async fn answers<E>(ping: impl Future<Output = Result<(), E>>) -> Result<bool, E> {
    tokio::time::timeout(PING_TIMEOUT, ping).await.map_or(Ok(false), |answered| answered.map(|()| true))
}
