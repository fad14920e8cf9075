//! A service around a service, written with what `seabed-core` exports, as any program could. It keeps a log of who did
//! what, and passes the suite as the service inside does.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use seabed_conformance::{Opened, Services, Target};
use seabed_core::history::{ForkSession, Forked, Origin, RedactEvent, Redacted};
use seabed_core::{
    AnnotateSession, Annotations, AppName, AppendEvent, Appended, CreateSession, DeleteSession, DirectoryService,
    Event, EventCursor, ExpectedRevision, FindCursor, FindSessions, Forgotten, FoundSession, GetSession,
    HistoryService, ListEvents, ListSessions, MemorySessionService, Page, Result, RetentionService, Session,
    SessionCursor, SessionFilter, SessionKey, SessionScope, SessionService, SessionSummary, State, StateService,
    StateUpdated, UpdateState, UserKey,
};

/// Logs the writes and reads of sessions, and builds their requests anew out of their parts.
#[derive(Clone)]
struct Audited<S> {
    inner: S,
    log: Arc<Mutex<Vec<String>>>,
}

impl<S> Audited<S> {
    fn log(&self, line: String) {
        self.log.lock().expect("nobody panics while logging").push(line);
    }
}

#[async_trait]
impl<S: SessionService> SessionService for Audited<S> {
    async fn create_session(&self, request: CreateSession) -> Result<Session> {
        self.log(format!("create a session of {}", request.user()));
        let mut passed_on = CreateSession::new(request.user().clone())
            .with_state(request.state().clone())
            .with_nul_policy(request.nul_policy());
        if let Some(id) = request.session_id() {
            passed_on = passed_on.with_session_id(id.clone());
        }
        if request.has_history() {
            passed_on = passed_on.with_history();
        }
        self.inner.create_session(passed_on).await
    }

    async fn get_session(&self, request: GetSession) -> Result<Option<Session>> {
        self.log(format!("get {}", request.key()));
        let mut passed_on = GetSession::new(request.key().clone());
        if let Some(count) = request.num_recent_events() {
            passed_on = passed_on.with_num_recent_events(count);
        }
        if let Some(time) = request.after_timestamp() {
            passed_on = passed_on.with_after_timestamp(time);
        }
        if let Some(revision) = request.min_revision() {
            passed_on = passed_on.with_min_revision(revision);
        }
        let Some(read) = self.inner.get_session(passed_on).await? else { return Ok(None) };
        let mut session = Session::new(read.key, read.create_time);
        session.state = read.state;
        session.events = read.events;
        session.events_since = read.events_since;
        session.revision = read.revision;
        Ok(Some(session))
    }

    async fn list_sessions(&self, request: ListSessions) -> Result<Page<Session, SessionCursor>> {
        self.log(format!("list the sessions of {:?}", request.scope()));
        request.check()?;
        let mut passed_on =
            ListSessions::new(request.scope().clone()).with_order(request.order()).with_limit(request.limit());
        if let Some(cursor) = request.cursor() {
            let (user, session) = (cursor.user_id().clone(), cursor.session_id().clone());
            passed_on = passed_on.with_cursor(SessionCursor::new(cursor.update_time(), user, session));
        }
        let page = self.inner.list_sessions(passed_on).await?;
        Ok(Page::new(page.items, page.next))
    }

    async fn list_events(&self, request: ListEvents) -> Result<Page<Event, EventCursor>> {
        self.log(format!("list the events of {}", request.key()));
        request.check()?;
        let mut passed_on =
            ListEvents::new(request.key().clone()).with_order(request.order()).with_limit(request.limit());
        if let Some(cursor) = request.cursor() {
            passed_on = passed_on.with_cursor(EventCursor::new(cursor.timestamp(), cursor.event_id().to_owned()));
        }
        if let Some(revision) = request.min_revision() {
            passed_on = passed_on.with_min_revision(revision);
        }
        self.inner.list_events(passed_on).await
    }

    async fn append_event(&self, request: AppendEvent) -> Result<Appended> {
        self.log(format!("append {:?} to {}", request.event().id, request.key()));
        let (key, expected, nul_policy) = (request.key().clone(), request.expected(), request.nul_policy());
        let passed_on = AppendEvent::new(key, request.into_event(), expected).with_nul_policy(nul_policy);
        self.inner.append_event(passed_on).await
    }

    async fn delete_session(&self, request: DeleteSession) -> Result<()> {
        self.log(format!("delete {}", request.key()));
        self.inner.delete_session(request).await
    }

    async fn get_user_state(&self, key: &UserKey) -> Result<State> {
        self.inner.get_user_state(key).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> Result<State> {
        self.inner.get_app_state(app_name).await
    }

    async fn check_health(&self) -> Result<()> {
        self.inner.check_health().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[async_trait]
impl<S: StateService> StateService for Audited<S> {
    async fn update_state(&self, request: UpdateState) -> Result<StateUpdated> {
        self.log(format!("set {} keys of {:?}", request.delta().len(), request.target()));
        self.inner.update_state(request).await
    }
}

#[async_trait]
impl<S: DirectoryService> DirectoryService for Audited<S> {
    async fn annotate_session(&self, request: AnnotateSession) -> Result<Annotations> {
        self.log(format!("annotate {}", request.key()));
        request.check()?;
        let mut passed_on = AnnotateSession::new(request.key().clone());
        passed_on = match request.title() {
            Some(Some(title)) => passed_on.with_title(title),
            Some(None) => passed_on.without_title(),
            None => passed_on,
        };
        for (name, value) in request.labels() {
            passed_on = match value {
                Some(value) => passed_on.with_label(name, value),
                None => passed_on.without_label(name),
            };
        }
        if let ExpectedRevision::Exact(revision) = request.expected() {
            passed_on = passed_on.with_expected_revision(revision);
        }
        self.inner.annotate_session(passed_on).await
    }

    async fn find_sessions(&self, request: FindSessions) -> Result<Page<FoundSession, FindCursor>> {
        self.log(format!("find sessions of {:?}", request.scope()));
        request.check()?;
        let mut passed_on = FindSessions::new(request.scope().clone())
            .with_filter(request.filter().clone())
            .with_order(request.order())
            .with_limit(request.limit());
        if request.has_state() {
            passed_on = passed_on.with_state();
        }
        if let Some(cursor) = request.cursor() {
            let cursor = passed_on.cursor_after(cursor.session().clone());
            passed_on = passed_on.with_cursor(cursor);
        }
        self.inner.find_sessions(passed_on).await
    }

    async fn count_sessions(&self, scope: &SessionScope, filter: &SessionFilter) -> Result<u64> {
        self.inner.count_sessions(scope, filter).await
    }

    async fn summarize_session(&self, key: &SessionKey) -> Result<Option<SessionSummary>> {
        self.inner.summarize_session(key).await
    }
}

#[async_trait]
impl<S: HistoryService> HistoryService for Audited<S> {
    async fn get_origin(&self, key: &SessionKey) -> Result<Origin> {
        self.inner.get_origin(key).await
    }

    async fn fork_session(&self, request: ForkSession) -> Result<Forked> {
        self.log(format!("fork {} at {:?}", request.key(), request.event_id()));
        let mut passed_on = ForkSession::new(request.key().clone(), request.event_id());
        if let Some(id) = request.session_id() {
            passed_on = passed_on.with_session_id(id.clone());
        }
        if request.allows_open_calls() {
            passed_on = passed_on.with_open_calls_allowed();
        }
        self.inner.fork_session(passed_on).await
    }

    async fn redact_event(&self, request: RedactEvent) -> Result<Redacted> {
        self.log(format!("redact {:?} of {}", request.event_id(), request.key()));
        let mut passed_on = RedactEvent::new(request.key().clone(), request.event_id());
        if let Some(text) = request.replacement() {
            passed_on = passed_on.with_replacement(text);
        }
        self.inner.redact_event(passed_on).await
    }
}

#[async_trait]
impl<S: RetentionService> RetentionService for Audited<S> {
    async fn forget_some(&self, scope: &SessionScope) -> Result<Forgotten> {
        self.log(format!("forget some of {scope:?}"));
        self.inner.forget_some(scope).await
    }
}

fn main() -> ExitCode {
    let inner = Audited { inner: MemorySessionService::new(), log: Arc::default() };
    let service = inner.clone();
    let outcome = seabed_conformance::run([Target::new("audited", move || {
        let service = service.clone();
        async move {
            let service = Arc::new(service);
            Ok(Opened::Service(
                Services::with_state(service.clone())
                    .and_directory(service.clone())
                    .and_history(service.clone())
                    .and_retention(service),
            ))
        }
    })]);
    println!("{} calls were logged", inner.log.lock().expect("nobody panics while logging").len());
    outcome
}
