//! The cases, a file for each kind of guarantee.

mod deletes;
mod directory;
mod events;
mod expiry;
mod finding;
mod forks;
mod handles;
mod history;
mod ids;
mod lists;
mod races;
mod reads;
mod redactions;
mod refusals;
mod retention;
mod revisions;
mod state;
mod state_updates;
mod summaries;

use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Completion, Failed};

use crate::{Context, Opened, Services, Target};

/// A guarantee, or part of one, and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The guarantee as a sentence in snake case.
    pub name: &'static str,
    needs: Capability,
    check: fn(Context) -> LocalBoxFuture<'static, anyhow::Result<()>>,
}

impl Case {
    /// Checks the guarantee on `target`, in an app of its own.
    ///
    /// # Errors
    /// If the guarantee does not hold, or the target cannot be opened. Some cases panic instead.
    #[allow(clippy::future_not_send, reason = "a case runs on the thread of its test")]
    pub async fn run(&self, target: &Target) -> Result<Completion, Failed> {
        match target.open().await.map_err(|error| failed(&error))? {
            Opened::Ignored(reason) => Ok(Completion::ignored_with(reason)),
            Opened::Service(services) if !self.needs.is_met_by(&services) => {
                Ok(Completion::ignored_with(format!("the service implements no {:?}Service", self.needs)))
            }
            Opened::Service(services) => {
                (self.check)(Context::new(target.clone(), services)).await.map_err(|error| failed(&error))?;
                Ok(Completion::Completed)
            }
        }
    }
}

/// A trait that a case needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    Session,
    State,
    Directory,
    History,
    Retention,
}

impl Capability {
    fn is_met_by(self, services: &Services) -> bool {
        match self {
            Self::Session => true,
            Self::State => services.state.is_some(),
            Self::Directory => services.directory.is_some(),
            Self::History => services.history.is_some(),
            Self::Retention => services.retention.is_some(),
        }
    }
}

/// Includes the whole chain of causes, unlike the error's own `Display`.
fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}

/// Builds a list of cases from functions with the same names.
macro_rules! case_list {
    (needs $needs:ident: $($case:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::Case] = &[$($crate::Case {
            name: stringify!($case),
            needs: $crate::cases::Capability::$needs,
            check: |context| Box::pin($case(context)),
        }),*];
    };
    ($($case:ident),* $(,)?) => { $crate::cases::case_list![needs Session: $($case),*]; };
}
pub(crate) use case_list;

/// Returns every case.
pub fn cases() -> impl Iterator<Item = Case> {
    [
        races::CASES,
        events::CASES,
        revisions::CASES,
        state::CASES,
        state_updates::CASES,
        summaries::CASES,
        reads::CASES,
        ids::CASES,
        lists::CASES,
        deletes::CASES,
        directory::CASES,
        finding::CASES,
        forks::CASES,
        redactions::CASES,
        retention::CASES,
        expiry::CASES,
        handles::CASES,
        history::CASES,
        refusals::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
