//! `cargo xtask bench --against COMMIT`: the benchmark of another commit and that of the tree, in pairs.
//!
//! A machine's speed drifts by more than most changes are worth. So both programs run right after each other, on the
//! same server, and only the two rates of one pair are compared.

mod program;
mod rates;
mod servers;

use anyhow::ensure;
use clap::Parser;

use program::Program;
use rates::Pairs;
use servers::Servers;

/// What one run of a program measures unless `--only` is given: together all works, but in parts, so that the two runs
/// of a pair are close in time. Growth is left out, because it prints no rates.
const PARTS: [&str; 4] = ["create", "append", "get", "list"];

/// Compare the rates of another commit's benchmark with those of the tree.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Options {
    /// The commit to compare with
    #[arg(long)]
    against: String,
    /// How often each program runs
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Only these targets
    #[arg(long, value_delimiter = ',', default_value = "postgres_18,mysql_9,mariadb,sqlite_file")]
    targets: Vec<String>,
    /// Only works whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1)]
    seconds: u64,
}

/// Whether the arguments of `cargo xtask bench` ask for a comparison.
pub(crate) fn is_asked_for(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--against" || argument.starts_with("--against="))
}

/// Runs both programs and prints a table. Always true: a comparison has no goal to miss.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let program = [String::new()];
    let options = Options::parse_from(program.iter().chain(arguments));
    crate::servers::get()?;
    let workspace = crate::servers::workspace()?;
    let before = Program::of_commit(workspace, &options.against)?;
    let after = Program::of_tree(workspace)?;
    let servers = Servers::start(&after, &options.targets)?;
    let measured = measure(&options, &before, &after, &servers);
    servers.stop()?;
    let pairs = measured?;
    ensure!(!pairs.is_empty(), "nothing was measured by both programs");
    println!("\n{pairs}");
    Ok(true)
}

fn measure(options: &Options, before: &Program, after: &Program, servers: &Servers) -> anyhow::Result<Pairs> {
    let parts: Vec<&str> = options.only.as_deref().map_or_else(|| PARTS.to_vec(), |only| vec![only]);
    let mut pairs = Pairs::default();
    for round in 0..options.pairs {
        for target in &options.targets {
            for part in &parts {
                eprintln!("Pair {} of {}: {target}, {part}.", round + 1, options.pairs);
                let rates = |program: &Program| program.rates(target, part, options.seconds, servers);
                // Each goes first in half of the pairs, because the second meets what the first left behind.
                let (of_before, of_after) = if round % 2 == 0 {
                    let of_before = rates(before)?;
                    (of_before, rates(after)?)
                } else {
                    let of_after = rates(after)?;
                    (rates(before)?, of_after)
                };
                pairs.add(target, &of_before, &of_after);
            }
        }
    }
    Ok(pairs)
}
