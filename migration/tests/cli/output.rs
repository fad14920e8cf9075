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
