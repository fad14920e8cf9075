"""Seabed's session service for google-adk: durable, race-free, on google-adk's own tables."""

from seabed_adk._errors import BackendError
from seabed_adk._service import EventPage, SeabedSessionService

__all__ = ["BackendError", "EventPage", "SeabedSessionService"]
