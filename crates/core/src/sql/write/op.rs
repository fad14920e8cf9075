//! What the write path knows of an operation, and of the database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::sql::executor::{Executor, TransactionBody};
use crate::{AppName, BackendError, BackendErrorKind, Result, SessionKey, State, Timestamp, UserKey};

/// A row that a write locks. Rows sort in the order in which every transaction locks them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Row {
    Session(SessionKey),
    Shared(SharedKey),
}

/// The key of a row that many sessions share: app state, or user state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SharedKey {
    App(AppName),
    User(UserKey),
}

impl Row {
    /// The row of the app to which the row belongs.
    pub(super) fn app(&self) -> Self {
        Self::Shared(match self {
            Self::Session(session) => SharedKey::app(session),
            Self::Shared(SharedKey::User(user)) => SharedKey::App(user.app_name.clone()),
            Self::Shared(app) => app.clone(),
        })
    }
}

impl SharedKey {
    /// The row of a session's app.
    pub(crate) fn app(session: &SessionKey) -> Self {
        Self::App(session.app_name.clone())
    }

    /// The row of a session's user.
    pub(crate) fn user(session: &SessionKey) -> Self {
        Self::User(session.user())
    }
}

impl fmt::Display for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app_name) => write!(f, "app {:?}", app_name.as_str()),
            Self::User(user) => user.fmt(f),
        }
    }
}

/// What a write does to a shared row: it merges `delta` into the row, at `now` by the service's clock. A missing row is
/// created first; an empty delta only creates it.
#[derive(Debug, Clone)]
pub(crate) struct SharedChange {
    pub(crate) row: SharedKey,
    pub(crate) delta: State,
    pub(crate) now: Timestamp,
}

/// What writes that are committed together do to shared rows: one change for each row, in lock order.
#[derive(Debug, Default)]
pub(crate) struct SharedChanges(BTreeMap<SharedKey, (State, Timestamp)>);

impl SharedChanges {
    /// Adds a change. It comes after those added before.
    pub(crate) fn add(&mut self, SharedChange { row, delta, now }: SharedChange) {
        let (state, time) = self.0.entry(row).or_insert_with(|| (State::new(), now));
        state.merge(delta);
        *time = now.max(*time);
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = SharedChange> {
        self.0.into_iter().map(|(row, (delta, now))| SharedChange { row, delta, now })
    }
}

/// The states of shared rows.
#[derive(Debug, Default)]
pub(crate) struct SharedStates(BTreeMap<SharedKey, State>);

impl SharedStates {
    pub(crate) fn insert(&mut self, row: SharedKey, state: State) {
        self.0.insert(row, state);
    }

    /// The state of a row; empty for a row that is not among these.
    pub(crate) fn get(&self, row: &SharedKey) -> State {
        self.0.get(row).cloned().unwrap_or_default()
    }

    pub(crate) fn contains(&self, row: &SharedKey) -> bool {
        self.0.contains_key(row)
    }

    pub(crate) fn take(&mut self, row: &SharedKey) -> Option<State> {
        self.0.remove(row)
    }
}

/// What a transaction that waits for nobody has found of the shared rows that it is to change.
#[derive(Debug, Default)]
pub(crate) struct SharedLocks {
    /// The rows that it has locked, with their states. A row that does not exist is in neither.
    pub(crate) held: SharedStates,
    /// The rows that other connections have locked.
    pub(crate) taken: HashSet<SharedKey>,
}

/// Whether to wait for a row that another connection has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    Wait,
    SkipLocked,
}

/// The outcome of an attempt to apply a write. It counts once the transaction is committed.
#[derive(Debug)]
pub(crate) enum Applied<T> {
    /// The write is in the transaction.
    Written(T),
    /// The database holds it already: a replay.
    Unchanged(T),
    /// Nothing was written, because of a row that another connection may have locked. Only under
    /// [`LockMode::SkipLocked`], and in bulk statements.
    Locked,
    /// Nothing was written, because another connection has locked a shared row that the write changes.
    SharedLocked,
}

/// An attempt to apply a write.
pub(crate) struct Attempt<'a, E: Engine> {
    /// Where its statements run.
    pub(crate) on: &'a mut dyn Executor,
    pub(crate) lock: LockMode,
    /// The target as the batch has read it; nothing in the batch has written to it since.
    pub(crate) prefetched: Option<E::Prefetched>,
}

/// The outcome of a bulk statement for each of its writes, in their order. An error means that this write is in doubt.
pub(crate) type BulkResults<T> = Vec<Result<Applied<T>>>;

/// The outcome for each of the writes that are applied together, in their order; `None` for those that are not.
pub(crate) type GroupResults<T> = Vec<Option<Result<Applied<T>>>>;

/// To be called right before a statement is sent that commits by itself. If it returns false, the statement must not be
/// sent: a caller has given up.
pub(crate) type BeforeSending<'a> = &'a (dyn Fn() -> bool + Sync);

/// The database, as the write path needs it.
#[async_trait]
pub(crate) trait Engine: Send + Sync + 'static {
    /// A target that a batch has read before its first write.
    type Prefetched: Send;

    /// For how long writes wait for a server that is gone, if that is longer than usual.
    fn failover_patience(&self) -> Option<Duration> {
        None
    }

    /// Reads targets at once, in a transaction that has locked the whole database. Returns none where rows are locked
    /// one by one.
    async fn prefetch(
        &self,
        on: &mut dyn Executor,
        targets: Vec<Row>,
        operation: &str,
    ) -> Result<HashMap<Row, Self::Prefetched>>;

    /// Runs `body` in a transaction, and commits if it returns true. After an error nothing of it is stored, unless the
    /// error is [`CommitUnknown`](BackendErrorKind::CommitUnknown).
    async fn transaction(&self, operation: &str, body: &mut dyn TransactionBody) -> Result<()>;

    /// Locks those of the shared rows that no other connection has locked. Waits for none.
    async fn lock_shared(
        &self,
        on: &mut dyn Executor,
        rows: BTreeSet<SharedKey>,
        operation: &str,
    ) -> Result<SharedLocks>;

    /// Merges changes into shared rows, one row after the other in lock order, and returns their states. The
    /// transaction has locked those of `held`, and found them so.
    async fn merge_shared(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        held: SharedStates,
        operation: &str,
    ) -> Result<SharedStates>;
}

/// A write operation: its request, and how to carry it out.
///
/// An error of a backend ends the transaction. Any other error is a refusal: it comes before the first statement that
/// writes anything of this write, so the rest of the batch is unaffected.
#[async_trait]
pub(crate) trait WriteOp<E: Engine>: Send + Sync + Sized + 'static {
    /// What the caller gets.
    type Outcome: Send + 'static;

    /// The name of the operation, for errors and traces.
    const NAME: &'static str;

    /// Whether an attempt that may have been committed may be repeated. Otherwise only [`resolve`](Self::resolve)
    /// settles it.
    const REPEATABLE: bool = true;

    /// Whether [`apply`](Self::apply) can pass over a locked row. If not, it returns [`Applied::Locked`] for
    /// [`LockMode::SkipLocked`], and a batch of nothing but such writes is not attempted.
    const SKIPS_LOCKED: bool = true;

    /// Whether [`apply_bulk`](Self::apply_bulk) may have a statement, which takes each target once.
    const HAS_BULK: bool = false;

    /// The row that the operation is about. Writes with the same target keep the order of their arrival.
    fn target(&self) -> Row;

    /// What the operation does to shared rows, once its own row is written.
    fn shared(&self) -> Vec<SharedChange> {
        Vec::new()
    }

    /// The rows of [`shared`](Self::shared) that the operation changes, and does not only create.
    fn changed_rows(&self) -> Vec<SharedKey> {
        self.shared().into_iter().filter(|change| !change.delta.is_empty()).map(|change| change.row).collect()
    }

    /// About how many bytes a write brings.
    fn bytes(&self) -> usize {
        0
    }

    /// Whether [`apply`](Self::apply) reads its target before it writes, and so may find it prefetched.
    fn reads_target(&self) -> bool {
        false
    }

    /// Writes everything but shared rows, in a transaction.
    async fn apply(&self, engine: &E, attempt: Attempt<'_, E>) -> Result<Applied<Self::Outcome>>;

    /// Completes the outcome with the states of shared rows.
    fn complete(&self, outcome: Self::Outcome, _shared: &SharedStates) -> Self::Outcome {
        outcome
    }

    /// Applies a write that is alone in its batch without a transaction, where one statement can do it. `None`, and
    /// nothing is written, where it cannot.
    async fn apply_alone(
        &self,
        _engine: &E,
        _before_sending: BeforeSending<'_>,
    ) -> Result<Option<Applied<Self::Outcome>>> {
        Ok(None)
    }

    /// Applies writes to different targets in one statement, where the database has such a statement. Writes that it
    /// leaves out are [`Locked`](Applied::Locked), as are all if the statement must not be sent; or, unless `shared` says
    /// to wait, [`SharedLocked`](Applied::SharedLocked).
    async fn apply_bulk(
        _engine: &E,
        _shared: LockMode,
        _writes: &[&Self],
        _before_sending: BeforeSending<'_>,
    ) -> Option<Result<BulkResults<Self::Outcome>>> {
        None
    }

    /// Applies writes of a batch, sorted by target, with few statements whatever their number. Later writes to a target
    /// see the earlier ones. `None`, and nothing of the write is written, where [`apply`](Self::apply) does it.
    async fn apply_together(
        _engine: &E,
        _on: &mut dyn Executor,
        _lock: LockMode,
        writes: &[&Self],
    ) -> Result<GroupResults<Self::Outcome>> {
        Ok(writes.iter().map(|_| None).collect())
    }

    /// Finds out why a batch left the write out, without waiting for a lock. `Ok` when there is no reason to refuse it.
    async fn diagnose(&self, _engine: &E) -> Result<()> {
        Ok(())
    }

    /// Finds out whether an earlier attempt, whose commit got no answer, was committed: when the operation cannot be
    /// repeated, or when the repeated attempt was refused. `None` when that cannot be known.
    async fn resolve(&self, _engine: &E) -> Result<Option<Self::Outcome>> {
        Ok(None)
    }

    /// Carries the operation out in the caller's own transaction.
    async fn apply_in(&self, engine: &E, on: &mut dyn Executor) -> Result<Self::Outcome> {
        let attempt = Attempt { on: &mut *on, lock: LockMode::Wait, prefetched: None };
        match self.apply(engine, attempt).await? {
            Applied::Unchanged(outcome) => Ok(outcome),
            Applied::Written(outcome) => {
                let mut changes = SharedChanges::default();
                self.shared().into_iter().for_each(|change| changes.add(change));
                let states = engine.merge_shared(on, changes, SharedStates::default(), Self::NAME).await?;
                Ok(self.complete(outcome, &states))
            }
            Applied::Locked | Applied::SharedLocked => {
                let message = format!("{}: a row is locked by another connection", Self::NAME);
                Err(BackendError::new(BackendErrorKind::Contention, message).into())
            }
        }
    }
}
