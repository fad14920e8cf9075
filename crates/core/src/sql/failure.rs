//! Driver errors on their way to [`Error`].

use sea_orm::DbErr;

use super::Dialect;
use super::patience::is_unanswered;
use crate::{BackendError, BackendErrorKind, Error};

/// What a driver's error means, for errors of every driver and of the pool.
pub(super) fn classify<D: Dialect>(error: &DbErr) -> BackendErrorKind {
    match error {
        DbErr::ConnectionAcquire(_) => BackendErrorKind::Unavailable,
        error if is_unanswered(error) => BackendErrorKind::Unavailable,
        DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error) => D::classify(error),
        _ => BackendErrorKind::Unexpected,
    }
}

/// The error of a statement of `operation`.
pub(super) fn statement_error<D: Dialect>(operation: &str, error: DbErr) -> Error {
    let kind = classify::<D>(&error);
    let advice = match kind {
        BackendErrorKind::Schema => ": a table or column is missing; run `seabed-migrate up`",
        _ => "",
    };
    BackendError::new(kind, format!("{operation} on {:?}{advice}", D::BACKEND)).with_source(error).into()
}

/// The error of a COMMIT of `operation`. A conflict is told to whom it rolls back; after any other error nobody knows, and
/// repeating the call is safe.
pub(super) fn commit_error<D: Dialect>(operation: &str, error: DbErr) -> Error {
    match classify::<D>(&error) {
        BackendErrorKind::Contention => statement_error::<D>(operation, error),
        _ => BackendError::new(
            BackendErrorKind::CommitUnknown,
            format!("the commit of {operation} on {:?} ended in an error", D::BACKEND),
        )
        .with_source(error)
        .into(),
    }
}

/// The error of a statement of `operation` that commits by itself: unless the server refused it, nobody knows. One that
/// never got a connection stored nothing.
pub(super) fn autocommit_error<D: Dialect>(operation: &str, error: DbErr) -> Error {
    let is_known = match &error {
        DbErr::Exec(error) | DbErr::Query(error) => D::is_refusal(error),
        _ => true,
    };
    if is_known { statement_error::<D>(operation, error) } else { commit_error::<D>(operation, error) }
}
