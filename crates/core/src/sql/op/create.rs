//! `create_session`: inserting the session row settles the race, then the rows it shares with others are created or
//! merged into.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{IntoIden, Query};
use sea_orm::{QueryResult, Statement};

use super::bulk;
use super::context::Context;
use super::shared_state::{changed_rows, state_value};
use crate::entity::sessions;
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::error::{autocommit_error, statement_error};
use crate::sql::executor::Executor;
use crate::sql::statement::{SqlText, inserted, placeholder, session_key_columns, session_key_values};
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, BulkResults, Row, SharedChange, SharedKey, SharedStates, WriteOp};
use crate::state::ScopedState;
use crate::validate::NewSession;
use crate::{BackendError, BackendErrorKind, Error, Result, Session, State};

const OPERATION: &str = "create_session";

/// The statements of `create_session`.
pub(crate) struct CreateSql<D> {
    insert_session: SqlText<D>,
    /// Creates many sessions with their shared rows.
    bulk: Option<SqlText<D>>,
}

impl<D: Dialect> CreateSql<D> {
    pub(super) fn new(tables: &Tables, bulk: Option<&BulkStatements>) -> Self {
        use sessions::Column;
        let mut insert = Query::insert()
            .into_table(tables.table(sessions::Entity))
            .columns(session_key_columns().into_iter().chain([Column::State, Column::CreateTime, Column::UpdateTime]))
            .values_panic([
                placeholder(),
                placeholder(),
                placeholder(),
                D::SCHEMA.write_json(placeholder()),
                placeholder(),
                placeholder(),
            ])
            .take();
        D::insert_if_absent(&mut insert, session_key_columns().map(IntoIden::into_iden).into());
        Self { insert_session: SqlText::new(&insert), bulk: bulk.map(|bulk| SqlText::new(&bulk.create)) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let bulk = self.bulk.iter().map(|bulk| ("bulk", bulk));
        [("insert_session", &self.insert_session)].into_iter().chain(bulk).collect()
    }

    fn insert_statement(&self, new: &NewSession) -> Result<Statement> {
        let time = D::SCHEMA.timestamp(new.create_time);
        let values = session_key_values(&new.key).chain([state_value(&new.state.session)?, time.clone(), time]);
        Ok(self.insert_session.bind(values))
    }
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
        let NewSession { key, state, create_time } = &self.new;
        let change = |row, delta: &State| SharedChange { row, delta: delta.clone(), now: *create_time };
        vec![change(SharedKey::app(key), &state.app), change(SharedKey::user(key), &state.user)]
    }

    fn changed_rows(&self) -> Vec<SharedKey> {
        changed_rows(&self.new.key, &self.new.state)
    }

    /// Inserts the session row. It comes first, so that rows are locked in the same order as by an append.
    async fn apply(&self, _: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<Session>> {
        match inserted::<D>(attempt.on.execute(self.sql.insert_statement(&self.new)?).await) {
            Ok(true) => Ok(Applied::Written(self.new.to_session(State::new(), State::new()))),
            Ok(false) => Err(Error::already_exists(&self.new.key)),
            Err(error) => Err(statement_error::<D>(OPERATION, error)),
        }
    }

    fn complete(&self, created: Session, shared: &SharedStates) -> Session {
        let key = &self.new.key;
        let (app, user) = (shared.get(&SharedKey::app(key)), shared.get(&SharedKey::user(key)));
        Session { state: ScopedState { app, user, session: created.state }.merged(), ..created }
    }

    /// A session whose app and user have their rows, and that changes neither, is one row that commits by itself.
    async fn apply_alone(&self, context: &Context<D>) -> Result<Option<Applied<Session>>> {
        let Self { sql, new } = self;
        if !(context.fast_paths && new.state.app.is_empty() && new.state.user.is_empty()) {
            return Ok(None);
        }
        let mut on = context.database.autocommit();
        let Some((app, user)) = context.shared_state.read_both(&mut on, &new.key, OPERATION).await? else {
            return Ok(None);
        };
        match inserted::<D>(on.execute(sql.insert_statement(new)?).await) {
            Ok(true) => Ok(Some(Applied::Written(new.to_session(app, user)))),
            Ok(false) => Err(Error::already_exists(&new.key)),
            Err(error) => Err(autocommit_error::<D>(OPERATION, error)),
        }
    }

    async fn apply_bulk(context: &Context<D>, writes: &[&Self]) -> Option<Result<BulkResults<Session>>> {
        let bulk = writes.first()?.sql.bulk.as_ref()?;
        Some(apply_bulk(context, bulk, writes).await)
    }

    /// Whether the session that exists is this write's own. The time of its creation, in microseconds, decides.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<Session>> {
        let new = &self.new;
        if context.create_time(&new.key, OPERATION).await? != Some(new.create_time) {
            return Ok(None);
        }
        let mut on = context.database.autocommit();
        let (app, user) = context.shared_state.read_both(&mut on, &new.key, OPERATION).await?.unwrap_or_default();
        Ok(Some(new.to_session(app, user)))
    }
}

async fn apply_bulk<D: Dialect>(
    context: &Context<D>,
    statement: &SqlText<D>,
    writes: &[&CreateOp<D>],
) -> Result<BulkResults<Session>> {
    let new = || writes.iter().map(|write| &write.new);
    let values = bulk::keys(new().map(|new| &new.key)).chain([
        bulk::states(new().map(|new| &new.state.session))?,
        bulk::states(new().map(|new| &new.state.app))?,
        bulk::states(new().map(|new| &new.state.user))?,
        bulk::times(new().map(|new| new.create_time)),
        bulk::count(writes.len()),
    ]);
    let rows = bulk::run::<D>(&context.database, statement.bind(values), OPERATION).await?;
    let mut results: BulkResults<Session> = writes.iter().map(|_| Ok(Applied::Locked)).collect();
    for row in rows {
        let number = bulk::number(&row, OPERATION)?;
        if let Some((result, write)) = results.get_mut(number).zip(writes.get(number)) {
            *result = created(context, &write.new, &row).await.map(Applied::Written);
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
