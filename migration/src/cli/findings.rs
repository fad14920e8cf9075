//! `verify` and `repair`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use seabed_migration::{ContentsOptions, Finding, Repair, SessionTables, Severity};

use super::output::Output;
use crate::FOUND_WRONG;

/// How often `repair` verifies again.
const ROUNDS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For humans
    Text,
    /// An array of objects with severity, subject, problem, consequence and repair
    Json,
}

pub(crate) async fn verify(
    tables: SessionTables<'_>,
    format: Format,
    contents: Option<ContentsOptions>,
) -> anyhow::Result<ExitCode> {
    let mut found = seabed_migration::verify(tables.clone()).await?;
    if let Some(contents) = contents {
        found.extend(seabed_migration::verify_contents(tables, contents).await?);
    }
    match format {
        Format::Json => writeln!(Output, "{}", serde_json::to_string_pretty(&found)?)?,
        Format::Text if found.is_empty() => writeln!(Output, "No problems found.")?,
        Format::Text => found.iter().try_for_each(print)?,
    }
    Ok(exit(&found))
}

pub(crate) async fn repair(tables: SessionTables<'_>, yes: bool, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut found = seabed_migration::verify(tables.clone()).await?;
    // One repair may reveal the need for another; each round is printed before it runs.
    for _ in 0..ROUNDS {
        found.iter().try_for_each(print)?;
        if dry_run || !found.iter().any(Finding::is_safe) {
            break;
        }
        if !yes && !is_confirmed().await? {
            anyhow::bail!("these findings were not repaired");
        }
        seabed_migration::run_repairs(tables.clone(), &found).await?;
        writeln!(Output, "Repaired.\n")?;
        found = seabed_migration::verify(tables.clone()).await?;
    }
    if found.is_empty() {
        writeln!(Output, "No problems found.")?;
    } else if !found.iter().any(Finding::is_safe) {
        writeln!(Output, "The remaining findings need a decision; `repair` does not change them.")?;
    }
    Ok(exit(&found))
}

async fn is_confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("nothing was changed: confirm with --yes where there is no terminal");
    }
    write!(Output, "Run these statements? [y/N] ")?;
    Output.flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    Ok(matches!(answer.await??.trim(), "y" | "Y" | "yes"))
}

/// Only errors make a script fail: with warnings the service runs.
fn exit(found: &[Finding]) -> ExitCode {
    let is_error = found.iter().any(|finding| finding.severity == Severity::Error);
    if is_error { ExitCode::from(FOUND_WRONG) } else { ExitCode::SUCCESS }
}

fn print(finding: &Finding) -> io::Result<()> {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    writeln!(Output, "{severity}: {}: {}", finding.subject, finding.problem)?;
    writeln!(Output, "  consequence: {}", finding.consequence)?;
    match &finding.repair {
        Repair::Safe(statements) => print_statements("repair (`seabed-migrate repair` runs it)", statements)?,
        Repair::Unsafe(statements) => print_statements("possible repair, which needs a decision", statements)?,
        Repair::Advice(advice) => writeln!(Output, "  repair: {advice}")?,
        _ => {}
    }
    writeln!(Output)
}

fn print_statements(title: &str, statements: &[String]) -> io::Result<()> {
    writeln!(Output, "  {title}:")?;
    statements.iter().try_for_each(|statement| writeln!(Output, "    {statement};"))
}
