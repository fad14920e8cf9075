//! Which file a URL names, and how it is opened.

use std::time::Duration;

use sea_orm::sqlx;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use seabed_core::{Error, Result};

/// How long a statement waits for writers of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the database is in memory. The driver gives each `sqlite::memory:` a name that begins so.
pub(super) fn in_memory(options: &SqliteConnectOptions) -> bool {
    options.get_filename().to_string_lossy().starts_with("file:sqlx-in-memory-")
}

pub(super) fn options(url: &str) -> Result<SqliteConnectOptions> {
    let invalid = |reason: String| Error::Invalid { field: "url", reason };
    if url.contains("mode=memory") {
        return Err(invalid("names a database in memory; use sqlite::memory:".to_owned()));
    }
    let options: SqliteConnectOptions = url.parse().map_err(|error: sqlx::Error| invalid(error.to_string()))?;
    let name = options.get_filename().to_string_lossy();
    if name.is_empty() || name.starts_with("file:") && !in_memory(&options) {
        // Each connection would get a database of its own.
        return Err(invalid("names no file; use sqlite://path or sqlite::memory:".to_owned()));
    }
    let options = options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT).synchronous(SqliteSynchronous::Full);
    Ok(if in_memory(&options) { options } else { options.journal_mode(SqliteJournalMode::Wal) })
}
