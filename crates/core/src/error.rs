//! What can go wrong, and what the caller should do about it.

use crate::{Revision, SessionKey};

/// The result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why an operation was refused or failed.
///
/// Messages name ids (app, user, session, event), never a state value, event content or a password. The driver's own
/// error is kept as [`source`](std::error::Error::source) and is not repeated in the message; a database may quote
/// data in it, so log sources where such data may be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The session does not exist.
    ///
    /// Handling: create it, or tell the user it is gone.
    #[error("{key} does not exist")]
    NotFound {
        /// The session that was asked for.
        key: Box<SessionKey>,
    },
    /// A session with this explicit id exists already. Nothing of the refused call was written.
    ///
    /// Handling: use [`get_or_create`](crate::SessionServiceExt::get_or_create) when an existing session is welcome.
    #[error("{key} exists already")]
    AlreadyExists {
        /// The session that exists.
        key: Box<SessionKey>,
    },
    /// The session has moved on since the caller read it. Nothing of the refused append was stored.
    ///
    /// Handling: [`refresh`](crate::SessionServiceExt::refresh) the session, decide again, append again.
    #[error("{key} is at revision {actual}, the caller expected {expected}")]
    RevisionConflict {
        /// The session.
        key: Box<SessionKey>,
        /// The revision the caller had seen.
        expected: Revision,
        /// The revision the session has.
        actual: Revision,
    },
    /// The event id was used in this session before, for an event with other content.
    ///
    /// Handling: a bug in the caller; an event id names one event for ever.
    #[error("event id {event_id:?} in {key} belongs to an event with other content")]
    EventIdReused {
        /// The session.
        key: Box<SessionKey>,
        /// The id that is taken.
        event_id: String,
    },
    /// The input breaks a documented limit. Nothing was sent to the database.
    ///
    /// Handling: a bug in the caller, or bad input of its user; never retry.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// The field at fault, such as `session_id` or `event.timestamp`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The database, the connection to it or its content is at fault; see [`BackendError::kind`].
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Error {
    /// Whether repeating the identical call may succeed.
    ///
    /// True for contention, an unreachable server, and a commit whose outcome is unknown. Appends are idempotent by
    /// event id, and so is a create with an explicit session id (its repetition answers [`Error::AlreadyExists`] if
    /// the first try had succeeded). After an unknown commit a create that leaves the id to the service may make a
    /// second session, and a delete may delete what others have created anew meanwhile: give sessions their ids if you
    /// repeat calls blindly.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend(error) if error.kind.is_retryable())
    }

    /// The backend's part of the error, if it is one.
    pub fn backend_kind(&self) -> Option<BackendErrorKind> {
        match self {
            Self::Backend(error) => Some(error.kind),
            _ => None,
        }
    }

    /// The outcome of an operation in a word, for traces.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::AlreadyExists { .. } => "already_exists",
            Self::RevisionConflict { .. } => "revision_conflict",
            Self::EventIdReused { .. } => "event_id_reused",
            Self::Invalid { .. } => "invalid",
            Self::Backend(error) => match error.kind {
                BackendErrorKind::Contention => "contention",
                BackendErrorKind::Unavailable => "unavailable",
                BackendErrorKind::CommitUnknown => "commit_unknown",
                BackendErrorKind::Corrupt => "corrupt",
                BackendErrorKind::Schema => "schema",
                BackendErrorKind::Unexpected => "unexpected",
            },
        }
    }

    /// An error of the database for another caller who met it; the source stays with the first.
    pub(crate) fn without_source(&self) -> Self {
        match self {
            Self::Backend(error) => BackendError::new(error.kind, error.message.clone()).into(),
            other => BackendError::new(BackendErrorKind::Unexpected, other.to_string()).into(),
        }
    }

    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    pub(crate) fn not_found(key: &SessionKey) -> Self {
        Self::NotFound { key: Box::new(key.clone()) }
    }

    pub(crate) fn already_exists(key: &SessionKey) -> Self {
        Self::AlreadyExists { key: Box::new(key.clone()) }
    }
}

/// What is at fault behind an [`Error::Backend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// Others held the rows for too long (deadlock, lock timeout, serialization failure, busy database), also after
    /// the internal retries. Nothing was stored. Repeat the call.
    Contention,
    /// The server cannot be reached, refused the connection or cut it before anything was decided, or no pooled
    /// connection became free in time. Nothing was stored. Repeat the call later.
    Unavailable,
    /// The connection broke while the commit was under way: everything was stored, or nothing. Repeat the identical
    /// call; the event id (or the explicit session id) tells which.
    CommitUnknown,
    /// A stored row cannot be decoded. The message names table, column and row.
    Corrupt,
    /// The tables are missing, or of a schema version this crate does not know. Run the migrator.
    Schema,
    /// Anything else: missing rights, a full disk, a misconfigured server, a bug.
    Unexpected,
}

impl BackendErrorKind {
    /// See [`Error::is_retryable`].
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Contention | Self::Unavailable | Self::CommitUnknown)
    }
}

impl std::fmt::Display for BackendErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Contention => "contention",
            Self::Unavailable => "database unavailable",
            Self::CommitUnknown => "outcome of the commit unknown",
            Self::Corrupt => "corrupt row",
            Self::Schema => "schema",
            Self::Unexpected => "unexpected database error",
        })
    }
}

/// A failure of the database, of the connection to it, or of its content.
#[derive(thiserror::Error)]
#[error("{kind}: {message}")]
pub struct BackendError {
    kind: BackendErrorKind,
    message: String,
    source: Option<Source>,
}

impl std::fmt::Debug for BackendError {
    /// Without the source, in which a database may quote data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendError").field("kind", &self.kind).field("message", &self.message).finish_non_exhaustive()
    }
}

impl BackendError {
    /// An error of `kind`; `message` must hold no password and no stored value.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps the driver's error as the [`source`](std::error::Error::source).
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What is at fault.
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    /// A row that cannot be decoded; `row` names it by its key.
    pub(crate) fn corrupt(table: &str, column: &str, row: &str, source: impl Into<Source>) -> Self {
        Self::new(BackendErrorKind::Corrupt, format!("{table}.{column} of {row} cannot be decoded")).with_source(source)
    }
}
