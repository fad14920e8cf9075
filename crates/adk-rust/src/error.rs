//! Seabed's errors as adk-rust's.

use adk_core::{AdkError, ErrorCategory, ErrorComponent, RetryHint};
use seabed::{BackendErrorKind, Error, SessionKey};

/// Converts an error. `AdkError::is_retryable` says what [`Error::is_retryable`] says, and the error itself is the
/// source.
pub(crate) fn to_adk(error: Error) -> AdkError {
    let (category, code) = classify(&error);
    let retry = RetryHint { should_retry: error.is_retryable(), ..RetryHint::default() };
    let message = match &error {
        Error::NotFound { key } => not_found_message(key),
        error => error.to_string(),
    };
    session_error(category, code, message).with_retry(retry).with_source(error)
}

fn classify(error: &Error) -> (ErrorCategory, &'static str) {
    match error {
        Error::NotFound { .. } => (ErrorCategory::NotFound, "session.not_found"),
        Error::AlreadyExists { .. } => (ErrorCategory::InvalidInput, "session.already_exists"),
        Error::RevisionConflict { .. } => (ErrorCategory::InvalidInput, "session.revision_conflict"),
        Error::EventIdReused { .. } => (ErrorCategory::InvalidInput, "session.event_id_reused"),
        Error::Invalid { .. } => (ErrorCategory::InvalidInput, "session.invalid_input"),
        error => match error.backend_kind() {
            Some(BackendErrorKind::Contention) => (ErrorCategory::Unavailable, "session.contention"),
            Some(BackendErrorKind::Unavailable) => (ErrorCategory::Unavailable, "session.unavailable"),
            Some(BackendErrorKind::CommitUnknown) => (ErrorCategory::Unavailable, "session.commit_unknown"),
            Some(BackendErrorKind::Corrupt) => (ErrorCategory::Internal, "session.corrupt"),
            Some(BackendErrorKind::Schema) => (ErrorCategory::Internal, "session.schema"),
            Some(BackendErrorKind::TooLarge) => (ErrorCategory::InvalidInput, "session.too_large"),
            Some(BackendErrorKind::ReadOnly) => (ErrorCategory::Unavailable, "session.read_only"),
            _ => (ErrorCategory::Internal, "session.backend"),
        },
    }
}

/// The error of adk-rust's own services for a session that does not exist.
pub(crate) fn not_found(key: &SessionKey) -> AdkError {
    session_error(ErrorCategory::NotFound, "session.not_found", not_found_message(key))
}

/// The error for a session id that no session of the known apps has.
pub(crate) fn unknown_id(session_id: &str) -> AdkError {
    let message = format!("session '{session_id}' was not found in the apps of this service; see `with_app_name`");
    session_error(ErrorCategory::NotFound, "session.not_found", message)
}

/// The error for a session id that several users have.
pub(crate) fn ambiguous(session_id: &str) -> AdkError {
    let message = format!("several users have a session '{session_id}'; name the user: `append_event_for_identity`");
    session_error(ErrorCategory::InvalidInput, "session.ambiguous", message)
}

/// The error for an event that adk-rust itself cannot write.
pub(crate) fn unwritable(error: serde_json::Error) -> AdkError {
    session_error(ErrorCategory::InvalidInput, "session.invalid_input", "the event cannot be written as JSON")
        .with_source(error)
}

fn session_error(category: ErrorCategory, code: &'static str, message: impl Into<String>) -> AdkError {
    AdkError::new(ErrorComponent::Session, category, code, message)
}

fn not_found_message(key: &SessionKey) -> String {
    let SessionKey { app_name, user_id, session_id } = key;
    format!("session '{session_id}' was not found for app '{app_name}' and user '{user_id}'")
}
