//! Everything that runs on real databases: the conformance suite on seven targets, and the cases that need direct
//! access to a database: processes, migrations, corrupt rows, connections, transactions.
//!
//! Run it with `cargo xtask test`, or `cargo test -p seabed-tests -- FILTER`.

#![allow(clippy::disallowed_methods, reason = "tests measure time, and choose names and faults at random")]

mod addresses;
mod adk_rust;
mod adk_rust_runner;
mod branches;
mod cancellation;
mod clusters;
mod connections;
mod contents;
mod durability;
mod errors;
mod failover;
mod faults;
mod files;
mod fixture;
mod groups;
mod histories;
mod interop;
mod large;
mod late;
mod limits;
mod lines;
mod migrations;
mod model;
mod odd_keys;
mod odd_rows;
mod own_tables;
mod own_tables_copied;
mod pools;
mod pressure;
mod processes;
mod python;
mod repairs;
mod risks;
mod round_trips;
mod rows;
mod runtimes;
mod state_limits;
mod strangers;
mod tables;
mod targets;
mod torture;
mod traces;
mod transactions;
mod transfer;
mod upgrade;
mod upgrade_others;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use seabed_tests::{ADK_1_26, ADK_2_13, Adk, BINDING, Family, PgBouncer, Report, Unavailable};
use tokio::runtime::Runtime;

use fixture::Fixture;
use targets::{Store, Stores};

/// A case that runs on its own database, which has no tables yet.
#[derive(Clone, Copy)]
struct DatabaseCase {
    name: &'static str,
    on: Where,
    check: fn(&Fixture) -> LocalBoxFuture<'_, anyhow::Result<()>>,
}

/// No case takes a third of this; it only makes a hanging case fail.
const CASE_TIMEOUT: Duration = Duration::from_mins(3);

/// The stores on which a case runs, and what else it needs. On other stores there is nothing to check, and the case is
/// not listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Everywhere,
    Servers,
    Postgres,
    /// And MariaDB.
    MySql,
    /// Where JSON is text, which other programs may fill with anything.
    ExceptPostgres,
    Sqlite,
    /// sqlx's MySQL driver loses count of the server's replies if a statement is dropped while it is being prepared.
    ExceptMySql,
    /// Everywhere, together with the newest google-adk.
    BesideAdk,
    /// On SQLite, together with the newest google-adk: what it computes without a database.
    SqliteBesideAdk,
    /// Everywhere, together with google-adk 1.26.
    BesideAdk126,
    /// Everywhere, with the Python package.
    InPython,
    /// PostgreSQL, through a PgBouncer.
    BehindPgBouncer,
}

impl Where {
    fn includes(self, store: Store) -> bool {
        match store {
            Store::Server(kind) if kind.family() == Family::MySql => !matches!(
                self,
                Self::Sqlite | Self::SqliteBesideAdk | Self::Postgres | Self::ExceptMySql | Self::BehindPgBouncer
            ),
            Store::Server(_) => {
                !matches!(self, Self::Sqlite | Self::SqliteBesideAdk | Self::ExceptPostgres | Self::MySql)
            }
            Store::SqliteFile => !matches!(self, Self::Servers | Self::Postgres | Self::MySql | Self::BehindPgBouncer),
            Store::Memory | Store::SqliteMemory => false,
        }
    }

    fn adk(self) -> Option<&'static Adk> {
        match self {
            Self::BesideAdk | Self::SqliteBesideAdk => Some(&ADK_2_13),
            Self::BesideAdk126 => Some(&ADK_1_26),
            Self::Everywhere
            | Self::Servers
            | Self::Postgres
            | Self::MySql
            | Self::ExceptPostgres
            | Self::Sqlite
            | Self::ExceptMySql
            | Self::InPython
            | Self::BehindPgBouncer => None,
        }
    }
}

/// Builds a list of cases from functions with the same names.
macro_rules! database_cases {
    ($($on:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        pub(crate) const CASES: &[crate::DatabaseCase] = &[$($(crate::DatabaseCase {
            name: stringify!($case),
            on: crate::Where::$on,
            check: |fixture| Box::pin($case(fixture)),
        }),*),*];
    };
}
pub(crate) use database_cases;

#[allow(clippy::too_many_lines, reason = "the list of all cases")]
fn main() -> ExitCode {
    let runtime = Arc::new(Runtime::new().expect("a runtime for the tests"));
    if let Some(outcome) = processes::run_as_child(&runtime).or_else(|| torture::run_as_child(&runtime)) {
        return outcome;
    }
    let arguments = Arguments::from_args();
    let stores = Arc::new(Stores::default());
    let report = Report::default();
    let mut trials = Vec::new();
    for store in Store::ALL {
        let has_fast_paths = store != Store::Memory;
        for (suffix, fast) in [("", true), ("_portable", false)].into_iter().take(1 + usize::from(has_fast_paths)) {
            let target = stores.target(store, fast);
            for case in seabed_conformance::cases() {
                let (runtime, target, report) = (runtime.clone(), target.clone(), report.clone());
                let name = format!("{}{suffix}::{}", store.name(), case.name);
                trials.push(Trial::ignorable_test(name, move || {
                    report.count(store.name(), || runtime.block_on(case.run(&target)))
                }));
            }
        }
        let cases = [
            addresses::CASES,
            adk_rust::CASES,
            adk_rust_runner::CASES,
            branches::CASES,
            cancellation::CASES,
            clusters::CASES,
            connections::CASES,
            contents::CASES,
            durability::CASES,
            errors::CASES,
            failover::CASES,
            large::CASES,
            late::CASES,
            pools::CASES,
            pressure::CASES,
            faults::CASES,
            files::CASES,
            groups::CASES,
            histories::CASES,
            interop::CASES,
            limits::CASES,
            lines::CASES,
            migrations::CASES,
            model::CASES,
            odd_keys::CASES,
            odd_rows::CASES,
            own_tables::CASES,
            own_tables_copied::CASES,
            processes::CASES,
            python::CASES,
            repairs::CASES,
            risks::CASES,
            round_trips::CASES,
            rows::CASES,
            runtimes::CASES,
            state_limits::CASES,
            strangers::CASES,
            tables::CASES,
            torture::CASES,
            traces::CASES,
            transactions::CASES,
            transfer::CASES,
            upgrade::CASES,
            upgrade_others::CASES,
            verify::CASES,
        ];
        for case in cases.into_iter().flatten().filter(|case| case.on.includes(store)) {
            let (runtime, stores, report) = (runtime.clone(), stores.clone(), report.clone());
            let name = format!("{}::{}", store.name(), case.name);
            trials.push(Trial::ignorable_test(name, move || {
                report.count(store.name(), || runtime.block_on(run_on_fixture(&stores, store, case)))
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        println!("{}", stores.finish(&report));
    }
    let stopped = runtime.block_on(async move {
        let stores = Arc::into_inner(stores);
        match stores {
            Some(stores) => stores.stop().await,
            None => anyhow::bail!("a case still holds the servers"),
        }
    });
    match stopped {
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("a server could not be stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs before the case's timeout begins, since google-adk may have to be installed, and the Python package built.
async fn needed(stores: &Stores, store: Store, case: &DatabaseCase) -> Result<Fixture, Unavailable> {
    if let Some(adk) = case.on.adk() {
        adk.python().await?;
    }
    if case.on == Where::InPython {
        BINDING.python().await?;
    }
    if case.on == Where::BehindPgBouncer {
        PgBouncer::find()?;
    }
    stores.fixture(store).await
}

#[allow(clippy::future_not_send, reason = "a case runs on the thread of its test")]
async fn run_on_fixture(stores: &Stores, store: Store, case: &DatabaseCase) -> Result<Completion, Failed> {
    let fixture = match needed(stores, store, case).await {
        Ok(fixture) => fixture,
        Err(unavailable) if unavailable.required => return Err(unavailable.reason.into()),
        Err(unavailable) => return Ok(Completion::ignored_with(unavailable.reason)),
    };
    let outcome = tokio::time::timeout(CASE_TIMEOUT, (case.check)(&fixture)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("the case hangs")));
    let removed = tokio::time::timeout(CASE_TIMEOUT, fixture.remove()).await;
    let removed = removed.unwrap_or_else(|_| Err(anyhow::anyhow!("the database of the case is still in use")));
    let unavailable = outcome.as_ref().err().and_then(|error| error.downcast_ref::<Unavailable>());
    if let Some(unavailable) = unavailable.filter(|unavailable| !unavailable.required) {
        return Ok(Completion::ignored_with(unavailable.reason.clone()));
    }
    outcome.and(removed).map_err(|error| Failed::from(format!("{error:?}")))?;
    Ok(Completion::Completed)
}
