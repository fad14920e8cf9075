//! What the suite runs against.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use seabed_core::SessionService;

/// The result of opening a target.
pub enum Opened {
    /// A service on the target's one store.
    Service(Arc<dyn SessionService>),
    /// The target is not available here, for this reason. Its cases are reported as ignored.
    Ignored(String),
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
