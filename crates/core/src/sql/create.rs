//! `create_session`: the session row decides who wins, then the rows it shares with others are made or merged into.

use sea_orm::sea_query::{IntoIden, Query};
use sea_orm::{Statement, Value};

use super::failure::{autocommit_error, statement_error};
use super::prepared::{Prepared, is_new, slot};
use super::service::Inner;
use super::shared_state::{existing, json_value};
use super::transaction::InTransaction;
use super::{Dialect, get};
use crate::entity::sessions;
use crate::prepare::NewSession;
use crate::{Error, Result, Session};

const OPERATION: &str = "create_session";

pub(in crate::sql) struct Statements<D> {
    insert_session: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        use sessions::Column;
        let mut insert = Query::insert()
            .into_table(sessions::Entity)
            .columns([
                Column::AppName,
                Column::UserId,
                Column::Id,
                Column::State,
                Column::CreateTime,
                Column::UpdateTime,
            ])
            .values_panic([slot(), slot(), slot(), D::write_json(slot()), slot(), slot()])
            .take();
        let key = [Column::AppName, Column::UserId, Column::Id];
        D::insert_if_absent(&mut insert, key.map(IntoIden::into_iden).into());
        Self { insert_session: Prepared::new(&insert) }
    }
}

/// Makes the session row. It goes first, so that rows are locked in the same order as by an append; its app's and
/// user's rows are the caller's business.
pub(super) async fn insert_session<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    new: &NewSession,
) -> Result<()> {
    match is_new::<D>(transaction.execute(insert_statement(inner, new)?).await) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::already_exists(&new.key)),
        Err(error) => Err(statement_error::<D>(OPERATION, error)),
    }
}

/// A session whose app and user have their rows, and that brings no state for them, is one row that commits by itself.
/// `None` when it takes more, and nothing was written.
pub(super) async fn create_beside_existing<D: Dialect>(inner: &Inner<D>, new: &NewSession) -> Result<Option<Session>> {
    if !(inner.fast && new.state.app.is_empty() && new.state.user.is_empty()) {
        return Ok(None);
    }
    let Some((app, user)) = existing(inner, &new.key, OPERATION).await? else {
        return Ok(None);
    };
    match is_new::<D>(inner.execute(insert_statement(inner, new)?).await) {
        Ok(true) => Ok(Some(new.to_session(app, user))),
        Ok(false) => Err(Error::already_exists(&new.key)),
        Err(error) => Err(autocommit_error::<D>(OPERATION, error)),
    }
}

/// Whose session is there, when an earlier try of a create may have been committed: its own or somebody else's; `None` when none
/// is there any more. The time of its creation, in microseconds, tells whose it is.
pub(super) async fn look<D: Dialect>(inner: &Inner<D>, new: &NewSession) -> Result<Option<Result<Session>>> {
    let Some(stored) = get::create_time(inner, &new.key).await? else { return Ok(None) };
    if stored != new.create_time {
        return Ok(Some(Err(Error::already_exists(&new.key))));
    }
    let (app, user) = existing(inner, &new.key, OPERATION).await?.unwrap_or_default();
    Ok(Some(Ok(new.to_session(app, user))))
}

fn insert_statement<D: Dialect>(inner: &Inner<D>, new: &NewSession) -> Result<Statement> {
    let (key, time) = (&new.key, D::timestamp(new.create_time));
    Ok(inner.create.insert_session.bind([
        Value::from(key.app_name.as_str()),
        key.user_id.as_str().into(),
        key.session_id.as_str().into(),
        json_value(&new.state.session)?,
        time.clone(),
        time,
    ]))
}
