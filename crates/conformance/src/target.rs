//! What the suite runs against.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use seabed_core::SessionService;

/// What became of opening a target.
pub enum Opened {
    /// A service on the target's one store.
    Service(Arc<dyn SessionService>),
    /// The target cannot be had here, for this reason: its cases are reported as ignored.
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
    /// A store called `name`. Each call of `open` gives a service on the same store, with connections of its own where
    /// the store has any: a case opens several to stand for several processes.
    pub fn new<F>(name: impl Into<String>, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<Opened>> + Send + 'static,
    {
        Self { name: name.into(), open: Arc::new(move || Box::pin(open())) }
    }

    /// What the store is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a service on the store.
    ///
    /// # Errors
    /// Those of the function that opens it.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        (self.open)().await
    }
}
