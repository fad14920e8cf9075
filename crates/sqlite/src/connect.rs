//! Which file a URL names, and how it is opened.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use seabed_core::{BackendErrorKind, Error, Result};
use seabed_sqlx::parse_url;

/// How long a statement waits for writers of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the database is in memory. The driver gives each `sqlite::memory:` a name that begins so.
pub(super) fn in_memory(options: &SqliteConnectOptions) -> bool {
    options.get_filename().to_string_lossy().starts_with("file:sqlx-in-memory-")
}

/// Whether the database ends with its connections: in memory, or in a file that has no name. A name that begins with
/// `file:` has parameters, which may say so.
pub(super) fn ends_with_pool(options: &SqliteConnectOptions) -> bool {
    let name = options.get_filename().to_string_lossy();
    name.is_empty() || name == ":memory:" || name.starts_with("file:")
}

/// `SQLITE_NOTADB`: the file begins otherwise than a database.
const NOT_A_DATABASE: &str = "26";

/// What is wrong with a file that cannot be opened. A file without its tables needs the migrator, and so does no file.
///
/// It does not open the file: a process that closes a database file loses SQLite's locks on it, also those of its other
/// connections.
pub(super) fn file_problem(
    options: &SqliteConnectOptions,
    error: Option<&dyn DatabaseError>,
) -> Option<(BackendErrorKind, String)> {
    let is_missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    let file = options.get_filename();
    if in_memory(options) {
        return None;
    }
    if !is_missing(file) {
        let is_other = error.and_then(DatabaseError::code).as_deref() == Some(NOT_A_DATABASE);
        let problem = match (file.is_dir(), is_other) {
            (true, _) => "it is a folder; the URL must name a file",
            (_, true) => "the file is no SQLite database, or an encrypted one; the URL must name another file",
            _ => return None,
        };
        return Some((BackendErrorKind::Unexpected, problem.to_owned()));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(is_missing) {
        return Some((BackendErrorKind::Unavailable, "its folder does not exist".to_owned()));
    }
    let mut advice = "the file does not exist; `seabed-migrate up` creates it with its tables, and a program that \
                      creates them itself opens the URL with ?mode=rwc"
        .to_owned();
    if folder == Some(Path::new("/")) {
        advice += " (three slashes begin an absolute path: in the current folder, the file is sqlite://NAME)";
    }
    Some((BackendErrorKind::Schema, advice))
}

pub(super) fn options(url: &str) -> Result<SqliteConnectOptions> {
    let invalid = |reason: String| Error::Invalid { field: "url", reason };
    let url = without_python_driver(url);
    let (_, query) = url.split_once('?').unwrap_or_default();
    if query.split('&').any(|parameter| parameter == "mode=memory") {
        return Err(invalid("names a database in memory; use sqlite::memory:".to_owned()));
    }
    let options: SqliteConnectOptions = parse_url(&url, &["mode", "cache", "immutable", "vfs"])?;
    let name = options.get_filename().to_string_lossy();
    if name.is_empty() || name.starts_with("file:") && !in_memory(&options) {
        // Each connection would get a database of its own.
        return Err(invalid("names no file; use sqlite://path or sqlite::memory:".to_owned()));
    }
    let options = options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT).synchronous(SqliteSynchronous::Full);
    Ok(if in_memory(&options) { options } else { options.journal_mode(SqliteJournalMode::Wal) })
}

/// A URL like `sqlite+aiosqlite:///file.db`, as in Python, in the form of the driver. In Python's, the third slash ends
/// the (empty) host, so the path of this one is relative. Without the name of a driver, three slashes begin an absolute
/// path; but one that goes on with a dot is Python's as well.
fn without_python_driver(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once(':') else { return Cow::Borrowed(url) };
    let is_python = scheme.contains('+') || rest.starts_with("///./") || rest.starts_with("///../");
    if !is_python {
        return Cow::Borrowed(url);
    }
    match rest.strip_prefix("///").or_else(|| rest.strip_prefix("//")).unwrap_or(rest) {
        "" | ":memory:" => Cow::Borrowed("sqlite::memory:"),
        path => Cow::Owned(format!("sqlite://{path}")),
    }
}
