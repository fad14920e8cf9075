//! `delete_session`: the session row and its events.

use sea_orm::sea_query::Query;

use super::Dialect;
use super::failure::statement_error;
use super::get::{event_key_condition, session_key_condition, session_key_values};
use super::prepared::Prepared;
use super::service::Inner;
use super::transaction::InTransaction;
use crate::entity::{events, sessions};
use crate::{Result, SessionKey};

const OPERATION: &str = "delete_session";

pub(in crate::sql) struct Statements<D> {
    delete_session: Prepared<D>,
    delete_events: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    pub(super) fn new() -> Self {
        let session = Query::delete().from_table(sessions::Entity).and_where(session_key_condition()).take();
        let events = Query::delete().from_table(events::Entity).and_where(event_key_condition()).take();
        Self { delete_session: Prepared::new(&session), delete_events: Prepared::new(&events) }
    }
}

/// The session row goes first: appends wait for it, and then find no session. The foreign key takes its events along,
/// but SQLite follows it only on connections that were told to, and a pool of the user's may not be; an event left
/// behind would turn up in the next session of that id.
pub(super) async fn delete_session<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut impl InTransaction,
    key: &SessionKey,
) -> Result<()> {
    for delete in [&inner.delete.delete_session, &inner.delete.delete_events] {
        let deleted = transaction.execute(delete.bind(session_key_values(key))).await;
        deleted.map_err(|error| statement_error::<D>(OPERATION, error))?;
    }
    Ok(())
}
