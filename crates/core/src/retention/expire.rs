//! Expiring sessions that nobody has updated for long.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    DeleteSession, DirectoryService, Error, FindSessions, Order, Result, SessionFilter, SessionKey, SessionScope,
    Timestamp,
};

/// How many sessions are found at once.
const PAGE: u32 = 100;
/// How often a delete is tried.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// A request to [`expire_sessions`](ExpiryServiceExt::expire_sessions).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExpireSessions {
    scope: SessionScope,
    filter: SessionFilter,
    limit: usize,
    pause: Duration,
    is_dry_run: bool,
}

impl ExpireSessions {
    /// Requests to delete up to 1,000 sessions that were created and last updated before `time`, oldest update first.
    pub fn new(scope: SessionScope, time: Timestamp) -> Self {
        let filter = SessionFilter::new().with_updated_until(time).with_created_until(time);
        Self { scope, filter, limit: 1000, pause: Duration::from_millis(20), is_dry_run: false }
    }

    /// Only those of them that also match `filter`, which replaces an earlier one; the two limits on time never get later.
    pub fn with_filter(mut self, filter: SessionFilter) -> Self {
        let earlier = |ours: Option<Timestamp>, other: Option<Timestamp>| ours.into_iter().chain(other).min();
        let updated_until = earlier(self.filter.updated_until, filter.updated_until);
        let created_until = earlier(self.filter.created_until, filter.created_until);
        self.filter = SessionFilter { updated_until, created_until, ..filter };
        self
    }

    /// Sets how many sessions to delete at most.
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the pause after each 100 sessions, in which the database serves others; 20 ms by default.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Finds the sessions, and deletes none.
    pub fn with_dry_run(mut self) -> Self {
        self.is_dry_run = true;
        self
    }
}

/// The outcome of an [`ExpireSessions`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Expired {
    /// The sessions that were deleted, or in a dry run would have been, in the order of their last updates. One that
    /// somebody else deleted at the same moment is among them.
    pub sessions: Vec<SessionKey>,
    /// How many sessions stay because they went on in the meantime.
    pub changed: u64,
    /// How many sessions stay because they cannot be decoded.
    pub unreadable: u64,
    /// Whether the limit was reached, and there may be more.
    pub has_more: bool,
}

/// Expires sessions on every [`DirectoryService`].
#[async_trait]
pub trait ExpiryServiceExt: DirectoryService {
    /// Deletes whole sessions that were not updated for long. Try it with
    /// [`with_dry_run`](ExpireSessions::with_dry_run) first. Finding each 100 of them reads all
    /// sessions of the scope.
    ///
    /// # Atomicity
    /// Each session is deleted by itself, and only at the revision at which it was found: one that goes on stays.
    ///
    /// # Ordering
    /// As for [`find_sessions`](DirectoryService::find_sessions).
    ///
    /// # Errors
    /// Those of `find_sessions` and [`delete_session`](crate::SessionService::delete_session). What was deleted before
    /// stays deleted.
    ///
    /// # Cancel safety
    /// Deletes some of the sessions, or all of them. A session with more than 1,000 events may stay half deleted if the
    /// process ends: no listing shows it, and its events stay until `delete_session` is called with its key, or its
    /// user is forgotten.
    async fn expire_sessions(&self, request: ExpireSessions) -> Result<Expired> {
        let ExpireSessions { scope, filter, limit, pause, is_dry_run } = request;
        let mut find = FindSessions::new(scope).with_filter(filter).with_order(Order::Ascending).with_limit(PAGE);
        let mut expired = Expired::default();
        loop {
            let page = self.find_sessions(find.clone()).await?;
            for found in page.items {
                let Ok(found) = found else {
                    expired.unreadable += 1;
                    continue;
                };
                if expired.sessions.len() >= limit {
                    expired.has_more = true;
                    return Ok(expired);
                }
                let delete = DeleteSession::new(found.key.clone()).at_revision(found.revision);
                match if is_dry_run { Ok(()) } else { delete_patiently(self, delete).await } {
                    Ok(()) => expired.sessions.push(found.key),
                    Err(Error::RevisionConflict { .. }) => expired.changed += 1,
                    Err(error) => return Err(error),
                }
            }
            let Some(next) = page.next else { return Ok(expired) };
            find = find.with_cursor(next);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Repeats a delete that may succeed then. A large session that is partly deleted is found by nobody, and its key would
/// be forgotten.
async fn delete_patiently<S: DirectoryService + ?Sized>(service: &S, delete: DeleteSession) -> Result<()> {
    for _ in 1..TRIES {
        match service.delete_session(delete.clone()).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(BETWEEN_TRIES).await,
            deleted => return deleted,
        }
    }
    service.delete_session(delete).await
}

impl<S: DirectoryService + ?Sized> ExpiryServiceExt for S {}
