//! `forget_some`: finding what is left of a user or an app, and deleting the states of those without sessions.

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Query, SelectStatement};
use sea_orm::{QueryResult, Statement};

use super::context::Context;
use super::list::{all_of_scope, app_of};
use crate::entity::{app_states, events, sessions, user_states};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::name;
use crate::sql::tables::Tables;
use crate::sql::write::{Applied, Attempt, LockMode, Row, SharedKey, WriteOp};
use crate::{AppName, Result, SessionId, SessionKey, SessionScope, UserId, UserKey};

const OPERATION: &str = "forget_some";
/// How many sessions or states a step finds. It deletes some of them, so that programs that share the work
/// seldom pick the same ones.
const FOUND_AT_ONCE: u64 = 400;
const DELETED_AT_ONCE: usize = 100;

/// Selects sessions of an app or a user.
fn select_sessions<D: Dialect>(tables: &Tables, scope: &SessionScope) -> SelectStatement {
    use sessions::Column;
    let mut select = all_of_scope::<D>(tables, scope);
    select.columns([Column::UserId, Column::Id].map(|column| (sessions::Entity, column))).limit(FOUND_AT_ONCE).take()
}

/// Finds sessions to delete.
pub(crate) async fn find_sessions<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    scope: &SessionScope,
) -> Result<Vec<SessionKey>> {
    let rows = on.query_all(D::BACKEND.build(&select_sessions::<D>(tables, scope))).await;
    let rows = rows.map_err(|error| statement_error::<D>(OPERATION, error))?;
    let decoder = RowDecoder::<D>::new("sessions", app_of(scope));
    let decode = |row: &QueryResult| {
        let user_id = UserId::from_row(decoder.text(row, 0, "user_id")?.to_owned());
        let session_id = SessionId::from_row(decoder.text(row, 1, "id")?.to_owned());
        Ok(SessionKey::new(app_of(scope).clone(), user_id, session_id))
    };
    rows.iter().map(decode).collect()
}

/// Selects the number of events of a session; no row if there is no session.
fn select_count<D: Dialect>(tables: &Tables, key: &SessionKey) -> SelectStatement {
    use events::Column;
    let count = Query::select()
        .expr(Expr::cust("COUNT(*)"))
        .from(tables.table(events::Entity))
        .and_where(name::<D>(Column::AppName).eq(key.app_name.as_str()))
        .and_where(name::<D>(Column::UserId).eq(key.user_id.as_str()))
        .and_where(name::<D>(Column::SessionId).eq(key.session_id.as_str()))
        .take();
    all_of_scope::<D>(tables, &SessionScope::User(key.user()))
        .and_where(name::<D>((sessions::Entity, sessions::Column::Id)).eq(key.session_id.as_str()))
        .expr(Expr::SubQuery(None, Box::new(count.into())))
        .take()
}

/// How many events a session has; `None` if there is no session.
pub(crate) async fn count_events<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    key: &SessionKey,
) -> Result<Option<u64>> {
    let row = on.query_one(D::BACKEND.build(&select_count::<D>(tables, key))).await;
    let count = row.map_err(|error| statement_error::<D>(OPERATION, error))?.map(|row| row.try_get_by_index::<i64>(0));
    let count = count.transpose().map_err(|error| statement_error::<D>(OPERATION, error))?;
    Ok(count.map(|count| u64::try_from(count).unwrap_or_default()))
}

/// Some of what was found, not the same in each program.
pub(crate) fn some_of<T>(mut found: Vec<T>) -> Vec<T> {
    if found.len() > DELETED_AT_ONCE {
        let first = fastrand::usize(..found.len());
        found.rotate_left(first);
        found.truncate(DELETED_AT_ONCE);
    }
    found
}

/// Selects users of an app that have a state.
fn select_users<D: Dialect>(tables: &Tables, app_name: &AppName) -> SelectStatement {
    use user_states::Column;
    Query::select()
        .column(Column::UserId)
        .from(tables.table(user_states::Entity))
        .and_where(name::<D>(Column::AppName).eq(app_name.as_str()))
        .limit(FOUND_AT_ONCE)
        .take()
}

/// Finds states to delete: those of users, and once there are none, that of the app if the app is to go.
pub(crate) async fn find_states<D: Dialect>(
    tables: &Tables,
    on: &mut dyn Executor,
    scope: &SessionScope,
) -> Result<Vec<SharedKey>> {
    let app_name = match scope {
        SessionScope::User(user) => return Ok(vec![SharedKey::User(user.clone())]),
        SessionScope::App(app_name) => app_name,
    };
    let rows = on.query_all(D::BACKEND.build(&select_users::<D>(tables, app_name))).await;
    let rows = rows.map_err(|error| statement_error::<D>(OPERATION, error))?;
    if rows.is_empty() {
        return Ok(vec![SharedKey::App(app_name.clone())]);
    }
    let decoder = RowDecoder::<D>::new("user_states", app_name);
    let decode = |row: &QueryResult| {
        let user_id = UserId::from_row(decoder.text(row, 0, "user_id")?.to_owned());
        Ok(SharedKey::User(UserKey::new(app_name.clone(), user_id)))
    };
    rows.iter().map(decode).collect()
}

/// The statements on the row of a state.
struct StateStatements {
    /// Waits for those who change the row, and reads whether it is there. Its state may be unreadable.
    lock: Statement,
    /// What must be gone before it.
    users: Vec<Statement>,
    delete: Statement,
}

fn state_statements<D: Dialect>(tables: &Tables, row: &SharedKey) -> StateStatements {
    let one = || Query::select().expr(Expr::cust("1")).take();
    let (table, is_row, scope) = match row {
        SharedKey::App(app_name) => {
            let is_row = name::<D>(app_states::Column::AppName).eq(app_name.as_str());
            (tables.table(app_states::Entity), is_row, SessionScope::App(app_name.clone()))
        }
        SharedKey::User(user) => {
            use user_states::Column;
            let is_row = name::<D>(Column::AppName).eq(user.app_name.as_str());
            let is_row = is_row.and(name::<D>(Column::UserId).eq(user.user_id.as_str()));
            (tables.table(user_states::Entity), is_row, SessionScope::User(user.clone()))
        }
    };
    let users = match &scope {
        SessionScope::App(app_name) => Some(select_users::<D>(tables, app_name).reset_limit().limit(1).take()),
        SessionScope::User(_) => None,
    };
    let session = all_of_scope::<D>(tables, &scope).expr(Expr::cust("1")).limit(1).take();
    let lock = one().from(table.clone()).and_where(is_row.clone()).lock_exclusive().take();
    let delete = Query::delete().from_table(table).and_where(is_row).take();
    StateStatements {
        lock: D::BACKEND.build(&lock),
        users: [session].into_iter().chain(users).map(|select| D::BACKEND.build(&select)).collect(),
        delete: D::BACKEND.build(&delete),
    }
}

/// The statements, which are built for each call, as samples.
pub(super) fn sample_texts<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let user = UserKey::new(AppName::from_row("app".to_owned()), UserId::from_row("user".to_owned()));
    let (app, of_user) = (SessionScope::App(user.app_name.clone()), SessionScope::User(user.clone()));
    let text = |select: SelectStatement| D::BACKEND.build(&select).sql;
    let StateStatements { lock, users, delete } = state_statements::<D>(tables, &SharedKey::App(user.app_name.clone()));
    let of_app = [("lock_state", lock), ("delete_state", delete)].into_iter();
    let of_app = of_app.chain(["has_session", "has_users"].into_iter().zip(users));
    let key = user.session(SessionId::from_row("session".to_owned()));
    [
        ("count_events", text(select_count::<D>(tables, &key))),
        ("sessions_of_app", text(select_sessions::<D>(tables, &app))),
        ("sessions_of_user", text(select_sessions::<D>(tables, &of_user))),
        ("users", text(select_users::<D>(tables, &user.app_name))),
    ]
    .into_iter()
    .chain(of_app.map(|(sample, statement)| (sample, statement.sql)))
    .map(|(sample, text)| (format!("forget_some.{sample}"), text))
    .collect()
}

/// What became of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForgottenState {
    /// There is none.
    Absent,
    /// There is a session that needs it, or for an app a user.
    Used,
    Deleted,
}

/// The state of an app or a user, to delete once there is no session of theirs.
pub(crate) struct ForgetStateOp {
    pub(crate) row: SharedKey,
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for ForgetStateOp {
    type Outcome = ForgottenState;

    const NAME: &'static str = OPERATION;

    const SKIPS_LOCKED: bool = false;

    fn target(&self) -> Row {
        Row::Shared(self.row.clone())
    }

    /// google-adk cannot append to a session without these rows. A create that has found the row, and is not committed
    /// yet, is not seen here: who forgets looks again a moment later.
    async fn apply(&self, context: &Context<D>, attempt: Attempt<'_, Context<D>>) -> Result<Applied<ForgottenState>> {
        if attempt.lock == LockMode::SkipLocked {
            return Ok(Applied::Locked);
        }
        let failed = |error| statement_error::<D>(OPERATION, error);
        let StateStatements { lock, users, delete } = state_statements::<D>(&context.tables, &self.row);
        if attempt.on.query_one(lock).await.map_err(failed)?.is_none() {
            // A delete may still be on its way to the standby servers, and who forgets relies on the answer.
            context.await_standbys(attempt.on, OPERATION).await?;
            return Ok(Applied::Unchanged(ForgottenState::Absent));
        }
        for used in users {
            if attempt.on.query_one(used).await.map_err(failed)?.is_some() {
                return Ok(Applied::Unchanged(ForgottenState::Used));
            }
        }
        attempt.on.execute(delete).await.map_err(failed)?;
        Ok(Applied::Written(ForgottenState::Deleted))
    }
}
