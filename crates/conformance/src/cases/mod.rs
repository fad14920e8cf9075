//! The cases, grouped by law.

mod deletes;
mod events;
mod handles;
mod ids;
mod lists;
mod races;
mod reads;
mod refusals;
mod revisions;
mod state;

use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Completion, Failed};

use crate::{Context, Opened, Target};

/// A law, or part of one, and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The law as a sentence in snake case.
    pub name: &'static str,
    check: fn(Context) -> LocalBoxFuture<'static, anyhow::Result<()>>,
}

impl Case {
    /// Checks the law on `target`, in an app of its own.
    ///
    /// # Errors
    /// If the law does not hold, or the target cannot be opened. Some cases panic instead.
    pub async fn run(&self, target: &Target) -> Result<Completion, Failed> {
        match target.open().await.map_err(|error| failed(&error))? {
            Opened::Ignored(reason) => Ok(Completion::ignored_with(reason)),
            Opened::Service(service) => {
                (self.check)(Context::new(target.clone(), service)).await.map_err(|error| failed(&error))?;
                Ok(Completion::Completed)
            }
        }
    }
}

/// Includes the whole chain of causes, unlike the error's own `Display`.
fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}

/// Builds a list of cases from functions with the same names.
macro_rules! case_list {
    ($($case:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::Case] =
            &[$($crate::Case { name: stringify!($case), check: |context| Box::pin($case(context)) }),*];
    };
}
pub(crate) use case_list;

/// Returns every case.
pub fn cases() -> impl Iterator<Item = Case> {
    [
        races::CASES,
        events::CASES,
        revisions::CASES,
        state::CASES,
        reads::CASES,
        ids::CASES,
        lists::CASES,
        deletes::CASES,
        handles::CASES,
        refusals::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
