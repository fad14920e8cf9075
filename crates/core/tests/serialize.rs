//! What a server passes on to its clients serializes.

use seabed_core::{
    AppendEvent, BackendError, BackendErrorKind, CreateSession, Error, Event, ExpectedRevision, GetSession, ListEvents,
    MemorySessionService, Revision, Session, SessionKey, SessionService, State, Timestamp,
};

async fn session(service: &MemorySessionService) -> Session {
    let key = SessionKey::try_new("app", "alice", "s").expect("a valid key");
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    let created = service.create_session(create.with_state(State::new().with("app:k", 1))).await.expect("created");
    let event = Event::new("user").with_id("e").with_timestamp(1.0);
    let append = AppendEvent::new(key.clone(), event, ExpectedRevision::Exact(created.revision));
    service.append_event(append).await.expect("appended");
    service.get_session(GetSession::new(key)).await.expect("read").expect("it is there")
}

#[tokio::test]
async fn a_session_survives_json() {
    let session = session(&MemorySessionService::new()).await;
    let json = serde_json::to_string(&session).expect("it serializes");
    assert_eq!(serde_json::from_str::<Session>(&json).expect("it parses"), session);
}

#[tokio::test]
async fn a_page_serializes_with_its_cursor() {
    let service = MemorySessionService::new();
    let key = session(&service).await.key;
    let page = service.list_events(ListEvents::new(key).with_limit(1)).await.expect("a page");
    let json = serde_json::to_value(&page).expect("it serializes");
    assert_eq!((&json["items"][0]["Ok"]["id"], &json["next"]), (&"e".into(), &serde_json::Value::Null));
}

#[test]
fn errors_serialize_without_their_sources() {
    let key = Box::new(SessionKey::try_new("app", "alice", "s").expect("a valid key"));
    let time = |micros| Timestamp::try_from_micros(micros).expect("a valid time");
    let revision = |micros| Revision::new(time(1), time(micros));
    let conflict = Error::RevisionConflict { key, expected: revision(1), actual: revision(2) };
    let json = serde_json::to_value(&conflict).expect("it serializes");
    assert_eq!((&json["kind"], &json["retryable"]), (&"revision_conflict".into(), &false.into()));
    let (expected, actual) = (&json["expected"]["update_time"], &json["actual"]["update_time"]);
    assert_eq!((expected, actual), (&1.into(), &2.into()));
    let error = Error::from(BackendError::new(BackendErrorKind::Contention, "busy").with_source("secret"));
    let json = serde_json::to_string(&error).expect("it serializes");
    assert_eq!(json, r#"{"kind":"contention","message":"contention: busy","retryable":true}"#);
}

#[test]
fn times_and_revisions_print_as_moments() {
    let time = Timestamp::try_from_micros(1_500_000).expect("a valid time");
    assert_eq!(format!("{time:?} {time}"), "1970-01-01T00:00:01.500000Z 1970-01-01T00:00:01.500000Z");
    assert_eq!(Revision::new(time, time).to_string(), "1970-01-01T00:00:01.500000Z");
}
