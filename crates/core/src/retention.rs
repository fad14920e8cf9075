//! Forgetting users and apps, and expiring sessions.

mod expire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{AppName, Clock, Result, SessionScope, SessionService, SystemClock, Timestamp, UserId, UserKey};

pub use expire::{ExpireSessions, Expired, ExpiryServiceExt};

/// How often in a row a step may fail for a reason that may pass.
const MAX_FAILURES: u32 = 5;
/// How long to wait before the last look: longer than the deadline of a create that commits by itself. A create in a
/// longer transaction may still come later.
const SETTLE: Duration = Duration::from_millis(700);

/// A request to [`forget`](RetentionServiceExt::forget).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forget {
    scope: SessionScope,
    pause: Duration,
}

impl Forget {
    /// Requests to delete all that is stored of an app or a user.
    pub fn new(scope: SessionScope) -> Self {
        Self { scope, pause: Duration::from_millis(20) }
    }

    /// Sets the pause after each step, in which the database serves others; 20 ms by default.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Returns what to delete.
    pub fn scope(&self) -> &SessionScope {
        &self.scope
    }

    /// Returns the pause after each step.
    pub fn pause(&self) -> Duration {
        self.pause
    }
}

/// What a step has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// The number of sessions.
    pub sessions: u64,
    /// The number of their events.
    pub events: u64,
    /// The number of states of users and apps.
    pub states: u64,
    /// Whether the step found anything. If not, nothing is left.
    pub has_more: bool,
}

impl Forgotten {
    /// What several deletes have done together. An error counts only if nothing was deleted: the next step meets it
    /// again.
    pub(crate) fn sum(deletes: Vec<Result<Self>>) -> Result<Self> {
        let (mut sum, mut failed) = (Self::default(), None);
        for deleted in deletes {
            match deleted {
                Ok(Self { sessions, events, states, has_more }) => {
                    sum.sessions += sessions;
                    sum.events += events;
                    sum.states += states;
                    sum.has_more |= has_more;
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if sum.sessions + sum.states == 0 => Err(error),
            _ => Ok(sum),
        }
    }
}

/// What was deleted, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The app.
    pub app_name: AppName,
    /// The user; `None` for the whole app.
    pub user_id: Option<UserId>,
    /// How many sessions were deleted.
    pub sessions: u64,
    /// How many events they had.
    pub events: u64,
    /// How many states of users and apps were deleted.
    pub states: u64,
    /// When it began, by the clock of this process.
    pub begin_time: Timestamp,
    /// When the last look ended, by the clock of this process; during the call, when the last step did. A session that
    /// an open transaction has created may still appear: stop writers first, or call again.
    pub end_time: Timestamp,
}

impl Receipt {
    fn new(scope: &SessionScope) -> Self {
        let (app_name, user_id) = match scope {
            SessionScope::App(app_name) => (app_name, None),
            SessionScope::User(user) => (&user.app_name, Some(user.user_id.clone())),
        };
        let now = SystemClock.now();
        let app_name = app_name.clone();
        Self { app_name, user_id, sessions: 0, events: 0, states: 0, begin_time: now, end_time: now }
    }

    fn add(&mut self, step: Forgotten) {
        self.sessions += step.sessions;
        self.events += step.events;
        self.states += step.states;
        self.end_time = SystemClock.now().max(self.begin_time);
    }
}

/// Deletes all that is stored of a user or an app.
#[async_trait]
pub trait RetentionService: SessionService {
    /// Deletes a part of what is stored of a user or an app: up to 100 sessions with their events, titles and labels;
    /// once there are no sessions, the states of up to 100 users, and at last that of the app.
    /// [`forget`](RetentionServiceExt::forget) repeats it until nothing is left.
    ///
    /// Several programs may do so at once, and share the work. A session that two of them delete at the same moment may
    /// be counted by both.
    ///
    /// # Atomicity
    /// Each session is deleted as [`delete_session`](SessionService::delete_session) deletes it, and each state in a
    /// transaction of its own, if the user or app has no session.
    ///
    /// # Ordering
    /// What is created during the call may stay.
    ///
    /// # Errors
    /// Those of `delete_session`, if nothing was deleted.
    ///
    /// # Cancel safety
    /// Deletes some of the part, or all of it.
    async fn forget_some(&self, scope: &SessionScope) -> Result<Forgotten>;
}

#[async_trait]
impl<S: RetentionService + ?Sized> RetentionService for Arc<S> {
    async fn forget_some(&self, scope: &SessionScope) -> Result<Forgotten> {
        (**self).forget_some(scope).await
    }
}

/// Conveniences on every [`RetentionService`].
#[async_trait]
pub trait RetentionServiceExt: RetentionService {
    /// Deletes all that is stored of a user or an app, in steps with pauses, and calls `on_progress` after each step.
    ///
    /// An agent that goes on meanwhile gets [`NotFound`](crate::Error::NotFound) for a session that is gone. What it
    /// creates is deleted too, so the call may not end while others keep creating sessions: stop them first. If the call
    /// ends early, call it again: it continues with the rest, and its receipt counts only that. Forgetting a user leaves
    /// the state of the app, also the `app:` keys that the user's sessions set.
    ///
    /// It finds what belongs to a session. On SQLite, a program without foreign keys may have deleted sessions and left
    /// their events, titles and labels: those stay.
    ///
    /// The database may keep deleted rows in its files until it rewrites them (`VACUUM FULL` on PostgreSQL, `VACUUM` on
    /// SQLite, `OPTIMIZE TABLE` on MySQL and MariaDB), and in logs, replicas and backups for as long as these are kept.
    ///
    /// # Errors
    /// Those of [`forget_some`](RetentionService::forget_some); a step that fails for a reason that may pass is repeated
    /// a few times. What was deleted before stays deleted; `on_progress` has the counts so far. An account needs the
    /// right to delete states (`seabed-migrate grants`): without it, the sessions go, and then the call fails.
    ///
    /// # Cancel safety
    /// Deletes a part, or all of it.
    async fn forget(
        &self,
        request: Forget,
        on_progress: &mut (dyn for<'r> FnMut(&'r Receipt) + Send),
    ) -> Result<Receipt> {
        let mut receipt = Receipt::new(&request.scope);
        let (mut failures, mut is_settled) = (0, false);
        loop {
            match self.forget_some(&request.scope).await {
                Ok(step) if step.has_more => {
                    (failures, is_settled) = (0, false);
                    receipt.add(step);
                    on_progress(&receipt);
                    tokio::time::sleep(request.pause).await;
                }
                Ok(_) if is_settled => {
                    receipt.add(Forgotten::default());
                    return Ok(receipt);
                }
                Ok(_) => {
                    is_settled = true;
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) if error.is_retryable() && failures < MAX_FAILURES => {
                    failures += 1;
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes all that is stored of a user; see [`forget`](Self::forget).
    ///
    /// # Errors
    /// Those of `forget`.
    async fn delete_user(&self, user: &UserKey) -> Result<Receipt> {
        self.forget(Forget::new(SessionScope::User(user.clone())), &mut |_| {}).await
    }

    /// Deletes all that is stored of an app and all its users; see [`forget`](Self::forget).
    ///
    /// # Errors
    /// Those of `forget`.
    async fn delete_app(&self, app_name: &AppName) -> Result<Receipt> {
        self.forget(Forget::new(SessionScope::App(app_name.clone())), &mut |_| {}).await
    }
}

impl<S: RetentionService + ?Sized> RetentionServiceExt for S {}
