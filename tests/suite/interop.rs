//! google-adk and Seabed on the same tables.

mod handles;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use seabed::{
    AppendEvent, CreateSession, DynSessionService, Error, Event, ExpectedRevision, GetSession, Json, Session,
    SessionKey, SessionServiceExt as _, State, Timestamp,
};
use seabed::{SchemaRisk, ServiceOptions};
use seabed_tests::{ADK_1_26, ADK_2_13, Acknowledged, Family, Kind, Peer};
use serde_json::json;

use self::handles::{
    a_session_is_refreshed_beside_writers_whose_clocks_disagree, stale_writers_are_told_on_both_sides,
};
use self::shapes::{seabed_refuses_just_what_google_adk_cannot_read, without_the_check_every_event_is_stored};
use crate::fixture::Fixture;

crate::database_cases! {
    BesideAdk: [
        everything_google_adk_writes_is_read_field_by_field,
        everything_seabed_writes_is_read_by_google_adk,
        tables_that_google_adk_made_serve_both,
        stale_writers_are_told_on_both_sides,
        a_session_is_refreshed_beside_writers_whose_clocks_disagree,
        both_write_at_once,
        seabed_refuses_just_what_google_adk_cannot_read,
    ],
    Everywhere: [
        without_the_check_every_event_is_stored,
    ],
    BesideAdk126: [
        google_adk_1_26_reads_and_writes_what_it_knows,
    ],
}

/// How long both write concurrently.
const WRITING: Duration = Duration::from_secs(10);

pub(crate) fn key(session: &str) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::try_new("app é", "Alice 🐢", session)?)
}

/// State in all scopes.
pub(crate) fn state(maker: &str) -> State {
    ["", "app:", "user:"].into_iter().fold(State::new(), |state, scope| {
        state.with(format!("{scope}by {maker}"), "é\u{2028}\"\\").with(format!("{scope}null"), serde_json::Value::Null)
    })
}

/// An event in the form that google-adk accepts.
pub(crate) fn event(id: &str) -> anyhow::Result<Json> {
    let event = Event::new("agent").with_id(id).with_invocation_id("run").with_state_delta(state(id));
    Ok(Json::from_serialize(&event)?)
}

async fn create(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<Session> {
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    Ok(service.create_session(create.with_state(state("seabed"))).await?)
}

pub(crate) async fn get(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<Session> {
    service.get_session(GetSession::new(key.clone())).await?.context("Seabed finds no session")
}

type Fields = BTreeMap<String, Json>;

/// The values that google-adk fills in for missing fields.
const DEFAULTS: [(&str, &str); 7] = [
    ("author", r#""""#),
    ("invocation_id", r#""""#),
    ("node_info", r#"{"path":""}"#),
    ("actions.artifact_delta", "{}"),
    ("actions.requested_auth_configs", "{}"),
    ("actions.requested_tool_confirmations", "{}"),
    ("actions.state_delta", "{}"),
];

/// Returns the fields of an event and of its actions, without defaults and `temp:` keys. JSON values are equal whatever
/// the notation of numbers, and jsonb has its own.
fn fields(event: &Json) -> anyhow::Result<Fields> {
    let mut fields: Fields = event.decode()?;
    let actions: Option<Fields> = fields.remove("actions").map(|actions| actions.decode()).transpose()?;
    fields.extend(actions.into_iter().flatten().map(|(name, value)| (format!("actions.{name}"), value)));
    if let Some(delta) = fields.get_mut("actions.state_delta") {
        let kept = delta.decode::<State>()?.into_iter().filter(|(key, _)| !key.starts_with("temp:"));
        *delta = Json::from_serialize(&kept.collect::<State>())?;
    }
    // A set, which Python writes in any order.
    if let Some(ids) = fields.get_mut("long_running_tool_ids") {
        *ids = Json::from_serialize(&ids.decode::<BTreeSet<String>>()?)?;
    }
    for (name, default) in DEFAULTS {
        if fields.get(name).is_some_and(|value| value.canonical() == default) {
            fields.remove(name);
        }
    }
    Ok(fields)
}

/// Returns the keys under which two maps differ, with the beginnings of their values.
fn differences<'a>(
    expected: impl IntoIterator<Item = (&'a String, &'a Json)>,
    found: impl IntoIterator<Item = (&'a String, &'a Json)>,
) -> Vec<String> {
    let (expected, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (expected.into_iter().collect(), found.into_iter().collect());
    let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let start =
        |value: Option<&&Json>| value.map_or("nothing".to_owned(), |json| json.as_str().chars().take(200).collect());
    names
        .into_iter()
        .filter(|name| expected.get(*name) != found.get(*name))
        .map(|name| format!("{name}: {} became {}", start(expected.get(name)), start(found.get(name))))
        .collect()
}

fn ids(events: &[Json]) -> anyhow::Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    events.iter().map(|event| Ok(event.decode::<Id>()?.id)).collect()
}

/// Checks that the events are the same, in the same order.
pub(crate) fn expect_equal(expected: &[Json], found: &[Json]) -> anyhow::Result<()> {
    let names = ids(expected)?;
    ensure!(names == ids(found)?, "{names:?} became {:?}", ids(found)?);
    for ((name, expected), found) in names.iter().zip(expected).zip(found) {
        ensure!(!found.as_str().contains("\"temp:"), "{name} was stored with temporary state");
        let differences = differences(&fields(expected)?, &fields(found)?);
        ensure!(differences.is_empty(), "{name}: {differences:#?}");
    }
    Ok(())
}

/// Reads a session through both, and checks that the results are equal.
pub(crate) async fn expect_same(
    service: &DynSessionService,
    adk: &Peer,
    key: &SessionKey,
) -> anyhow::Result<Vec<Json>> {
    let ours = get(service, key).await?;
    let theirs = adk.get(key).await?.context("google-adk finds no session")?;
    let events = ours.events.iter().map(Json::from_serialize).collect::<Result<Vec<_>, _>>()?;
    expect_equal(&theirs.events, &events)?;
    let differences = differences(&theirs.state, &ours.state);
    ensure!(differences.is_empty(), "the state: {differences:#?}");
    let scope = |prefix: &str| -> State {
        let keys = theirs.state.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        keys.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    };
    ensure!(service.get_app_state(&key.app_name).await? == scope("app:"));
    ensure!(service.get_user_state(&key.user()).await? == scope("user:"));
    ensure!(ours.last_update_time() == Timestamp::try_from_seconds(theirs.last_update_time)?, "{ours:?}");
    Ok(theirs.events)
}

async fn everything_google_adk_writes_is_read_field_by_field(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    google_adk_writes(&service, &adk).await?;
    adk.stop().await
}

async fn everything_seabed_writes_is_read_by_google_adk(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    seabed_writes(&service, &adk, own_events()?.into_iter().chain(ambiguously_timed())).await?;
    adk.stop().await
}

/// google-adk 1.26 rejects events with keys that it does not know, such as `node_info`, so each side writes only what
/// 1.26 has. It also returns the time under which an event is stored as the event's own, so no two events have the same
/// time.
async fn google_adk_1_26_reads_and_writes_what_it_knows(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_1_26.start(&fixture.service_url).await?;
    google_adk_writes(&service, &adk).await?;
    seabed_writes(&service, &adk, own_events()?).await?;
    adk.stop().await
}

async fn google_adk_writes(service: &DynSessionService, adk: &Peer) -> anyhow::Result<()> {
    let key = key("theirs")?;
    adk.create(&key, &state("google-adk")).await?;
    let samples = adk.sample_events().await?;
    ensure!(samples.len() > 40, "google-adk has only {} kinds of events", samples.len());
    for sample in &samples {
        adk.append(&key, sample).await?;
    }
    expect_equal(&samples, &expect_same(service, adk, &key).await?)?;
    for event in get(service, &key).await?.events {
        let id = event.id.clone();
        let again = AppendEvent::new(key.clone(), event, ExpectedRevision::Any);
        ensure!(service.append_event(again).await?.is_replayed(), "{id}");
    }
    Ok(())
}

async fn seabed_writes(
    service: &DynSessionService,
    adk: &Peer,
    more: impl IntoIterator<Item = Event>,
) -> anyhow::Result<()> {
    let key = key("ours")?;
    let mut session = create(service, &key).await?;
    let mut written = adk.sample_events().await?;
    for event in more {
        written.push(Json::from_serialize(&event)?);
    }
    for event in &written {
        service.append(&mut session, event.decode()?).await?;
    }
    expect_equal(&written, &expect_same(service, adk, &key).await?)?;
    let next = event("next")?;
    adk.append(&key, &next).await?;
    written.push(next);
    expect_equal(&written, &expect_same(service, adk, &key).await?)
}

fn message(text: &str) -> serde_json::Value {
    json!({"role": "user", "parts": [{"text": text}]})
}

/// Two events with the same time, and a third with an earlier time: only their positions show the order.
fn ambiguously_timed() -> impl Iterator<Item = Event> {
    let times = [1_700_000_000.25, 1_700_000_000.25, 1_600_000_000.5];
    times.into_iter().map(|seconds| Event::new("user").with_timestamp(seconds).with_content(message("when?")))
}

/// Events that are difficult for one side or the other and not among google-adk's samples, with later times than those.
fn own_events() -> anyhow::Result<Vec<Event>> {
    let text = "é e\u{301} עברית \u{20b9f} 👩\u{200d}👩\u{200d}👧 \u{2028} \"\\/\u{8}\t\n\u{1f}";
    let numbers = "[18446744073709551616, -9223372036854775809, 123456789012345678901234567890, 1e22, 0.1, \
                   1.7976931348623157e308, 2.2250738585072014e-308, 5e-324]";
    let mut nulls = Event::new("agent").with_state_delta(State::new().with("gone", json!({"k": [null, {"k": null}]})));
    nulls.extra.insert("custom_metadata".into(), json!({"null": null, "list": [null, {}, []], text: text}).into());
    let mut calls = Event::new("agent").with_content(json!({"role": "model", "parts": [
        {"function_call": {"id": "call-2", "name": "book", "args": {text: null, "to": [1, -1.5, true]}}},
        {"function_call": {"id": "call-1", "name": "wait", "args": {}}},
    ]}));
    calls.long_running_tool_ids = Some(["call-2".into(), "call-1".into()].into());
    let mut compaction = Event::new("user");
    let compacted = json!({"start_timestamp": 1_700_000_000.25, "end_timestamp": 1_700_000_001.000_001,
        "compacted_content": message(text)});
    compaction.actions.extra.insert("compaction".into(), compacted.into());
    let mut rewind = Event::new("user").with_invocation_id("run-2");
    rewind.actions.extra.insert("rewind_before_invocation_id".into(), "run-1".into());
    rewind.actions.artifact_delta.insert("report é.pdf".into(), 3);
    let big = Event::new("user").with_content(message(&"5 MB é ".repeat(5_000_000 / 8)));
    let plain = Event::new(text).with_content(message(text)).with_state_delta(state(text));
    let counted = Event::new("agent").with_state_delta(
        State::new().with("numbers", Json::parse(numbers)?).with("app:numbers", Json::parse(numbers)?),
    );
    let events = [plain, counted, nulls, calls, compaction, rewind, big].into_iter().zip(1_700_001_000_u32..);
    Ok(events.map(|(event, seconds)| event.with_timestamp(seconds.into())).collect())
}

/// On MySQL and MariaDB, their columns have the server's default collation, which treats different ids as equal.
async fn tables_that_google_adk_made_serve_both(fixture: &Fixture) -> anyhow::Result<()> {
    let adk = ADK_2_13.start(&fixture.admin_url).await?;
    let (theirs, ours) = (key("theirs")?, key("ours")?);
    adk.create(&theirs, &state("google-adk")).await?;
    adk.append(&theirs, &event("first")?).await?;
    if fixture.kind.map(Kind::family) == Some(Family::MySql) {
        let refused = fixture.service().await.err().context("connected to columns that take ids for one")?;
        ensure!(format!("{refused:#}").contains("SchemaRisk::InexactIds"), "{refused:#}");
        let service = seabed::from_connection_with(
            fixture.admin.clone(),
            ServiceOptions::new().accept_risk(SchemaRisk::InexactIds),
        )
        .await?;
        append(&service, &theirs, "accepted").await?;
        expect_same(&service, &adk, &theirs).await?;
        let left = seabed::migration::repair(&fixture.admin).await?;
        ensure!(left.is_empty(), "{left:#?}");
    }
    let service = fixture.service().await?;
    append(&service, &theirs, "second").await?;
    adk.reload_and_append(&theirs, &event("third")?).await?;
    let events = expect_same(&service, &adk, &theirs).await?;
    ensure!(ids(&events)?.ends_with(&["second".into(), "third".into()]), "{events:?}");
    create(&service, &ours).await?;
    adk.reload_and_append(&ours, &event("fourth")?).await?;
    append(&service, &ours, "fifth").await?;
    ensure!(ids(&expect_same(&service, &adk, &ours).await?)? == ["fourth", "fifth"]);
    expect_same(&service, &adk, &theirs).await?;
    adk.stop().await
}

/// Appends at any revision.
async fn append(service: &DynSessionService, key: &SessionKey, id: &str) -> anyhow::Result<()> {
    service.append_event(AppendEvent::new(key.clone(), event(id)?.decode()?, ExpectedRevision::Any)).await?;
    Ok(())
}

/// Appends to a session as `writer` until `end`. Returns what was acknowledged, and the number of conflicts.
async fn write(
    service: &DynSessionService,
    key: &SessionKey,
    writer: String,
    end: Instant,
) -> anyhow::Result<(Vec<Acknowledged>, usize)> {
    let (mut acknowledged, mut conflicts) = (Vec::new(), 0);
    let mut session = get(service, key).await?;
    while Instant::now() < end {
        let start = Instant::now();
        let event_id = format!("{writer}-{}", acknowledged.len());
        let keys: Vec<String> = ["app:", "user:", ""].map(|scope| format!("{scope}{event_id}")).into();
        let delta = keys.iter().map(|key| (key.clone(), 1.into())).collect();
        let event = Event::new(&writer).with_id(&event_id).with_state_delta(delta);
        match service.append(&mut session, event).await {
            Ok(_) => acknowledged.push(Acknowledged { session: key.session_id.as_str().to_owned(), keys, event_id }),
            Err(Error::RevisionConflict { .. }) => {
                conflicts += 1;
                service.refresh(&mut session).await?;
            }
            Err(error) => return Err(error.into()),
        }
        // Pauses as long as the append took; otherwise google-adk, which is slower, hardly gets a turn.
        tokio::time::sleep(start.elapsed()).await;
    }
    Ok((acknowledged, conflicts))
}

async fn both_write_at_once(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let (shared, theirs, ours) = (key("shared")?, key("theirs")?, key("ours")?);
    for key in [&shared, &theirs, &ours] {
        create(&service, key).await?;
    }
    let end = Instant::now() + WRITING;
    let writing = [&shared, &ours, &ours].into_iter().enumerate();
    let writing = writing.map(|(number, key)| write(&service, key, format!("seabed-{number}"), end));
    let adk_writing = async { Ok(adk.hammer(&[&shared, &theirs, &theirs], WRITING, "google-adk").await?) };
    let (written, hammered) = tokio::try_join!(try_join_all(writing), adk_writing)?;
    let conflicts: usize = written.iter().map(|(_, conflicts)| conflicts).sum();
    let written: Vec<Acknowledged> = written.into_iter().flat_map(|(acknowledged, _)| acknowledged).collect();
    ensure!(!written.is_empty() && !hammered.acknowledged.is_empty(), "{} and {hammered:?}", written.len());

    let mut lost = BTreeMap::new();
    for key in [&shared, &theirs, &ours] {
        expect_same(&service, &adk, key).await?;
        let session = get(&service, key).await?;
        let mut stored: Vec<&str> = session.events.iter().map(|event| event.id.as_str()).collect();
        for (writer, acknowledged) in [("Seabed", &written), ("google-adk", &hammered.acknowledged)] {
            for append in acknowledged.iter().filter(|append| append.session == key.session_id.as_str()) {
                let before = stored.len();
                stored.retain(|id| *id != append.event_id);
                ensure!(before - stored.len() == 1, "{} is there {} times", append.event_id, before - stored.len());
                let missing = append.keys.iter().filter(|key| session.state.get(key).is_none());
                *lost.entry(writer).or_insert(0) += missing.count();
                // Only Seabed wrote to this row.
                ensure!(key != &ours || session.state.get(&append.event_id).is_some(), "a key of a session is lost");
            }
        }
        ensure!(stored.is_empty() || !hammered.errors.is_empty(), "stored without acknowledgement: {stored:?}");
    }
    let (ours, theirs, errors) = (written.len(), hammered.acknowledged.len(), hammered.errors);
    println!(
        "Seabed appended {ours} ({conflicts} conflicts), google-adk {theirs} ({} stale); lost keys: {lost:?}",
        hammered.stale
    );
    // On SQLite, google-adk reads a row before its transaction begins, and writes the entire row back. That overwrites
    // keys that other writers, including its own other tasks, have set in the meantime.
    ensure!(fixture.kind.is_none() || lost.values().all(|keys| *keys == 0), "{lost:?}");
    // On SQLite, it may also find the database locked.
    let expected = |error: &String| fixture.kind.is_none() && error.contains("database is locked");
    ensure!(errors.keys().all(expected), "{errors:?}");
    adk.stop().await
}
