"""Seabed's errors as the exceptions of google-adk."""

from __future__ import annotations

import json

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.input_validation_error import InputValidationError
from google.adk.errors.session_not_found_error import SessionNotFoundError


class BackendError(Exception):
    """The database, the connection to it, or a stored row is at fault.

    Attributes:
        kind: `contention`, `unavailable`, `commit_unknown`, `corrupt`, `schema`, `too_large`,
            `read_only` or `unexpected`.
        is_retryable: Whether repeating the identical call may succeed. Appends may always be repeated: an event is
            stored once under its id.
    """

    def __init__(self, message: str, kind: str = "unexpected", is_retryable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_retryable = is_retryable


_EXCEPTIONS: dict[str, type[Exception]] = {
    "not_found": SessionNotFoundError,
    "already_exists": AlreadyExistsError,
    "revision_conflict": StaleSessionError,
    "event_id_reused": InputValidationError,
    "invalid": InputValidationError,
}


def exception(error: str) -> Exception:
    """Returns the exception for an error of the native module."""
    fields = json.loads(error)
    kind, message = fields["kind"], fields["message"]
    if kind == "revision_conflict":
        message += "; the session has changed since it was read: get it again before you append"
    if kind in _EXCEPTIONS:
        return _EXCEPTIONS[kind](message)
    return BackendError(message, kind, fields["retryable"])
