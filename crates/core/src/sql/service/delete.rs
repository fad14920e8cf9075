//! `delete_session`, which takes several writes for a large session.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::SqlSessionService;
use crate::sql::dialect::Dialect;
use crate::sql::op::delete::{DeleteOp, Deleted};
use crate::{BackendError, BackendErrorKind, DeleteSession, Error, Result, SessionKey};

impl<D: Dialect> SqlSessionService<D> {
    pub(super) async fn delete(&self, request: DeleteSession) -> Result<()> {
        let (began, key) = (Instant::now(), request.key().clone());
        if self.submit(self.delete_op(request)).await? == Deleted::Entirely {
            return Ok(());
        }
        let timeout = self.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        // Like a write that has begun, the rest continues when the caller's future is dropped.
        let rest = tokio::spawn(self.clone().delete_rest(key, timeout).in_current_span());
        rest.await.unwrap_or_else(|error| {
            let interrupted = BackendError::new(BackendErrorKind::CommitUnknown, "the runtime is shutting down");
            Err(partly_deleted(interrupted.with_source(error).into()))
        })
    }

    /// Deletes what is left of a session that is partly deleted. `timeout` is the limit on all of it; without one, each
    /// step has the limit on a call.
    async fn delete_rest(self, key: SessionKey, timeout: Option<Duration>) -> Result<()> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let step = DeleteOp::next_step(self.sql.delete.clone(), key.clone());
            let deleted = self.writer.submit(step, left.unwrap_or_else(|| self.timeout())).await;
            if deleted.map_err(partly_deleted)? == Deleted::Entirely {
                return Ok(());
            }
        }
    }
}

/// The error of a delete that has begun: the session is gone, but not all of its events.
fn partly_deleted(error: Error) -> Error {
    let kind = error.backend_kind().unwrap_or(BackendErrorKind::Unexpected);
    let message =
        "the session is deleted, but not all of its events are; its id is taken until delete_session succeeds";
    BackendError::new(kind, message).with_source(error).into()
}
