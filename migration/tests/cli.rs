//! The command `seabed-migrate`, on SQLite.

use std::process::{Command, Output};

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

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("sqlite://{}", self.file().display());
        Command::new(env!("CARGO_BIN_EXE_seabed-migrate"))
            .args(arguments)
            .env("DATABASE_URL", url)
            .output()
            .expect("the command runs")
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

#[test]
fn up_makes_the_file_and_the_tables_and_status_tells() {
    let cli = Cli::new();
    assert!(cli.fails(&["status"]).contains("does the file exist"));
    cli.succeeds(&["up"]);
    assert_eq!(cli.succeeds(&["status"]), "applied  m0001_adk_schema_v1\n");
    cli.succeeds(&["up"]);
    cli.succeeds(&["refresh"]);
    cli.succeeds(&["down"]);
    assert_eq!(cli.succeeds(&["status"]), "pending  m0001_adk_schema_v1\n");
}

#[test]
fn a_dry_run_prints_the_statements_and_changes_nothing() {
    let cli = Cli::new();
    let printed = cli.succeeds(&["up", "--dry-run", "--update-time-index"]);
    for part in ["CREATE TABLE IF NOT EXISTS \"events\"", "seabed_sessions_update_time", "schema_version"] {
        assert!(printed.contains(part), "{printed}");
    }
    assert!(!cli.file().exists());
    cli.succeeds(&["up"]);
    assert_eq!(cli.succeeds(&["up", "--dry-run"]), "-- nothing to do\n");
    assert!(cli.succeeds(&["down", "--dry-run"]).contains("DROP TABLE IF EXISTS \"sessions\""));
    assert!(cli.succeeds(&["refresh", "--dry-run"]).contains("DROP TABLE"));
    assert_eq!(cli.succeeds(&["status"]), "applied  m0001_adk_schema_v1\n");
}

#[test]
fn what_is_wrong_is_told_without_the_password() {
    let run = |url: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seabed-migrate"));
        command.arg("up").env_remove("DATABASE_URL");
        if let Some(url) = url {
            command.args(["--database-url", url]);
        }
        let output = command.output().expect("the command runs");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(run(None).contains("set DATABASE_URL"));
    for url in ["oracle://u:secret@h/d", "postgres://u:secret@h:port/d", "postgres://u:secret@127.0.0.1:1/d"] {
        let told = run(Some(url));
        assert!(told.starts_with("seabed-migrate: ") && !told.contains("secret"), "{told}");
    }
    assert!(run(Some("postgres://u:secret@127.0.0.1:1/d")).contains("PostgreSQL at 127.0.0.1:1"));
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
    /// Creates a second database with tables, next to the first.
    fn other(&self) -> String {
        let url = format!("sqlite://{}", self.folder.path().join("other.db").display());
        let made = Command::new(env!("CARGO_BIN_EXE_seabed-migrate")).args(["up", "--database-url", &url]).output();
        assert!(made.expect("the command runs").status.success());
        url
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.file().display())
    }

    fn status(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.run(arguments);
        (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
    }

    /// Runs SQL through the program's own driver.
    fn execute(&self, statement: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options: seabed_sqlite::SqliteOptions = self.url().parse().expect("a URL");
            let pool = options.open().await.expect("a database");
            sea_orm::ConnectionTrait::execute_unprepared(&pool, statement).await.expect("the statement runs");
            pool.close().await.expect("the pool closes");
        });
    }
}

const SESSION: &str = "INSERT INTO sessions VALUES ('app', 'alice', 's', '{\"secret\": \"value\"}', \
                       '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')";

#[test]
fn verify_tells_by_its_exit_status_and_repair_asks() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    assert_eq!(cli.status(&["verify"]), (Some(0), "Nothing is wrong.\n".to_owned(), String::new()));
    cli.execute(SESSION);
    let (status, found, _) = cli.status(&["verify"]);
    assert!(status == Some(3) && found.contains("google-adk cannot append"), "{found}");
    let (status, json, _) = cli.status(&["verify", "--format", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(status == Some(3) && findings[0]["mend"]["safe"][0].is_string(), "{findings:#}");
    // There is no terminal to ask on.
    assert!(cli.fails(&["repair"]).contains("--yes"));
    let (status, shown, _) = cli.status(&["repair", "--dry-run"]);
    assert!(status == Some(3) && shown.contains("INSERT INTO app_states"), "{shown}");
    assert_eq!(cli.status(&["verify"]).0, Some(3));
    assert!(cli.succeeds(&["repair", "--yes"]).contains("Mended."));
    assert_eq!(cli.status(&["verify"]).0, Some(0));
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
    assert!(cli.fails(&["copy", "--from", &other, "--to", &other]).contains("the same database"));
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
    assert!(cli.fails(&["export", "--file", &file]).contains("is there already"), "a file was written over");
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
fn upgrade_says_what_it_cannot_upgrade() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    assert!(cli.fails(&["upgrade"]).contains("schema v1 already"));
    assert!(cli.fails(&["upgrade", "--finish"]).contains("no upgrade to finish"));
    assert_eq!(cli.status(&["upgrade", "--time-zone", "Nowhere"]).0, Some(2));
    assert!(cli.succeeds(&["grants", "--account", "agent"]).contains("nothing to do"));
}
