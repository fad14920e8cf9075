//! One server of each kind for the whole comparison.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};

use super::program::Program;

/// Servers that the tree's benchmark started, and stops when its standard input is closed.
pub(super) struct Servers {
    program: Child,
    variables: Vec<(String, String)>,
}

impl Servers {
    /// Waits until they answer.
    pub(super) fn start(program: &Program, targets: &[String]) -> anyhow::Result<Self> {
        let mut command = program.command(&["--serve", &targets.join(",")]);
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let printed = program.stdout.take().context("no pipe")?;
        let mut variables = Vec::new();
        for line in BufReader::new(printed).lines() {
            let line = line?;
            match line.split_once('=') {
                Some((variable, url)) => variables.push((variable.to_owned(), url.to_owned())),
                None => return Ok(Self { program, variables }),
            }
        }
        anyhow::bail!("the servers cannot be started")
    }

    /// The variables of the environment that bring a program to them.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(variable, url)| (variable.as_str(), url.as_str()))
    }

    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        drop(self.program.stdin.take());
        ensure!(self.program.wait()?.success(), "the servers could not be stopped");
        Ok(())
    }
}
