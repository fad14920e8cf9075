//! `cargo xtask public-api`: what users of the published crates can name, as text under version control.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::cargo::cargo;
use crate::servers;

/// The crates that applications and backends depend on.
const CRATES: [&str; 2] = ["seabed", "seabed-core"];

/// Writes the snapshots, or only compares them and prints what differs; false when something does.
pub(crate) fn run(check: bool) -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    write_json(workspace)?;
    let mut is_same = true;
    for name in CRATES {
        let api = list(workspace, &target, name)?;
        let snapshot = workspace.join("docs").join("public-api").join(format!("{name}.txt"));
        if !check {
            std::fs::create_dir_all(snapshot.with_file_name(""))?;
            std::fs::write(&snapshot, api)?;
            println!("Wrote {}.", snapshot.display());
            continue;
        }
        let kept = std::fs::read_to_string(&snapshot).with_context(|| format!("{}", snapshot.display()))?;
        let changes = changes(&kept, &api);
        if !changes.is_empty() {
            println!("The public API of {name} is not the one in {}:", snapshot.display());
            println!("{}", changes.join("\n"));
            is_same = false;
        }
    }
    if !is_same {
        println!("If that is intended, run `cargo xtask public-api` and commit the result.");
    }
    Ok(is_same)
}

/// Documents the libraries as JSON. The same features as in CI's HTML, so that the dependencies are there already.
fn write_json(workspace: &Path) -> anyhow::Result<()> {
    let documented = cargo()
        .args(["doc", "--quiet", "--workspace", "--lib", "--all-features", "--no-deps"])
        .current_dir(workspace)
        .env("RUSTDOC", tool(workspace).join("rustdoc"))
        .env("RUSTDOCFLAGS", "-Z unstable-options --output-format json")
        .status()
        .context("cargo cannot be run")?;
    ensure!(documented.success(), "the documentation cannot be built");
    Ok(())
}

/// One item a line.
fn list(workspace: &Path, target: &Path, name: &str) -> anyhow::Result<String> {
    let json = target.join("doc").join(name.replace('-', "_")).with_extension("json");
    let listed = cargo()
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(tool(workspace).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target.join("public-api"))
        .arg("--")
        .arg(&json)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(listed.status.success(), "{} cannot be read", json.display());
    Ok(String::from_utf8(listed.stdout)?)
}

/// The program that reads the JSON.
fn tool(workspace: &Path) -> PathBuf {
    workspace.join("crates").join("public-api")
}

/// The lines that only one of two sorted texts has, with `-` for the first and `+` for the second.
fn changes(before: &str, after: &str) -> Vec<String> {
    let only = |in_this: &str, not_in: &str, sign: char| -> Vec<String> {
        let others: std::collections::HashSet<&str> = not_in.lines().collect();
        in_this.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign}{line}")).collect()
    };
    [only(before, after, '-'), only(after, before, '+')].concat()
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn changes_are_lines_of_one_side() {
        assert_eq!(changes("a\nb\nc\n", "a\nc\nd\n"), ["-b", "+d"]);
        assert!(changes("a\n", "a\n").is_empty());
    }
}
