//! The command `seabed-migrate`.

mod cli {
    pub(crate) mod arguments;
    pub(crate) mod findings;
    pub(crate) mod open;
    pub(crate) mod output;
    pub(crate) mod schema;
    pub(crate) mod transfer;
}

use std::process::ExitCode;

use clap::Parser as _;
use seabed_core::Error;
use seabed_migration::{SessionTables, Tables, UpgradeOptions};

use cli::arguments::{Cli, Command};
use cli::open::{MissingFile, open};
use cli::output::{is_reader_gone, message};
use cli::{findings, schema, transfer};

/// Exit status for wrong arguments, as clap's.
const WRONG_ARGUMENTS: u8 = 2;
/// Exit status when the command succeeded and found a problem.
const FOUND_WRONG: u8 = 3;
/// Exit status after Ctrl-C, as in shells.
const INTERRUPTED: i32 = 130;
/// Exit status when nobody reads the output any more, as in shells.
const READER_GONE: u8 = 141;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = run(Cli::parse()) => ended,
        Ok(()) = tokio::signal::ctrl_c() => {
            message(
                "seabed-migrate: interrupted; completed work is kept, and running the command again continues it \
                 (transfers need --resume)"
            );
            // Exits immediately: a thread that reads from a terminal or a pipe would not end.
            std::process::exit(INTERRUPTED)
        }
    };
    match ended {
        Ok(exit) => exit,
        Err(error) if is_reader_gone(&error) => ExitCode::from(READER_GONE),
        Err(error) => {
            message(format_args!("seabed-migrate: {error:#}"));
            if is_wrong_argument(&error) { ExitCode::from(WRONG_ARGUMENTS) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether a URL or a name is at fault that clap could not check.
fn is_wrong_argument(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Invalid { field: "url" | "schema" | "table_prefix", .. }))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Before anything is opened: opening may create a file.
    let tables = cli.tables.tables()?;
    let target_tables = match &cli.command {
        Command::Copy { target, .. } | Command::Upgrade { target, .. } => target.tables()?,
        _ => Tables::new(),
    };
    if let Command::Copy { from, to, selection, resume, .. } = cli.command {
        return transfer::copy((&from, tables), (&to, target_tables), selection.into(), resume.resume).await;
    }
    let Some(url) = cli.database_url else {
        let reason = "none is given: set DATABASE_URL or pass --database-url".to_owned();
        return Err(Error::Invalid { field: "url", reason }.into());
    };
    let missing_file = match &cli.command {
        Command::Up { dry_run, .. } if dry_run.dry_run => MissingFile::StandIn,
        Command::Up { .. } => MissingFile::Create,
        _ => MissingFile::Refuse,
    };
    let opened = open(&url, tables, missing_file).await?;
    let ended = run_on(opened.tables(), target_tables, cli.command).await;
    opened.close(ended).await
}

/// Runs a command on one database; the target of an upgrade is opened here.
async fn run_on(tables: SessionTables<'_>, target_tables: Tables, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { update_time_index, dry_run } => schema::up(tables, update_time_index, dry_run.dry_run).await?,
        Command::Down { drop, dry_run } => schema::down(tables, drop.stored_data(), dry_run.dry_run).await?,
        Command::Refresh { drop, dry_run } => schema::refresh(tables, drop.stored_data(), dry_run.dry_run).await?,
        Command::Status => schema::status(tables).await?,
        Command::Grants { account } => schema::grants(tables, &account).await?,
        Command::Verify { format, contents } => return findings::verify(tables, format, contents.options()).await,
        Command::Repair { yes, dry_run } => return findings::repair(tables, yes, dry_run.dry_run).await,
        Command::Upgrade { to, time_zone, resume, finish, leave_rows, .. } => {
            let mut options = UpgradeOptions::default();
            options.time_zone = time_zone;
            return match to {
                Some(to) => transfer::upgrade_into(tables, (&to, target_tables), options, resume.resume).await,
                None if finish => transfer::finish_upgrade(tables, options, leave_rows).await,
                None => transfer::upgrade_in_place(tables, options).await,
            };
        }
        Command::Export { file, selection } => return transfer::export(tables, file, selection.into()).await,
        Command::Import { file, resume } => return transfer::import(file, tables, resume.resume).await,
        Command::Copy { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
