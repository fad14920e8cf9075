//! A database that fails on request.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{DbBackend, QueryResult, Statement};
use tokio::time::Instant;

use crate::sql::error::StatementError;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sql::write::op::{Engine, LockMode, Row, SharedChange, SharedChanges, SharedKey, SharedLocks, SharedStates};
use crate::sync::{Mutex, MutexGuard};
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How long the database waits for a locked row.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn error(kind: BackendErrorKind) -> Error {
    BackendError::new(kind, "on request").into()
}

/// How the commit of a transaction ends, or a statement that commits by itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Nothing is stored.
    Fails(BackendErrorKind),
    /// The answer is lost, after the server has stored the writes or not.
    Unanswered { stored: bool },
}

/// A database that holds the ids of writes.
#[derive(Debug, Default)]
pub(super) struct FakeEngine(Mutex<FakeDatabase>);

#[derive(Debug, Default)]
pub(super) struct FakeDatabase {
    /// What each commit stored.
    pub(super) commits: Vec<Vec<String>>,
    /// How commits that hold a write end. After those they succeed.
    ends: HashMap<String, VecDeque<End>>,
    /// The transactions that began, by name.
    pub(super) transactions: Vec<String>,
    /// The writes that were attempted in transactions.
    pub(super) attempts: Vec<(String, LockMode)>,
    /// The writes of each bulk statement.
    pub(super) bulk_statements: Vec<Vec<String>>,
    /// The targets that were read at once.
    pub(super) prefetched: Vec<Vec<Row>>,
    /// The writes that found their targets prefetched.
    pub(super) found_prefetched: Vec<String>,
    /// The rows that another connection has locked.
    pub(super) locked: HashSet<Row>,
    /// The writes whose statements fail.
    pub(super) failing: HashMap<String, BackendErrorKind>,
    /// The writes for which the server is behind another one.
    pub(super) behind: HashSet<String>,
    /// The writes that are refused.
    pub(super) refused: HashSet<String>,
    /// The writes whose session a server does not know, once.
    pub(super) unknown: HashSet<String>,
    /// The writes that a bulk statement leaves in doubt, once.
    pub(super) doubtful: HashSet<String>,
    /// How each attempt to find out what was stored fails.
    pub(super) resolve_fails: Option<BackendErrorKind>,
    /// How long a transaction takes.
    pub(super) duration: Duration,
    /// For how long a server that is gone is waited for.
    pub(super) patience: Option<Duration>,
    /// How long a transaction or a bulk statement waits for a connection.
    pub(super) wait_for_connection: Duration,
    /// How long a commit takes, and stores what it commits at its end.
    pub(super) commit_takes: Duration,
    running: usize,
    /// How many transactions ran at once.
    pub(super) most_running: usize,
}

impl FakeDatabase {
    pub(super) fn stored(&self) -> Vec<&str> {
        self.commits.iter().flatten().map(String::as_str).filter(|id| !id.starts_with("merge ")).collect()
    }

    pub(super) fn holds(&self, id: &str) -> bool {
        self.stored().contains(&id)
    }

    pub(super) fn commit(&mut self, writes: Vec<String>) -> Result<()> {
        match writes.iter().find_map(|id| self.ends.get_mut(id)?.pop_front()) {
            Some(End::Fails(kind)) => return Err(error(kind)),
            Some(End::Unanswered { stored: false }) => return Err(error(BackendErrorKind::CommitUnknown)),
            Some(End::Unanswered { stored: true }) => {
                self.commits.push(writes);
                return Err(error(BackendErrorKind::CommitUnknown));
            }
            None => self.commits.push(writes),
        }
        Ok(())
    }
}

impl FakeEngine {
    /// Lets the next commits that hold a write end so.
    pub(super) fn end(&self, id: &str, ends: impl IntoIterator<Item = End>) {
        self.lock().ends.entry(id.to_owned()).or_default().extend(ends);
    }

    /// Waits for a locked row, as long as a database does.
    pub(super) async fn wait_for_shared(&self, row: &SharedKey) -> Result<()> {
        let (row, until) = (Row::Shared(row.clone()), Instant::now() + LOCK_TIMEOUT);
        while self.lock().locked.contains(&row) {
            if Instant::now() >= until {
                return Err(error(BackendErrorKind::Contention));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FakeDatabase> {
        self.0.lock().expect("a test panicked")
    }
}

#[async_trait]
impl Engine for FakeEngine {
    type Prefetched = ();

    fn failover_patience(&self) -> Option<Duration> {
        self.lock().patience
    }

    async fn prefetch(&self, _: &mut dyn Executor, targets: Vec<Row>, _: &str) -> Result<HashMap<Row, ()>> {
        self.lock().prefetched.push(targets.clone());
        Ok(targets.into_iter().map(|target| (target, ())).collect())
    }

    async fn transaction(&self, operation: &str, body: &mut dyn TransactionBody) -> Result<()> {
        let wait = self.lock().wait_for_connection;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let duration = {
            let mut database = self.lock();
            database.transactions.push(operation.to_owned());
            database.running += 1;
            database.most_running = database.most_running.max(database.running);
            database.duration
        };
        let mut transaction = FakeTransaction { engine: self, writes: Vec::new() };
        let ran = body.run(&mut transaction).await;
        if !duration.is_zero() {
            tokio::time::sleep(duration).await;
        }
        let commit_takes = self.lock().commit_takes;
        if matches!(ran, Ok(true)) && !commit_takes.is_zero() {
            tokio::time::sleep(commit_takes).await;
        }
        if ran? { self.lock().commit(std::mem::take(&mut transaction.writes)) } else { Ok(()) }
    }

    async fn lock_shared(&self, _: &mut dyn Executor, rows: BTreeSet<SharedKey>, _: &str) -> Result<SharedLocks> {
        let is_locked = |row: &SharedKey| self.lock().locked.contains(&Row::Shared(row.clone()));
        let taken = rows.into_iter().filter(is_locked).collect();
        Ok(SharedLocks { taken, ..SharedLocks::default() })
    }

    async fn merge_shared(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        _held: SharedStates,
        _operation: &str,
    ) -> Result<SharedStates> {
        let mut states = SharedStates::default();
        for SharedChange { row, delta, .. } in changes.into_iter() {
            self.wait_for_shared(&row).await?;
            execute(on, format!("merge {row}")).await;
            states.insert(row, delta);
        }
        Ok(states)
    }
}

/// Keeps the writes of a transaction until its commit.
struct FakeTransaction<'a> {
    engine: &'a FakeEngine,
    writes: Vec<String>,
}

impl Drop for FakeTransaction<'_> {
    fn drop(&mut self) {
        self.engine.lock().running -= 1;
    }
}

#[async_trait]
impl Executor for FakeTransaction<'_> {
    /// Adds the statement to the transaction, unless it is there or stored already.
    async fn run(
        &mut self,
        statement: Statement,
        _on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64, StatementError> {
        if self.writes.contains(&statement.sql) || self.engine.lock().holds(&statement.sql) {
            return Ok(0);
        }
        self.writes.push(statement.sql);
        Ok(1)
    }
}

/// Runs a statement, and returns the number of rows it changed.
pub(super) async fn execute(on: &mut dyn Executor, text: String) -> u64 {
    on.execute(Statement::from_string(DbBackend::Sqlite, text)).await.expect("no statement fails by itself")
}
