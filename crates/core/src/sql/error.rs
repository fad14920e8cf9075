//! Driver errors on their way to [`Error`].

use sea_orm::{DbErr, RuntimeErr, SqlErr};

use super::dialect::Dialect;
use super::driver::Driver;
use crate::{BackendError, BackendErrorKind, Error};

/// Why a statement failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StatementError {
    /// The driver or the pool reported an error.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// The server did not answer within the statement timeout.
    #[error("the server did not answer within the statement timeout")]
    Timeout,
    /// The statement was not sent, because the server would not accept it.
    #[error("the statement has {size} bytes, and the server accepts fewer than {limit}")]
    TooLarge {
        /// The size of its values, in bytes.
        size: u64,
        /// The server's limit, in bytes.
        limit: u64,
    },
    /// None of the servers that answered is the one that the URL asks for.
    #[error("no server that answers is {wanted}, as target_session_attrs asks")]
    OtherServer {
        /// The value of the parameter.
        wanted: &'static str,
    },
    /// The database's files were deleted or replaced: this is what happened.
    #[error("{0}; anything written since then is lost: restore the file and connect again")]
    LostFiles(String),
}

impl StatementError {
    /// Whether the statement violated a unique key.
    pub(crate) fn is_duplicate_key(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))))
    }

    /// What [`Error`]s carry as their source: the driver's error itself where there is one.
    pub(crate) fn into_source(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Database(error) => error.into(),
            Self::Timeout | Self::TooLarge { .. } | Self::OtherServer { .. } | Self::LostFiles(_) => self.into(),
        }
    }

    /// The driver's own error, for a statement that reached a connection.
    fn of_driver(&self) -> Option<&RuntimeErr> {
        match self {
            Self::Database(DbErr::Exec(error) | DbErr::Query(error)) => Some(error),
            _ => None,
        }
    }
}

/// What an error means, whether the driver or the pool reported it.
pub(crate) fn classify<D: Dialect>(error: &StatementError) -> BackendErrorKind {
    match error {
        StatementError::Timeout
        | StatementError::OtherServer { .. }
        | StatementError::Database(DbErr::ConnectionAcquire(_)) => BackendErrorKind::Unavailable,
        StatementError::TooLarge { .. } => BackendErrorKind::TooLarge,
        StatementError::Database(DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) => {
            D::Driver::classify(error)
        }
        StatementError::LostFiles(_) | StatementError::Database(_) => BackendErrorKind::Unexpected,
    }
}

/// What an error of sea-orm's means on a database of dialect `D`: for statements that do not go through a service.
pub fn error_kind<D: Dialect>(error: &DbErr) -> BackendErrorKind {
    classify::<D>(&StatementError::Database(error.clone()))
}

/// Whether an I/O error means that a connection broke or could not be made. A certificate that fails verification is
/// not such an error: it will fail the next time as well.
pub fn is_broken_connection(error: &std::io::Error) -> bool {
    !(error.kind() == std::io::ErrorKind::InvalidData && error.to_string().contains("certificate"))
}

/// The error of a statement of `operation`.
pub(crate) fn statement_error<D: Dialect>(operation: &str, error: impl Into<StatementError>) -> Error {
    let error = error.into();
    let kind = classify::<D>(&error);
    let advice = advice::<D>(&error, kind).map_or_else(String::new, |advice| format!(": {advice}"));
    BackendError::new(kind, format!("{operation} on {:?}{advice}", D::BACKEND)).with_source(error.into_source()).into()
}

/// What to do about an error.
fn advice<D: Dialect>(error: &StatementError, kind: BackendErrorKind) -> Option<String> {
    let of_driver = match error {
        StatementError::Database(DbErr::Conn(error)) => Some(error),
        _ => error.of_driver(),
    };
    if let Some(advice) = of_driver.and_then(D::Driver::advice) {
        return Some(advice.to_owned());
    }
    match (error, kind) {
        (StatementError::LostFiles(_) | StatementError::OtherServer { .. }, _) => Some(error.to_string()),
        (_, BackendErrorKind::Schema) => {
            Some("a table or column is missing; `seabed-migrate verify` says what to do".to_owned())
        }
        (_, BackendErrorKind::TooLarge) => Some(
            "larger than the database accepts; store less at once, or ask its administrator to raise the limit \
             (max_allowed_packet on MySQL and MariaDB)"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The error of a COMMIT of `operation`. A conflict means that the transaction was rolled back; after any other error
/// its outcome is unknown, and repeating the call is safe.
pub(crate) fn commit_error<D: Dialect>(operation: &str, error: impl Into<StatementError>) -> Error {
    let error = error.into();
    match classify::<D>(&error) {
        BackendErrorKind::Contention => statement_error::<D>(operation, error),
        _ => BackendError::new(
            BackendErrorKind::CommitUnknown,
            format!("the commit of {operation} on {:?} ended in an error", D::BACKEND),
        )
        .with_source(error.into_source())
        .into(),
    }
}

/// The error of a statement of `operation` that commits by itself: unless the server rejected it, its outcome is
/// unknown. A statement that never got a connection stored nothing.
pub(crate) fn autocommit_error<D: Dialect>(operation: &str, error: impl Into<StatementError>) -> Error {
    let error = error.into();
    let may_have_run = matches!(error, StatementError::Timeout | StatementError::LostFiles(_))
        || error.of_driver().is_some_and(|error| !D::Driver::was_rejected(error));
    if may_have_run { commit_error::<D>(operation, error) } else { statement_error::<D>(operation, error) }
}

/// Whether the connection is as good as before the error: a conflict with other writers, a key that is taken, or
/// content that the database refuses. Other errors, such as a plan or a prepared statement that the server no longer
/// knows, may come back with the next statement.
pub(crate) fn leaves_connection_usable<D: Dialect>(error: &StatementError) -> bool {
    error.is_duplicate_key()
        || classify::<D>(error) == BackendErrorKind::Contention
        || error.of_driver().is_some_and(D::Driver::refuses_content)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::is_broken_connection;

    /// The messages are those of rustls.
    #[test]
    fn a_certificate_that_fails_verification_is_no_broken_connection() {
        let broken = |text: &str| is_broken_connection(&Error::new(ErrorKind::InvalidData, text));
        assert!(!broken("invalid peer certificate: UnknownIssuer"));
        assert!(broken("received unexpected message: got ApplicationData when expecting Handshake"));
        assert!(is_broken_connection(&ErrorKind::UnexpectedEof.into()));
    }
}
