//! `cargo xtask clusters`.

#![allow(clippy::disallowed_methods, reason = "a run chooses its faults at random")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use seabed_tests::Setup;
use seabed_tests::torture::{Outages, Outcome, Plan, Target, run, work_if_told};

/// Starts clusters on this machine, one after the other, makes random calls on each from several processes while its
/// primary, workers and connections are killed, and checks that nothing that was acknowledged is lost. Exit status 0 if
/// so.
///
/// PostgreSQL, Patroni, etcd and HAProxy are those of this machine (Debian: postgresql patroni etcd-server haproxy);
/// MariaDB and MySQL run in Docker, in containers of the images mariadb:10.11 and mysql:9.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask clusters")]
struct Options {
    /// `postgres_pair`, `postgres_addresses`, `patroni`, `galera`, `group_replication`; all of them by default
    #[arg(value_parser = setup)]
    clusters: Vec<Setup>,
    /// How many kills of the primary, and of workers, at least
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// For how many seconds at least
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// What all that is random follows from; a fresh one for each cluster by default
    #[arg(long)]
    seed: Option<u64>,
    /// Processes at once
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// Calls of each process at once
    #[arg(long, default_value_t = 8)]
    tasks: usize,
}

fn setup(name: &str) -> anyhow::Result<Setup> {
    Setup::ALL.into_iter().find(|setup| setup.name() == name).with_context(|| format!("no such cluster: {name}"))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(clusters()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("clusters: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn clusters() -> anyhow::Result<bool> {
    if let Some(worked) = work_if_told().await {
        return worked.map(|()| true);
    }
    let options = Options::parse();
    let chosen = if options.clusters.is_empty() { Setup::ALL.to_vec() } else { options.clusters.clone() };
    let mut rows = Vec::new();
    let mut is_sound = true;
    for setup in chosen {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        println!("{} with seed {seed}", setup.name());
        let plan = Plan {
            target: Target::Cluster(setup),
            length: Duration::from_secs(options.seconds),
            writes: 0,
            kills: options.kills,
            kill_command: None,
            seed,
            processes: options.processes,
            tasks: options.tasks,
            pause: Some(Duration::from_millis(800)),
            fast: true,
        };
        match run(&plan).await {
            Ok(outcome) => {
                println!("{} {}\n{outcome}\n", setup.name(), outcome.version);
                is_sound &= outcome.objections.is_empty();
                rows.push(row(setup, &outcome));
            }
            Err(error) => {
                println!("{} was not run to its end: {error:#}\n", setup.name());
                is_sound = false;
            }
        }
    }
    println!("| cluster | kills | writes acknowledged | lost or wrong | {} |", Outages::COLUMNS.join(" | "));
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for row in &rows {
        println!("{row}");
    }
    Ok(is_sound)
}

fn row(setup: Setup, Outcome { version, counts, outages, objections, .. }: &Outcome) -> String {
    let (name, kills, acknowledged) = (setup.name(), outages.until_ready.len(), counts.acknowledged);
    let (wrong, times) = (objections.len(), outages.columns().join(" | "));
    format!("| {name}, {version} | {kills} | {acknowledged} | {wrong} | {times} |")
}
