//! Seabed against the limit: the server itself, running the same statements for pgbench or for the bare driver.
//!
//! `cargo xtask bench` runs it. Each work is measured in rounds that alternate between the limit and Seabed, so that
//! other load on the machine affects both. Each ratio comes from one round. The tables show medians, and the lowest and
//! highest ratio.

#![allow(clippy::disallowed_methods, reason = "tests measure time, and choose names and faults at random")]

mod conflicts;
mod growth;
mod limit;
mod measure;
mod serve;
mod stream;
mod tables;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use seabed_tests::{Kind, Servers};

use measure::{Load, Outcome};
use tables::Store;
use work::Work;

/// Measures Seabed and prints tables in Markdown.
#[derive(Debug, Parser)]
struct Options {
    /// One short round of each work
    #[arg(long)]
    quick: bool,
    /// Only these targets; `postgres_15` is another
    #[arg(long, value_delimiter = ',', default_value = "postgres_18,mysql_9,mariadb,sqlite_file")]
    targets: Vec<String>,
    /// Only works whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Rounds of each work
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each side of a round
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// The bare driver as the limit also on PostgreSQL, instead of pgbench
    #[arg(long)]
    bare: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Streams the events of the session that `only` names at this URL, and prints how many KiB that took
    #[arg(long, hide = true)]
    stream: Option<String>,
    /// Only starts the servers of these targets, for `cargo xtask bench --against`
    #[arg(long, hide = true, value_delimiter = ',')]
    serve: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let outcome = match (&options.stream, &options.serve) {
        (Some(url), _) => runtime.block_on(stream::measure(url, &options.only)),
        (None, Some(targets)) => runtime.block_on(serve::run(targets)),
        (None, None) => runtime.block_on(run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let servers = Servers::default();
    let measured = measure_all(options, &servers).await;
    servers.stop().await?;
    measured
}

async fn measure_all(options: &Options, servers: &Servers) -> anyhow::Result<()> {
    let stores = Kind::ALL.into_iter().map(|kind| (kind.name(), Some(kind))).chain([("sqlite_file", None)]);
    for (name, kind) in stores.filter(|(name, _)| options.targets.iter().any(|target| target == name)) {
        let store = match Store::make(kind, servers, options.bare).await {
            Ok(store) => store,
            Err(error) => {
                println!("\n### {name}: not measured: {error:#}");
                continue;
            }
        };
        println!("\n### {name} {}, limit: {}\n", store.version, store.limit_name());
        println!(
            "| work | clients | limit/s | Seabed/s | ratio | lowest to highest | to the best limit | median | p99 \
             | us of CPU / limit's | goal |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for work in Work::all().into_iter().filter(|work| work.name().contains(&options.only)) {
            measure_work(options, &store, &work).await?;
        }
        if options.only.is_empty() || "growth".contains(&options.only) {
            growth::measure(options, &store).await?;
        }
        if options.only.is_empty() || "conflicts".contains(&options.only) {
            conflicts::measure(options, &store).await?;
        }
        store.remove().await?;
    }
    Ok(())
}

async fn measure_work(options: &Options, store: &Store, work: &Work) -> anyhow::Result<()> {
    let limit = limit::Limit::new(store, work).await?;
    let mut outcomes = Vec::new();
    for clients in work.clients() {
        let (rounds, length) = if options.quick {
            (1, Duration::from_secs(1))
        } else {
            (options.rounds, Duration::from_secs(options.seconds))
        };
        let load = Load { clients, length };
        // The warm-up opens connections, prepares statements, and makes the server plan them.
        work.run(store, load).await?;
        let mut outcome = Outcome::default();
        for round in 0..rounds {
            // They alternate, and each goes first in half of the rounds.
            if round % 2 == 0 {
                let limit = limit.run(store, load).await?;
                outcome.add(&limit, work.run(store, load).await?);
            } else {
                let seabed = work.run(store, load).await?;
                outcome.add(&limit.run(store, load).await?, seabed);
            }
        }
        outcomes.push((clients, outcome));
    }
    // A server may do less for many clients than for some.
    let best = outcomes.iter().map(|(_, outcome)| outcome.limit()).fold(0.0, f64::max);
    for (clients, outcome) in outcomes {
        println!("| {} | {clients} | {} |", work.name(), outcome.columns(best, work.goal(store, clients)));
    }
    Ok(())
}
