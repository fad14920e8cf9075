//! `seabed-migrate`: makes, shows and removes Seabed's tables.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sea_orm::DatabaseConnection;
use seabed_core::sql::{ConnectOptions, Dialect};
use seabed_migration::{MigrationStatus, StoredData, UpOptions};

/// Makes, shows and removes the session tables of Seabed and google-adk (schema v1).
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
}

#[derive(Args)]
struct DryRun {
    /// Print the SQL and change nothing
    #[arg(long)]
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

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seabed-migrate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let Some(url) = cli.database_url else {
        anyhow::bail!("no database: set DATABASE_URL or pass --database-url");
    };
    let missing_file = match &cli.command {
        Command::Up { dry_run: DryRun { dry_run: true }, .. } => MissingFile::StandIn,
        Command::Up { .. } => MissingFile::Create,
        _ => MissingFile::Refuse,
    };
    let database = open(&url, missing_file).await?;
    match cli.command {
        Command::Up { update_time_index, dry_run } => {
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
            if dry_run.dry_run {
                print(&seabed_migration::down_sql(&database).await?);
            } else {
                seabed_migration::down(&database, drop.stored_data()).await.map_err(explain_drop)?;
                println!("The tables are dropped.");
            }
        }
        Command::Refresh { drop, dry_run } => {
            if dry_run.dry_run {
                print(&seabed_migration::refresh_sql(&database).await?);
            } else {
                seabed_migration::refresh(&database, drop.stored_data()).await.map_err(explain_drop)?;
                println!("The tables are new and empty.");
            }
        }
        Command::Status => {
            for (name, status) in seabed_migration::status(&database).await? {
                let status = if status == MigrationStatus::Applied { "applied" } else { "pending" };
                println!("{status}  {name}");
            }
        }
    }
    Ok(())
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

/// What to do when the file of an SQLite database is not there.
#[derive(Clone, Copy)]
enum MissingFile {
    Refuse,
    /// Make it: tables follow.
    Create,
    /// Look at an empty database in memory instead.
    StandIn,
}

/// Opens the database that `url` is of.
async fn open(url: &str, missing_file: MissingFile) -> anyhow::Result<DatabaseConnection> {
    #[cfg(feature = "postgres")]
    if seabed_postgres::Postgres::is_url(url) {
        return Ok(url.parse::<seabed_postgres::PostgresOptions>()?.open().await?);
    }
    #[cfg(feature = "mysql")]
    if seabed_mysql::MySql::is_url(url) {
        return Ok(url.parse::<seabed_mysql::MySqlOptions>()?.open().await?);
    }
    #[cfg(feature = "sqlite")]
    if seabed_sqlite::Sqlite::is_url(url) {
        let options: ConnectOptions<seabed_sqlite::Sqlite> = url.parse()?;
        let options = match missing_file {
            MissingFile::Create => options.with_driver(|driver| driver.create_if_missing(true)),
            MissingFile::StandIn if !options.driver.get_filename().exists() => "sqlite::memory:".parse()?,
            _ => options,
        };
        return Ok(options.open().await?);
    }
    anyhow::bail!("this is not a URL of a database that this build of seabed-migrate knows")
}
