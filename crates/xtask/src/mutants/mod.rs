//! `cargo xtask mutants`: takes the guards away, one at a time, and shows the case that fails then.

mod adk_rust;
mod backends;
mod batch;
mod connections;
mod core;
mod history;
mod migration;
mod operations;
mod python;
mod queue;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cargo::{TIMED_OUT, cargo, cargo_within};
use crate::servers;

/// How long a mutant may take to build and run, in seconds. A case may wait forever without its guard.
const LIMIT: u32 = 400;

/// A guard, the change that takes it away, and a case that needs it.
struct Mutant {
    guard: &'static str,
    file: &'static str,
    /// Replaced by [`to`](Self::to); must be in the file exactly once.
    from: &'static str,
    to: &'static str,
    /// What the names of the cases to run hold.
    case: &'static str,
}

/// All guards, by the code that they are in.
fn mutants() -> impl Iterator<Item = &'static Mutant> {
    let lists = [
        queue::MUTANTS,
        batch::MUTANTS,
        connections::MUTANTS,
        operations::MUTANTS,
        backends::MUTANTS,
        core::MUTANTS,
        history::MUTANTS,
        migration::MUTANTS,
        adk_rust::MUTANTS,
        python::MUTANTS,
    ];
    lists.into_iter().flatten()
}

/// Whether each mutant still applies: the text that it replaces must be in its file exactly once. Prints those that do
/// not.
pub(crate) fn check() -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let mut stale = 0;
    for mutant in mutants() {
        if let Err(error) = mutated(workspace, mutant) {
            println!("{error:#}");
            stale += 1;
        }
    }
    println!("{} mutants, {stale} of which no longer apply.", mutants().count());
    Ok(stale == 0)
}

/// Runs the cases of each guard without it, in a copy of what is committed; false when a guard can go unnoticed.
pub(crate) fn run(only: &[String]) -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let folder = workspace.join("target").join("mutants");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let cloned = Command::new("git").args(["clone", "--quiet", "--shared"]).arg(workspace).arg(&folder).status()?;
    ensure!(cloned.success(), "git clone failed");
    // Without a limit, which the first build would exceed.
    for tests in [CORE, MIGRATION, SHUTTLE, SUITE] {
        let built = cargo_test(cargo(), &folder, tests).args(["--quiet", "--no-run"]).status()?;
        ensure!(built.success(), "the tests do not build");
    }
    let mut all_noticed = true;
    println!("| guard | without it fails |\n|---|---|");
    let is_chosen = |mutant: &&Mutant| {
        only.is_empty() || only.iter().any(|only| mutant.guard.contains(only) || mutant.case.contains(only))
    };
    for mutant in mutants().filter(is_chosen) {
        let told = match failing_cases(&folder, mutant) {
            Ok(cases) if !cases.is_empty() => {
                cases.iter().map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ")
            }
            unnoticed => {
                all_noticed = false;
                let why = unnoticed.err().map_or_else(String::new, |error| format!(": {error:#}"));
                format!("**nothing** of `{}`{why}", mutant.case)
            }
        };
        println!("| {} | {told} |", mutant.guard);
    }
    Ok(all_noticed)
}

fn failing_cases(folder: &Path, mutant: &Mutant) -> anyhow::Result<Vec<String>> {
    let file = folder.join(mutant.file);
    let (text, mutated) = mutated(folder, mutant)?;
    std::fs::write(&file, mutated)?;
    let (tests, case) = tests_of(mutant.case);
    let tested = cargo_test(cargo_within(LIMIT), folder, tests)
        .args(["--", case])
        .output()
        .context("cargo cannot be run within a limit");
    std::fs::write(&file, text)?;
    let tested = tested?;
    if tested.status.code() == Some(TIMED_OUT) {
        return Ok(vec![format!("{case} (does not end)")]);
    }
    let output = String::from_utf8_lossy(&tested.stdout);
    let ran = output.lines().any(|line| line.starts_with("test result") && !line.contains(" 0 passed; 0 failed"));
    ensure!(ran, "{}: no case ran: {}", mutant.guard, String::from_utf8_lossy(&tested.stderr));
    let failed = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    Ok(failed.map(|name| name.trim().to_owned()).collect())
}

/// cargo on tests in the copy at `folder`.
fn cargo_test(mut cargo: Command, folder: &Path, tests: &[&str]) -> Command {
    cargo
        .arg("test")
        .args(tests)
        .current_dir(folder)
        // Beside the copy, so that the next run need not build all again.
        .env("CARGO_TARGET_DIR", folder.with_extension("build"))
        .env("SEABED_REQUIRE", "all")
        .env("RUSTFLAGS", "-A warnings");
    cargo
}

/// The tests that hold a case, and its name there: the unit tests of core or of the migration, those of the command
/// seabed-migrate, those of the adapter for adk-rust, those under shuttle, or the suite on databases.
fn tests_of(case: &str) -> (&'static [&'static str], &str) {
    if case.starts_with("sql::") || case.starts_with("history::") {
        return (CORE, case);
    }
    if case.starts_with("spec::") || case.starts_with("upgrade::") {
        return (MIGRATION, case);
    }
    if let Some(case) = case.strip_prefix("migrate::") {
        return (MIGRATE, case);
    }
    if let Some(case) = case.strip_prefix("adk_rust::") {
        return (ADK_RUST, case);
    }
    case.strip_prefix("shuttle::").map_or((SUITE, case), |case| (SHUTTLE, case))
}

const ADK_RUST: &[&str] = &["--package", "seabed-adk-rust", "--tests", "--features", "migrate,sqlite"];
const CORE: &[&str] = &["--package", "seabed-core", "--lib"];
const MIGRATION: &[&str] = &["--package", "seabed-migration", "--lib", "--features", "transfer"];
const MIGRATE: &[&str] = &["--package", "seabed-migration", "--bins", "--tests"];
const SHUTTLE: &[&str] = &["--package", "seabed-shuttle", "--tests"];
const SUITE: &[&str] = &["--package", "seabed-tests", "--test", "suite"];

/// The file of a mutant in the checkout at `folder`: as it is, and without the guard.
fn mutated(folder: &Path, mutant: &Mutant) -> anyhow::Result<(String, String)> {
    let Mutant { guard, file, from, to, .. } = mutant;
    let text = std::fs::read_to_string(folder.join(file)).with_context(|| format!("{guard}: {file}"))?;
    let found = text.matches(from).count();
    ensure!(found == 1, "{guard}: expected once in {file}, found {found} times: {from:?}");
    let mutated = text.replacen(from, to, 1);
    Ok((text, mutated))
}
