//! A database that holds the ids of writes, and whose commits fail at random; and the operations on it.

use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use shuttle::rand::{Rng as _, thread_rng};
use tokio::task::yield_now;

use crate::sql::executor::{Executor, TransactionBody};
use crate::sql::write::{
    Applied, Attempt, BeforeSending, BulkResults, Engine, LockMode, Row, SharedChange, SharedChanges, SharedKey,
    SharedLocks, SharedStates, WriteOp,
};
use crate::{AppName, BackendError, BackendErrorKind, Error, Result, SessionKey, State, Timestamp};

/// Not a lock of shuttle's: what the database does at once is no matter of schedules. Transactions yield in between.
pub(crate) struct Database(Mutex<Stored>);

pub(crate) struct Stored {
    /// The ids, in the order of their commits.
    pub(crate) ids: Vec<usize>,
    /// Whether commits and locks fail at random.
    fails: bool,
    /// Which transaction writes to a target.
    writers: HashMap<Row, usize>,
    transactions: usize,
    pub(crate) is_closed: bool,
}

fn error(kind: BackendErrorKind) -> Error {
    BackendError::new(kind, "at random").into()
}

impl Stored {
    fn chance(&self, percent: u32) -> bool {
        self.fails && thread_rng().gen_ratio(percent, 100)
    }

    fn commit(&mut self, ids: &[usize]) -> Result<()> {
        if self.chance(20) {
            return Err(error(BackendErrorKind::Contention));
        }
        let is_unanswered = self.chance(20);
        if !(is_unanswered && self.chance(50)) {
            self.ids.extend(ids);
        }
        if is_unanswered { Err(error(BackendErrorKind::CommitUnknown)) } else { Ok(()) }
    }

    fn begin(&mut self) -> usize {
        assert!(!self.is_closed, "a transaction after the end of closing");
        self.transactions += 1;
        self.transactions
    }

    /// A transaction writes to a target, which no other does at the same time.
    fn enter(&mut self, target: &Row, transaction: usize) {
        let writer = *self.writers.entry(target.clone()).or_insert(transaction);
        assert_eq!(writer, transaction, "two transactions write to {target:?}");
    }

    fn leave(&mut self, transaction: usize) {
        self.writers.retain(|_, writer| *writer != transaction);
    }
}

impl Database {
    pub(crate) fn new(fails: bool) -> Self {
        let (ids, writers) = (Vec::new(), HashMap::new());
        Self(Mutex::new(Stored { ids, fails, writers, transactions: 0, is_closed: false }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for Database {
    type Prefetched = ();

    async fn prefetch(&self, _: &mut dyn Executor, _: Vec<Row>, _: &str) -> Result<HashMap<Row, ()>> {
        Ok(HashMap::new())
    }

    async fn transaction(&self, _operation: &str, body: &mut dyn TransactionBody) -> Result<()> {
        let number = self.lock().begin();
        let mut transaction = Transaction { database: self, number, ids: Vec::new() };
        let ran = body.run(&mut transaction).await;
        yield_now().await;
        if ran? { self.lock().commit(&transaction.ids) } else { Ok(()) }
    }

    async fn lock_shared(&self, _: &mut dyn Executor, _: BTreeSet<SharedKey>, _: &str) -> Result<SharedLocks> {
        yield_now().await;
        Ok(SharedLocks::default())
    }

    async fn merge_shared(
        &self,
        _on: &mut dyn Executor,
        _changes: SharedChanges,
        _held: SharedStates,
        _operation: &str,
    ) -> Result<SharedStates> {
        yield_now().await;
        Ok(SharedStates::default())
    }
}

struct Transaction<'a> {
    database: &'a Database,
    number: usize,
    ids: Vec<usize>,
}

impl Executor for Transaction<'_> {
    fn store(&mut self, id: usize, target: &Row, is_repeatable: bool) -> bool {
        let mut stored = self.database.lock();
        stored.enter(target, self.number);
        let is_new = !is_repeatable || !self.ids.contains(&id) && !stored.ids.contains(&id);
        if is_new {
            self.ids.push(id);
        }
        is_new
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.database.lock().leave(self.number);
    }
}

/// An operation.
pub(crate) trait Kind: Send + Sync + 'static {
    const REPEATABLE: bool = true;
    /// Whether it has a bulk statement.
    const HAS_BULK: bool = false;
}

/// May be repeated.
pub(crate) struct Append;
/// May not be repeated: that stores it twice.
pub(crate) struct Delete;
/// May be repeated, and has a bulk statement.
pub(crate) struct Bulk;

impl Kind for Append {}

impl Kind for Delete {
    const REPEATABLE: bool = false;
}

impl Kind for Bulk {
    const HAS_BULK: bool = true;
}

pub(crate) struct Write<K> {
    pub(crate) id: usize,
    pub(crate) target: usize,
    pub(crate) changes_app: bool,
    pub(crate) is_refused: bool,
    pub(crate) kind: PhantomData<K>,
}

#[async_trait]
impl<K: Kind> WriteOp<Database> for Write<K> {
    type Outcome = ();

    const NAME: &'static str = "write";
    const REPEATABLE: bool = K::REPEATABLE;
    const HAS_BULK: bool = K::HAS_BULK;

    fn target(&self) -> Row {
        Row::Session(SessionKey::try_new("app", "user", self.target.to_string()).expect("a valid key"))
    }

    fn shared(&self) -> Vec<SharedChange> {
        let row = SharedKey::App(AppName::try_new("app").expect("a valid name"));
        let now = Timestamp::try_from_micros(0).expect("a valid time");
        let change = SharedChange { row, delta: State::new().with("key", 1), now };
        self.changes_app.then_some(change).into_iter().collect()
    }

    async fn apply(&self, database: &Database, attempt: Attempt<'_, Database>) -> Result<Applied<()>> {
        let Attempt { on, lock, .. } = attempt;
        yield_now().await;
        if lock == LockMode::SkipLocked && database.lock().chance(20) {
            return Ok(Applied::Locked);
        }
        if self.is_refused {
            return Err(Error::invalid("id", "refused"));
        }
        let is_new = on.store(self.id, &self.target(), K::REPEATABLE);
        yield_now().await;
        Ok(if is_new { Applied::Written(()) } else { Applied::Unchanged(()) })
    }

    async fn apply_bulk(
        database: &Database,
        _shared: LockMode,
        writes: &[&Self],
        before_sending: BeforeSending<'_>,
    ) -> Option<Result<BulkResults<()>>> {
        if !K::HAS_BULK {
            return None;
        }
        yield_now().await;
        if !before_sending() {
            return Some(Ok(writes.iter().map(|_| Ok(Applied::Locked)).collect()));
        }
        let transaction = database.lock().begin();
        for write in writes {
            database.lock().enter(&write.target(), transaction);
        }
        yield_now().await;
        let mut stored = database.lock();
        let is_left_out: Vec<bool> = writes.iter().map(|write| write.is_refused || stored.chance(20)).collect();
        let written = writes.iter().zip(&is_left_out).filter(|(_, is_left_out)| !**is_left_out);
        let ids: Vec<usize> = written.map(|(write, _)| write.id).collect();
        stored.leave(transaction);
        let applied = |is_left_out| Ok(if is_left_out { Applied::Locked } else { Applied::Written(()) });
        Some(stored.commit(&ids).map(|()| is_left_out.into_iter().map(applied).collect()))
    }

    async fn resolve(&self, database: &Database) -> Result<Option<()>> {
        yield_now().await;
        Ok(database.lock().ids.contains(&self.id).then_some(()))
    }
}
