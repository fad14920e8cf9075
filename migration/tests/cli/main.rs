//! The command `seabed-migrate`, on SQLite.

mod output;
mod prefixes;

use std::process::{Command, Output};

use sea_orm::{ConnectionTrait as _, Statement};

struct Cli {
    folder: tempfile::TempDir,
}

impl Cli {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("seabed.db")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let url = format!("sqlite://{}", self.file().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_seabed-migrate"));
        command.args(arguments).env("DATABASE_URL", url).env_remove("SEABED_SCHEMA").env_remove("SEABED_TABLE_PREFIX");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command runs")
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        self.fails_with(1, arguments)
    }

    /// Exit status 2.
    #[track_caller]
    fn rejects(&self, arguments: &[&str]) -> String {
        self.fails_with(2, arguments)
    }

    #[track_caller]
    fn fails_with(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

#[test]
fn up_makes_the_file_and_the_tables_and_status_tells() {
    let cli = Cli::new();
    assert!(cli.fails(&["status"]).contains("`seabed-migrate up` creates it"));
    cli.succeeds(&["up"]);
    assert_eq!(cli.succeeds(&["status"]), "applied  m0001_adk_schema_v1\napplied  m0002_seabed_sessions\n");
    cli.succeeds(&["up"]);
    cli.succeeds(&["refresh"]);
    cli.succeeds(&["down"]);
    assert_eq!(cli.succeeds(&["status"]), "pending  m0001_adk_schema_v1\npending  m0002_seabed_sessions\n");
}

#[test]
fn a_dry_run_prints_the_statements_and_changes_nothing() {
    let cli = Cli::new();
    let printed = cli.succeeds(&["up", "--dry-run", "--update-time-index"]);
    for part in ["CREATE TABLE IF NOT EXISTS \"main\".\"events\"", "seabed_sessions_update_time", "schema_version"] {
        assert!(printed.contains(part), "{printed}");
    }
    assert!(!cli.file().exists());
    cli.succeeds(&["up"]);
    assert_eq!(cli.succeeds(&["up", "--dry-run"]), "-- nothing to do\n");
    assert!(cli.succeeds(&["down", "--dry-run"]).contains("DROP TABLE IF EXISTS \"main\".\"sessions\""));
    assert!(cli.succeeds(&["refresh", "--dry-run"]).contains("DROP TABLE"));
    assert_eq!(cli.succeeds(&["status"]), "applied  m0001_adk_schema_v1\napplied  m0002_seabed_sessions\n");
}

#[test]
fn what_is_wrong_is_told_without_the_password() {
    let run = |status: i32, url: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seabed-migrate"));
        command.arg("up").env_remove("DATABASE_URL");
        if let Some(url) = url {
            command.args(["--database-url", url]);
        }
        let output = command.output().expect("the command runs");
        assert_eq!(output.status.code(), Some(status), "{url:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(run(2, None).contains("set DATABASE_URL"));
    let unreachable = "postgres://u:secret@127.0.0.1:1/d";
    for (status, url) in [(2, "oracle://u:secret@h/d"), (2, "postgres://u:secret@h:port/d"), (1, unreachable)] {
        let told = run(status, Some(url));
        assert!(told.starts_with("seabed-migrate: ") && !told.contains("secret"), "{told}");
    }
    assert!(run(1, Some(unreachable)).contains("PostgreSQL at 127.0.0.1:1"));
}

/// For each kind of a file: what a command says, and what it must not say.
#[test]
fn what_is_wrong_with_a_file_is_told_with_the_command_that_helps() {
    let v0 = include_str!("../../../tests/adk/v0.sql");
    let service = include_str!("../../../tests/adk/sqlite_session_service.sql");
    let foreign = "CREATE TABLE sessions (id varchar(128) NOT NULL, token varchar(128))";
    let no_version = "DELETE FROM adk_internal_metadata";
    let upgrade = "upgrade them with `seabed-migrate upgrade`";
    for (name, tables, arguments, status, told) in [
        ("v0", v0, &["status"][..], 0, upgrade),
        ("v0", v0, &["verify"], 3, upgrade),
        ("v0", v0, &["up"], 1, upgrade),
        ("v0", v0, &["export"], 1, upgrade),
        ("SqliteSessionService", service, &["status"], 0, "`seabed-migrate upgrade --to`"),
        ("SqliteSessionService", service, &["upgrade"], 1, "`seabed-migrate upgrade --to`"),
        ("foreign tables", foreign, &["status"], 0, "table sessions has no column app_name"),
        ("foreign tables", foreign, &["verify"], 3, "another database, schema or table prefix"),
        ("no tables", "", &["verify"], 3, "seabed-migrate up"),
        ("no tables", "", &["export"], 1, "`seabed-migrate up` creates them"),
    ] {
        let cli = Cli::new();
        cli.succeeds(&["up"]);
        cli.succeeds(&["down"]);
        tables.split(";\n").filter(|table| !table.trim().is_empty()).for_each(|table| cli.execute(table));
        let (exit, stdout, stderr) = cli.status(arguments);
        let said = format!("{stdout}{stderr}");
        assert!(exit == Some(status) && said.contains(told), "{name}, {arguments:?}: {exit:?}, {said}");
        assert!(!(said.contains("TLS") || !tables.is_empty() && said.contains("migrate up`")), "{name}: {said}");
    }
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(no_version);
    let (exit, found, _) = cli.status(&["verify"]);
    assert!(exit == Some(3) && found.contains("adk_internal_metadata has no schema_version"), "{found}");
    cli.succeeds(&["up"]);
    assert_eq!(cli.status(&["verify"]).0, Some(0));
}

#[test]
fn what_is_no_database_is_named() {
    let cli = Cli::new();
    for text in ["some text that is longer than a header", "short"] {
        std::fs::write(cli.file(), text).expect("a file");
        for command in ["status", "up", "verify"] {
            let told = cli.fails(&[command]);
            assert!(told.contains("the file is no SQLite database") && !told.contains("TLS"), "{command}: {told}");
        }
        assert_eq!(std::fs::read_to_string(cli.file()).expect("a file"), text);
    }
    let folder = cli.folder.path().display().to_string();
    let told = cli.fails(&["status", "--database-url", &format!("sqlite://{folder}")]);
    assert!(told.contains("it is a folder") && !told.contains("TLS"), "{told}");
    // An empty file is an empty database.
    std::fs::write(cli.file(), "").expect("a file");
    cli.succeeds(&["up"]);
}

#[test]
fn help_does_not_show_the_url() {
    let output = Command::new(env!("CARGO_BIN_EXE_seabed-migrate"))
        .arg("--help")
        .env("DATABASE_URL", "postgres://u:secret@h/d")
        .output()
        .expect("the command runs");
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(help.contains("refresh") && help.contains("DATABASE_URL") && !help.contains("secret"), "{help}");
}

impl Cli {
    /// The URL of a second database, next to the first.
    fn other_url(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("other.db").display())
    }

    /// Creates the second database with tables.
    fn other(&self) -> String {
        let url = self.other_url();
        self.succeeds(&["up", "--database-url", &url]);
        url
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.file().display())
    }

    fn status(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.run(arguments);
        (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
    }

    /// Runs a query through the program's own driver, and returns its column `text`.
    fn query(url: &str, query: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let pool = url.parse::<seabed_sqlite::SqliteOptions>().expect("a URL").open().await.expect("a database");
            let query = Statement::from_string(sea_orm::DbBackend::Sqlite, query);
            let rows = pool.query_all_raw(query).await.expect("the statement runs");
            pool.close().await.expect("the pool closes");
            rows.iter().map(|row| row.try_get("", "text").expect("text")).collect()
        })
    }

    fn execute(&self, statement: &str) {
        Self::query(&self.url(), statement);
    }

    /// The names of all tables and indexes of the first database that have one.
    fn objects(&self) -> Vec<String> {
        let query = "SELECT name AS text FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        Self::query(&self.url(), query)
    }
}

const SESSION: &str = "INSERT INTO sessions VALUES ('app', 'alice', 's', '{\"secret\": \"value\"}', \
                       '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')";

#[test]
fn verify_tells_by_its_exit_status_and_repair_asks() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    assert_eq!(cli.status(&["verify"]), (Some(0), "No problems found.\n".to_owned(), String::new()));
    cli.execute(SESSION);
    let (status, found, _) = cli.status(&["verify"]);
    assert!(status == Some(3) && found.contains("google-adk cannot append"), "{found}");
    let (status, json, _) = cli.status(&["verify", "--format", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(status == Some(3) && findings[0]["repair"]["safe"][0].is_string(), "{findings:#}");
    // There is no terminal to ask on.
    assert!(cli.fails(&["repair"]).contains("--yes"));
    let (status, shown, _) = cli.status(&["repair", "--dry-run"]);
    assert!(status == Some(3) && shown.contains("INSERT INTO \"app_states\""), "{shown}");
    assert_eq!(cli.status(&["verify"]).0, Some(3));
    assert!(cli.succeeds(&["repair", "--yes"]).contains("Repaired."));
    assert_eq!(cli.status(&["verify"]).0, Some(0));
}

#[test]
fn verify_reads_contents_if_asked() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    cli.succeeds(&["repair", "--yes"]);
    assert_eq!(cli.succeeds(&["verify", "--contents"]), "No problems found.\n");
    // A warning is no problem to a script.
    cli.execute("UPDATE sessions SET state = '{\"secret\": NaN}'");
    let warned = cli.succeeds(&["verify", "--contents"]);
    assert!(
        warned.contains("warning: sessions.state: 1 row (")
            && warned.contains("id \"s\"")
            && !warned.contains("secret"),
        "{warned}"
    );
    cli.execute("UPDATE sessions SET state = 'secret'");
    let (status, found, _) = cli.status(&["verify", "--contents"]);
    assert!(
        status == Some(3) && found.contains("error: sessions.state: 1 row (") && found.contains("id \"s\""),
        "{found}"
    );
    assert!(found.contains("repair: ") && !found.contains("secret"), "{found}");
    assert_eq!(cli.status(&["verify"]).0, Some(0));
    let (status, found, _) = cli.status(&["verify", "--contents", "--max-rows", "0", "--format", "json"]);
    assert!(status == Some(0) && found.contains("only the first 0 rows were read"), "{found}");
    assert_eq!(cli.status(&["verify", "--max-rows", "1"]).0, Some(2));
}

#[test]
fn copy_refuses_a_target_by_mistake_and_tells_what_it_did() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let other = cli.other();
    let (status, _, told) = cli.status(&["copy", "--from", &cli.url(), "--to", &other]);
    assert!(status == Some(0) && told.contains("read: 1 sessions, 0 events"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    assert!(cli.fails(&["copy", "--from", &cli.url(), "--to", &other]).contains("--resume"));
    let (status, _, told) = cli.status(&["copy", "--from", &cli.url(), "--to", &other, "--resume"]);
    assert!(status == Some(0) && told.contains("new in the target: 0 sessions"), "{told}");
    assert!(cli.fails(&["copy", "--from", &other, "--to", &other]).contains("the same tables"));
    let nowhere = cli.fails(&["copy", "--from", "sqlite:///nowhere/a.db", "--to", &other]);
    assert!(nowhere.contains("the source"), "{nowhere}");
}

#[test]
fn a_file_goes_out_and_in() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let file = cli.folder.path().join("sessions.jsonl").display().to_string();
    cli.succeeds(&["export", "--file", &file]);
    assert!(cli.fails(&["export", "--file", &file]).contains("already exists"), "a file was written over");
    let printed = cli.succeeds(&["export"]);
    assert_eq!(printed, std::fs::read_to_string(&file).expect("a file"));
    let other = cli.other();
    cli.succeeds(&["import", "--file", &file, "--database-url", &other]);
    let (status, _, told) = cli.status(&["copy", "--from", &cli.url(), "--to", &other, "--resume"]);
    assert!(status == Some(0) && told.contains("new in the target: 0 sessions"), "{told}");
    std::fs::write(&file, &printed[..printed.len() - 10]).expect("a file");
    assert!(cli.fails(&["import", "--file", &file, "--resume", "--database-url", &other]).contains("cut off"));
}

#[test]
fn a_file_that_goes_on_behind_an_export_is_not_passed_over() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let (_, exported, report) = cli.status(&["export"]);
    assert!(report.contains("new in the target: 1 sessions, 0 events"), "{report}");
    let other = cli.other();
    let file = cli.folder.path().join("sessions.jsonl");
    let import = ["import", "--file", &file.display().to_string(), "--resume", "--database-url", &other];
    for more in [&exported, "{}\n", "\n{}\n"] {
        std::fs::write(&file, format!("{exported}{more}")).expect("a file");
        let refused = cli.fails(&import);
        assert!(refused.contains("goes on behind the last line"), "{refused}");
    }
    std::fs::write(&file, format!("{exported} \n\n")).expect("a file");
    cli.succeeds(&import);
    std::fs::write(&file, exported.replace("\"id\":", "\"color\":1,\"id\":")).expect("a file");
    let refused = cli.fails(&import);
    assert!(refused.contains("line 2 is invalid"), "{refused}");
    std::fs::write(&file, exported).expect("a file");
    cli.succeeds(&import);
}

#[test]
fn upgrade_says_what_it_cannot_upgrade() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    assert!(cli.fails(&["upgrade"]).contains("already have google-adk's schema v1"));
    assert!(cli.fails(&["upgrade", "--finish"]).contains("no upgrade to finish"));
    assert_eq!(cli.status(&["upgrade", "--time-zone", "Nowhere"]).0, Some(2));
    assert!(cli.succeeds(&["grants", "--account", "agent"]).contains("nothing to do"));
}
