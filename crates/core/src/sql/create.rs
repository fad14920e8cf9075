//! `create_session`: the session row decides who wins, then the rows it shares with others are made or merged into.

use sea_orm::sea_query::Query;
use sea_orm::{ConnectionTrait, DatabaseTransaction, SqlErr, Value};

use super::Dialect;
use super::failure::statement_error;
use super::prepared::{Prepared, slot};
use super::service::Inner;
use super::shared_state::{Key, json_value};
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
        let insert = Query::insert()
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
        Self { insert_session: Prepared::new(&insert) }
    }
}

/// A plain insert, for only its unique violation tells on every database who came first: MySQL reports an ignored row as
/// inserted. It goes first, so that rows are locked in the same order as by an append.
pub(super) async fn create_session<D: Dialect>(
    inner: &Inner<D>,
    transaction: &DatabaseTransaction,
    new: &NewSession,
) -> Result<Session> {
    let (key, time) = (&new.key, D::timestamp(new.create_time));
    let insert = inner.create.insert_session.bind([
        Value::from(key.app_name.as_str()),
        key.user_id.as_str().into(),
        key.session_id.as_str().into(),
        json_value(&new.state.session)?,
        time.clone(),
        time,
    ]);
    transaction.execute_raw(insert).await.map_err(|error| match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => Error::already_exists(key),
        _ => statement_error::<D>(OPERATION, error),
    })?;
    let shared = &inner.shared_state;
    let (app_key, user_key) = (Key::App(&key.app_name), Key::User(&key.app_name, &key.user_id));
    let app = shared.app.merge(transaction, &app_key, &new.state.app, new.create_time, OPERATION).await?;
    let user = shared.user.merge(transaction, &user_key, &new.state.user, new.create_time, OPERATION).await?;
    Ok(new.to_session(app, user))
}
