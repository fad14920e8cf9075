//! What the suite runs against.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use seabed_core::{DirectoryService, HistoryService, RetentionService, SessionService, StateService};

/// The result of opening a target.
pub enum Opened {
    /// A service on the target's one store.
    Service(Services),
    /// The target is not available here, for this reason. Its cases are reported as ignored.
    Ignored(String),
}

/// A service, and the further traits that it implements.
#[derive(Clone)]
#[non_exhaustive]
pub struct Services {
    pub(crate) sessions: Arc<dyn SessionService>,
    pub(crate) state: Option<Arc<dyn StateService>>,
    pub(crate) directory: Option<Arc<dyn DirectoryService>>,
    pub(crate) history: Option<Arc<dyn HistoryService>>,
    pub(crate) retention: Option<Arc<dyn RetentionService>>,
}

impl Services {
    /// A service of which only [`SessionService`] is tested. Cases of other traits are ignored.
    pub fn new(sessions: Arc<dyn SessionService>) -> Self {
        Self { sessions, state: None, directory: None, history: None, retention: None }
    }

    /// A service of which [`StateService`] is tested as well.
    pub fn with_state(state: Arc<dyn StateService>) -> Self {
        Self { state: Some(state.clone()), ..Self::new(state) }
    }

    /// Also tests [`DirectoryService`], of the same service.
    pub fn and_directory(mut self, directory: Arc<dyn DirectoryService>) -> Self {
        self.directory = Some(directory);
        self
    }

    /// Also tests [`HistoryService`], of the same service.
    pub fn and_history(mut self, history: Arc<dyn HistoryService>) -> Self {
        self.history = Some(history);
        self
    }

    /// Also tests [`RetentionService`], of the same service.
    pub fn and_retention(mut self, retention: Arc<dyn RetentionService>) -> Self {
        self.retention = Some(retention);
        self
    }
}

type Open = dyn Fn() -> BoxFuture<'static, anyhow::Result<Opened>> + Send + Sync;

/// A store under test, and how to open services on it.
#[derive(Clone)]
pub struct Target {
    name: String,
    open: Arc<Open>,
}

impl Target {
    /// Creates a target called `name`. Each call of `open` returns a service on the same store, with its own
    /// connections if the store has any. A case opens several services to simulate several processes.
    pub fn new<F>(name: impl Into<String>, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<Opened>> + Send + 'static,
    {
        Self { name: name.into(), open: Arc::new(move || Box::pin(open())) }
    }

    /// Returns the name of the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a service on the store.
    ///
    /// # Errors
    /// Those of the `open` function.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        (self.open)().await
    }
}
