//! `create_session`: inserting the session row settles the race, then the rows it shares with others are created or
//! merged into.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, IntoIden, Query};
use sea_orm::{QueryResult, Statement, Value};

use super::bulk;
use super::context::Context;
use super::origin::OriginSql;
use super::shared_state::changed_rows;
use crate::entity::sessions;
use crate::history::Origin;
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::error::statement_error;
use crate::sql::statement::{SqlText, inserted, placeholder, session_key_columns, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{
    Applied, Attempt, BeforeSending, BulkResults, LockMode, Row, SharedChange, SharedKey, SharedStates, WriteOp,
};
use crate::state::ScopedState;
use crate::validate::NewSession;
use crate::{BackendError, BackendErrorKind, Error, Result, Revision, Session, SessionKey, State, Timestamp};

const OPERATION: &str = "create_session";

/// The statements of `create_session`.
pub(crate) struct CreateSql<D> {
    origin: Arc<OriginSql<D>>,
    insert_session: SqlText<D>,
    /// The same, until a deadline.
    insert_in_time: SqlText<D>,
    /// Creates many sessions with their shared rows.
    bulk: Option<SqlText<D>>,
    /// The same, without those whose shared rows others have locked.
    bulk_free: Option<SqlText<D>>,
}

impl<D: Dialect> CreateSql<D> {
    pub(super) fn new(tables: &Tables, bulk: Option<&BulkStatements>, origin: Arc<OriginSql<D>>) -> Self {
        let is_in_time = D::SCHEMA.current_time().lt(placeholder());
        Self {
            origin,
            insert_session: insert_session(tables, None),
            insert_in_time: insert_session(tables, Some(is_in_time)),
            bulk: bulk.map(|bulk| SqlText::new(&bulk.create)),
            bulk_free: bulk.map(|bulk| SqlText::new(&bulk.create_free)),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let bulk = self.bulk.iter().map(|bulk| ("bulk", bulk));
        let bulk = bulk.chain(self.bulk_free.iter().map(|bulk| ("bulk_free", bulk)));
        let inserts = [("insert_session", &self.insert_session), ("insert_in_time", &self.insert_in_time)];
        inserts.into_iter().chain(bulk).collect()
    }

    /// The statement that inserts a session's row, unless there is one, with the times of its creation and update.
    pub(super) fn bind_session(
        &self,
        key: &SessionKey,
        state: &State,
        times: [Timestamp; 2],
        max_state_bytes: usize,
    ) -> Result<Statement> {
        Ok(self.insert_session.bind(row_values::<D>(key, state, times, max_state_bytes)?))
    }
}

/// Inserts a session, if `condition` holds and there is none of its key. The parameters are those of [`row_values`],
/// and those of the condition.
fn insert_session<D: Dialect>(tables: &Tables, condition: Option<Expr>) -> SqlText<D> {
    use sessions::Column;
    let [app_name, user_id, id] = session_key_columns();
    let columns = [app_name, user_id, id, Column::State, Column::CreateTime, Column::UpdateTime];
    let mut row = Query::select();
    row.exprs(columns.map(|column| match column {
        Column::State => D::SCHEMA.write_json(placeholder()),
        _ => placeholder(),
    }));
    row.cond_where(Condition::all().add_option(condition));
    let mut insert = Query::insert();
    insert.into_table(tables.table(sessions::Entity)).columns(columns);
    insert.select_from(row).expect("an expression for each column");
    D::insert_if_absent(&mut insert, session_key_columns().map(IntoIden::into_iden).into());
    SqlText::new(&insert)
}

/// The values of a session's row.
fn row_values<D: Dialect>(
    key: &SessionKey,
    state: &State,
    times: [Timestamp; 2],
    max_state_bytes: usize,
) -> Result<impl Iterator<Item = Value> + Send + use<D>> {
    let [created, updated] = times.map(|time| D::SCHEMA.timestamp(time));
    let state = state.to_row(max_state_bytes, key)?;
    Ok(session_key_values(key).chain([state.into(), created, updated]))
}

/// A session to create.
pub(crate) struct CreateOp<D: Dialect> {
    pub(crate) sql: Arc<CreateSql<D>>,
    pub(crate) new: NewSession,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for CreateOp<D> {
    type Outcome = Session;

    const NAME: &'static str = OPERATION;
    const HAS_BULK: bool = true;

    fn target(&self) -> Row {
        Row::Session(self.new.key.clone())
    }

    /// Both rows must exist, also without keys: google-adk appends only where they do.
    fn shared(&self) -> Vec<SharedChange> {
        let NewSession { key, state, create_time, .. } = &self.new;
        let change = |row, delta: &State| SharedChange { row, delta: delta.clone(), now: *create_time };
        vec![change(SharedKey::app(key), &state.app), change(SharedKey::user(key), &state.user)]
    }

    fn changed_rows(&self) -> Vec<SharedKey> {
        changed_rows(&self.new.key, &self.new.state)
    }

    fn bytes(&self) -> usize {
        let ScopedState { app, user, session } = &self.new.state;
        app.bytes() + user.bytes() + session.bytes()
    }

    /// Inserts the session row. It comes first, so that rows are locked in the same order as by an append.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Session>> {
        let (Self { sql, new }, max) = (self, context.settings.max_state_bytes);
        let insert = sql.bind_session(&new.key, &new.state.session, [new.create_time; 2], max)?;
        match inserted::<D>(attempt.on.execute(insert).await) {
            Ok(true) => {}
            Ok(false) => return Err(Error::already_exists(&new.key)),
            Err(error) => return Err(statement_error::<D>(OPERATION, error)),
        }
        if new.keeps_initial_state {
            let origin = Origin::new(new.create_time, Some(new.state.session.clone()), None);
            sql.origin.write(attempt.on, &new.key, &origin, max, OPERATION).await?;
        }
        Ok(Applied::Written(new.to_session(State::new(), State::new())))
    }

    fn complete(&self, created: Session, shared: &SharedStates) -> Session {
        let key = &self.new.key;
        let (app, user) = (shared.get(&SharedKey::app(key)), shared.get(&SharedKey::user(key)));
        Session { state: ScopedState { app, user, session: created.state }.merged(), ..created }
    }

    /// A session whose app and user have their rows, and that changes neither, is one row that commits by itself, unless
    /// its initial state is kept.
    ///
    /// If that inserts none, there is such a session, or the statement came too late: a transaction finds out.
    async fn apply_alone(
        &self,
        context: &Context<D>,
        before_sending: BeforeSending<'_>,
    ) -> Result<Option<Applied<Session>>> {
        let Self { sql, new } = self;
        let is_one_row = new.state.app.is_empty() && new.state.user.is_empty() && !new.keeps_initial_state;
        if !(context.settings.fast_paths && sql.bulk.is_none() && is_one_row) {
            return Ok(None);
        }
        let mut on = context.database.autocommit();
        let Some((app, user)) = context.shared_state.read_both(&mut on, &new.key, OPERATION).await? else {
            return Ok(None);
        };
        let max = context.settings.max_state_bytes;
        let row = row_values::<D>(&new.key, &new.state.session, [new.create_time; 2], max)?;
        let insert = |deadline| sql.insert_in_time.bind(row.chain([deadline]));
        let inserted = context.database.autocommit_write(OPERATION, before_sending, insert, &mut |_| {}).await? > 0;
        Ok(inserted.then(|| Applied::Written(new.to_session(app, user))))
    }

    async fn apply_bulk(
        context: &Context<D>,
        shared: LockMode,
        writes: &[&Self],
        before_sending: BeforeSending<'_>,
    ) -> Option<Result<BulkResults<Session>>> {
        let sql = &writes.first()?.sql;
        let changes_shared = |write: &&Self| !write.new.state.app.is_empty() || !write.new.state.user.is_empty();
        let bulk = match shared {
            LockMode::SkipLocked if writes.iter().any(changes_shared) => sql.bulk_free.as_ref()?,
            _ => sql.bulk.as_ref()?,
        };
        Some(apply_bulk(context, bulk, writes, before_sending).await)
    }

    /// Whether the session that exists is this write's own. The time of its creation, in microseconds, decides.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<Session>> {
        let new = &self.new;
        let mut on = context.database.autocommit();
        let stored = context.revision(&mut on, &new.key, OPERATION).await?;
        if stored.map(Revision::create_time) != Some(new.create_time) {
            return Ok(None);
        }
        let (app, user) = context.shared_state.read_both(&mut on, &new.key, OPERATION).await?.unwrap_or_default();
        Ok(Some(new.to_session(app, user)))
    }
}

/// Leaves out those whose initial state is kept, which is a row that the statement does not write.
async fn apply_bulk<D: Dialect>(
    context: &Context<D>,
    statement: &SqlText<D>,
    writes: &[&CreateOp<D>],
    before_sending: BeforeSending<'_>,
) -> Result<BulkResults<Session>> {
    let mut results: BulkResults<Session> = writes.iter().map(|_| Ok(Applied::Locked)).collect();
    let written = results.iter_mut().zip(writes.iter().map(|write| &write.new));
    let mut written: Vec<_> = written.filter(|(_, new)| !new.keeps_initial_state).collect();
    if written.is_empty() {
        drop(written);
        return Ok(results);
    }
    let new = || written.iter().map(|(_, new)| *new);
    let max = context.settings.max_state_bytes;
    let values = bulk::keys(new().map(|new| &new.key)).chain([
        bulk::states(new().map(|new| (&new.key, &new.state.session)), max)?,
        bulk::states(new().map(|new| (&new.key, &new.state.app)), max)?,
        bulk::states(new().map(|new| (&new.key, &new.state.user)), max)?,
        bulk::times(new().map(|new| new.create_time)),
    ]);
    let rows = bulk::run(&context.database, statement, values, written.len(), OPERATION, before_sending).await?;
    for row in rows {
        let number = bulk::number(&row, OPERATION)?;
        if let Some((result, new)) = written.get_mut(number) {
            **result = if bulk::is_blocked(&row) {
                Ok(Applied::SharedLocked)
            } else {
                created(context, new, &row).await.map(Applied::Written)
            };
        }
    }
    Ok(results)
}

/// The session of a row of the bulk statement. The session is stored, so from here on an error must not say otherwise.
async fn created<D: Dialect>(context: &Context<D>, new: &NewSession, row: &QueryResult) -> Result<Session> {
    let key = &new.key;
    let (app_key, user_key) = (SharedKey::app(key), SharedKey::user(key));
    let app = RowDecoder::<D>::new("app_states", &app_key).state_or_null(row, 1)?;
    let user = RowDecoder::<D>::new("user_states", &user_key).state_or_null(row, 2)?;
    if let Some((app, user)) = app.zip(user) {
        return Ok(new.to_session(app, user));
    }
    // Other writers created these rows after the statement had begun.
    let states = context.shared_state.read_both(&mut context.database.autocommit(), key, OPERATION).await;
    let (app, user) = states
        .map_err(|error| {
            let message = "the session is stored, but reading its app's and user's state ended in an error";
            BackendError::new(BackendErrorKind::CommitUnknown, message).with_source(error)
        })?
        .unwrap_or_default();
    Ok(new.to_session(app, user))
}
