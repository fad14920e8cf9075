//! What the operations work with.

use async_trait::async_trait;

use super::shared_state::SharedStateSql;
use crate::sql::database::Database;
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sql::statement::{SqlText, Tables, select_create_time, session_key_values};
use crate::sql::write::{Engine, SharedChanges, SharedKey, SharedStates};
use crate::{Result, SessionKey, State, Timestamp};

/// The database, the statements that several operations share, and whether fast paths are allowed.
pub(crate) struct Context<D: Dialect> {
    pub(crate) database: Database<D>,
    pub(crate) tables: Tables,
    /// Whether an operation may take a shorter way than the portable algorithm.
    pub(crate) fast_paths: bool,
    pub(super) shared_state: SharedStateSql<D>,
    create_time: SqlText<D>,
}

impl<D: Dialect> Context<D> {
    pub(crate) fn new(database: Database<D>, tables: Tables, fast_paths: bool) -> Self {
        Self {
            database,
            fast_paths,
            shared_state: SharedStateSql::new(&tables),
            create_time: select_create_time(&tables),
            tables,
        }
    }

    /// Reads the state of an app or a user; `None` where there is no row.
    pub(crate) async fn read_shared(
        &self,
        on: &mut dyn Executor,
        row: &SharedKey,
        operation: &str,
    ) -> Result<Option<State>> {
        self.shared_state.read(on, row, operation).await
    }

    /// When a session was created; `None` when there is none.
    pub(super) async fn create_time(&self, key: &SessionKey, operation: &str) -> Result<Option<Timestamp>> {
        let row = self.database.autocommit().query_one(self.create_time.bind(session_key_values(key))).await;
        let row = row.map_err(|error| statement_error::<D>(operation, error))?;
        let decoder = RowDecoder::<D>::new("sessions", key);
        row.map(|row| decoder.timestamp(&row, 0, "create_time")).transpose()
    }
}

#[async_trait]
impl<D: Dialect> Engine for Context<D> {
    async fn transaction(&self, operation: &str, body: &mut dyn TransactionBody) -> Result<()> {
        self.database.transaction(operation, body).await
    }

    async fn merge_shared(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        operation: &str,
    ) -> Result<SharedStates> {
        self.shared_state.merge(on, changes, operation).await
    }
}
