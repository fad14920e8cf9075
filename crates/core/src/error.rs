//! Errors, and what the caller should do about each.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::{Revision, SessionKey};

/// The result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why an operation was rejected or failed.
///
/// Messages name ids (app, user, session, event), and never contain a state value, event content or a password. The
/// driver's own error is kept as [`source`](std::error::Error::source) and is not repeated in the message. A database
/// may quote data in it, so log sources only where such data may be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The session does not exist.
    ///
    /// Handling: create it, or tell the user it is gone.
    #[error("{key} does not exist")]
    NotFound {
        /// The requested session.
        key: Box<SessionKey>,
    },
    /// A session with this explicit id already exists. Nothing of the rejected call was written.
    ///
    /// Handling: use [`get_or_create`](crate::SessionServiceExt::get_or_create) when an existing session is welcome.
    #[error("{key} exists already")]
    AlreadyExists {
        /// The existing session.
        key: Box<SessionKey>,
    },
    /// The session has changed since the caller read it. Nothing of the rejected append was stored.
    ///
    /// Handling: [`refresh`](crate::SessionServiceExt::refresh) the session, decide again, append again.
    #[error("{key} is at revision {actual}, the caller expected {expected}{}", of_which_session(*.expected, *.actual))]
    RevisionConflict {
        /// The session.
        key: Box<SessionKey>,
        /// The revision that the caller expected.
        expected: Revision,
        /// The actual revision of the session.
        actual: Revision,
    },
    /// The event id is already used in this session, by an event with different content.
    ///
    /// Handling: a bug in the caller; an event id names one event forever.
    #[error("event id {event_id:?} in {key} belongs to an event with other content")]
    EventIdReused {
        /// The session.
        key: Box<SessionKey>,
        /// The reused id.
        event_id: String,
    },
    /// The input violates a documented limit. Nothing was sent to the database.
    ///
    /// Handling: a bug in the caller, or bad input of its user; never retry.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// The invalid field, such as `session_id` or `event.timestamp`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The database, the connection to it, or a stored row is at fault; see [`BackendError::kind`].
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Two sessions that had the same id one after the other may have been changed at the same time.
fn of_which_session(expected: Revision, actual: Revision) -> &'static str {
    if expected.create_time() == actual.create_time() { "" } else { " of another session that had this id" }
}

impl Error {
    /// Whether repeating the identical call may succeed.
    ///
    /// True for contention, an unreachable server, and a commit whose outcome is unknown. Appends are idempotent by
    /// event id. So is a create with an explicit session id: if the first attempt succeeded, the repetition returns
    /// [`Error::AlreadyExists`]. After a commit with an unknown outcome, repeating a create without an id may create a
    /// second session, repeating a delete may delete a session that others have created in the meantime, and repeating
    /// an update of app or user state sets its keys again, also over values that others have set in the meantime. Give
    /// sessions explicit ids if you repeat calls blindly.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend(error) if error.kind.is_retryable())
    }

    /// Returns the kind of a backend error, and `None` for any other error.
    pub fn backend_kind(&self) -> Option<BackendErrorKind> {
        match self {
            Self::Backend(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Returns the outcome of an operation as one word, for traces.
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
                BackendErrorKind::TooLarge => "too_large",
                BackendErrorKind::ReadOnly => "read_only",
                BackendErrorKind::Unexpected => "unexpected",
            },
        }
    }

    /// Returns a copy for another caller affected by the same database error. The source stays with the original.
    pub(crate) fn without_source(&self) -> Self {
        match self {
            Self::Backend(BackendError { kind, message, is_behind, .. }) => {
                BackendError { is_behind: *is_behind, ..BackendError::new(*kind, message.clone()) }.into()
            }
            other => BackendError::new(BackendErrorKind::Unexpected, other.to_string()).into(),
        }
    }

    /// Whether the server lacks what the caller has read from another one.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Backend(error) if error.is_behind)
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

impl Serialize for Error {
    /// `kind` (the variant, or the [`BackendErrorKind`], in `snake_case`), `message`, `retryable`, and for a
    /// [`RevisionConflict`](Self::RevisionConflict) the revisions `expected` and `actual`. The source stays out.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.outcome())?;
        map.serialize_entry("message", &self.to_string())?;
        map.serialize_entry("retryable", &self.is_retryable())?;
        if let Self::RevisionConflict { expected, actual, .. } = self {
            map.serialize_entry("expected", expected)?;
            map.serialize_entry("actual", actual)?;
        }
        map.end()
    }
}

/// The cause of an [`Error::Backend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// Other clients held locks for too long (deadlock, lock timeout, serialization failure, busy database), and the
    /// internal retries failed too. Nothing was stored. Repeat the call.
    Contention,
    /// The server cannot be reached, rejected the connection, or closed it before the outcome was decided, or no pooled
    /// connection became free in time. Nothing was stored. Repeat the call later.
    Unavailable,
    /// The outcome is unknown: everything was stored, or nothing. Before you repeat the call, see
    /// [`Error::is_retryable`].
    CommitUnknown,
    /// A stored row cannot be decoded. The message names table, column and row. Nothing was stored, and the row stays
    /// as it is: repair it (`seabed-migrate verify --contents` says how).
    Corrupt,
    /// The tables are missing, or have a schema version that this crate does not know. Run the migrator.
    Schema,
    /// A statement, a value or a row is larger than the database accepts, or a state or a session is larger than the
    /// service is set to. Nothing was stored. Store or read less at once, or raise the limit: that of the service, or that
    /// of the database (`max_allowed_packet` on MySQL and MariaDB).
    TooLarge,
    /// The server is a standby or a replica, or accepts no writes for another reason, and the service was told to accept
    /// such a server. Nothing was stored. Reads work; write through a service on the primary.
    ReadOnly,
    /// Anything else: missing privileges, a full disk, a misconfigured server, a SQLite file that was deleted or
    /// replaced under the service, a bug.
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
            Self::TooLarge => "too large",
            Self::ReadOnly => "read-only server",
            Self::Unexpected => "unexpected database error",
        })
    }
}

/// A failure of the database, of the connection to it, or of a stored row.
#[derive(thiserror::Error)]
#[error("{kind}: {message}")]
pub struct BackendError {
    kind: BackendErrorKind,
    message: String,
    source: Option<Source>,
    /// Whether the server lacks what the caller has read from another one. It may have it soon.
    is_behind: bool,
}

impl std::fmt::Debug for BackendError {
    /// Omits the source, because a database may quote data in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendError").field("kind", &self.kind).field("message", &self.message).finish_non_exhaustive()
    }
}

impl BackendError {
    /// Creates an error of `kind`. The message must not contain a password or a stored value.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, is_behind: false }
    }

    /// The error of a server that lacks what the caller has read from another one.
    pub(crate) fn behind(message: String) -> Self {
        Self { is_behind: true, ..Self::new(BackendErrorKind::Unavailable, message) }
    }

    /// Attaches the driver's error as the [`source`](std::error::Error::source).
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the cause.
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    /// Creates the error for a row that cannot be decoded; `row` names it by its key.
    pub(crate) fn corrupt(table: &str, column: &str, row: &str, source: impl Into<Source>) -> Self {
        let message = format!(
            "{table}.{column} of {row} cannot be decoded; run `seabed-migrate verify --contents` to see how to repair \
             it; until then, list_events reads the events that can be decoded"
        );
        Self::new(BackendErrorKind::Corrupt, message).with_source(source)
    }
}
