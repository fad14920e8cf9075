//! The statements of `append_event`.

use sea_orm::Value;
use sea_orm::sea_query::{
    Expr, ExprTrait, InsertStatement, LockBehavior, LockType, Query, SelectStatement, UpdateStatement,
};

use super::OPERATION;
use super::bulk_append::BulkAppend;
use super::group::GroupSql;
use crate::Result;
use crate::entity::{events, sessions};
use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    SqlText, event_columns, event_key_columns, event_key_predicate, inserted, is_not_being_deleted, name, placeholder,
    session_key_predicate,
};
use crate::sql::tables::Tables;

/// The statements of `append_event`.
pub(crate) struct AppendSql<D> {
    /// Reads the session row and locks it until the transaction ends.
    pub(super) lock_session: SqlText<D>,
    /// The same, unless another connection has locked it.
    pub(super) lock_free_session: SqlText<D>,
    /// Reads the event that is stored under an id, whatever the snapshot of a caller's transaction is.
    pub(super) lock_event: SqlText<D>,
    /// Stores the event, unless its id is taken, and moves the session's clock on.
    pub(super) store: StoreSql<D>,
    /// The same, and replaces the session's state.
    pub(super) store_with_state: StoreSql<D>,
    /// The same as `store`, if the session is at a given revision. Locks the session.
    pub(super) store_at_revision: StoreSql<D>,
    /// The same, in a session that no other connection has locked.
    pub(super) store_at_free_revision: StoreSql<D>,
    /// Reads the session's clock and whether an event's id is taken, and locks nothing.
    pub(super) diagnose: SqlText<D>,
    /// Appends many events to different sessions.
    pub(super) bulk: Option<BulkAppend<D>>,
    /// Appends many events in a transaction.
    pub(super) group: Option<GroupSql<D>>,
}

impl<D: Dialect> AppendSql<D> {
    pub(in crate::sql::op) fn new(tables: &Tables, bulk: Option<&BulkStatements>) -> Self {
        use sessions::Column;
        let lock_session = Query::select()
            .columns([Column::CreateTime, Column::UpdateTime])
            .expr_as(D::SCHEMA.read_json(Expr::col(Column::State)), Column::State)
            .from(tables.table(sessions::Entity))
            .and_where(session_key_predicate::<D>())
            .lock_exclusive()
            .take();
        let at_revision = Query::select()
            .exprs(new_event::<D>())
            .from(tables.table(sessions::Entity))
            .and_where(session_key_predicate::<D>())
            .and_where(Expr::col(Column::UpdateTime).eq(placeholder()))
            .and_where(Expr::col(Column::CreateTime).eq(placeholder()))
            .lock_exclusive()
            .take();
        let write_time = Query::update()
            .table(tables.table(sessions::Entity))
            .value(Column::UpdateTime, placeholder())
            .and_where(session_key_predicate::<D>())
            .take();
        let write_state = Query::update()
            .table(tables.table(sessions::Entity))
            .value(Column::UpdateTime, placeholder())
            .value(Column::State, D::SCHEMA.write_json(placeholder()))
            .and_where(session_key_predicate::<D>())
            .take();
        let insert = insert_event::<D>(tables).values_panic(new_event::<D>()).take();
        let insert_at = |select: SelectStatement| insert_selected_event::<D>(tables, select);
        Self {
            lock_session: SqlText::new(&lock_session),
            lock_free_session: SqlText::new(&skip_locked(&lock_session)),
            lock_event: SqlText::new(&select_event::<D>(tables)),
            store: StoreSql::new(&insert, &write_time),
            store_with_state: StoreSql::new(&insert, &write_state),
            store_at_free_revision: StoreSql::new(&insert_at(skip_locked(&at_revision)), &write_time),
            store_at_revision: StoreSql::new(&insert_at(at_revision), &write_time),
            diagnose: SqlText::new(&select_for_diagnosis::<D>(tables)),
            bulk: bulk.map(BulkAppend::new),
            group: D::GROUPS_STATEMENTS.then(|| GroupSql::new(tables)),
        }
    }

    pub(in crate::sql::op) fn has_bulk_statement(&self) -> bool {
        self.bulk.is_some()
    }

    pub(in crate::sql::op) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let mut texts = vec![
            ("lock_session", &self.lock_session),
            ("lock_free_session", &self.lock_free_session),
            ("lock_event", &self.lock_event),
            ("diagnose", &self.diagnose),
        ];
        for (insert, write, joined, store) in [
            ("insert", "write", "insert_and_write", &self.store),
            ("insert", "write_with_state", "insert_and_write_with_state", &self.store_with_state),
            ("insert_at_revision", "write", "insert_and_write_at_revision", &self.store_at_revision),
            ("insert_at_free_revision", "write", "insert_and_write_at_free_revision", &self.store_at_free_revision),
        ] {
            texts.extend([(insert, &store.insert), (write, &store.write_session)]);
            texts.extend(store.joined.iter().map(|text| (joined, text)));
        }
        texts.extend(self.bulk.iter().flat_map(BulkAppend::texts));
        texts.extend(self.group.iter().flat_map(GroupSql::texts));
        texts.sort_by_key(|(name, _)| *name);
        texts.dedup_by_key(|(name, _)| *name);
        texts
    }
}

pub(super) fn skip_locked(select: &SelectStatement) -> SelectStatement {
    select.clone().lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).take()
}

/// A placeholder for each of [`event_columns`].
pub(super) fn new_event<D: Dialect>() -> [Expr; 7] {
    let value = || placeholder();
    [value(), value(), value(), value(), value(), value(), D::SCHEMA.write_json(value())]
}

/// An insert of an event that leaves alone an event with the same id. It still lacks its source.
pub(super) fn insert_event<D: Dialect>(tables: &Tables) -> InsertStatement {
    let mut insert = Query::insert().into_table(tables.table(events::Entity)).columns(event_columns()).take();
    D::insert_if_absent(&mut insert, event_key_columns());
    insert
}

/// The same, with the rows of `select`, which must have an expression for each of [`event_columns`].
fn insert_selected_event<D: Dialect>(tables: &Tables, select: SelectStatement) -> InsertStatement {
    // It only fails if the lists, which are both constant, differ in length; snapshot tests build each statement.
    insert_event::<D>(tables).select_from(select).expect("an expression for each column").take()
}

fn select_event<D: Dialect>(tables: &Tables) -> SelectStatement {
    use events::Column;
    Query::select()
        .column(Column::Timestamp)
        .expr_as(D::SCHEMA.read_json(Expr::col(Column::EventData)), Column::EventData)
        .from(tables.table(events::Entity))
        .and_where(event_key_predicate::<D>())
        .lock_exclusive()
        .take()
}

fn select_for_diagnosis<D: Dialect>(tables: &Tables) -> SelectStatement {
    use {events::Column as Event, sessions::Column as Session};
    let event = |column| name::<D>((events::Entity, column));
    let session = |column| name::<D>((sessions::Entity, column));
    let same = |of_event, of_session| event(of_event).eq(session(of_session));
    Query::select()
        .columns([Session::CreateTime, Session::UpdateTime].map(|column| (sessions::Entity, column)))
        .column((events::Entity, Event::Id))
        .from(tables.aliased(sessions::Entity))
        .left_join(
            tables.aliased(events::Entity),
            event(Event::Id)
                .eq(placeholder())
                .and(same(Event::AppName, Session::AppName))
                .and(same(Event::UserId, Session::UserId))
                .and(same(Event::SessionId, Session::Id)),
        )
        .and_where(session(Session::AppName).eq(placeholder()))
        .and_where(session(Session::UserId).eq(placeholder()))
        .and_where(session(Session::Id).eq(placeholder()))
        .and_where(is_not_being_deleted((sessions::Entity, Session::CreateTime)))
        .take()
}

/// An insert of an event, and what it changes in the session's row.
pub(super) struct StoreSql<D> {
    insert: SqlText<D>,
    write_session: SqlText<D>,
    /// Both in one, where the driver can.
    joined: Option<SqlText<D>>,
}

impl<D: Dialect> StoreSql<D> {
    fn new(insert: &InsertStatement, write_session: &UpdateStatement) -> Self {
        let insert = SqlText::new(insert);
        let joined = D::if_previous_changed().map(|condition| {
            let write_session = write_session.clone().and_where(condition).take();
            SqlText::joined(&insert, &SqlText::new(&write_session))
        });
        Self { insert, write_session: SqlText::new(write_session), joined }
    }

    /// Returns false, and writes nothing, if the insert leaves the event out.
    pub(super) async fn run(
        &self,
        fast_paths: bool,
        on: &mut dyn Executor,
        event: impl Iterator<Item = Value> + Send,
        session: impl Iterator<Item = Value> + Send,
    ) -> Result<bool> {
        let failed = |error| statement_error::<D>(OPERATION, error);
        if let Some(joined) = self.joined.as_ref().filter(|_| fast_paths) {
            return inserted::<D>(on.execute(joined.bind(event.chain(session))).await).map_err(failed);
        }
        let is_stored = inserted::<D>(on.execute(self.insert.bind(event)).await).map_err(failed)?;
        if is_stored {
            on.execute(self.write_session.bind(session)).await.map_err(failed)?;
        }
        Ok(is_stored)
    }
}
