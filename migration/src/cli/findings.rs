//! `verify` and `repair`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use sea_orm::DatabaseConnection;
use seabed_migration::{Finding, Mend, Severity};

use crate::FOUND_WRONG;

/// How often `repair` verifies again.
const ROUNDS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// An array of objects with severity, subject, problem, consequence and mend
    Json,
}

pub(crate) async fn verify(database: &DatabaseConnection, format: Format) -> anyhow::Result<ExitCode> {
    let found = seabed_migration::verify(database).await?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Format::Text if found.is_empty() => println!("Nothing is wrong."),
        Format::Text => found.iter().for_each(print),
    }
    Ok(exit(&found))
}

pub(crate) async fn repair(database: &DatabaseConnection, yes: bool, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut found = seabed_migration::verify(database).await?;
    // One repair may reveal the need for another; each round is printed before it runs.
    for _ in 0..ROUNDS {
        found.iter().for_each(print);
        if dry_run || !found.iter().any(Finding::is_safe) {
            break;
        }
        if !yes && !is_agreed_to().await? {
            anyhow::bail!("this was not mended");
        }
        seabed_migration::mend(database, &found).await?;
        println!("Mended.\n");
        found = seabed_migration::verify(database).await?;
    }
    if found.is_empty() {
        println!("Nothing is wrong.");
    } else if !found.iter().any(Finding::is_safe) {
        println!("What is left, `repair` leaves to you.");
    }
    Ok(exit(&found))
}

async fn is_agreed_to() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("nothing was changed: there is nobody to ask, and no --yes");
    }
    print!("Run these statements? [y/N] ");
    std::io::stdout().flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    Ok(matches!(answer.await??.trim(), "y" | "Y" | "yes"))
}

/// Only errors make a script fail: with warnings the service runs.
fn exit(found: &[Finding]) -> ExitCode {
    let is_error = found.iter().any(|finding| finding.severity == Severity::Error);
    if is_error { ExitCode::from(FOUND_WRONG) } else { ExitCode::SUCCESS }
}

fn print(finding: &Finding) {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    println!("{severity}: {}", finding.problem);
    println!("  what follows: {}", finding.consequence);
    match &finding.mend {
        Mend::Safe(statements) => print_statements("what mends it (`seabed-migrate repair` runs it)", statements),
        Mend::Unsafe(statements) => print_statements("what may mend it, for you to decide", statements),
        Mend::Advice(advice) => println!("  what to do: {advice}"),
        _ => {}
    }
    println!();
}

fn print_statements(title: &str, statements: &[String]) {
    println!("  {title}:");
    for statement in statements {
        println!("    {statement};");
    }
}
