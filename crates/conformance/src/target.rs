//! What the suite runs against.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use libtest_mimic::{Completion, Failed, Trial};
use seabed_core::SessionService;
use tokio::runtime::Runtime;

use crate::Context;

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

    /// One case on this target.
    pub fn trial<F>(&self, runtime: &Arc<Runtime>, name: &str, case: impl Fn(Context) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (target, runtime) = (self.clone(), runtime.clone());
        let name = format!("{}::{name}", self.name);
        Trial::ignorable_test(name, move || {
            runtime.block_on(async {
                match target.open().await {
                    Ok(Opened::Service(service)) => {
                        case(Context::new(target.clone(), service)).await.map_err(failed)?;
                        Ok(Completion::Completed)
                    }
                    Ok(Opened::Ignored(reason)) => Ok(Completion::ignored_with(reason)),
                    Err(error) => Err(failed(error)),
                }
            })
        })
    }
}

/// The whole chain of causes, unlike an error's own `Display`.
fn failed(error: impl Into<anyhow::Error>) -> Failed {
    Failed::from(format!("{:?}", error.into()))
}
