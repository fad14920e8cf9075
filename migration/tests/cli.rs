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
