//! `delete_session`: the session row and its events.

use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction};

use super::Dialect;
use super::failure::statement_error;
use super::get::{event_key_condition, session_key_condition, session_key_values};
use super::prepared::Prepared;
use super::service::Inner;
use crate::entity::{events, sessions};
use crate::{Result, SessionKey};

const OPERATION: &str = "delete_session";

pub(in crate::sql) struct Statements<D> {
    lock_session: Prepared<D>,
    delete_events: Prepared<D>,
    delete_session: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        let lock = Query::select()
            .expr(Expr::cust("1"))
            .from(sessions::Entity)
            .and_where(session_key_condition())
            .lock_exclusive()
            .take();
        let events = Query::delete().from_table(events::Entity).and_where(event_key_condition()).take();
        let session = Query::delete().from_table(sessions::Entity).and_where(session_key_condition()).take();
        Self {
            lock_session: Prepared::new(&lock),
            delete_events: Prepared::new(&events),
            delete_session: Prepared::new(&session),
        }
    }
}

/// The events are deleted by name: SQLite cascades only on connections that ask for it, and a pool of the user's may
/// not; an event left behind would turn up in the next session of that id.
pub(super) async fn delete_session<D: Dialect>(
    inner: &Inner<D>,
    transaction: &DatabaseTransaction,
    key: &SessionKey,
) -> Result<()> {
    let statements = &inner.delete;
    let failed = |error| statement_error::<D>(OPERATION, error);
    let locked = transaction.query_one_raw(statements.lock_session.bind(session_key_values(key))).await;
    if locked.map_err(failed)?.is_none() {
        return Ok(());
    }
    for delete in [&statements.delete_events, &statements.delete_session] {
        transaction.execute_raw(delete.bind(session_key_values(key))).await.map_err(failed)?;
    }
    Ok(())
}
