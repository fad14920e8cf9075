//! What each case receives.

use std::sync::Arc;

use anyhow::Context as _;
use seabed_core::{
    AppName, AppendEvent, Appended, CreateSession, DirectoryService, Event, ExpectedRevision, GetSession,
    HistoryService, RetentionService, Revision, Session, SessionId, SessionKey, SessionService, State, StateService,
    UserKey,
};
use tokio::task::JoinSet;

use crate::{Opened, Services, Target};

/// A target, an app that no other case uses, and helpers that many cases need.
pub(crate) struct Context {
    target: Target,
    /// A service on the target.
    pub(crate) service: Arc<dyn SessionService>,
    state: Option<Arc<dyn StateService>>,
    directory: Option<Arc<dyn DirectoryService>>,
    history: Option<Arc<dyn HistoryService>>,
    retention: Option<Arc<dyn RetentionService>>,
    /// The name of this case's app.
    pub(crate) app: String,
}

impl Context {
    #[allow(clippy::disallowed_methods, reason = "each case has an app of its own")]
    pub(crate) fn new(target: Target, services: Services) -> Self {
        let app = format!("app-{:016x}", fastrand::u64(..));
        let Services { sessions: service, state, directory, history, retention } = services;
        Self { target, service, state, directory, history, retention, app }
    }

    /// Another service on the same store.
    pub(crate) async fn another_service(&self) -> anyhow::Result<Arc<dyn SessionService>> {
        match self.target.open().await? {
            Opened::Service(services) => Ok(services.sessions),
            Opened::Ignored(reason) => anyhow::bail!("the target went away: {reason}"),
        }
    }

    /// The service as a [`StateService`]. Cases that call this need [`Capability::State`](crate::cases::Capability).
    pub(crate) fn state(&self) -> anyhow::Result<&Arc<dyn StateService>> {
        self.state.as_ref().context("the service implements no StateService")
    }

    /// The service as a [`DirectoryService`]. Cases that call this need
    /// [`Capability::Directory`](crate::cases::Capability).
    pub(crate) fn directory(&self) -> anyhow::Result<&Arc<dyn DirectoryService>> {
        self.directory.as_ref().context("the service implements no DirectoryService")
    }

    /// Another service on the same store, as a [`DirectoryService`].
    pub(crate) async fn another_directory(&self) -> anyhow::Result<Arc<dyn DirectoryService>> {
        match self.target.open().await? {
            Opened::Service(services) => services.directory.context("the service implements no DirectoryService"),
            Opened::Ignored(reason) => anyhow::bail!("the target went away: {reason}"),
        }
    }

    /// The service as a [`HistoryService`]. Cases that call this need [`Capability::History`](crate::cases::Capability).
    pub(crate) fn history(&self) -> anyhow::Result<&Arc<dyn HistoryService>> {
        self.history.as_ref().context("the service implements no HistoryService")
    }

    /// Another service on the same store, as a [`HistoryService`].
    pub(crate) async fn another_history(&self) -> anyhow::Result<Arc<dyn HistoryService>> {
        match self.target.open().await? {
            Opened::Service(services) => services.history.context("the service implements no HistoryService"),
            Opened::Ignored(reason) => anyhow::bail!("the target went away: {reason}"),
        }
    }

    /// The service as a [`RetentionService`]. Cases that call this need
    /// [`Capability::Retention`](crate::cases::Capability).
    pub(crate) fn retention(&self) -> anyhow::Result<&Arc<dyn RetentionService>> {
        self.retention.as_ref().context("the service implements no RetentionService")
    }

    /// Another service on the same store, as a [`RetentionService`].
    pub(crate) async fn another_retention(&self) -> anyhow::Result<Arc<dyn RetentionService>> {
        match self.target.open().await? {
            Opened::Service(services) => services.retention.context("the service implements no RetentionService"),
            Opened::Ignored(reason) => anyhow::bail!("the target went away: {reason}"),
        }
    }

    /// This case's app.
    pub(crate) fn app_name(&self) -> anyhow::Result<AppName> {
        Ok(AppName::try_new(&self.app)?)
    }

    /// A user of this case's app.
    pub(crate) fn user(&self, user_id: &str) -> anyhow::Result<UserKey> {
        Ok(UserKey::try_new(&self.app, user_id)?)
    }

    /// A session of this case's app.
    pub(crate) fn key(&self, user_id: &str, session_id: &str) -> anyhow::Result<SessionKey> {
        Ok(SessionKey::try_new(&self.app, user_id, session_id)?)
    }

    /// A new session of `user_id` without state.
    pub(crate) async fn session(&self, user_id: &str) -> anyhow::Result<Session> {
        Ok(self.service.create_session(CreateSession::new(self.user(user_id)?)).await?)
    }

    /// A new session with an explicit id and state.
    pub(crate) async fn create(&self, key: &SessionKey, state: State) -> seabed_core::Result<Session> {
        self.service.create_session(request(key, state)).await
    }

    /// Appends at any revision.
    pub(crate) async fn append(&self, key: &SessionKey, event: Event) -> seabed_core::Result<Appended> {
        self.service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await
    }

    /// Appends if the session is at `revision`.
    pub(crate) async fn append_at(
        &self,
        key: &SessionKey,
        event: Event,
        revision: Revision,
    ) -> seabed_core::Result<Appended> {
        self.service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Exact(revision))).await
    }

    /// Returns the session with all events; an error if it does not exist.
    pub(crate) async fn get(&self, key: &SessionKey) -> anyhow::Result<Session> {
        self.service.get_session(GetSession::new(key.clone())).await?.context("the session is gone")
    }
}

/// Builds a request for a session with an explicit id and state.
pub(crate) fn request(key: &SessionKey, state: State) -> CreateSession {
    CreateSession::new(key.user()).with_session_id(key.session_id.clone()).with_state(state)
}

/// A checked session id.
pub(crate) fn session_id(id: &str) -> anyhow::Result<SessionId> {
    Ok(SessionId::try_new(id)?)
}

/// Runs `count` tasks concurrently and returns their results in no particular order.
pub(crate) async fn at_once<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(task(number));
    }
    tasks.join_all().await
}

/// Returns the ids of the events of a session, in order.
pub(crate) fn event_ids(session: &Session) -> Vec<&str> {
    session.events.iter().map(|event| event.id.as_str()).collect()
}
