//! The short form of `cargo xtask torture`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use seabed_tests::torture::{Plan, Target, run, work_if_told};
use tokio::runtime::Runtime;

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [nothing_is_lost_under_torture],
}

/// Runs this process as a worker, if it was started as one.
pub(crate) fn run_as_child(runtime: &Runtime) -> Option<ExitCode> {
    Some(match runtime.block_on(work_if_told())? {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

/// Uses its own server, which is killed, unless a URL in the environment names it, and a new random seed each time; a
/// failure reports the seed.
async fn nothing_is_lost_under_torture(fixture: &Fixture) -> anyhow::Result<()> {
    let seed = fastrand::u64(..);
    let plan = Plan {
        target: fixture.kind.map_or(Target::File, Target::Server),
        length: Duration::from_secs(10),
        writes: 500,
        kills: 1,
        kill_command: None,
        seed,
        processes: 2,
        tasks: 4,
        pause: Some(Duration::from_millis(800)),
        fast: true,
    };
    let outcome = run(&plan).await?;
    println!("{} with seed {seed}:\n{outcome}", outcome.version);
    ensure!(outcome.objections.is_empty(), "seed {seed}: {outcome}");
    Ok(())
}
