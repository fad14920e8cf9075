//! What happens to concurrent calls on a session service of adk-rust, and to calls that most stores get wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use adk_core::Result;
use adk_session::{AppendEventRequest, CreateRequest, Event, GetRequest, ListRequest, Session, SessionService};
use serde_json::{Value, json};

const CALLERS: usize = 100;
const LONG: usize = 3_000;

/// Prints one figure a line.
///
/// # Errors
/// Those of calls that no other call meets.
pub(crate) async fn race(service: Arc<dyn SessionService>) -> Result<()> {
    create_together(&service).await?;
    append_together(&service).await?;
    show_app_state(&service).await?;
    repeat(&service).await?;
    read_the_last(&service).await
}

async fn create(
    service: &dyn SessionService,
    user: &str,
    session_id: Option<&str>,
    state: Value,
) -> Result<Box<dyn Session>> {
    let [app_name, user_id] = ["races", user].map(str::to_owned);
    let state = state.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    service.create(CreateRequest { app_name, user_id, session_id: session_id.map(str::to_owned), state }).await
}

async fn append(service: &dyn SessionService, session: &dyn Session, event: Event) -> Result<()> {
    service.append_event_for_identity(AppendEventRequest { identity: session.try_identity()?, event }).await
}

async fn get(service: &dyn SessionService, user: &str, id: &str, last: Option<usize>) -> Result<Box<dyn Session>> {
    let [app_name, user_id, session_id] = ["races", user, id].map(str::to_owned);
    service.get(GetRequest { app_name, user_id, session_id, num_recent_events: last, after: None }).await
}

/// How many keys of the state begin so.
fn keys(session: &dyn Session, prefix: &str) -> usize {
    session.state().all().keys().filter(|key| key.starts_with(prefix)).count()
}

/// Runs a call for each caller at the same time, and counts those that fail.
async fn together<F>(call: impl Fn(usize) -> F) -> usize
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let calls = (0..CALLERS).map(|number| tokio::spawn(call(number))).collect::<Vec<_>>();
    let mut failed = 0;
    for call in calls {
        failed += usize::from(!matches!(call.await, Ok(Ok(()))));
    }
    failed
}

async fn create_together(service: &Arc<dyn SessionService>) -> Result<()> {
    let failed = together(|number| {
        let service = service.clone();
        async move {
            let mut state = json!({});
            state[format!("app:created{number}")] = json!(number);
            create(&*service, &format!("user{number}"), None, state).await.map(drop)
        }
    });
    let failed = failed.await;
    let session = create(&**service, "alice", Some("after"), json!({})).await?;
    let kept = keys(&*session, "app:created");
    println!("{CALLERS} app keys by as many creates at once: {kept} kept, {failed} calls failed");
    Ok(())
}

async fn append_together(service: &Arc<dyn SessionService>) -> Result<()> {
    create(&**service, "alice", Some("hot"), json!({})).await?;
    let failed = together(|number| {
        let service = service.clone();
        async move {
            let mut event = Event::new("run");
            event.actions.state_delta.insert(format!("key{number}"), json!(number));
            let session = get(&*service, "alice", "hot", Some(0)).await?;
            append(&*service, &*session, event).await
        }
    });
    let failed = failed.await;
    let session = get(&**service, "alice", "hot", None).await?;
    let (kept, events) = (keys(&*session, "key"), session.events().len());
    println!(
        "{CALLERS} keys by as many appends to a session at once: {kept} kept in {events} events, {failed} calls failed"
    );
    Ok(())
}

async fn show_app_state(service: &Arc<dyn SessionService>) -> Result<()> {
    let reader = create(&**service, "bob", Some("reader"), json!({})).await?;
    let writer = create(&**service, "carol", Some("writer"), json!({})).await?;
    let mut event = Event::new("run");
    event.actions.state_delta.insert("app:news".to_owned(), json!("here"));
    append(&**service, &*writer, event).await?;
    let shown = get(&**service, "bob", reader.id(), None).await?.state().get("app:news");
    let [app_name, user_id] = ["races", "bob"].map(str::to_owned);
    let listed = service.list(ListRequest { app_name, user_id, limit: None, offset: None }).await?;
    let listed = listed.first().and_then(|session| session.state().get("app:news"));
    println!("an app key that another session set: read {}, listed {}", shown.is_some(), listed.is_some());
    Ok(())
}

async fn repeat(service: &Arc<dyn SessionService>) -> Result<()> {
    let session = create(&**service, "dave", Some("repeat"), json!({})).await?;
    let again = create(&**service, "dave", Some("repeat"), json!({"app:refused": 1})).await;
    let code = again.err().map(|error| error.code);
    let written = create(&**service, "dave", None, json!({})).await?.state().get("app:refused").is_some();
    println!("an id that exists: {code:?}, state of the refused call written: {written}");

    let mut events = (0..50).map(|number| Event::with_id(format!("{:02}", 49 - number), "run")).collect::<Vec<_>>();
    let now = events[0].timestamp;
    for event in &mut events {
        event.timestamp = now;
        append(&**service, &*session, event.clone()).await?;
    }
    let found = get(&**service, "dave", "repeat", None).await?.events().all();
    let in_order = found.iter().map(|event| &event.id).eq(events.iter().map(|event| &event.id));
    println!("50 events of one time: in the order of their appends {in_order}");

    let replay = append(&**service, &*session, events[0].clone()).await;
    let stored = get(&**service, "dave", "repeat", None).await?.events().len();
    println!("an event sent again: {:?}, {stored} of 50 stored", replay.map_err(|error| error.code));
    Ok(())
}

async fn read_the_last(service: &Arc<dyn SessionService>) -> Result<()> {
    let session = create(&**service, "erin", Some("long"), json!({})).await?;
    let mut times = HashMap::new();
    for number in 1..=LONG {
        append(&**service, &*session, Event::new("run")).await?;
        if number == LONG / 100 || number == LONG {
            let mut best = f64::INFINITY;
            for _ in 0..10 {
                let start = Instant::now();
                get(&**service, "erin", "long", Some(10)).await?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            times.insert(number, best);
        }
    }
    let ratio = times[&LONG] / times[&(LONG / 100)];
    println!("the last 10 events of {LONG} cost {ratio:.1} times the last 10 of {}", LONG / 100);
    Ok(())
}
