//! Driver errors on their way to [`Error`].

use sea_orm::{ConnAcquireErr, DbErr};

use super::Dialect;
use crate::{BackendError, BackendErrorKind, Error};

/// What a driver's error means, for errors of every driver and of the pool.
pub(super) fn classify<D: Dialect>(error: &DbErr) -> BackendErrorKind {
    match error {
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout | ConnAcquireErr::ConnectionClosed) => {
            BackendErrorKind::Unavailable
        }
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

/// The error of a COMMIT of `operation`: unless the database answered that it refused, nobody knows.
pub(super) fn commit_error<D: Dialect>(operation: &str, error: DbErr) -> Error {
    match classify::<D>(&error) {
        BackendErrorKind::Unavailable => BackendError::new(
            BackendErrorKind::CommitUnknown,
            format!("the connection to {:?} broke during the commit of {operation}", D::BACKEND),
        )
        .with_source(error)
        .into(),
        _ => statement_error::<D>(operation, error),
    }
}
