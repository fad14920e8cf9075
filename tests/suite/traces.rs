//! What a service traces: a span for each operation, an event for each retry, and never content.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use seabed::{AppendEvent, CreateSession, Event, ExpectedRevision, SessionId, State, UserKey};
use seabed_tests::{Cut, Family, Kind, Proxy};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event as TracingEvent, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [operations_are_traced_without_content],
    Servers: [retries_are_traced],
}

pub(crate) type Fields = BTreeMap<String, String>;

/// Records the fields of Seabed's spans and events.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Seen>>);

/// Spans by id, and events.
type Seen = (BTreeMap<u64, Fields>, Vec<Fields>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target().starts_with("seabed") {
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            attributes.record(&mut Reader(seen.0.entry(id.into_u64()).or_default()));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fields) = seen.0.get_mut(&id.into_u64()) {
            values.record(&mut Reader(fields));
        }
    }

    fn on_event(&self, event: &TracingEvent<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("seabed") {
            let mut fields = Fields::new();
            event.record(&mut Reader(&mut fields));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1.push(fields);
        }
    }
}

impl Recorder {
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        work.with_subscriber(tracing_subscriber::registry().with(self.clone())).await
    }

    /// Returns the spans in the order in which they began, and the events.
    pub(crate) fn seen(&self) -> (Vec<Fields>, Vec<Fields>) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (seen.0.into_values().collect(), seen.1)
    }
}

async fn operations_are_traced_without_content(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let recorder = Recorder::default();
    let work = async {
        let request = CreateSession::new(UserKey::try_new("app", "alice")?).with_session_id(SessionId::try_new("one")?);
        let session = service.create_session(request.clone().with_state(State::new().with("k", "secret"))).await?;
        let event = Event::new("user").with_content(serde_json::json!({"parts": [{"text": "secret"}]}));
        let append = AppendEvent::new(session.key.clone(), event, ExpectedRevision::Exact(session.revision));
        service.append_event(append.clone()).await?;
        ensure!(service.create_session(request).await.is_err());
        let stale = AppendEvent::new(session.key, Event::new("user"), ExpectedRevision::Exact(session.revision));
        ensure!(service.append_event(stale).await.is_err());
        Ok(())
    };
    recorder.during(work).await?;
    let (spans, events) = recorder.seen();
    ensure!(!format!("{spans:?}{events:?}").contains("secret"), "a trace tells content: {spans:?}{events:?}");
    let told: Vec<(&str, &str)> = spans
        .iter()
        .filter_map(|span| Some((span.get("operation")?.as_str(), span.get("outcome")?.as_str())))
        .collect();
    let mut expected = [
        ("create_session", "ok"),
        ("append_event", "ok"),
        ("create_session", "already_exists"),
        ("append_event", "revision_conflict"),
    ];
    expected.sort_unstable();
    let mut told = told;
    told.sort_unstable();
    ensure!(told == expected, "{told:?}");
    ensure!(spans.iter().all(|span| span.contains_key("backend") && span.contains_key("retries")), "{spans:?}");
    Ok(())
}

async fn retries_are_traced(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let (proxy, url) = Proxy::tunnel(fixture.kind.map_or(Family::Postgres, Kind::family), &fixture.service_url).await?;
    let service = seabed::connect(&url).await?;
    let user = UserKey::try_new("app", "alice")?;
    service.get_user_state(&user).await?;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let recorder = Recorder::default();
    proxy.cut([(0, Cut::BeforeReply)]);
    recorder.during(service.get_user_state(&user)).await?;
    let (spans, events) = recorder.seen();
    let retried = spans.first().and_then(|span| span.get("retries")).context("no retries in the span")?;
    ensure!(retried == "1", "{spans:?}");
    ensure!(events.iter().any(|event| event.get("because").is_some_and(|kind| kind == "unavailable")), "{events:?}");
    Ok(())
}
