//! The command `seabed-migrate`.

mod cli {
    pub(crate) mod findings;
    pub(crate) mod open;
    pub(crate) mod transfer;
}

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use seabed_migration::{MigrationStatus, Selection, StoredData, UpOptions, UpgradeOptions};

use cli::findings::{self, Format};
use cli::open::{MissingFile, open};
use cli::transfer;

/// Exit status when the command succeeded and found a problem.
const FOUND_WRONG: u8 = 3;
/// Exit status after Ctrl-C, as in shells.
const INTERRUPTED: i32 = 130;

/// Makes, checks, moves and removes the session tables that Seabed shares with google-adk (schema v1).
///
/// Exit status: 0 when all is well; 1 when the command could not do its work, and says why; 2 for wrong arguments; 3 when it did,
/// and something is wrong: `verify` found an error, a transfer left rows out.
#[derive(Parser)]
#[command(name = "seabed-migrate", version, arg_required_else_help = true)]
struct Cli {
    /// Where the database is: a URL that begins with postgres:, mysql:, mariadb: or sqlite:
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the tables that are missing; safe to run any number of times, also at once
    Up {
        /// Also make an index for listing the sessions of an app by last update; it slows appends down
        #[arg(long)]
        update_time_index: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Drop Seabed's tables and its ledger, and nothing else
    Down {
        #[command(flatten)]
        drop: DropData,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Drop Seabed's tables and make them anew
    Refresh {
        #[command(flatten)]
        drop: DropData,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Show which migrations are applied; changes nothing
    Status,
    /// Compare the database with what Seabed expects, and explain each difference; changes nothing
    Verify {
        /// How to print what is found
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Show what `verify` finds, and mend what can be mended without losing anything
    Repair {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Print the SQL that lets an account run the service, and no more
    Grants {
        /// The account; on MySQL and MariaDB name@host, any host without one
        #[arg(long)]
        account: String,
    },
    /// Copy sessions, events and state into another database of any kind, and compare what arrived
    Copy {
        /// The database to read, in one snapshot; it is not changed
        #[arg(long, env = "SEABED_FROM_URL", hide_env_values = true)]
        from: String,
        /// The database to write; it must have the tables
        #[arg(long, env = "SEABED_TO_URL", hide_env_values = true)]
        to: String,
        #[command(flatten)]
        selection: SelectionArguments,
        #[command(flatten)]
        resume: Resume,
    },
    /// Bring a database of google-adk's schema v0, of its `SqliteSessionService`, or of the Rust crate adk-session to v1
    ///
    /// No pickle is executed, and rows that cannot be read are left out and named. With --to the database is copied and not
    /// changed. Without, one of schema v0 is upgraded in its place: stop all agents before. Its tables are kept as `seabed_v0_`…
    /// until --finish. The same command goes on after an interruption.
    Upgrade {
        /// Another database to write, which must have the tables; without it, in place
        #[arg(long)]
        to: Option<String>,
        /// Where the agents ran: schema v0 has the times of events as their clocks showed them
        #[arg(long, default_value = "UTC", value_name = "NAME")]
        time_zone: seabed_migration::TimeZone,
        #[command(flatten)]
        resume: Resume,
        /// Drop the tables that an upgrade in place has kept, once all of their rows are found in the new ones
        #[arg(long, conflicts_with = "to")]
        finish: bool,
        /// Drop them although rows were left out, or were changed or deleted since
        #[arg(long, requires = "finish")]
        leave_rows: bool,
    },
    /// Write sessions, events and state to a file of JSON Lines
    Export {
        /// The file, which must not be there; standard output without one
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        selection: SelectionArguments,
    },
    /// Copy what `export` has written into the database
    Import {
        /// The file; standard input without one
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        resume: Resume,
    },
}

#[derive(Args)]
struct DryRun {
    /// Print the SQL and change nothing
    #[arg(long, visible_alias = "sql")]
    dry_run: bool,
}

#[derive(Args)]
struct DropData {
    /// Drop the tables even if they hold sessions, events or state
    #[arg(long)]
    drop_data: bool,
}

impl DropData {
    fn stored_data(&self) -> StoredData {
        if self.drop_data { StoredData::Drop } else { StoredData::Keep }
    }
}

#[derive(Args)]
struct SelectionArguments {
    /// Only this app
    #[arg(long)]
    app: Option<String>,
    /// Only this user
    #[arg(long)]
    user: Option<String>,
}

impl From<SelectionArguments> for Selection {
    fn from(arguments: SelectionArguments) -> Self {
        let mut selection = Self::default();
        selection.app_name = arguments.app;
        selection.user_id = arguments.user;
        selection
    }
}

#[derive(Args)]
struct Resume {
    /// Go on although the target has sessions: from a run that was interrupted, or its own. What is there stays; what is
    /// missing is added, also what was deleted there
    #[arg(long)]
    resume: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = run(Cli::parse()) => ended,
        Ok(()) = tokio::signal::ctrl_c() => {
            eprintln!("seabed-migrate: interrupted; what was done so far stays, and running it again goes on (transfers with --resume)");
            // Exits immediately: a thread that reads from a terminal or a pipe would not end.
            std::process::exit(INTERRUPTED)
        }
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("seabed-migrate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let url = || {
        cli.database_url.clone().ok_or_else(|| anyhow::anyhow!("no database: set DATABASE_URL or pass --database-url"))
    };
    match cli.command {
        Command::Up { update_time_index, dry_run } => {
            let missing_file = if dry_run.dry_run { MissingFile::StandIn } else { MissingFile::Create };
            let database = open(&url()?, missing_file).await?;
            let mut options = UpOptions::default();
            options.update_time_index = update_time_index;
            if dry_run.dry_run {
                print(&seabed_migration::up_sql(&database, options).await?);
            } else {
                seabed_migration::up(&database, options).await?;
                println!("The tables are up to date.");
            }
        }
        Command::Down { drop, dry_run } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            if dry_run.dry_run {
                print(&seabed_migration::down_sql(&database).await?);
            } else {
                seabed_migration::down(&database, drop.stored_data()).await.map_err(explain_drop)?;
                println!("The tables are dropped.");
            }
        }
        Command::Refresh { drop, dry_run } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            if dry_run.dry_run {
                print(&seabed_migration::refresh_sql(&database).await?);
            } else {
                seabed_migration::refresh(&database, drop.stored_data()).await.map_err(explain_drop)?;
                println!("The tables are new and empty.");
            }
        }
        Command::Status => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            for (name, status) in seabed_migration::status(&database).await? {
                let status = if status == MigrationStatus::Applied { "applied" } else { "pending" };
                println!("{status}  {name}");
            }
        }
        Command::Verify { format } => {
            return findings::verify(&open(&url()?, MissingFile::Refuse).await?, format).await;
        }
        Command::Repair { yes, dry_run } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            return findings::repair(&database, yes, dry_run.dry_run).await;
        }
        Command::Grants { account } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            print(&seabed_migration::grants(&database, &account).await?);
        }
        Command::Copy { from, to, selection, resume } => {
            return transfer::copy(&from, &to, selection.into(), resume.resume).await;
        }
        Command::Upgrade { to, time_zone, resume, finish, leave_rows } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            let mut options = UpgradeOptions::default();
            options.time_zone = time_zone;
            return match to {
                Some(to) => transfer::upgrade_into(&database, &to, options, resume.resume).await,
                None if finish => transfer::finish_upgrade(&database, options, leave_rows).await,
                None => transfer::upgrade_in_place(&database, options).await,
            };
        }
        Command::Export { file, selection } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            return transfer::export(&database, file, selection.into()).await;
        }
        Command::Import { file, resume } => {
            let database = open(&url()?, MissingFile::Refuse).await?;
            return transfer::import(file, &database, resume.resume).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain_drop(error: seabed_core::Error) -> anyhow::Error {
    let refused = matches!(error, seabed_core::Error::Invalid { field: "stored_data", .. });
    let error = anyhow::Error::new(error);
    if refused { error.context("nothing was dropped; --drop-data would drop what the tables hold") } else { error }
}

fn print(statements: &[String]) {
    if statements.is_empty() {
        println!("-- nothing to do");
    }
    for statement in statements {
        println!("{statement};");
    }
}
