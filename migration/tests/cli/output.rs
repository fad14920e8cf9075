//! What a command leaves behind: its exit status, its output, its files.

use std::process::Stdio;

use crate::{Cli, SESSION};

#[test]
fn a_command_leaves_all_of_its_work_in_the_file() {
    let cli = Cli::new();
    let is_alone = |name: &str| {
        let file = cli.folder.path().join(name);
        file.exists() && !file.with_extension("db-wal").exists()
    };
    cli.succeeds(&["up"]);
    assert!(is_alone("seabed.db"));
    cli.execute(SESSION);
    let other = cli.other();
    cli.succeeds(&["copy", "--from", &cli.url(), "--to", &other]);
    assert!(is_alone("seabed.db") && is_alone("other.db"));
    let file = cli.folder.path().join("sessions.jsonl").display().to_string();
    cli.succeeds(&["export", "--file", &file]);
    cli.succeeds(&["refresh", "--drop-data"]);
    cli.succeeds(&["import", "--file", &file]);
    assert!(is_alone("seabed.db"));
    // Also when it fails.
    cli.fails(&["down"]);
    assert!(is_alone("seabed.db"));
}

/// Commands that write to standard output.
const PRINTING: [&[&str]; 5] = [&["up"], &["up", "--dry-run"], &["status"], &["verify"], &["export"]];

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let cli = Cli::new();
    for arguments in PRINTING {
        let output = cli.command(arguments).stdout(closed_pipe()).output().expect("the command runs");
        assert_eq!((output.status.code(), output.stderr), (Some(141), Vec::new()), "{arguments:?}");
    }
    // Nobody reads the messages, but the work is done.
    let export = cli.command(&["export"]).stderr(closed_pipe()).output().expect("the command runs");
    assert!(export.status.success() && export.stdout.ends_with(b"}\n"), "{export:?}");
    let failed = cli.command(&["upgrade"]).stderr(closed_pipe()).status().expect("the command runs");
    assert_eq!(failed.code(), Some(1));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output_is_an_error() {
    let cli = Cli::new();
    for arguments in PRINTING {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("the device");
        let output = cli.command(arguments).stdout(full).output().expect("the command runs");
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.starts_with("seabed-migrate: ") && message.contains("standard output: No space"), "{message}");
    }
}

#[test]
fn control_characters_of_others_never_reach_a_terminal() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let odd = "\u{1b}]0;title\u{7}\u{7f}\u{9b}2J\u{202e}txt\u{2066}";
    cli.execute(&format!("UPDATE sessions SET id = 'i{odd}', state = '{{\"k\": \"v\u{7f}\u{9b}2J\u{202e}\"}}'"));
    cli.execute(&format!("CREATE TRIGGER odd BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, '{odd}'); END"));
    let file = cli.folder.path().join(format!("f{odd}.jsonl")).display().to_string();
    let other = cli.other();
    for arguments in [
        &["export"][..],
        &["verify", "--contents"],
        &["verify", "--contents", "--format", "json"],
        &["import", "--file", &file],
        &["export", "--file", &file],
        &["export", "--file", &file],
        &["repair", "--yes"],
    ] {
        let (_, out, err) = cli.status(arguments);
        let shown = format!("{out}{err}").replace('\n', "");
        let is_raw = |character: char| character.is_control() || ['\u{202e}', '\u{2066}'].contains(&character);
        assert!(!shown.is_empty() && !shown.contains(is_raw), "{arguments:?}: {shown:?}");
    }
    // What was printed is an export of the same content.
    let exported = cli.folder.path().join("printed.jsonl");
    std::fs::write(&exported, cli.succeeds(&["export"])).expect("a file");
    cli.succeeds(&["import", "--file", &exported.display().to_string(), "--database-url", &other]);
    let state = |url: &str| -> serde_json::Value {
        serde_json::from_str(&Cli::query(url, "SELECT state AS text FROM sessions")[0]).expect("JSON")
    };
    assert_eq!(state(&other), state(&cli.url()));
}

#[test]
#[cfg(unix)]
fn an_exported_file_is_private_and_replaces_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let path = |name: &str| cli.folder.path().join(name);
    let export = |name: &str| ["export".to_owned(), "--file".to_owned(), path(name).display().to_string()];
    let run = |name: &str| cli.status(&export(name).each_ref().map(String::as_str));
    std::fs::write(path("victim"), "kept").expect("a file");
    symlink(path("victim"), path("sessions.jsonl.partial")).expect("a link");
    symlink(path("nowhere"), path("link.jsonl")).expect("a link");
    let (status, _, message) = run("sessions.jsonl");
    assert_eq!(status, Some(0), "{message}");
    let mode = path("sessions.jsonl").symlink_metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read it");
    assert_eq!(std::fs::read_to_string(path("victim")).expect("a file"), "kept");
    let (status, _, message) = run("link.jsonl");
    assert!(status == Some(1) && message.contains("already exists"), "{message}");
    assert!(!path("nowhere").exists() && path("link.jsonl").is_symlink());
    // A failed export leaves nothing behind.
    cli.execute("DROP TABLE events");
    assert_eq!(run("failed.jsonl").0, Some(1));
    let mut names: Vec<_> =
        std::fs::read_dir(cli.folder.path()).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    names.retain(|name| !name.to_string_lossy().starts_with("seabed.db"));
    names.sort();
    assert_eq!(names, ["link.jsonl", "sessions.jsonl", "sessions.jsonl.partial", "victim"]);
}
