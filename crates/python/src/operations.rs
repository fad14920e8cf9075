//! The operations, between Python's values and Seabed's.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;
use pyo3::{FromPyObject, IntoPyObject};
use seabed::{
    AppName, AppendEvent, CreateSession, DeleteSession, DynSessionService, Error, Event, EventCursor, ExpectedRevision,
    GetSession, ListEvents, ListSessions, Order, Result, Revision, Session, SessionId, SessionKey, SessionScope,
    SessionService as _, SessionServiceExt as _, State, Timestamp, UserId, UserKey,
};

/// A session for Python, which gets it as a dictionary.
#[derive(IntoPyObject)]
pub(crate) struct SessionRow {
    app_name: String,
    user_id: String,
    id: String,
    /// JSON.
    state: String,
    /// A JSON array.
    events: String,
    /// In seconds since 1970.
    last_update_time: f64,
    revision: String,
}

/// A page of events.
#[derive(IntoPyObject)]
pub(crate) struct EventPage {
    /// A JSON array.
    events: String,
    /// Where the next page begins, unless this is the last one.
    next_cursor: Option<String>,
}

/// App, user and session id, as Python passes them.
pub(crate) type Key = (String, String, String);

/// Which session to read, and which of its events.
pub(crate) struct Read {
    pub(crate) key: Key,
    pub(crate) num_recent_events: Option<u32>,
    /// In seconds since 1970.
    pub(crate) after_timestamp: Option<f64>,
}

impl Read {
    fn into_request(self) -> Result<GetSession> {
        let mut request = GetSession::new(session_key(self.key)?);
        if let Some(count) = self.num_recent_events {
            request = request.with_num_recent_events(count);
        }
        if let Some(seconds) = self.after_timestamp {
            request = request.with_after_timestamp(Timestamp::try_from_seconds(seconds)?);
        }
        Ok(request)
    }
}

/// What a caller's copy of a session says about when it was read.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct SessionCopy {
    /// The revision, in a copy that Seabed made.
    revision: Option<String>,
    /// The stored time of the last update, in microseconds since 1970, in a copy of `DatabaseSessionService`.
    update_time: Option<i64>,
    /// The same in seconds, in any other copy.
    last_update_time: f64,
    last_event_id: Option<String>,
}

impl SessionCopy {
    /// The revision that the copy is of.
    ///
    /// # Errors
    /// [`RevisionConflict`](Error::RevisionConflict) for a copy that Seabed did not make, if the session has changed
    /// since.
    async fn revision(self, service: &DynSessionService, key: &SessionKey) -> Result<Revision> {
        if let Some(revision) = &self.revision {
            return parse_revision(revision);
        }
        let newest = GetSession::new(key.clone()).with_num_recent_events(1);
        let not_found = || Error::NotFound { key: Box::new(key.clone()) };
        let session = service.get_session(newest).await?.ok_or_else(not_found)?;
        if self.is_of(&session) {
            return Ok(session.revision);
        }
        let read_at = self
            .update_time
            .map_or_else(|| Timestamp::try_from_seconds(self.last_update_time), Timestamp::try_from_micros)?;
        let expected = Revision::new(session.create_time, read_at);
        Err(Error::RevisionConflict { key: Box::new(key.clone()), expected, actual: session.revision })
    }

    /// Whether the copy is of `session` as it is, by the rules of google-adk.
    fn is_of(&self, session: &Session) -> bool {
        let stored = session.last_update_time();
        if let Some(micros) = self.update_time {
            return stored.as_micros() == micros;
        }
        let last_event_id = session.events.last().map(|event| event.id.as_str());
        stored.as_seconds() <= self.last_update_time || last_event_id == self.last_event_id.as_deref()
    }
}

/// A revision as text: its two times in microseconds since 1970.
fn revision_text(revision: Revision) -> String {
    format!("{}/{}", revision.create_time().as_micros(), revision.timestamp().as_micros())
}

fn parse_revision(text: &str) -> Result<Revision> {
    let parse = || {
        let (create_time, update_time) = text.split_once('/')?;
        Some((create_time.parse().ok()?, update_time.parse().ok()?))
    };
    let (create_time, update_time) =
        parse().ok_or(Error::Invalid { field: "session", reason: "its revision is not one of Seabed's".to_owned() })?;
    Ok(Revision::new(Timestamp::try_from_micros(create_time)?, Timestamp::try_from_micros(update_time)?))
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::Invalid { field: "json", reason: error.to_string() }
}

/// The position of an error in JSON, without what stands there.
fn unreadable(field: &'static str, error: &serde_json::Error) -> Error {
    let reason = format!("is not the JSON of google-adk, at line {}, column {}", error.line(), error.column());
    Error::Invalid { field, reason }
}

fn row(session: &Session) -> Result<SessionRow> {
    let json = |json: serde_json::Result<String>| json.map_err(|error| unwritable(&error));
    Ok(SessionRow {
        app_name: session.key.app_name.to_string(),
        user_id: session.key.user_id.to_string(),
        id: session.key.session_id.to_string(),
        state: json(serde_json::to_string(&session.state))?,
        events: json(serde_json::to_string(&session.events))?,
        last_update_time: session.last_update_time().as_seconds(),
        revision: revision_text(session.revision),
    })
}

fn parse_state(text: &str) -> Result<State> {
    serde_json::from_str(text).map_err(|error| unreadable("state", &error))
}

fn session_key((app_name, user_id, session_id): Key) -> Result<SessionKey> {
    SessionKey::try_new(app_name, user_id, session_id)
}

pub(crate) async fn create(
    service: &DynSessionService,
    app_name: String,
    user_id: String,
    session_id: Option<String>,
    state: &str,
) -> Result<SessionRow> {
    let mut request = CreateSession::new(UserKey::try_new(app_name, user_id)?).with_state(parse_state(state)?);
    if let Some(id) = session_id {
        request = request.with_session_id(SessionId::try_new(id)?);
    }
    row(&service.create_session(request).await?)
}

pub(crate) async fn get(service: &DynSessionService, read: Read) -> Result<Option<SessionRow>> {
    service.get_session(read.into_request()?).await?.as_ref().map(row).transpose()
}

pub(crate) async fn get_or_create(service: &DynSessionService, read: Read, state: &str) -> Result<(SessionRow, bool)> {
    let found = service.get_or_create_with(read.into_request()?, parse_state(state)?).await?;
    let is_created = found.is_created();
    Ok((row(&found.into_session())?, is_created))
}

/// Lists sessions, the one that changed last at the end, without their events.
pub(crate) async fn list_sessions(
    service: &DynSessionService,
    app_name: String,
    user_id: Option<String>,
) -> Result<Vec<SessionRow>> {
    let app_name = AppName::try_new(app_name)?;
    let scope = match user_id {
        Some(user_id) => SessionScope::User(UserKey::new(app_name, UserId::try_new(user_id)?)),
        None => SessionScope::App(app_name),
    };
    let request = ListSessions::new(scope).with_order(Order::Ascending).with_limit(ListSessions::MAX_LIMIT);
    let listed: Vec<Session> = service.stream_sessions(request).try_collect().await?;
    // A session that changes meanwhile comes again, at the end.
    let mut seen = HashSet::new();
    let mut rows: Vec<SessionRow> =
        listed.iter().rev().filter(|session| seen.insert(&session.key)).map(row).collect::<Result<_>>()?;
    rows.reverse();
    Ok(rows)
}

pub(crate) async fn delete(service: &DynSessionService, key: Key) -> Result<()> {
    service.delete_session(DeleteSession::new(session_key(key)?)).await
}

pub(crate) async fn append(
    service: &DynSessionService,
    key: Key,
    event: &str,
    copy: Option<SessionCopy>,
) -> Result<(f64, String, bool)> {
    let key = session_key(key)?;
    let event: Event = serde_json::from_str(event).map_err(|error| unreadable("event", &error))?;
    let expected = match copy {
        Some(copy) => ExpectedRevision::Exact(copy.revision(service, &key).await?),
        None => ExpectedRevision::Any,
    };
    let appended = service.append_event(AppendEvent::new(key, event, expected)).await?;
    let partial = || Error::Invalid { field: "event.partial", reason: "a fragment is never stored".to_owned() };
    let revision = appended.revision().ok_or_else(partial)?;
    Ok((revision.timestamp().as_seconds(), revision_text(revision), appended.is_replayed()))
}

pub(crate) async fn list_events(
    service: &DynSessionService,
    key: Key,
    limit: i64,
    cursor: Option<String>,
    newest_first: bool,
) -> Result<EventPage> {
    let order = if newest_first { Order::Descending } else { Order::Ascending };
    // No limit at all is refused like zero.
    let limit = u32::try_from(limit).unwrap_or_default();
    let mut request = ListEvents::new(session_key(key)?).with_limit(limit).with_order(order);
    if let Some(cursor) = cursor {
        request = request.with_cursor(cursor.parse::<EventCursor>()?);
    }
    let page = service.list_events(request).await?;
    let next_cursor = page.next.as_ref().map(ToString::to_string);
    let events = serde_json::to_string(&page.try_into_items()?).map_err(|error| unwritable(&error))?;
    Ok(EventPage { events, next_cursor })
}

pub(crate) async fn app_state(service: &DynSessionService, app_name: String) -> Result<String> {
    let state = service.get_app_state(&AppName::try_new(app_name)?).await?;
    serde_json::to_string(&state).map_err(|error| unwritable(&error))
}

pub(crate) async fn user_state(service: &DynSessionService, app_name: String, user_id: String) -> Result<String> {
    let state = service.get_user_state(&UserKey::try_new(app_name, user_id)?).await?;
    serde_json::to_string(&state).map_err(|error| unwritable(&error))
}
