//! `get_session`: one statement, and so one snapshot on every database and isolation level.

use std::marker::PhantomData;

use sea_orm::sea_query::{Alias, Expr, ExprTrait, IntoIden, Order, Query, SelectStatement, UnionType};
use sea_orm::{EntityName, EntityTrait, QueryResult, Value};

use crate::entity::{app_states, events, sessions, user_states};
use crate::sql::decode::{EventName, RowDecoder, decode_event};
use crate::sql::dialect::Dialect;
use crate::sql::error::statement_error;
use crate::sql::executor::Executor;
use crate::sql::statement::{
    SqlText, event_session_predicate, key_predicate, placeholder, session_key_predicate, session_key_values,
};
use crate::sql::tables::Tables;
use crate::sql::write::SharedKey;
use crate::state::ScopedState;
use crate::{
    BackendError, BackendErrorKind, Error, Event, GetSession, Result, Revision, Session, SessionKey, State, Timestamp,
};

const OPERATION: &str = "get_session";

/// The columns of the statement, in order. The values of `kind` are the names of the entities' tables.
const COLUMNS: [&str; 5] = ["kind", "id", "created", "updated", "body"];
const KIND: usize = 0;
const ID: usize = 1;
const CREATED: usize = 2;
const UPDATED: usize = 3;
const BODY: usize = 4;

/// The statements of `get_session`.
pub(crate) struct GetSql<D> {
    all_events: SqlText<D>,
    recent_events: SqlText<D>,
    events_after: SqlText<D>,
    recent_events_after: SqlText<D>,
}

impl<D: Dialect> GetSql<D> {
    pub(super) fn new(tables: &Tables) -> Self {
        use {app_states::Column as App, events::Column as Event};
        use {sessions::Column as Session, user_states::Column as User};
        let app_columns = [App::AppName, App::UpdateTime, App::UpdateTime, App::State];
        let app = part::<D, _, _>(tables, app_states::Entity, app_columns)
            .and_where(key_predicate::<D, _, 1>([App::AppName]))
            .take();
        let user_columns = [User::UserId, User::UpdateTime, User::UpdateTime, User::State];
        let user = part::<D, _, _>(tables, user_states::Entity, user_columns)
            .and_where(key_predicate::<D, _, 2>([User::AppName, User::UserId]))
            .take();
        let event_columns = [Event::Id, Event::Timestamp, Event::Timestamp, Event::EventData];
        let events =
            part::<D, _, _>(tables, events::Entity, event_columns).and_where(event_session_predicate::<D>()).take();
        let events_after = events.clone().and_where(Expr::col(Event::Timestamp).gte(placeholder())).take();
        // A part of a union may only sort and cut off its rows inside a subquery.
        let recent = |events: &SelectStatement| {
            let mut recent = events.clone();
            recent.order_by(Event::Timestamp, Order::Desc).order_by(Event::Id, Order::Desc).limit(0);
            Query::select().columns(COLUMNS.map(Alias::new)).from_subquery(recent, Alias::new("recent")).take()
        };
        let session_columns = [Session::Id, Session::CreateTime, Session::UpdateTime, Session::State];
        let with_events = |events| {
            let select = part::<D, _, _>(tables, sessions::Entity, session_columns)
                .and_where(session_key_predicate::<D>())
                .union(UnionType::All, app.clone())
                .union(UnionType::All, user.clone())
                .union(UnionType::All, events)
                .take();
            SqlText::new(&select)
        };
        Self {
            recent_events: with_events(recent(&events)),
            recent_events_after: with_events(recent(&events_after)),
            all_events: with_events(events),
            events_after: with_events(events_after),
        }
    }

    pub(super) fn texts(&self) -> Vec<(&'static str, &SqlText<D>)> {
        let Self { all_events, recent_events, events_after, recent_events_after } = self;
        vec![
            ("all_events", all_events),
            ("recent_events", recent_events),
            ("events_after", events_after),
            ("recent_events_after", recent_events_after),
        ]
    }

    /// Reads a session whose events have at most `max_bytes` of JSON text.
    pub(crate) async fn get_session(
        &self,
        on: &mut dyn Executor,
        request: &GetSession,
        max_bytes: usize,
    ) -> Result<Option<Session>> {
        let key = &request.key;
        let (app_name, user_id) = (Value::from(key.app_name.as_str()), Value::from(key.user_id.as_str()));
        let values = session_key_values(key)
            .chain([app_name.clone(), app_name, user_id])
            .chain(session_key_values(key))
            .chain(request.after_timestamp.map(|after| D::SCHEMA.timestamp(after)))
            .chain(request.num_recent_events.map(|count| Value::from(i64::from(count))));
        let statement = match (request.after_timestamp, request.num_recent_events) {
            (None, None) => &self.all_events,
            (None, Some(_)) => &self.recent_events,
            (Some(_), None) => &self.events_after,
            (Some(_), Some(_)) => &self.recent_events_after,
        };
        let mut assembly = SessionAssembly::<D>::new(key, max_bytes);
        let read = on.run(statement.bind(values), &mut |row| assembly.add(&row)).await;
        read.map_err(|error| statement_error::<D>(OPERATION, error))?;
        assembly.into_session(request)
    }
}

/// The error of a session whose events are more than the service reads at once.
fn too_large(key: &SessionKey) -> Error {
    let message = format!(
        "the events of {key} take more memory than get_session may use; read them by list_events, in small pages, or only some \
         of them (with_num_recent_events, with_after_timestamp), or raise the limit (with_max_session_bytes)"
    );
    BackendError::new(BackendErrorKind::TooLarge, message).into()
}

fn is_too_large(error: &Error) -> bool {
    error.backend_kind() == Some(BackendErrorKind::TooLarge)
}

/// The rows of one table in the shape they share: id, two times, and JSON text.
fn part<D: Dialect, E: EntityTrait, C: IntoIden + Copy>(
    tables: &Tables,
    table: E,
    [id, created, updated, body]: [C; 4],
) -> SelectStatement {
    Query::select()
        .expr_as(Expr::cust(format!("'{}'", table.table_name())), COLUMNS[KIND])
        .expr_as(Expr::col(id), COLUMNS[ID])
        .expr_as(Expr::col(created), COLUMNS[CREATED])
        .expr_as(Expr::col(updated), COLUMNS[UPDATED])
        .expr_as(D::SCHEMA.read_json(Expr::col(body)), COLUMNS[BODY])
        .from(tables.table(table))
        .take()
}

/// Assembles a session from rows that arrive in any order.
struct SessionAssembly<'a, D> {
    key: &'a SessionKey,
    dialect: PhantomData<fn() -> D>,
    app: State,
    user: State,
    session: Option<(State, Revision)>,
    /// Under their stored times.
    events: Vec<(Timestamp, Event)>,
    /// How many more bytes of events there may be.
    bytes_left: usize,
    /// What is wrong with the first row that cannot be decoded, or is too much.
    error: Option<Error>,
}

impl<'a, D: Dialect> SessionAssembly<'a, D> {
    fn new(key: &'a SessionKey, max_bytes: usize) -> Self {
        Self {
            key,
            dialect: PhantomData,
            app: State::new(),
            user: State::new(),
            session: None,
            events: Vec::new(),
            bytes_left: max_bytes,
            error: None,
        }
    }

    fn add(&mut self, row: &QueryResult) {
        if self.error.as_ref().is_none_or(is_too_large)
            && let Err(error) = self.read(row)
            && self.error.is_none()
        {
            // Nobody gets the events.
            self.events = Vec::new();
            self.error = Some(error);
        }
    }

    fn read(&mut self, row: &QueryResult) -> Result<()> {
        let key = self.key;
        let stored = RowDecoder::<D>::new("sessions", key);
        let kind = stored.text(row, KIND, COLUMNS[KIND])?;
        if kind == events::Entity.table_name() {
            let id = RowDecoder::<D>::new("events", key).text(row, ID, "id")?;
            let name = EventName { id, session: key };
            let event = RowDecoder::<D>::new("events", &name);
            let time = event.timestamp(row, CREATED, "timestamp")?;
            let bytes = event.text(row, BODY, "event_data")?.len();
            self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| too_large(key))?;
            self.events.push((time, decode_event::<D>(key, id, row, BODY)?));
        } else if kind == sessions::Entity.table_name() {
            let create_time = stored.timestamp(row, CREATED, "create_time")?;
            let revision = Revision::new(create_time, stored.timestamp(row, UPDATED, "update_time")?);
            self.session = Some((stored.state(row, BODY)?, revision));
        } else if kind == app_states::Entity.table_name() {
            self.app = RowDecoder::<D>::new("app_states", &SharedKey::app(key)).state(row, BODY)?;
        } else {
            self.user = RowDecoder::<D>::new("user_states", &SharedKey::user(key)).state(row, BODY)?;
        }
        Ok(())
    }

    fn into_session(mut self, request: &GetSession) -> Result<Option<Session>> {
        // What is left of a session that is being deleted may be too much, too.
        if let Some(error) = self.error.filter(|error| self.session.is_some() || !is_too_large(error)) {
            return Err(error);
        }
        request.check_min_revision(self.session.as_ref().map(|(_, revision)| *revision))?;
        let Some((session, revision)) = self.session else { return Ok(None) };
        let create_time = revision.create_time();
        self.events
            .sort_by(|(left_time, left), (right_time, right)| (left_time, &left.id).cmp(&(right_time, &right.id)));
        let times = self.events.iter().map(|(time, _)| *time);
        Ok(Some(Session {
            key: self.key.clone(),
            state: ScopedState { app: self.app, user: self.user, session }.merged(),
            events_since: request.events_since(times, create_time, revision.timestamp()),
            events: self.events.into_iter().map(|(_, event)| event).collect(),
            create_time,
            revision,
        }))
    }
}
