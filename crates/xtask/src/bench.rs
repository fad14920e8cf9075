//! `cargo xtask bench`.

use std::process::Command;

use anyhow::Context as _;

use crate::servers;

/// Runs the benchmark on the servers that can be had; false when it failed.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    servers::get()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let bench = Command::new(cargo)
        .args(["bench", "--package", "seabed-tests", "--bench", "bench", "--"])
        .args(arguments)
        .current_dir(servers::workspace()?)
        .status()
        .context("cargo cannot be run")?;
    Ok(bench.success())
}
