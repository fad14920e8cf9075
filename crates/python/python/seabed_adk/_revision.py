"""The revision that a session object was read at."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from google.adk.sessions.session import Session

from seabed_adk import _native

_EPOCH = datetime(1970, 1, 1)


class Marker(str):
    """google-adk's own marker, which is the time of the last update: `DatabaseSessionService` compares it.

    Attributes:
        revision: Seabed's revision.
    """

    revision: str


def set_revision(session: Session, revision: str) -> None:
    """Records the revision that a session object is at."""
    _, update_time = revision.split("/")
    read_at = _EPOCH + timedelta(microseconds=int(update_time))
    marker = Marker(read_at.isoformat(timespec="microseconds"))
    marker.revision = revision
    session._storage_update_marker = marker


def copy(session: Session) -> _native.Copy:
    """Returns what a session object says about when it was read.

    Raises:
        ValueError: For a marker that neither service writes.
    """
    marker = session._storage_update_marker
    revision, update_time = None, None
    if isinstance(marker, Marker):
        revision = marker.revision
    elif marker is not None:
        # DatabaseSessionService writes UTC, and says so in some databases only.
        read_at = datetime.fromisoformat(marker)
        if read_at.tzinfo is not None:
            read_at = read_at.astimezone(timezone.utc).replace(tzinfo=None)
        update_time = (read_at - _EPOCH) // timedelta(microseconds=1)
    return {
        "revision": revision,
        "update_time": update_time,
        "last_update_time": session.last_update_time,
        "last_event_id": session.events[-1].id if session.events else None,
    }
