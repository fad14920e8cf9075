//! What the operations work with.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, IntoIden, Query};
use sea_orm::{QueryResult, Statement};

use super::shared_state::SharedStateSql;
use crate::entity::{events, sessions};
use crate::event::adk_check::AdkCheck;
use crate::sql::database::Database;
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::driver::Driver;
use crate::sql::error::statement_error;
use crate::sql::executor::{Executor, TransactionBody};
use crate::sql::statement::{
    SqlText, event_session_predicate, is_not_being_deleted, placeholder, session_key_columns, session_key_predicate,
    session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::target::{PRIMARY, STANDBY};
use crate::sql::write::{Engine, Row, SharedChanges, SharedKey, SharedLocks, SharedStates};
use crate::{BackendError, BackendErrorKind, Error, ExpectedRevision, Json, Result, Revision, SessionKey, State};

/// How operations run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Whether an operation may take a shorter way than the portable algorithm.
    pub(crate) fast_paths: bool,
    /// The limit on the JSON text of a state.
    pub(crate) max_state_bytes: usize,
    /// The limit on the JSON text of the events that are read at once.
    pub(crate) max_session_bytes: usize,
    /// Whether google-adk must be able to read new events.
    pub(crate) adk_check: AdkCheck,
    /// Whether a delete names the rows of Seabed's own tables, rather than leave them to their foreign keys.
    pub(crate) deletes_own_rows: bool,
    /// For how long operations wait for a server that is gone, if that is longer than usual.
    pub(crate) failover_patience: Option<Duration>,
    /// Whether the server may be one that accepts no writes: the user has accepted that risk.
    pub(crate) may_be_read_only: bool,
}

/// The database, the statements that several operations share, and how operations run.
pub(crate) struct Context<D: Dialect> {
    pub(crate) database: Database<D>,
    pub(crate) tables: Tables,
    pub(crate) settings: Settings,
    pub(super) shared_state: SharedStateSql<D>,
    session: SessionSql<D>,
    /// Whether the server may accept no writes, so that it is asked first.
    may_be_read_only: AtomicBool,
}

/// The statements on session rows that several operations share.
pub(super) struct SessionSql<D> {
    revision: SqlText<D>,
    /// Reads whether a session has an event of a time.
    event_at: SqlText<D>,
    /// Reads the rows of many sessions, where a transaction has locked them all.
    prefetch: Option<SqlText<D>>,
}

impl<D: Dialect> SessionSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        Self {
            revision: select_revision(tables),
            event_at: select_event_at(tables),
            prefetch: prefetch_sessions(tables),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let prefetch = self.prefetch.iter().map(|prefetch| ("prefetch", prefetch));
        [("revision", &self.revision), ("event_at", &self.event_at)].into_iter().chain(prefetch).collect()
    }
}

impl<D: Dialect> Context<D> {
    pub(crate) fn new(database: Database<D>, tables: Tables, settings: Settings) -> Self {
        Self {
            database,
            settings,
            shared_state: SharedStateSql::new(&tables, settings.max_state_bytes),
            session: SessionSql::new(&tables),
            may_be_read_only: AtomicBool::new(settings.may_be_read_only),
            tables,
        }
    }

    /// Refuses a write where the server accepts none. Asks only a server that was accepted as such, until it has become
    /// a primary.
    pub(crate) async fn check_writable(&self, operation: &str) -> Result<()> {
        if self.may_be_read_only.load(Ordering::Relaxed) {
            self.check_role(operation).await?;
            self.may_be_read_only.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Asks the server whether it accepts writes.
    pub(crate) async fn check_role(&self, operation: &str) -> Result<()> {
        let Some(query) = D::ROLE_QUERY else { return Ok(()) };
        let row = self.database.autocommit().query_one(Statement::from_string(D::BACKEND, query)).await;
        let row = row.map_err(|error| statement_error::<D>(operation, error))?;
        let role = row.as_ref().and_then(|row| D::Driver::text(row, 0).ok().flatten()).unwrap_or(PRIMARY);
        if role == PRIMARY {
            return Ok(());
        }
        let what = if role == STANDBY { "a standby or a replica" } else { "a server in read-only mode" };
        let message = format!("{operation} on {:?}: it is {what}, which accepts no writes", D::BACKEND);
        Err(BackendError::new(BackendErrorKind::ReadOnly, message).into())
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

    /// The revision of a session; `None` when there is none, or it is being deleted.
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

    /// Checks that a session, which is at `actual`, is at the expected revision.
    ///
    /// If it is at an earlier one, and the event of the expected one is not there, this server is behind the one that
    /// the caller has read from, and knows nothing of what happened since. (If the event is there, a program with a
    /// late clock has set the session's time back.)
    pub(super) async fn check_revision(
        &self,
        on: &mut dyn Executor,
        key: &SessionKey,
        expected: ExpectedRevision,
        actual: Revision,
        operation: &str,
    ) -> Result<()> {
        let checked = expected.check(key, actual);
        let ExpectedRevision::Exact(revision) = expected else { return checked };
        if !(D::MAY_LAG && expected.is_ahead_of(actual)) {
            return checked;
        }
        let values = session_key_values(key).chain([D::SCHEMA.timestamp(revision.timestamp())]);
        let event = on.query_one(self.session.event_at.bind(values)).await;
        if event.map_err(|error| statement_error::<D>(operation, error))?.is_some() {
            return checked;
        }
        let message = format!(
            "the server is behind: it has {key} at revision {actual}, and the caller has read revision {revision}. \
             Nothing was stored. If it stays so, the server has lost what was acknowledged: read the session again"
        );
        Err(BackendError::behind(message).into())
    }

    /// Makes the commit wait for standby servers, although nothing was written: what was found there may be on its way
    /// to them.
    pub(super) async fn await_standbys(&self, on: &mut dyn Executor, operation: &str) -> Result<()> {
        let Some(statement) = D::AWAIT_STANDBYS else { return Ok(()) };
        let waits = on.execute(Statement::from_string(D::BACKEND, statement)).await;
        waits.map(drop).map_err(|error| statement_error::<D>(operation, error))
    }
}

/// Reads the revision of a session. Waits for a transaction that has not decided it yet.
fn select_revision<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use sessions::Column;
    let mut select = Query::select();
    select.columns([Column::CreateTime, Column::UpdateTime]).from(tables.table(sessions::Entity));
    SqlText::new(select.and_where(session_key_predicate::<D>()).lock_exclusive())
}

/// Reads whether a session has an event of a time.
fn select_event_at<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use events::Column;
    let mut select = Query::select();
    select.column(Column::Id).from(tables.table(events::Entity)).and_where(event_session_predicate::<D>());
    SqlText::new(select.and_where(Expr::col(Column::Timestamp).eq(placeholder())))
}

/// Reads the rows of many sessions; `None` where the dialect locks rows one by one.
fn prefetch_sessions<D: Dialect>(tables: &Tables) -> Option<SqlText<D>> {
    use sessions::Column;
    let of_session = |column| (sessions::Entity, column);
    let select = Query::select()
        .and_where(is_not_being_deleted(of_session(Column::CreateTime)))
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

    fn failover_patience(&self) -> Option<Duration> {
        self.settings.failover_patience
    }

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

    async fn lock_shared(
        &self,
        on: &mut dyn Executor,
        rows: BTreeSet<SharedKey>,
        operation: &str,
    ) -> Result<SharedLocks> {
        self.shared_state.lock_free(on, rows, operation).await
    }

    async fn merge_shared(
        &self,
        on: &mut dyn Executor,
        changes: SharedChanges,
        held: SharedStates,
        operation: &str,
    ) -> Result<SharedStates> {
        self.shared_state.merge(on, changes, held, operation).await
    }
}
