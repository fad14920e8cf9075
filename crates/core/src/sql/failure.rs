//! Driver errors on their way to [`Error`].

use sea_orm::{DbErr, SqlErr};

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

/// Whether an I/O error says that a connection broke or could not be made. A certificate that does not hold is none of these: it
/// will not hold the next time either.
pub fn is_broken_connection(error: &std::io::Error) -> bool {
    !(error.kind() == std::io::ErrorKind::InvalidData && error.to_string().contains("certificate"))
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

/// Whether an error is met in passing, and says nothing of the connection: a conflict with others, or a key that is taken. After
/// others, such as a plan or a prepared statement that the server does not know any more, it may be of no use.
pub(super) fn is_everyday<D: Dialect>(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
        || classify::<D>(error) == BackendErrorKind::Contention
}

/// The error of a statement of `operation` that commits by itself: unless the server refused it, nobody knows. One that
/// never got a connection stored nothing.
pub(super) fn autocommit_error<D: Dialect>(operation: &str, error: DbErr) -> Error {
    let may_have_run = matches!(&error, DbErr::Exec(error) | DbErr::Query(error) if !D::is_refusal(error));
    if may_have_run { commit_error::<D>(operation, error) } else { statement_error::<D>(operation, error) }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::is_broken_connection;

    /// The words are those of rustls.
    #[test]
    fn a_certificate_that_does_not_hold_is_no_broken_connection() {
        let invalid = |text: &str| is_broken_connection(&Error::new(ErrorKind::InvalidData, text));
        assert!(!invalid("invalid peer certificate: UnknownIssuer"));
        assert!(invalid("received unexpected message: got ApplicationData when expecting Handshake"));
        assert!(is_broken_connection(&ErrorKind::UnexpectedEof.into()));
    }
}
