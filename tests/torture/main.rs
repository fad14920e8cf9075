//! `cargo xtask torture`.

#![allow(clippy::disallowed_methods, reason = "tests measure time, and choose names and faults at random")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use seabed_tests::torture::{Plan, Target, run, work_if_told};

/// Makes random calls from several processes while servers, workers and connections are killed, and checks that nothing
/// was lost, doubled, reordered or torn. Exit status 0 if so. A server that a URL in the environment names is killed
/// only by `--kill-command`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask torture")]
struct Options {
    /// `postgres_15`, `postgres_18`, `mysql_9`, `mariadb`, `sqlite_file`, or a cluster of `cargo xtask clusters`
    #[arg(long, value_parser = target)]
    backend: Target,
    /// For how long at least
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many acknowledged writes at least
    #[arg(long, default_value_t = 0)]
    writes: u64,
    /// How many kills of the server, and of workers, at least
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// A shell command that kills the server, and returns when it is back, or when another is in its place
    #[arg(long)]
    kill_command: Option<String>,
    /// What all that is random follows from; a fresh one by default
    #[arg(long)]
    seed: Option<u64>,
    /// Processes at once
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Calls of each process at once
    #[arg(long, default_value_t = 8)]
    tasks: usize,
    /// The longest pause between two faults, in milliseconds
    #[arg(long, default_value_t = 800)]
    pause: u64,
    /// Kill, cut, stall and lock nothing
    #[arg(long)]
    no_faults: bool,
    /// Without the fast paths
    #[arg(long)]
    portable: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(torture()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn torture() -> anyhow::Result<bool> {
    if let Some(worked) = work_if_told().await {
        return worked.map(|()| true);
    }
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let name = options.backend.name();
    println!("{name} with seed {seed}");
    let plan = Plan {
        target: options.backend,
        length: Duration::from_secs(options.seconds),
        writes: options.writes,
        kills: options.kills,
        kill_command: options.kill_command,
        seed,
        processes: options.processes,
        tasks: options.tasks,
        pause: (!options.no_faults).then(|| Duration::from_millis(options.pause)),
        fast: !options.portable,
    };
    let outcome = run(&plan).await?;
    println!("{name} {}\n{outcome}", outcome.version);
    Ok(outcome.objections.is_empty())
}

fn target(name: &str) -> anyhow::Result<Target> {
    Target::named(name).with_context(|| format!("no such backend: {name}"))
}
