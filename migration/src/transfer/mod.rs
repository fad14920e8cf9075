//! Moves sessions between databases and files, without losing, duplicating or changing any.

mod annotations;
mod batch;
mod body;
mod compare;
mod lines;
mod record;
mod redaction;
mod refusal;
mod rejection;
mod shape;
mod source;
mod states;
mod store;
mod tables;

use std::io::{BufRead, Write};

use sea_orm::{ConnectionTrait as _, DbErr};
use seabed_core::sql::unsuitable_columns;
use seabed_core::{BackendError, BackendErrorKind, Result};

pub use record::{ContentHash, Refused};
pub(crate) use shape::{Shape, event_of};
pub(crate) use source::Source;
use store::Store;
pub(crate) use tables::read;

use crate::layout::{Layout, of_all_columns};
use crate::session_tables::SessionTables;
use crate::spec::{Database, SchemaSpec};
use crate::{migration_error, verify};

/// The part of a database to move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Only this app, if set.
    pub app_name: Option<String>,
    /// Only this user, if set: of one app or of all.
    pub user_id: Option<String>,
}

/// What was moved, or has been moved so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The number of events in the source, if it could be counted.
    pub expected_events: Option<u64>,
    /// Rows read from the source, by table.
    pub app_states: u64,
    /// See `app_states`.
    pub user_states: u64,
    /// See `app_states`.
    pub sessions: u64,
    /// See `app_states`.
    pub events: u64,
    /// The rows of `seabed_sessions`: titles and labels of sessions.
    pub annotations: u64,
    /// Sessions that did not exist in the target.
    pub new_sessions: u64,
    /// Events that did not exist in the target.
    pub new_events: u64,
    /// States of apps, users and existing sessions that were added or changed.
    pub changed_states: u64,
    /// Rows of the source that were skipped.
    pub refused: Vec<Refused>,
    /// Rows that differ from what was sent when read back from the target.
    pub different: Vec<String>,
    /// The hash of the content that was sent.
    pub content: ContentHash,
    /// The hash of the same rows in the target.
    pub stored_content: ContentHash,
}

impl Summary {
    /// Whether all of the source is in the target.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.different.is_empty()
    }
}

/// A callback that receives the progress of a transfer from time to time.
pub type Progress<'a> = dyn FnMut(&Summary) + Send + 'a;

/// Copies the selected sessions, with their titles and labels, events and state into another database, which must have
/// the tables.
///
/// The source is read in one snapshot; concurrent writes to it are not copied and do no harm. In the target, existing
/// rows stay: missing events are added, and states are merged key by key, where the row with the later update wins. Of
/// a session's titles and labels, those that were changed later win.
/// Copying again, after an interruption or to add what is new, therefore changes nothing else, except that rows deleted
/// in the target come back. What was sent is read back and compared. Do not write to a session in the target before it
/// is copied: the state of a long session arrives with its last event, and later events are sorted by their times.
///
/// A row that no service could read, or that the target cannot hold or rejects, is [skipped](Summary::refused), and
/// stops no other. A session with a newer event than its own time gets the time of that event.
///
/// # Errors
/// Backend errors: of kind [`Schema`](BackendErrorKind::Schema) if the tables are not google-adk's schema v1, of other
/// kinds if a database fails. What was copied before stays.
///
/// # Cancel safety
/// If the future is dropped, what was copied so far stays, and each copied session is complete up to one of its events.
pub async fn copy(
    from: impl Into<SessionTables<'_>>,
    to: impl Into<SessionTables<'_>>,
    selection: Selection,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let (from, to) = (from.into(), to.into());
    to.check()?;
    let source = source(&from, selection).await?;
    store(source, &to, progress).await
}

/// Writes the selected sessions, events and state as JSON Lines: a header, one line per row, and a last line with
/// counts and hash, by which [`import`] detects a truncated file. Rows are written as they are stored. A row whose line
/// would be longer than 256 MiB is [skipped](Summary::refused).
///
/// # Errors
/// Those of [`copy`]; and that of `file`, as the [`source`](std::error::Error::source) of a backend error.
pub async fn export(
    from: impl Into<SessionTables<'_>>,
    selection: Selection,
    file: impl Write + Send,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let source = source(&from.into(), selection).await?;
    lines::write(source, file, progress).await
}

/// Copies what [`export`] wrote into a database, like [`copy`].
///
/// # Errors
/// Those of [`copy`], and of `file`. A file of another kind is rejected before anything is written; a truncated file,
/// one with a line longer than 256 MiB, or one that goes on behind its last line, only after its rows are written.
pub async fn import(
    file: impl BufRead + Send + 'static,
    to: impl Into<SessionTables<'_>>,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let to = to.into();
    to.check()?;
    let source = lines::read(file).await.map_err(transfer_error)?;
    store(source, &to, progress).await
}

async fn source(from: &SessionTables<'_>, selection: Selection) -> Result<Source> {
    let spec = from.spec().await?;
    expect_v1(from, &spec, "the source").await?;
    let mut split = Vec::new();
    // Elsewhere ids have one spelling, or the database has no way to find the others.
    if spec.database == Database::MySql {
        let columns = spec.columns(from.connection).await.map_err(migration_error)?;
        let unsuitable = unsuitable_columns(spec.dialect, &columns);
        // The shared state is stored under one spelling, and is copied with that spelling.
        let ids = verify::collisions(from.connection, &spec, &unsuitable).await.map_err(migration_error)?.into_iter();
        let reason = "the source treats them as one id; the state that they share goes to one of them";
        split.extend(ids.map(|ids| Refused { row: format!("ids {ids}"), reason: reason.to_owned() }));
    }
    read(from.connection, spec, shape::V1, selection, split).await.map_err(transfer_error)
}

/// Writes a source into a database with google-adk's schema v1.
pub(crate) async fn store(source: Source, to: &SessionTables<'_>, progress: &mut Progress<'_>) -> Result<Summary> {
    let spec = to.spec().await?;
    expect_v1(to, &spec, "the target").await?;
    let columns = spec.columns(to.connection).await.map_err(migration_error)?;
    if let Some(unsuitable) = unsuitable_columns(spec.dialect, &columns).first() {
        let message = format!("the target is unsuitable: {unsuitable}; `seabed-migrate verify` says how to repair it");
        return Err(BackendError::new(BackendErrorKind::Schema, message).into());
    }
    let summary = Store::new(to.connection, &spec).write(source, progress).await.map_err(transfer_error)?;
    add_missing_states(to, &spec).await?;
    Ok(summary)
}

/// Compares a source with a database with google-adk's schema v1.
pub(crate) async fn compare(
    source: Source,
    to: &SessionTables<'_>,
    spec: &SchemaSpec,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let store = Store::new(to.connection, spec).only_comparing();
    store.write(source, progress).await.map_err(transfer_error)
}

/// Adds missing state rows. google-adk's schema v1 has a state row for the app and the user of every session; other
/// stores create them on demand.
async fn add_missing_states(tables: &SessionTables<'_>, spec: &SchemaSpec) -> Result<()> {
    for statement in verify::missing_states(tables.connection, spec).await.map_err(migration_error)? {
        tables.connection.execute_unprepared(&statement).await.map_err(migration_error)?;
    }
    Ok(())
}

async fn expect_v1(tables: &SessionTables<'_>, spec: &SchemaSpec, which: &str) -> Result<()> {
    let layout = of_all_columns(tables.connection, spec).await.map_err(migration_error)?;
    if layout == Layout::V1 {
        return Ok(());
    }
    let message = format!("{which} is unsuitable: {}", layout.describe());
    Err(BackendError::new(BackendErrorKind::Schema, message).into())
}

/// Keeps the message of a reader or writer; the driver's error becomes the source.
pub(crate) fn transfer_error(error: DbErr) -> seabed_core::Error {
    let (kind, message) = match &error {
        DbErr::Custom(reason) => (BackendErrorKind::Unexpected, reason.clone()),
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => {
            (BackendErrorKind::Unavailable, "the connection to a database was lost".to_owned())
        }
        _ => (BackendErrorKind::Unexpected, "a database rejected a statement".to_owned()),
    };
    let reported = BackendError::new(kind, message);
    if matches!(error, DbErr::Custom(_)) { reported.into() } else { reported.with_source(error).into() }
}
