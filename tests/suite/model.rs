//! Random operations and random JSON, compared with the memory service: a database returns the same results.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use seabed::{
    AnnotateSession, AppName, AppendEvent, Clock, CreateSession, DeleteSession, DirectoryService, Error, Event,
    ExpectedRevision, FindSessions, GetSession, IdSource, Json, ListEvents, ListSessions, MemorySessionService, Order,
    Revision, ServiceOptions, SessionFilter, SessionId, SessionScope, State, StateService, StateTarget, StateUpdated,
    Timestamp, UpdateState, UserKey,
};
use seabed_core::sql::{Dialect, SqlSessionService};
use tokio::runtime::Handle;

use crate::fixture::{Fixture, with_dialect};

crate::database_cases! {
    Everywhere: [
        random_operations_end_as_in_the_memory_model,
        random_json_comes_back_or_is_refused,
        json_that_others_wrote_never_panics,
    ],
}

/// A clock with its own start that advances one millisecond per call.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        let micros = self.0.fetch_add(1000, Ordering::Relaxed);
        Timestamp::try_from_micros(micros).expect("a moment of this millennium")
    }
}

/// Ids that count up.
struct Numbers(AtomicU64);

impl IdSource for Numbers {
    fn new_id(&self) -> String {
        format!("generated-{:04}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

const START: i64 = 1_767_225_600_000_000;

#[derive(Debug, Clone)]
enum Step {
    Create { user: u8, id: Option<u8>, state: Vec<(u8, u8)> },
    Append { user: u8, id: u8, event: u8, seconds: u8, expected: Expected, delta: Vec<(u8, u8)>, partial: bool },
    Delete { user: u8, id: u8 },
    Get { user: u8, id: u8, recent: Option<u8> },
    ListSessions { user: Option<u8>, limit: u8, descending: bool },
    ListEvents { user: u8, id: u8, limit: u8, descending: bool },
    States { user: u8 },
    UpdateState { user: u8, target: u8, event: u8, delta: Vec<(u8, u8)> },
    Annotate { user: u8, id: u8, title: Option<u8>, labels: Vec<(u8, Option<u8>)>, expected: bool },
    Find { user: Option<u8>, filter: Vec<(u8, u8)>, limit: u8, descending: bool, with_state: bool },
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Any,
    /// The revision that the last successful append or create returned.
    Last,
    Actual,
}

fn step() -> impl Strategy<Value = Step> {
    let (user, id) = (0..2_u8, 0..3_u8);
    let state = prop::collection::vec((0..9_u8, any::<u8>()), 0..4);
    let expected = prop_oneof![3 => Just(Expected::Any), 1 => Just(Expected::Last), 3 => Just(Expected::Actual)];
    prop_oneof![
        3 => (user.clone(), prop::option::of(id.clone()), state.clone())
            .prop_map(|(user, id, state)| Step::Create { user, id, state }),
        8 => (user.clone(), id.clone(), 0..12_u8, any::<u8>(), expected, state.clone(), prop::bool::weighted(0.1)).prop_map(
            |(user, id, event, seconds, expected, delta, partial)| Step::Append {
                user, id, event, seconds: seconds % 4, expected, delta, partial
            }
        ),
        1 => (user.clone(), id.clone()).prop_map(|(user, id)| Step::Delete { user, id }),
        2 => (user.clone(), id.clone(), prop::option::of(0..4_u8))
            .prop_map(|(user, id, recent)| Step::Get { user, id, recent }),
        1 => (prop::option::of(user.clone()), 1..4_u8, any::<bool>())
            .prop_map(|(user, limit, descending)| Step::ListSessions { user, limit, descending }),
        1 => (user.clone(), id.clone(), 1..4_u8, any::<bool>())
            .prop_map(|(user, id, limit, descending)| Step::ListEvents { user, id, limit, descending }),
        1 => user.clone().prop_map(|user| Step::States { user }),
        4 => (user.clone(), id, prop::option::of(0..4_u8), prop::collection::vec((0..3_u8, prop::option::of(0..3_u8)), 0..3), prop::bool::weighted(0.2))
            .prop_map(|(user, id, title, labels, expected)| Step::Annotate { user, id, title, labels, expected }),
        4 => (prop::option::of(user.clone()), prop::collection::vec((0..9_u8, 0..4_u8), 0..3), 1..4_u8, any::<bool>(), any::<bool>())
            .prop_map(|(user, filter, limit, descending, with_state)| Step::Find { user, filter, limit, descending, with_state }),
        2 => (user, 0..5_u8, 0..12_u8, state).prop_map(|(user, target, event, delta)| Step::UpdateState { user, target, event, delta }),
    ]
}

fn state(entries: &[(u8, u8)]) -> State {
    entries.iter().fold(State::new(), |state, (key, value)| {
        let scope = ["", "user:", "app:", "temp:"][usize::from(key % 4)];
        let json = match value % 5 {
            0 => Json::parse("null"),
            1 => Json::parse(format!("{{\"nested\": {value}}}")),
            2 => Json::parse(format!("[{value}, \"x\"]")),
            _ => Json::parse(value.to_string()),
        };
        state.with(format!("{scope}k{key}"), json.expect("it is JSON"))
    })
}

/// A filter with up to a few conditions, each of a kind and a value.
fn filter(conditions: &[(u8, u8)]) -> SessionFilter {
    let time = |value: u8| Timestamp::try_from_micros(START + i64::from(value) * 10_000).expect("a moment");
    conditions.iter().fold(SessionFilter::new(), |filter, (kind, value)| match kind {
        0 => filter.with_updated_since(time(*value)),
        1 => filter.with_updated_until(time(*value)),
        2 => filter.with_created_since(time(*value)),
        3 => filter.with_created_until(time(*value)),
        4 => filter.with_label(format!("l{value}"), format!("v{value}")),
        5 => filter.with_any_label(format!("l{value}")),
        6 => filter.with_title_containing(["title", "1", "TITLE", ""][usize::from(*value)]),
        7 => filter.with_id_prefix(["session", "session1", "generated", "s_"][usize::from(*value)]),
        _ => filter.with_state(format!("k{}", value * 4), Json::from(u32::from(*value))),
    })
}

/// What the suite compares.
trait Compared: StateService + DirectoryService {}

impl<S: StateService + DirectoryService> Compared for S {}

/// A service, and the last revision that it returned.
struct Subject {
    service: Arc<dyn Compared>,
    last: Option<Revision>,
}

impl Subject {
    /// Runs a step and describes its outcome in words.
    #[allow(clippy::too_many_lines, reason = "one arm a step")]
    async fn run(&mut self, app: &str, step: &Step) -> anyhow::Result<String> {
        let service = &self.service;
        let user = |user: u8| UserKey::try_new(app, format!("user{user}"));
        let key = |name: u8, id: u8| anyhow::Ok(user(name)?.session(SessionId::try_new(format!("session{id}"))?));
        let order = |descending| if descending { Order::Descending } else { Order::Ascending };
        Ok(match step {
            Step::Create { user: name, id, state: entries } => {
                let mut request = CreateSession::new(user(*name)?).with_state(state(entries));
                if let Some(id) = id {
                    request = request.with_session_id(key(*name, *id)?.session_id);
                }
                let created = service.create_session(request).await;
                self.last = created.as_ref().ok().map(|session| session.revision).or(self.last);
                told(created)
            }
            Step::Append { user, id, event, seconds, expected, delta, partial } => {
                let key = key(*user, *id)?;
                let expected = match expected {
                    Expected::Any => ExpectedRevision::Any,
                    Expected::Last => self.last.map_or(ExpectedRevision::Any, ExpectedRevision::Exact),
                    Expected::Actual => match service.get_session(GetSession::new(key.clone())).await? {
                        Some(session) => ExpectedRevision::Exact(session.revision),
                        None => ExpectedRevision::Any,
                    },
                };
                let mut event = Event::new("user")
                    .with_id(format!("event{event}"))
                    .with_timestamp(1_767_225_600.0 + f64::from(*seconds))
                    .with_state_delta(state(delta));
                event.partial = partial.then_some(true);
                let appended = service.append_event(AppendEvent::new(key, event, expected)).await;
                self.last = appended.as_ref().ok().and_then(|appended| appended.revision()).or(self.last);
                told(appended)
            }
            Step::Delete { user, id } => told(service.delete_session(DeleteSession::new(key(*user, *id)?)).await),
            Step::Get { user, id, recent } => {
                let request = GetSession::new(key(*user, *id)?);
                let request = match recent {
                    Some(recent) => request.with_num_recent_events(u32::from(*recent)),
                    None => request,
                };
                told(service.get_session(request).await)
            }
            Step::ListSessions { user: name, limit, descending } => {
                let scope = match name {
                    Some(name) => SessionScope::User(user(*name)?),
                    None => SessionScope::App(AppName::try_new(app)?),
                };
                let mut request = ListSessions::new(scope).with_limit(u32::from(*limit)).with_order(order(*descending));
                let mut pages = Vec::new();
                loop {
                    let page = service.list_sessions(request.clone()).await?;
                    pages.push(format!("{:?}", page.items));
                    match page.next {
                        Some(next) => request = request.with_cursor(next),
                        None => break pages.join("\n"),
                    }
                }
            }
            Step::ListEvents { user, id, limit, descending } => {
                let request = ListEvents::new(key(*user, *id)?).with_limit(u32::from(*limit));
                told(service.list_events(request.with_order(order(*descending))).await)
            }
            Step::UpdateState { user: name, target, event, delta } => {
                let target = match target {
                    3 => StateTarget::App(AppName::try_new(app)?),
                    4 => StateTarget::User(user(*name)?),
                    id => StateTarget::Session(key(*name, *id)?),
                };
                let update = UpdateState::new(target, state(delta)).with_event_id(format!("event{event}"));
                let updated = service.update_state(update.with_timestamp(1_767_225_600.0)).await;
                self.last = updated.as_ref().ok().and_then(StateUpdated::revision).or(self.last);
                told(updated)
            }
            Step::Annotate { user: name, id, title, labels, expected } => {
                let mut request = AnnotateSession::new(key(*name, *id)?);
                request = match title {
                    Some(0) => request.without_title(),
                    Some(title) => request.with_title(format!("title {title}")),
                    None => request,
                };
                for (label, value) in labels {
                    request = match value {
                        Some(value) => request.with_label(format!("l{label}"), format!("v{value}")),
                        None => request.without_label(format!("l{label}")),
                    };
                }
                if let Some(last) = self.last.filter(|_| *expected) {
                    request = request.with_expected_revision(last);
                }
                told(service.annotate_session(request).await)
            }
            Step::Find { user: name, filter: conditions, limit, descending, with_state } => {
                let scope = match name {
                    Some(name) => SessionScope::User(user(*name)?),
                    None => SessionScope::App(AppName::try_new(app)?),
                };
                let filter = filter(conditions);
                let mut request = FindSessions::new(scope.clone()).with_filter(filter.clone());
                request = request.with_limit(u32::from(*limit)).with_order(order(*descending));
                if *with_state {
                    request = request.with_state();
                }
                let mut pages = vec![told(service.count_sessions(&scope, &filter).await)];
                loop {
                    let page = match service.find_sessions(request.clone()).await {
                        Ok(page) => page,
                        Err(error) => break error.to_string(),
                    };
                    pages.push(format!("{:?}", page.items));
                    match page.next {
                        Some(next) => request = request.with_cursor(next),
                        None => break pages.join("\n"),
                    }
                }
            }
            Step::States { user: name } => {
                let user = user(*name)?;
                format!("{:?} {:?}", service.get_app_state(&user.app_name).await?, service.get_user_state(&user).await?)
            }
        })
    }
}

fn told<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error}"),
    }
}

/// Runs proptest's loop with cases that are futures.
fn run_cases<S: Strategy>(
    cases: u32,
    strategy: &S,
    mut case: impl AsyncFnMut(S::Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let case = std::cell::RefCell::new(&mut case);
    let mut runner =
        TestRunner::new(Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(strategy, |value| {
            let outcome = Handle::current().block_on((*case.borrow_mut())(value));
            outcome.map_err(|error| TestCaseError::fail(format!("{error:?}")))
        })
    });
    outcome.map_err(|failed| anyhow::anyhow!("{failed}"))
}

async fn random_operations_end_as_in_the_memory_model(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, _: &Fixture) -> anyhow::Result<()> {
        let cases = AtomicU64::new(0);
        for fast in [true, false] {
            run_cases(20, &prop::collection::vec(step(), 1..40), async |steps| {
                let app = format!("app{}", cases.fetch_add(1, Ordering::Relaxed));
                let (clock, ids) = (|| Ticks(AtomicI64::new(START)), || Numbers(AtomicU64::new(0)));
                let model = MemorySessionService::new().with_clock(clock()).with_id_source(ids());
                let service = service.clone().with_fast_paths(fast).with_clock(clock()).with_id_source(ids());
                let mut model = Subject { service: Arc::new(model), last: None };
                let mut subject = Subject { service: Arc::new(service), last: None };
                for (number, step) in steps.iter().enumerate() {
                    let (expected, actual) = (model.run(&app, step).await?, subject.run(&app, step).await?);
                    ensure!(expected == actual, "step {number} {step:?}:\nmodel: {expected}\nstore: {actual}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }
    seabed::migrate(&fixture.admin).await?;
    with_dialect!(fixture, check)
}

/// Generates JSON text with unusual keys, escapes, depth and numbers.
fn json_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no others", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
    ];
    let text = prop_oneof![
        ".{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap_or_default()),
        prop::sample::select(vec![
            r#""""#,
            r#""$.a""#,
            r#""a.b[0]""#,
            r#""\\\"""#,
            r#""\u0000""#,
            r#""\ud800""#,
            r#""\u001f""#,
            r#""-""#,
            r#""$""#,
            r#""\ud83d\ude00""#,
            r#""null""#,
            r#""é""#,
            r#""e\u0301""#,
            r#""%s ? :a $1""#,
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![number, text.clone(), Just("null".to_owned()), Just("true".to_owned())];
    leaf.prop_recursive(6, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((text.clone(), inner), 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

async fn random_json_comes_back_or_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options = ServiceOptions::new().without_adk_check();
    let service = seabed::from_connection_with(fixture.admin.clone(), options).await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    let (stored, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    run_cases(150, &(json_text(), json_text(), ".{0,8}"), async |(content, value, name)| {
        // The type itself rejects what is not JSON at all, such as half of a surrogate pair.
        let (Ok(content), Ok(value)) = (Json::parse(content), Json::parse(value)) else {
            refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let state_key = format!("k{name}");
        let event = Event::new("user")
            .with_content(content.clone())
            .with_state_delta(State::new().with(&*state_key, value.clone()));
        let id = event.id.clone();
        match service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await {
            Err(Error::Invalid { .. }) => {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let read = service.get_session(GetSession::new(key.clone()).with_num_recent_events(1)).await?;
                let session = read.context("no session")?;
                let event = session.events.first().context("no event")?;
                ensure!(event.id == id, "{} is not the newest", event.id);
                // As in google-adk, a field that is null counts as absent.
                let expected = Some(&content).filter(|content| !content.is_null());
                ensure!(event.content.as_ref() == expected, "{:?} is not {content:?}", event.content);
                ensure!(session.state.get(&state_key) == Some(&value), "{:?} is not {value:?}", session.state);
                stored.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })?;
    let (stored, refused) = (stored.into_inner(), refused.into_inner());
    ensure!(stored > 20 && refused > 5, "{stored} stored, {refused} refused: this tests nothing");
    Ok(())
}

/// Another writer has put arbitrary text, JSON or not, into the columns: reading returns its meaning, or an error that
/// names the row.
#[allow(clippy::future_not_send, reason = "a case runs on the thread of its test")]
async fn json_that_others_wrote_never_panics(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key;
    service.append_event(AppendEvent::new(key.clone(), Event::new("user").with_id("e"), ExpectedRevision::Any)).await?;
    let mut runner = TestRunner::deterministic();
    let strategy = json_text();
    for _ in 0..60 {
        let text = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current();
        let text = text.replace('\'', "''").replace(
            '\\',
            if fixture.kind.is_some_and(|kind| kind.family() == seabed_tests::Family::MySql) { "\\\\" } else { "\\" },
        );
        // Not every database accepts every text, which is fine.
        for update in ["events SET event_data", "sessions SET state", "app_states SET state"] {
            let _ = fixture.execute(&format!("UPDATE {update} = '{text}'")).await;
        }
        let session = service.get_session(GetSession::new(key.clone())).await;
        let events = service.list_events(ListEvents::new(key.clone())).await;
        let lists = service.list_sessions(ListSessions::new(SessionScope::App(key.app_name.clone()))).await;
        let delta = State::new().with("k", 1).with("app:k", 1);
        let event = Event::new("user").with_state_delta(delta);
        let appended = service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await;
        let errors = [session.err(), events.err(), lists.err(), appended.err()];
        for error in errors.into_iter().flatten() {
            let is_told = error.backend_kind() == Some(seabed::BackendErrorKind::Corrupt);
            ensure!(is_told, "{text}: {error:?}");
        }
    }
    Ok(())
}
