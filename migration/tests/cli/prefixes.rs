//! Stores with a prefix.

use crate::{Cli, SESSION};

/// The tables, indexes and ledger of a store with `prefix`, sorted by name.
fn objects_of(prefix: &str) -> Vec<String> {
    let names = [
        "adk_internal_metadata",
        "app_states",
        "events",
        "idx_events_app_user_session_ts_id",
        "seabed_labels",
        "seabed_labels_by_value",
        "seabed_migrations",
        "seabed_sessions",
        "seabed_sessions_update_time",
        "sessions",
        "user_states",
    ];
    names.map(|name| format!("{prefix}{name}")).into()
}

const BOT: [&str; 2] = ["--table-prefix", "bot_"];

#[test]
fn stores_with_different_prefixes_share_a_file() {
    let cli = Cli::new();
    for _ in 0..2 {
        cli.succeeds(&["up", "--update-time-index"]);
        cli.succeeds(&["up", "--update-time-index", BOT[0], BOT[1]]);
    }
    let both = [objects_of(""), objects_of("bot_")].concat();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(cli.objects(), sorted(both));
    assert_eq!(cli.succeeds(&["up", "--dry-run", BOT[0], BOT[1]]), "-- nothing to do\n");
    for arguments in [&["verify"][..], &["verify", BOT[0], BOT[1]]] {
        assert_eq!(cli.succeeds(arguments), "No problems found.\n");
    }
    // Rows of one are nothing to the other.
    cli.execute(SESSION);
    assert_eq!(cli.status(&["verify"]).0, Some(3));
    assert_eq!(cli.status(&["verify", BOT[0], BOT[1]]).0, Some(0));
    cli.succeeds(&["repair", "--yes"]);
    assert!(cli.fails(&["down"]).contains("table sessions holds data"));
    cli.succeeds(&["refresh", BOT[0], BOT[1]]);
    assert_eq!(cli.objects().len(), 22, "refresh lost an index");
    cli.succeeds(&["down", BOT[0], BOT[1]]);
    assert_eq!(cli.objects(), objects_of(""));
    assert_eq!(cli.succeeds(&["status"]), "applied  m0001_adk_schema_v1\napplied  m0002_seabed_sessions\n");
    assert_eq!(
        cli.succeeds(&["status", BOT[0], BOT[1]]),
        "pending  m0001_adk_schema_v1\npending  m0002_seabed_sessions\n"
    );
    assert_eq!(Cli::query(&cli.url(), "SELECT id AS text FROM sessions"), ["s"]);
}

#[test]
fn tables_of_others_do_not_matter_to_a_store_with_a_prefix() {
    let cli = Cli::new();
    cli.succeeds(&["up", BOT[0], BOT[1]]);
    cli.execute("CREATE TABLE sessions (id TEXT PRIMARY KEY, cookie BLOB)");
    cli.execute("CREATE INDEX idx_events_app_user_session_ts_id ON sessions (cookie)");
    cli.execute("INSERT INTO sessions VALUES ('web', x'00')");
    // Without a prefix, they are in the way, and safe.
    for command in ["up", "down", "refresh"] {
        let refused = cli.fails(&[command]);
        assert!(refused.contains("table sessions has no column app_name"), "{refused}");
    }
    assert!(cli.fails(&["down", "--drop-data"]).contains("nothing was changed"));
    cli.succeeds(&["up", BOT[0], BOT[1]]);
    assert_eq!(cli.succeeds(&["verify", BOT[0], BOT[1]]), "No problems found.\n");
    cli.succeeds(&["refresh", "--drop-data", BOT[0], BOT[1]]);
    cli.succeeds(&["down", "--drop-data", BOT[0], BOT[1]]);
    assert_eq!(cli.objects(), ["idx_events_app_user_session_ts_id", "sessions"]);
    assert_eq!(Cli::query(&cli.url(), "SELECT id AS text FROM sessions"), ["web"]);
}

#[test]
fn invalid_names_are_refused_before_anything_is_opened() {
    let cli = Cli::new();
    let long = "p".repeat(31);
    for prefix in ["b-", "b.", "b\"", "ä", "b;", &long] {
        let refused = cli.rejects(&["up", "--table-prefix", prefix]);
        assert!(refused.contains("table_prefix"), "{refused}");
    }
    assert!(cli.rejects(&["up", "--schema", "a b"]).contains("schema"));
    assert!(!cli.file().exists(), "a file was made");
    let nowhere = "sqlite:///nowhere/a.db";
    let refused = cli.rejects(&["copy", "--from", nowhere, "--to", nowhere, "--to-table-prefix", "b-"]);
    assert!(refused.contains("the target") && refused.contains("table_prefix"), "{refused}");
    // A schema is no part of a file: it is attached, and the command attaches none.
    let refused = cli.fails(&["up", "--schema", "agents"]);
    assert!(refused.contains("the schema agents does not exist") && refused.contains("ATTACH DATABASE"), "{refused}");
}

#[test]
fn sessions_move_between_stores_with_different_prefixes() {
    let cli = Cli::new();
    cli.succeeds(&["up"]);
    cli.execute(SESSION);
    let other = cli.other_url();
    cli.succeeds(&["up", "--database-url", &other, BOT[0], BOT[1]]);
    let (from, to) = (cli.url(), ["--to", &other, "--to-table-prefix", "bot_"]);
    let copy = [&["copy", "--from", &from][..], &to].concat();
    let (status, _, report) = cli.status(&copy);
    assert!(status == Some(0) && report.contains("new in the target: 1 sessions"), "{report}");
    assert_eq!(Cli::query(&other, "SELECT state AS text FROM bot_sessions"), ["{\"secret\": \"value\"}"]);
    assert_eq!(cli.succeeds(&["verify", "--database-url", &other, BOT[0], BOT[1]]), "No problems found.\n");
    assert!(cli.fails(&copy).contains("--resume"));
    // Within one file, too.
    cli.succeeds(&["up", BOT[0], BOT[1]]);
    let (status, _, report) = cli.status(&["copy", "--from", &from, "--to", &from, "--to-table-prefix", "bot_"]);
    assert!(status == Some(0) && report.contains("new in the target: 1 sessions"), "{report}");
    // And out and in as a file.
    let file = cli.folder.path().join("bot.jsonl").display().to_string();
    cli.succeeds(&["export", "--file", &file, BOT[0], BOT[1]]);
    cli.succeeds(&["refresh", "--drop-data", BOT[0], BOT[1]]);
    cli.succeeds(&["import", "--file", &file, BOT[0], BOT[1]]);
    assert_eq!(Cli::query(&from, "SELECT id AS text FROM bot_sessions"), ["s"]);
}
