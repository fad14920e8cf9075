//! `cargo xtask test`.

use anyhow::Context as _;

use crate::cargo::cargo;
use crate::servers;

/// Which servers must be there for the tests to pass: names separated by commas, or `all`.
const REQUIRE: &str = "SEABED_REQUIRE";

/// Runs all tests; false when one failed.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let report = workspace.join("target").join("seabed-test-report.txt");
    if let Err(error) = std::fs::remove_file(&report)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).context("the report of the last run is in the way");
    }
    let available: Vec<&str> = servers::get()?.into_iter().map(crate::Kind::name).collect();
    let required = std::env::var(REQUIRE).unwrap_or_else(|_| available.join(","));
    println!("Required servers: {required}.");
    let tests = cargo()
        .args(["test", "--workspace", "--all-features", "--no-fail-fast"])
        .args(arguments)
        .current_dir(workspace)
        .env(REQUIRE, &required)
        .env("SEABED_TEST_REPORT", &report)
        .status()
        .context("cargo cannot be run")?;
    match std::fs::read_to_string(&report) {
        Ok(table) => println!("\n{table}"),
        Err(error) => println!("\nThe suite left no report: {error}"),
    }
    println!("{}", if tests.success() { "Every test passed." } else { "A test failed: see above." });
    Ok(tests.success())
}
