//! Dropped calls are stored entirely or not at all, and the pool stays clean.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use seabed::history::ForkSession;
use seabed::{
    AnnotateSession, AppName, AppendEvent, CreateSession, DatabaseSessionService, DeleteSession, DirectoryService as _,
    DynSessionService, Event, ExpectedRevision, FindSessions, GetSession, HistoryService as _, ListEvents,
    ListSessions, SessionFilter, SessionId, SessionKey, SessionScope, SessionService, State, TransactionalService,
    UpdateState, UserKey,
};
use seabed_core::sql::{ConnectOptions, Dialect, SqlSessionService};

use crate::fixture::{Fixture, with_dialect};

crate::database_cases! {
    Everywhere: [
        a_call_may_be_dropped_at_any_of_its_polls,
        a_task_may_be_aborted_during_a_call,
        a_dropped_call_leaves_its_group_alone,
    ],
    ExceptMySql: [
        an_append_to_a_transaction_of_its_caller_may_be_dropped,
    ],
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    Append,
    Delete,
    UpdateState,
    Annotate,
    Fork,
    Get,
    ListSessions,
    ListEvents,
    GetAppState,
    GetUserState,
    Find,
    Count,
    CheckHealth,
}

const OPERATIONS: [Operation; 14] = [
    Operation::Create,
    Operation::Append,
    Operation::Delete,
    Operation::UpdateState,
    Operation::Annotate,
    Operation::Fork,
    Operation::Get,
    Operation::ListSessions,
    Operation::ListEvents,
    Operation::GetAppState,
    Operation::GetUserState,
    Operation::Find,
    Operation::Count,
    Operation::CheckHealth,
];

/// More polls than any call needs, with pauses in which the server makes progress.
const POLLS: usize = 400;

fn alice() -> seabed::Result<UserKey> {
    UserKey::try_new("app", "alice")
}

fn key(id: &str) -> seabed::Result<SessionKey> {
    Ok(alice()?.session(SessionId::try_new(id)?))
}

/// Builds an append that leaves a trace in each table.
fn append(key: &SessionKey, mark: &str) -> AppendEvent {
    let delta = State::new().with(mark, 1).with(format!("user:{mark}"), 1).with(format!("app:{mark}"), 1);
    AppendEvent::new(key.clone(), Event::new("user").with_id(mark).with_state_delta(delta), ExpectedRevision::Any)
}

async fn call(service: &dyn DatabaseSessionService, operation: Operation, mark: &str) -> seabed::Result<()> {
    match operation {
        Operation::Create => {
            let (key, state) = (key(mark)?, State::new().with("k", 1).with(format!("app:{mark}"), 1));
            let request = CreateSession::new(alice()?).with_session_id(key.session_id).with_state(state);
            service.create_session(request).await.map(drop)
        }
        Operation::Append => service.append_event(append(&key("lasting")?, mark)).await.map(drop),
        Operation::Delete => service.delete_session(DeleteSession::new(key("deleted")?)).await,
        Operation::UpdateState => {
            let delta = State::new().with(format!("{mark} first"), 1).with(format!("{mark} second"), 1);
            service.update_state(UpdateState::new(alice()?, delta)).await.map(drop)
        }
        Operation::Annotate => {
            let request = AnnotateSession::new(key("lasting")?).with_title(mark);
            service.annotate_session(request.with_label("first", mark).with_label("second", mark)).await.map(drop)
        }
        Operation::Fork => {
            let request = ForkSession::new(key("lasting")?, "first").with_session_id(key(mark)?.session_id);
            service.fork_session(request).await.map(drop)
        }
        Operation::Get => service.get_session(GetSession::new(key("lasting")?)).await.map(drop),
        Operation::ListSessions => {
            service.list_sessions(ListSessions::new(SessionScope::User(alice()?))).await.map(drop)
        }
        Operation::ListEvents => service.list_events(ListEvents::new(key("lasting")?)).await.map(drop),
        Operation::GetAppState => service.get_app_state(&AppName::try_new("app")?).await.map(drop),
        Operation::GetUserState => service.get_user_state(&alice()?).await.map(drop),
        Operation::Find => service.find_sessions(FindSessions::new(SessionScope::User(alice()?))).await.map(drop),
        Operation::Count => {
            let filter = SessionFilter::new().with_any_label("first");
            service.count_sessions(&SessionScope::User(alice()?), &filter).await.map(drop)
        }
        Operation::CheckHealth => service.check_health().await,
    }
}

/// Polls `call` up to `polls` times, then drops it. Returns its result if it was done by then.
async fn drop_after<T>(polls: usize, pause: Duration, call: impl Future<Output = T>) -> Option<T> {
    let mut call: Pin<Box<_>> = Box::pin(call);
    for _ in 0..polls {
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            return Some(done);
        }
        tokio::time::sleep(pause).await;
    }
    None
}

/// Checks that the effects of a dropped call are stored entirely or not at all.
async fn check_whole(observer: &DynSessionService, operation: Operation, mark: &str) -> anyhow::Result<()> {
    let lasting = observer.get_session(GetSession::new(key("lasting")?)).await?.context("no session")?;
    match operation {
        Operation::Append => {
            let event = lasting.events.iter().any(|event| event.id == mark);
            for scope in ["", "user:", "app:"] {
                let state = lasting.state.get(&format!("{scope}{mark}")).is_some();
                ensure!(event == state, "{mark}: event {event}, {scope} state {state}");
            }
        }
        Operation::Create => {
            // Reads the app state before the session: if the create finishes in between, that cannot look like app
            // state without a session.
            let app = lasting.state.get(&format!("app:{mark}")).is_some();
            let session = observer.get_session(GetSession::new(key(mark)?)).await?;
            ensure!(session.is_some() || !app, "{mark}: app state without session");
            let whole = session.is_none_or(|session| session.state.get(&format!("app:{mark}")).is_some());
            ensure!(whole, "{mark}: session without app state");
        }
        Operation::Delete => {
            if let Some(session) = observer.get_session(GetSession::new(key("deleted")?)).await? {
                ensure!(session.events.len() == 1, "{mark}: half of a session");
            }
        }
        Operation::UpdateState => {
            let has = |name: &str| lasting.state.get(&format!("user:{mark} {name}")).is_some();
            ensure!(has("first") == has("second"), "{mark}: half of an update");
        }
        Operation::Annotate => {
            let request = FindSessions::new(SessionScope::User(alice()?));
            let filter = SessionFilter::new().with_id_prefix("lasting").with_label("first", mark);
            let found = observer.find_sessions(request.with_filter(filter)).await?.try_into_items()?;
            let has = |label: Option<&String>| label.is_some_and(|label| label == mark);
            let whole = found.iter().map(|found| &found.annotations).all(|annotations| {
                has(annotations.title.as_ref()) && ["first", "second"].iter().all(|l| has(annotations.labels.get(*l)))
            });
            ensure!(whole, "{mark}: half of a change: {found:?}");
        }
        Operation::Fork => {
            if let Some(fork) = observer.get_session(GetSession::new(key(mark)?)).await? {
                ensure!(fork.events == lasting.events[..1], "{mark}: half of a fork");
                ensure!(observer.get_origin(&fork.key).await?.parent.is_some(), "{mark}: a fork without its origin");
            }
        }
        _ => {}
    }
    Ok(())
}

/// Creates a session to append to, and one to delete.
async fn prepare(observer: &DynSessionService) -> anyhow::Result<()> {
    for id in ["lasting", "deleted"] {
        let key = key(id)?;
        if observer.get_session(GetSession::new(key.clone())).await?.is_none() {
            let request = CreateSession::new(alice()?).with_session_id(key.session_id.clone());
            observer.create_session(request).await?;
            let event = Event::new("user").with_id("first");
            observer.append_event(AppendEvent::new(key, event, ExpectedRevision::Any)).await?;
        }
    }
    Ok(())
}

async fn a_call_may_be_dropped_at_any_of_its_polls(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(_: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let observer = fixture.service().await?;
        for fast in [true, false] {
            let options = fixture.service_url.parse::<ConnectOptions<D>>()?.with_max_connections(1);
            let service = SqlSessionService::<D>::connect_with(options).await?.with_fast_paths(fast);
            for operation in OPERATIONS {
                let mut done = None;
                for polls in 0..POLLS {
                    prepare(&observer).await?;
                    let mark = format!("{operation:?}-{polls}-{fast}");
                    let pause = Duration::from_micros(if polls % 2 == 0 { 50 } else { 300 });
                    done = drop_after(polls, pause, call(&service, operation, &mark)).await;
                    // The only connection serves this once the dropped call has returned it.
                    service.get_app_state(&AppName::try_new("app")?).await?;
                    check_whole(&observer, operation, &mark).await?;
                    if matches!(operation, Operation::Create | Operation::Append | Operation::Delete) {
                        // Writes run one after another, so the dropped one is over now.
                        service.delete_session(DeleteSession::new(key("none")?)).await?;
                    }
                    fixture.no_open_transaction().await.with_context(|| mark.clone())?;
                    check_whole(&observer, operation, &mark).await?;
                    if done.is_some() {
                        break;
                    }
                }
                done.with_context(|| format!("{operation:?} is not done after {POLLS} polls"))??;
            }
        }
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

/// After the drop the caller rolls back, as documented, and nothing of the append is stored.
async fn an_append_to_a_transaction_of_its_caller_may_be_dropped(fixture: &Fixture) -> anyhow::Result<()> {
    async fn check<D: Dialect>(service: SqlSessionService<D>, fixture: &Fixture) -> anyhow::Result<()> {
        let observer = fixture.service().await?;
        prepare(&observer).await?;
        let mut done = None;
        for polls in 0..POLLS {
            let mark = format!("polls-{polls}");
            let transaction = fixture.begin_write().await?;
            let append = service.append_event_in(&transaction, append(&key("lasting")?, &mark));
            done = drop_after(polls, Duration::from_micros(200), append).await;
            transaction.rollback().await?;
            let session = observer.get_session(GetSession::new(key("lasting")?)).await?.context("no session")?;
            ensure!(session.events.len() == 1 && session.state.is_empty(), "{mark}: {session:?}");
            if done.is_some() {
                break;
            }
        }
        done.context("the append is never done")??;
        Ok(())
    }
    fixture.migrated().await?;
    with_dialect!(fixture, check)
}

async fn a_task_may_be_aborted_during_a_call(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    prepare(&service).await?;
    let operations = [Operation::Create, Operation::Append, Operation::Delete].into_iter().cycle();
    for (round, operation) in (0..60_u64).zip(operations) {
        prepare(&service).await?;
        let mark = format!("aborted-{round}");
        let task = tokio::spawn({
            let (service, mark) = (service.clone(), mark.clone());
            async move { call(&*service, operation, &mark).await }
        });
        tokio::time::sleep(Duration::from_micros(round * 40)).await;
        task.abort();
        if let Ok(outcome) = task.await {
            outcome?;
        }
        check_whole(&service, operation, &mark).await?;
        service.append_event(append(&key("lasting")?, &format!("after-{round}"))).await?;
    }
    fixture.no_transaction_stays_open().await
}

/// Waiting writes may be executed by one of their callers. Dropping any caller must not affect the others.
async fn a_dropped_call_leaves_its_group_alone(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    prepare(&service).await?;
    for round in 0..20_u64 {
        let calls: Vec<_> = (0..12)
            .map(|number| {
                let (service, mark) = (service.clone(), format!("round-{round}-{number}"));
                tokio::spawn(async move { service.append_event(append(&key("lasting")?, &mark)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 150)).await;
        for (number, call) in calls.into_iter().enumerate() {
            if number % 4 == 0 {
                call.abort();
            } else {
                call.await?.with_context(|| format!("call {number} of round {round}"))?;
            }
        }
    }
    Ok(())
}
