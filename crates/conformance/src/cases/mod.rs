//! The cases, by the law they belong to.

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

use crate::Context;

type Case = (&'static str, fn(Context) -> LocalBoxFuture<'static, anyhow::Result<()>>);

/// Makes a list of cases out of functions of the same names.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::cases::Case] =
            &[$((stringify!($case), |context| Box::pin($case(context)))),*];
    };
}
pub(crate) use cases;

pub(crate) fn all() -> impl Iterator<Item = Case> {
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
