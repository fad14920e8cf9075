//! The arguments of `seabed-migrate`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use seabed_migration::{ContentsOptions, Selection, StoredData, Tables, TimeZone};

use super::findings::Format;

/// Creates, checks, moves and drops the session tables that Seabed shares with google-adk (schema v1).
///
/// Exit status: 0 on success; 1 if the command failed; 2 for invalid arguments; 3 if it succeeded and reported
/// problems: `verify` found an error (a warning alone is no problem), or a transfer skipped rows; 130 after Ctrl-C; 141
/// if nobody read all of its output.
#[derive(Parser)]
#[command(name = "seabed-migrate", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The database: a URL that begins with postgres:, mysql:, mariadb: or sqlite:
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    #[command(flatten)]
    pub(crate) tables: TablesArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which tables of the database; those of the source for `copy` and `upgrade --to`.
#[derive(Args)]
pub(crate) struct TablesArguments {
    /// The schema (PostgreSQL) or database (MySQL) of the tables; for `copy` and `upgrade --to`, those of the source
    #[arg(long, global = true, env = "SEABED_SCHEMA", value_name = "NAME")]
    schema: Option<String>,
    /// The prefix of the table names, as `bot_` in `bot_sessions`; for `copy` and `upgrade --to`, those of the source
    #[arg(long, global = true, env = "SEABED_TABLE_PREFIX", value_name = "PREFIX")]
    table_prefix: Option<String>,
}

impl TablesArguments {
    /// The tables; fails for invalid names.
    pub(crate) fn tables(&self) -> anyhow::Result<Tables> {
        tables(self.schema.as_ref(), self.table_prefix.as_ref())
    }
}

/// Which tables of the target of a copy.
#[derive(Args)]
pub(crate) struct TargetArguments {
    /// Like --schema, for the target
    #[arg(long, requires = "to", value_name = "NAME")]
    to_schema: Option<String>,
    /// Like --table-prefix, for the target
    #[arg(long, requires = "to", value_name = "PREFIX")]
    to_table_prefix: Option<String>,
}

impl TargetArguments {
    /// The tables; fails for invalid names.
    pub(crate) fn tables(&self) -> anyhow::Result<Tables> {
        tables(self.to_schema.as_ref(), self.to_table_prefix.as_ref()).context("the target")
    }
}

/// An empty name, as from an empty environment variable, is none.
fn tables(schema: Option<&String>, prefix: Option<&String>) -> anyhow::Result<Tables> {
    let mut tables = Tables::new();
    if let Some(schema) = schema.filter(|schema| !schema.is_empty()) {
        tables = tables.with_schema(schema);
    }
    if let Some(prefix) = prefix {
        tables = tables.with_prefix(prefix);
    }
    tables.check()?;
    Ok(tables)
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create missing tables; safe to run repeatedly and concurrently
    Up {
        /// Also create an index for listing the sessions of an app by last update; it makes appends slower
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
    /// Drop Seabed's tables and create them again
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
        /// The output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        contents: ContentsArguments,
    },
    /// Show what `verify` finds, and repair what can be repaired without losing data
    Repair {
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Print the SQL that grants an account the privileges that a service needs, and no others
    Grants {
        /// The account; on MySQL and MariaDB name@host, where a missing host means any host
        #[arg(long)]
        account: String,
    },
    /// Copy sessions, events and state into another database of any kind, and compare the result
    Copy {
        /// The database to read, in one snapshot; it is not changed
        #[arg(long, env = "SEABED_FROM_URL", hide_env_values = true)]
        from: String,
        /// The database to write; it must have the tables
        #[arg(long, env = "SEABED_TO_URL", hide_env_values = true)]
        to: String,
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        selection: SelectionArguments,
        #[command(flatten)]
        resume: Resume,
    },
    /// Upgrade a database of google-adk's schema v0, its `SqliteSessionService`, or the Rust crate adk-session to v1
    ///
    /// No pickle is executed; rows that cannot be read are skipped and listed. With --to, the database is copied and
    /// not changed. Without it, a database of schema v0 is upgraded in place: stop all agents first. Its tables are
    /// kept as `seabed_v0_`… until --finish. After an interruption, run the same command again to continue.
    Upgrade {
        /// Another database to write, which must have the tables; without it, the upgrade is in place
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        target: TargetArguments,
        /// The time zone of the agents, if google-adk up to 2.6 stored the events: it did so in local time. Since 2.7
        /// the times are UTC, also in schema v0
        #[arg(long, default_value = "UTC", value_name = "NAME")]
        time_zone: TimeZone,
        #[command(flatten)]
        resume: Resume,
        /// Drop the tables that an upgrade in place has kept, once all of their rows are found in the new ones
        #[arg(long, conflicts_with = "to")]
        finish: bool,
        /// Drop them even if rows were skipped, or changed or deleted since
        #[arg(long, requires = "finish")]
        leave_rows: bool,
    },
    /// Write sessions, events and state to a file of JSON Lines
    Export {
        /// The file, which must not exist, and which only its owner can read; standard output by default
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        selection: SelectionArguments,
    },
    /// Copy what `export` has written into the database
    Import {
        /// The file; standard input by default
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        resume: Resume,
    },
}

#[derive(Args)]
pub(crate) struct ContentsArguments {
    /// Also read states, events and times, and name the rows that a service cannot decode
    #[arg(long)]
    contents: bool,
    /// Read at most this many rows of each table, in the order of the primary key
    #[arg(long, requires = "contents", value_name = "NUMBER", default_value_t = ContentsOptions::default().max_rows)]
    max_rows: u64,
}

impl ContentsArguments {
    /// What to read; `None` without `--contents`.
    pub(crate) fn options(&self) -> Option<ContentsOptions> {
        let mut options = ContentsOptions::default();
        options.max_rows = self.max_rows;
        self.contents.then_some(options)
    }
}

#[derive(Args)]
pub(crate) struct DryRun {
    /// Print the SQL and change nothing
    #[arg(long, visible_alias = "sql")]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct DropData {
    /// Drop the tables even if they contain sessions, events or state
    #[arg(long)]
    drop_data: bool,
}

impl DropData {
    pub(crate) fn stored_data(&self) -> StoredData {
        if self.drop_data { StoredData::Drop } else { StoredData::Keep }
    }
}

#[derive(Args)]
pub(crate) struct SelectionArguments {
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
pub(crate) struct Resume {
    /// Continue although the target has sessions, its own or those of an interrupted run. Existing rows stay; missing
    /// rows are added, including rows that were deleted there
    #[arg(long)]
    pub(crate) resume: bool,
}
