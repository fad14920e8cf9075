//! Limits on how long the service waits for a server.
//!
//! A server that hangs, or a network that drops packets, ends no connection. Only a limit does.

use std::time::Duration;

use super::error::StatementError;

/// How long a ping may take before the connection is discarded.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The limit on one statement, or on all statements of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatementTimeout(pub(crate) Duration);

impl StatementTimeout {
    /// The limit on clean-up, such as a rollback after an error.
    pub(crate) const CLEANUP: Self = Self(PING_TIMEOUT);

    /// Runs `work`, and drops it with [`StatementError::Timeout`] when it exceeds the limit.
    pub(crate) async fn limit<T, E: From<StatementError>>(
        self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match tokio::time::timeout(self.0, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StatementError::Timeout.into()),
        }
    }
}

/// Whether a connection answers a ping within two seconds.
///
/// # Errors
/// The ping's.
pub async fn answers<E>(ping: impl Future<Output = Result<(), E>>) -> Result<bool, E> {
    tokio::time::timeout(PING_TIMEOUT, ping).await.map_or(Ok(false), |answered| answered.map(|()| true))
}
