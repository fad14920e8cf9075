//! The two programs: building and running them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::rates::{Rate, parse};
use super::servers::Servers;
use crate::cargo::cargo;

/// The benchmark of a checkout.
pub(super) struct Program {
    executable: PathBuf,
    checkout: PathBuf,
}

impl Program {
    /// The benchmark of the working tree, with its uncommitted changes.
    pub(super) fn of_tree(workspace: &Path) -> anyhow::Result<Self> {
        Self::build(workspace.to_owned(), None)
    }

    /// The benchmark of a commit, in a worktree that later comparisons reuse. All commits are built in one folder,
    /// because they share nearly all dependencies.
    pub(super) fn of_commit(workspace: &Path, commit: &str) -> anyhow::Result<Self> {
        let commit = git(workspace, &["rev-parse", "--verify", &format!("{commit}^{{commit}}")])?;
        let folder = workspace.join("target").join("against");
        let checkout = folder.join(&commit);
        let is_there = checkout.join(".git").exists() && git(&checkout, &["rev-parse", "HEAD"])? == commit;
        if !is_there {
            // git still knows of worktrees that `cargo clean` has removed.
            git(workspace, &["worktree", "prune"])?;
            git(workspace, &["worktree", "add", "--detach", &checkout.display().to_string(), &commit])?;
        }
        let target = folder.join("build");
        // cargo identifies the members of a workspace by their paths within it, so it would reuse those of another
        // commit.
        let marker = folder.join("built");
        if std::fs::read_to_string(&marker).is_ok_and(|built| built != commit) {
            let mut clean = cargo();
            clean.args(["clean", "--quiet", "--workspace", "--release"]).current_dir(&checkout);
            let cleaned = clean.env("CARGO_TARGET_DIR", &target).status().context("cargo cannot be run")?;
            ensure!(cleaned.success(), "the build of another commit cannot be removed");
        }
        std::fs::write(&marker, &commit)?;
        Self::build(checkout, Some(&target))
    }

    fn build(checkout: PathBuf, target: Option<&Path>) -> anyhow::Result<Self> {
        eprintln!("Building the benchmark of {}.", checkout.display());
        let mut cargo = cargo();
        cargo.args(["bench", "--package", "seabed-tests", "--bench", "bench", "--no-run"]);
        cargo.arg("--message-format=json-render-diagnostics").current_dir(&checkout).stderr(Stdio::inherit());
        if let Some(target) = target {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        let built = cargo.output().context("cargo cannot be run")?;
        ensure!(built.status.success(), "the benchmark of {} cannot be built", checkout.display());
        let messages = String::from_utf8(built.stdout)?;
        let mut of_benches = messages.lines().filter(|message| message.contains(r#""kind":["bench"]"#));
        let executable = of_benches.find_map(|message| message.split_once(r#""executable":""#)?.1.split('"').next());
        let executable = executable.context("cargo names no executable")?.into();
        Ok(Self { executable, checkout })
    }

    /// Starts it with arguments.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(arguments).current_dir(&self.checkout).stderr(Stdio::inherit());
        command
    }

    /// The rates of one round on one target.
    pub(super) fn rates(&self, target: &str, only: &str, seconds: u64, servers: &Servers) -> anyhow::Result<Vec<Rate>> {
        // Only options that the program has had from its first commit on.
        let arguments = ["--targets", target, "--only", only, "--rounds", "1", "--seconds", &seconds.to_string()];
        let mut command = self.command(&arguments);
        let output = command.envs(servers.variables()).stdin(Stdio::null()).output()?;
        let printed = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{command:?} failed");
        let rates = parse(&printed);
        if rates.is_empty() {
            eprintln!("{}", printed.trim());
        }
        Ok(rates)
    }
}

fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().context("git cannot be run")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
