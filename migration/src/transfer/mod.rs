//! Moving sessions between databases and files, without losing, doubling or changing any.

mod compare;
mod lines;
mod record;
mod refusal;
mod states;
mod store;
mod tables;

use std::io::{BufRead, Write};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr};
use seabed_core::sql::{columns, unfit_columns};
use seabed_core::{BackendError, BackendErrorKind, Result};

pub use record::{ContentHash, Refused};
use store::Store;
pub(crate) use tables::{Shape, Source, event_of, read};

use crate::layout::Layout;
use crate::schema::Flavor;
use crate::{migration_error, verify};

/// What of a database is moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Only this app, if any.
    pub app_name: Option<String>,
    /// Only this user, of one app or of all.
    pub user_id: Option<String>,
}

/// What was moved, or has been so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many events the source was found to have, if it could be counted.
    pub expected_events: Option<u64>,
    /// Rows read from the source, by table.
    pub app_states: u64,
    /// See `app_states`.
    pub user_states: u64,
    /// See `app_states`.
    pub sessions: u64,
    /// See `app_states`.
    pub events: u64,
    /// Sessions that the target did not have.
    pub new_sessions: u64,
    /// Events that the target did not have.
    pub new_events: u64,
    /// States of apps, users and older sessions that were added or changed.
    pub changed_states: u64,
    /// Rows of the source that were left out.
    pub refused: Vec<Refused>,
    /// Rows that were read back from the target and are not what was sent.
    pub different: Vec<String>,
    /// The content that was sent.
    pub content: ContentHash,
    /// What the target has of the same rows.
    pub stored_content: ContentHash,
}

impl Summary {
    /// Whether all of the source is in the target.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.different.is_empty()
    }
}

/// Is told how far a transfer is, from time to time.
pub type Progress<'a> = dyn FnMut(&Summary) + Send + 'a;

/// Copies what a selection holds into another database, which must have the tables.
///
/// The source is read in one snapshot: what is written to it meanwhile is not copied, and does not matter. In the target, rows that
/// are there stay: events are added that are missing, and states are merged key by key, the row that was updated later winning.
/// So copying again, after an interruption or for what is new, changes nothing else; but what was deleted in the target comes back.
/// What was sent is read back and compared. Nobody should write to a session in the target before it is copied: of a long one the
/// state comes with its last event, and events that come later are sorted by their times.
///
/// # Errors
/// Backend errors of kind [`Schema`](BackendErrorKind::Schema) for tables that are not google-adk's schema v1, others for a
/// database that fails. What was copied before stays.
///
/// # Cancel safety
/// When the future is dropped, what was copied so far stays, and every session is there up to one of its events.
pub async fn copy(
    from: &DatabaseConnection,
    to: &DatabaseConnection,
    selection: Selection,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let source = source(from, selection).await?;
    store(source, to, progress).await
}

/// Writes what a selection holds as JSON Lines; one header, one line a row, and a last line with counts and hash, by which
/// [`import`] tells a file that was cut off.
///
/// # Errors
/// Those of [`copy`], and of `file`.
pub async fn export(
    from: &DatabaseConnection,
    selection: Selection,
    file: impl Write + Send,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let source = source(from, selection).await?;
    lines::write(source, file, progress).await.map_err(transfer_error)
}

/// Copies what [`export`] has written into a database, as [`copy`] does.
///
/// # Errors
/// Those of [`copy`], and of `file`; for a file of another kind before anything is written, for one that was cut off after what it
/// holds was.
pub async fn import(
    file: impl BufRead + Send + 'static,
    to: &DatabaseConnection,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let source = lines::read(file).await.map_err(transfer_error)?;
    store(source, to, progress).await
}

async fn source(from: &DatabaseConnection, selection: Selection) -> Result<Source> {
    expect_v1(from, "the source").await?;
    let backend = from.get_database_backend();
    let unfit = unfit_columns(backend, &columns(from).await.map_err(migration_error)?);
    let mut split = Vec::new();
    if backend == DbBackend::MySql {
        // What they shared is stored under one spelling, and goes along with that one.
        let ids = verify::collisions(from, &unfit).await.map_err(migration_error)?.into_iter();
        let reason = "the source takes them for one id; the state that they share goes to one of them";
        split.extend(ids.map(|ids| Refused { row: format!("ids {ids}"), reason: reason.to_owned() }));
    }
    read(from, tables::V1, selection, split).await.map_err(transfer_error)
}

/// Writes a source into a database of google-adk's schema v1.
pub(crate) async fn store(source: Source, to: &DatabaseConnection, progress: &mut Progress<'_>) -> Result<Summary> {
    expect_v1(to, "the target").await?;
    let columns = columns(to).await.map_err(migration_error)?;
    if let Some(unfit) = unfit_columns(to.get_database_backend(), &columns).first() {
        let message = format!("the target does not fit: {unfit}; `seabed-migrate verify` says how to mend it");
        return Err(BackendError::new(BackendErrorKind::Schema, message).into());
    }
    let summary =
        Store::new(to).await.map_err(transfer_error)?.write(source, progress).await.map_err(transfer_error)?;
    add_missing_states(to).await?;
    Ok(summary)
}

/// Compares a source with what a database of google-adk's schema v1 holds.
pub(crate) async fn compare(source: Source, to: &DatabaseConnection, progress: &mut Progress<'_>) -> Result<Summary> {
    let store = Store::new(to).await.map_err(transfer_error)?.only_comparing();
    store.write(source, progress).await.map_err(transfer_error)
}

/// google-adk's schema v1 has a state row for the app and the user of every session; other stores make them when they are needed.
async fn add_missing_states(connection: &DatabaseConnection) -> Result<()> {
    let flavor = Flavor::of(connection).await.map_err(migration_error)?;
    for statement in verify::missing_states(connection, flavor).await.map_err(migration_error)? {
        connection.execute_unprepared(&statement).await.map_err(migration_error)?;
    }
    Ok(())
}

async fn expect_v1(connection: &DatabaseConnection, which: &str) -> Result<()> {
    let layout = Layout::of(connection).await.map_err(migration_error)?;
    if layout == Layout::V1 {
        return Ok(());
    }
    let message = format!("{which} does not fit: {}", layout.describe());
    Err(BackendError::new(BackendErrorKind::Schema, message).into())
}

/// A reader's or writer's own words, or the driver's error.
pub(crate) fn transfer_error(error: DbErr) -> seabed_core::Error {
    let (kind, message) = match &error {
        DbErr::Custom(reason) => (BackendErrorKind::Unexpected, reason.clone()),
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => {
            (BackendErrorKind::Unavailable, "the connection to a database was lost".to_owned())
        }
        _ => (BackendErrorKind::Unexpected, "a database refused".to_owned()),
    };
    let told = BackendError::new(kind, message);
    if matches!(error, DbErr::Custom(_)) { told.into() } else { told.with_source(error).into() }
}
