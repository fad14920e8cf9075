//! The database below the operations: connections, the statement timeout, transactions.

use std::sync::Arc;

use sea_orm::{DatabaseConnection, QueryResult, Statement, Value};
use tokio::time::{Instant, sleep_until};

use super::connections::Connections;
use super::deadline::{self, DatabaseClock};
use super::dialect::Dialect;
use super::driver::DatabaseFiles;
use super::error::{StatementError, autocommit_error, commit_error, statement_error};
use super::executor::{Executor, TransactionBody};
use super::pool::{ConnectionGuard, Pool};
use super::statement::unless_duplicate;
use super::timeout::StatementTimeout;
use crate::{BackendErrorKind, Error, Result};

/// A database that a service reaches through a pool.
pub(crate) struct Database<D: Dialect> {
    pool: Pool<D>,
    statement_timeout: StatementTimeout,
    clock: DatabaseClock<D>,
}

impl<D: Dialect> Database<D> {
    pub(crate) fn new(
        connections: Connections<D>,
        files: Option<Arc<dyn DatabaseFiles>>,
        statement_timeout: StatementTimeout,
    ) -> Self {
        let pool = Pool::new(connections, files, statement_timeout);
        Self { pool, statement_timeout, clock: DatabaseClock::new() }
    }

    /// The same database, with another timeout.
    pub(crate) fn with_statement_timeout(&self, statement_timeout: StatementTimeout) -> Self {
        let pool = self.pool.with_statement_timeout(statement_timeout);
        Self { pool, statement_timeout, clock: DatabaseClock::new() }
    }

    /// sea-orm's pool.
    pub(crate) fn pool(&self) -> &DatabaseConnection {
        self.pool.connections().driver_pool()
    }

    pub(crate) fn statement_timeout(&self) -> StatementTimeout {
        self.statement_timeout
    }

    pub(crate) fn max_connections(&self) -> u32 {
        self.pool.connections().limits().max_connections
    }

    /// Takes a connection.
    pub(crate) async fn acquire(&self) -> Result<ConnectionGuard<'_, D>, StatementError> {
        self.pool.acquire().await
    }

    /// How many batches of writes may run at once: as many as the dialect allows, but one connection is left to others,
    /// if there are several.
    pub(crate) fn max_concurrent_batches(&self) -> usize {
        let connections = self.max_connections();
        let others = usize::try_from(connections).unwrap_or(usize::MAX).saturating_sub(1).max(1);
        D::MAX_CONCURRENT_BATCHES.min(others)
    }

    /// Runs a write that is one statement, and commits by itself. `statement` makes it for a deadline, after which the
    /// statement must change nothing. Unless the server answered, an error comes only after that deadline. Nothing is
    /// sent, and no row changed, if `before_sending` returns false.
    pub(crate) async fn autocommit_write(
        &self,
        operation: &str,
        before_sending: &(dyn Fn() -> bool + Sync),
        statement: impl FnOnce(Value) -> Statement + Send,
        on_row: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<u64> {
        let failed = |error| statement_error::<D>(operation, error);
        self.pool.check_files().map_err(failed)?;
        let clock = self.clock.reading(&self.pool).await.map_err(failed)?;
        let mut sent = Instant::now();
        let statement = || {
            sent = Instant::now();
            before_sending().then(|| statement(D::SCHEMA.timestamp(clock.deadline(sent))))
        };
        match unless_duplicate::<D>(self.pool.run_checked(statement, on_row).await) {
            Ok(changed) => {
                if changed == 0 {
                    self.clock.suspect(clock);
                }
                Ok(changed)
            }
            Err(error) => {
                let error = autocommit_error::<D>(operation, error);
                if error.backend_kind() == Some(BackendErrorKind::CommitUnknown) {
                    sleep_until(deadline::passed(sent)).await;
                }
                Err(error)
            }
        }
    }

    /// Runs each statement outside a transaction: reads, for writes have [`autocommit_write`](Self::autocommit_write).
    pub(crate) fn autocommit(&self) -> impl Executor {
        &self.pool
    }

    /// Reads a row, and checks the database's files.
    pub(crate) async fn query_one_checked(&self, statement: Statement) -> Result<Option<QueryResult>, StatementError> {
        let mut first = None;
        self.pool.run_checked(|| Some(statement), &mut |row| _ = first.get_or_insert(row)).await?;
        Ok(first)
    }

    /// Runs `body` in a transaction. After an error nothing of it is stored, unless the error is
    /// [`CommitUnknown`](BackendErrorKind::CommitUnknown).
    pub(crate) async fn transaction(&self, operation: &str, body: &mut dyn TransactionBody) -> Result<()> {
        let failed = |error| statement_error::<D>(operation, error);
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let ran = self.statement_timeout.limit(async { Ok(body.run(&mut transaction).await) });
        let ran = ran.await.map_err(failed).flatten();
        // A file that is lost explains whatever else failed.
        let checked = self.pool.check_open_files().map_err(failed);
        match checked.and(ran) {
            Ok(true) => {
                let committed = self.statement_timeout.limit(transaction.end("COMMIT")).await;
                committed.map_err(|error| commit_error::<D>(operation, error))
            }
            outcome => {
                // Dropping the transaction rolls it back as well; a server that does not answer is not waited for.
                if outcome.as_ref().err().and_then(Error::backend_kind) != Some(BackendErrorKind::Unavailable) {
                    // The callers want to know the first error, not this one.
                    let _: Result<(), StatementError> =
                        StatementTimeout::CLEANUP.limit(transaction.end("ROLLBACK")).await;
                }
                outcome.map(drop)
            }
        }
    }

    /// Rejects files that were deleted or replaced since the service connected.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.pool.check_open_files().map_err(|error| statement_error::<D>("connect", error))
    }

    /// Closes all connections, and sea-orm's pool.
    pub(crate) async fn close(&self) -> Result<()> {
        let closed = async {
            self.pool.close().await;
            Ok(self.pool().close_by_ref().await?)
        };
        let closed = self.statement_timeout.limit(closed).await;
        closed.map_err(|error: StatementError| statement_error::<D>("close", error))
    }
}
