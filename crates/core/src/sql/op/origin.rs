//! How a session began: its row in `seabed_sessions`, as create and fork write it.

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Query};
use sea_orm::{QueryResult, Value};

use super::annotate::own_tables_error;
use crate::entity::{seabed_sessions, sessions};
use crate::history::{Origin, Parent};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::executor::Executor;
use crate::sql::statement::{SqlText, is_not_being_deleted, name, placeholder, session_key_values};
use crate::sql::tables::Tables;
use crate::{Error, Result, SessionId, SessionKey, State, Timestamp};

const OPERATION: &str = "get_origin";

/// The statements on the origins of sessions.
pub(crate) struct OriginSql<D> {
    select: SqlText<D>,
    insert: SqlText<D>,
}

/// What is stored of a session's origin, and the session's own state.
pub(super) struct StoredOrigin {
    pub(super) origin: Origin,
    pub(super) now: State,
    pub(super) update_time: Timestamp,
}

impl<D: Dialect> OriginSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        Self { select: select(tables), insert: insert(tables) }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        vec![("select", &self.select), ("insert", &self.insert)]
    }

    pub(crate) async fn get(&self, on: &mut dyn Executor, key: &SessionKey) -> Result<Origin> {
        Ok(self.read(on, key, OPERATION).await?.origin)
    }

    /// Reads without a lock.
    pub(super) async fn read(&self, on: &mut dyn Executor, key: &SessionKey, operation: &str) -> Result<StoredOrigin> {
        let row = on.query_one(self.select.bind(session_key_values(key))).await;
        let row = row.map_err(|error| own_tables_error::<D>(operation, error))?.ok_or_else(|| Error::not_found(key))?;
        decode::<D>(key, &row)
    }

    /// Writes the row of a session that was just created, under the lock of the session's row.
    pub(super) async fn write(
        &self,
        on: &mut dyn Executor,
        key: &SessionKey,
        origin: &Origin,
        max_state_bytes: usize,
        operation: &str,
    ) -> Result<()> {
        let initial = origin.initial_state.as_ref().map(|state| state.to_row(max_state_bytes, key)).transpose()?;
        let parent = origin.parent.as_ref();
        let values = session_key_values(key).chain([
            Value::from(initial),
            parent.map(|parent| parent.session_id.as_str().to_owned()).into(),
            parent.map(|parent| parent.event_id.clone()).into(),
            D::SCHEMA.timestamp(origin.create_time),
        ]);
        let written = on.execute(self.insert.bind(values)).await;
        written.map(drop).map_err(|error| own_tables_error::<D>(operation, error))
    }
}

fn decode<D: Dialect>(key: &SessionKey, row: &QueryResult) -> Result<StoredOrigin> {
    let session = RowDecoder::<D>::new("sessions", key);
    let own = RowDecoder::<D>::new("seabed_sessions", key);
    let initial = own.text_or_null(row, "initial_state", "initial_state")?.map(State::from_stored).transpose();
    let text = |column| Ok::<_, Error>(own.text_or_null(row, column, column)?.map(str::to_owned));
    let parent = text("parent_session_id")?.zip(text("parent_event_id")?);
    let origin = Origin {
        create_time: session.timestamp(row, "create_time", "create_time")?,
        initial_state: initial.map_err(|error| own.not_json("initial_state", &error))?,
        parent: parent.map(|(session_id, event_id)| Parent::new(SessionId::from_row(session_id), event_id)),
    };
    let update_time = session.timestamp(row, "update_time", "update_time")?;
    Ok(StoredOrigin { origin, now: session.state(row, "state")?, update_time })
}

/// Reads a session's row, with its row of `seabed_sessions` if it has one. An older row than the session is what a
/// deleted session of that id has left behind, where nothing enforced the foreign key.
fn select<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use {seabed_sessions::Column as Own, sessions::Column};
    let session = |column: Column| (sessions::Entity, column);
    let own = |column: Own| (seabed_sessions::Entity, column);
    let same = |left: Own, right: Column| name::<D>(own(left)).eq(name::<D>(session(right)));
    let is = |column: Column| name::<D>(session(column)).eq(placeholder());
    let select = Query::select()
        .columns([session(Column::CreateTime), session(Column::UpdateTime)])
        .expr_as(D::SCHEMA.read_json(Expr::col(session(Column::State))), Column::State)
        .expr_as(D::SCHEMA.read_json(Expr::col(own(Own::InitialState))), Own::InitialState)
        .columns([own(Own::ParentSessionId), own(Own::ParentEventId)])
        .from(tables.aliased(sessions::Entity))
        .left_join(
            tables.aliased(seabed_sessions::Entity),
            same(Own::AppName, Column::AppName)
                .and(same(Own::UserId, Column::UserId))
                .and(same(Own::SessionId, Column::Id))
                .and(Expr::col(own(Own::UpdateTime)).gte(Expr::col(session(Column::CreateTime)))),
        )
        .and_where(is(Column::AppName).and(is(Column::UserId)).and(is(Column::Id)))
        .and_where(is_not_being_deleted(session(Column::CreateTime)))
        .take();
    SqlText::new(&select)
}

/// Inserts the row of a new session. A row that is there already is what a deleted session of that id has left behind,
/// where nothing enforced the foreign key: nothing of it stays.
fn insert<D: Dialect>(tables: &Tables) -> SqlText<D> {
    use seabed_sessions::Column;
    let key = [Column::AppName, Column::UserId, Column::SessionId];
    let given = [Column::InitialState, Column::ParentSessionId, Column::ParentEventId, Column::UpdateTime];
    let absent = [Column::Title, Column::Labels, Column::HeldSince];
    let value = |column: &Column| match column {
        Column::InitialState => D::SCHEMA.write_json(placeholder()),
        _ => placeholder(),
    };
    let values = key.iter().chain(&given).map(value).chain(absent.map(|_| Expr::cust("NULL")));
    let replace = OnConflict::columns(key).update_columns(given.into_iter().chain(absent)).to_owned();
    let insert = Query::insert()
        .into_table(tables.table(seabed_sessions::Entity))
        .columns(key.into_iter().chain(given).chain(absent))
        .values_panic(values)
        .on_conflict(replace)
        .take();
    SqlText::new(&insert)
}
