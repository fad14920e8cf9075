//! `cargo xtask bench`, `cargo xtask torture` and `cargo xtask clusters`.

use anyhow::Context as _;

use crate::cargo::cargo;
use crate::servers;

/// Runs a program of the tests' on the servers that can be had; false when it failed.
pub(crate) fn run(program: &[&str], arguments: &[String]) -> anyhow::Result<bool> {
    servers::get()?;
    let ended = cargo()
        .args(program)
        .arg("--")
        .args(arguments)
        .current_dir(servers::workspace()?)
        .status()
        .context("cargo cannot be run")?;
    Ok(ended.success())
}
