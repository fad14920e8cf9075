//! `cargo xtask wheel`: the Python package as a new user installs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::servers;

/// What the program of the package's README prints.
const PRINTED: &str = "{'user:home': 'Bergen'} 1\n";

/// Builds the wheel from a clone of what is committed, installs it into an environment that has nothing else, and runs
/// the program of the package's README. Prints where the wheel is.
pub(crate) fn run() -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let folder = workspace.join("target").join("wheel");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let (clone, wheels, environment) = (folder.join("clone"), folder.join("dist"), folder.join("environment"));
    call(Command::new("git").args(["clone", "--quiet", "--shared"]).arg(workspace).arg(&clone))?;
    call(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let python = environment.join("bin").join("python");
    let pip = || {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        if std::env::var_os("CARGO_TARGET_DIR").is_none() {
            // Beside the clone, so that the next run need not build all again.
            pip.env("CARGO_TARGET_DIR", folder.with_extension("build"));
        }
        pip
    };
    let package = clone.join("crates").join("python");
    call(pip().args(["wheel", "--no-deps", "--wheel-dir"]).arg(&wheels).arg(&package))?;
    let wheel = only_wheel(&wheels)?;
    call(pip().arg("install").arg(&wheel))?;
    let readme = std::fs::read_to_string(package.join("README.md"))?;
    let program = readme.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```"));
    let (program, _) = program.context("the README of the package has no program")?;
    let printed = call(Command::new(&python).args(["-c", program]).current_dir(&folder))?;
    ensure!(printed == PRINTED, "the program of the README printed {printed:?}");
    println!("{}", wheel.display());
    Ok(true)
}

/// The wheel in a folder, which must be for Python 3.10 and later.
fn only_wheel(folder: &Path) -> anyhow::Result<PathBuf> {
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let name = |path: &PathBuf| path.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
    match files.as_slice() {
        [wheel] if name(wheel).contains("-cp310-abi3-") => Ok(wheel.clone()),
        _ => anyhow::bail!("expected one wheel for Python 3.10 and later: {files:?}"),
    }
}

/// Runs a command, and returns what it prints.
fn call(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
