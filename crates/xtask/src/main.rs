//! `cargo xtask`: what CI and people call.

mod against;
mod cargo;
mod measure;
mod mutants;
mod public_api;
mod servers;
mod test;
mod wheel;

// The harness's own knowledge of the servers, by file: building the harness only to learn their names would take
// minutes.
#[path = "../../../tests/src/installed.rs"]
#[allow(unreachable_pub, reason = "public in the harness")]
mod installed;
#[path = "../../../tests/src/kind.rs"]
#[allow(dead_code, unreachable_pub, reason = "public in the harness, which uses all of it")]
mod kind;
#[path = "../../../tests/src/source.rs"]
#[allow(unreachable_pub, reason = "public in the harness")]
mod source;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kind::Kind;

/// The commands of Seabed's workshop.
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get the database servers, run every test of the workspace on them, and show a table of what ran where
    Test {
        /// Passed on to `cargo test --workspace`; `--test suite -- google_adk` runs only cases with that in their names
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure Seabed against the servers themselves, and print tables; `--quick` for a short run, `-- --help` for the
    /// rest. `--against COMMIT` compares the benchmark of another commit with that of the tree, in `--pairs N`
    Bench {
        /// Passed on to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Take away each guard against a race or a fault, one at a time, and show the case that fails then; needs every
    /// server, and the better part of an hour
    Mutants {
        /// Build nothing; only check that each mutant still applies to the code
        #[arg(long, conflicts_with = "only")]
        check: bool,
        /// Only guards whose names or cases contain one of these
        only: Vec<String>,
    },
    /// Write the public API of `seabed` and `seabed-core` to docs/public-api; needs Rust 1.95
    PublicApi {
        /// Write nothing; only show what has changed
        #[arg(long)]
        check: bool,
    },
    /// Kill servers, workers and connections under load, and check that nothing is lost; `--backend` says where,
    /// `--help` the rest
    Torture {
        /// Passed on to the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Start clusters of PostgreSQL, MariaDB and MySQL, kill their primaries under load, and check that nothing is lost;
    /// needs Debian's packages or Docker, as `-- --help` says, and some minutes for each cluster
    Clusters {
        /// Passed on to the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the wheel of the Python package from what is committed, install it as a new user would, and run the
    /// program of its README; needs `python3` with `venv`, and the network
    Wheel,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Test { arguments } => test::run(&arguments),
        Command::Bench { arguments } if against::is_asked_for(&arguments) => against::run(&arguments),
        Command::Bench { arguments } => {
            measure::run(&["bench", "--package", "seabed-tests", "--bench", "bench"], &arguments)
        }
        Command::Mutants { check: true, .. } => mutants::check(),
        Command::Mutants { check: false, only } => mutants::run(&only),
        Command::PublicApi { check } => public_api::run(check),
        Command::Torture { arguments } => {
            measure::run(&["run", "--release", "--package", "seabed-tests", "--bin", "torture"], &arguments)
        }
        Command::Clusters { arguments } => {
            measure::run(&["run", "--release", "--package", "seabed-tests", "--bin", "clusters"], &arguments)
        }
        Command::Wheel => wheel::run(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
