//! What the operations work with.

use std::collections::HashMap;

use async_trait::async_trait;
use sea_orm::QueryResult;
use sea_orm::sea_query::{Expr, IntoIden, Query};

use super::shared_state::SharedStateSql;
use crate::entity::sessions;
use crate::event::adk_check::AdkCheck;
use crate::sql::database::Database;
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sql::statement::{SqlText, session_key_columns, session_key_predicate, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Engine, Row, SharedChanges, SharedKey, SharedStates};
use crate::{Error, Json, Result, Revision, SessionKey, State};

/// How operations run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Whether an operation may take a shorter way than the portable algorithm.
    pub(crate) fast_paths: bool,
    /// The limit on the JSON text of a state.
    pub(crate) max_state_bytes: usize,
    /// Whether google-adk must be able to read new events.
    pub(crate) adk_check: AdkCheck,
    /// Whether a delete names the rows of Seabed's own tables, rather than leave them to their foreign keys.
    pub(crate) deletes_own_rows: bool,
}

/// The database, the statements that several operations share, and how operations run.
pub(crate) struct Context<D: Dialect> {
    pub(crate) database: Database<D>,
    pub(crate) tables: Tables,
    pub(crate) settings: Settings,
    pub(super) shared_state: SharedStateSql<D>,
    session: SessionSql<D>,
}

/// The statements on session rows that several operations share.
pub(super) struct SessionSql<D> {
    revision: SqlText<D>,
    /// Reads the rows of many sessions, where a transaction has locked them all.
    prefetch: Option<SqlText<D>>,
}

impl<D: Dialect> SessionSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        Self { revision: select_revision(tables), prefetch: prefetch_sessions(tables) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let prefetch = self.prefetch.iter().map(|prefetch| ("prefetch", prefetch));
        [("revision", &self.revision)].into_iter().chain(prefetch).collect()
    }
}

impl<D: Dialect> Context<D> {
    pub(crate) fn new(database: Database<D>, tables: Tables, settings: Settings) -> Self {
        Self {
            database,
            settings,
            shared_state: SharedStateSql::new(&tables, settings.max_state_bytes),
            session: SessionSql::new(&tables),
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

    /// The revision of a session; `None` when there is none.
    pub(super) async fn revision(
        &self,
        on: &mut dyn Executor,
        key: &SessionKey,
        operation: &str,
    ) -> Result<Option<Revision>> {
        let row = on.query_one(self.session.revision.bind(session_key_values(key))).await;
        let row = row.map_err(|error| statement_error::<D>(operation, error))?;
        let decoder = RowDecoder::<D>::new("sessions", key);
        let time = |row: &QueryResult, name| decoder.timestamp(row, name, name);
        row.map(|row| Ok(Revision::new(time(&row, "create_time")?, time(&row, "update_time")?))).transpose()
    }
}

/// Reads the revision of a session. Waits for a transaction that has not decided it yet.
fn select_revision<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use sessions::Column;
    let mut select = Query::select();
    select.columns([Column::CreateTime, Column::UpdateTime]).from(tables.table(sessions::Entity));
    SqlText::new(select.and_where(session_key_predicate::<D>()).lock_exclusive())
}

/// Reads the rows of many sessions; `None` where the dialect locks rows one by one.
fn prefetch_sessions<D: Dialect>(tables: &Tables) -> Option<SqlText<D>> {
    use sessions::Column;
    let of_session = |column| (sessions::Entity, column);
    let select = Query::select()
        .columns(session_key_columns().map(of_session))
        .columns([Column::CreateTime, Column::UpdateTime].map(of_session))
        .expr_as(D::SCHEMA.read_json(Expr::col(of_session(Column::State))), Column::State)
        .take();
    let key = session_key_columns().map(|column| (sessions::Entity.into_iden(), column.into_iden()));
    D::select_by_keys(select, tables.aliased(sessions::Entity), key).map(|select| SqlText::new(&select))
}

#[async_trait]
impl<D: Dialect> Engine for Context<D> {
    /// A row of `sessions`, of the columns that an append reads.
    type Prefetched = QueryResult;

    async fn prefetch(
        &self,
        on: &mut dyn Executor,
        targets: Vec<Row>,
        operation: &str,
    ) -> Result<HashMap<Row, QueryResult>> {
        let mut rows = HashMap::new();
        let Some(prefetch) = &self.session.prefetch else { return Ok(rows) };
        let sessions = targets.iter().filter_map(|target| match target {
            Row::Session(key) => Some([key.app_name.as_str(), key.user_id.as_str(), key.session_id.as_str()]),
            Row::Shared(_) => None,
        });
        let keys = Json::from_serialize(&sessions.collect::<Vec<_>>());
        let keys = keys.map_err(|error| Error::invalid("key", error.to_string()))?;
        let mut add = |row: QueryResult| {
            let name = |index| D::Driver::text(&row, index).ok().flatten().unwrap_or_default();
            if let Ok(key) = SessionKey::try_new(name(0), name(1), name(2)) {
                rows.insert(Row::Session(key), row);
            }
        };
        let read = on.run(prefetch.bind([keys.as_str().into()]), &mut add).await;
        read.map_err(|error| statement_error::<D>(operation, error))?;
        Ok(rows)
    }

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
