"""JSON text, the form in which sessions and events cross to Rust."""

from __future__ import annotations

import json
import logging
from typing import Any, NoReturn

from google.adk.errors.input_validation_error import InputValidationError
from google.adk.events.event import Event
from pydantic import TypeAdapter
from pydantic_core import to_json

logger = logging.getLogger("seabed_adk")

_EVENTS = TypeAdapter(list[Event])


def state_json(state: dict[str, Any] | None) -> str:
    """Returns a state as JSON. What is no JSON becomes its text (`str`), with a warning, as in google-adk.

    Raises:
        ValueError: For NaN and infinities, for nesting without end, and for unpaired surrogates.
    """
    if not state:
        return "{}"
    try:
        text = to_json(state, inf_nan_mode="constants")
    except Exception:  # What pydantic cannot write, in all its ways.
        logger.warning("Some values of the state are no JSON; they are stored as text.", exc_info=True)
        text = to_json(state, inf_nan_mode="constants", serialize_unknown=True)
    if b"NaN" in text or b"Infinity" in text:
        json.loads(text, parse_constant=_refuse_constant)
    return text.decode()


def event_json(event: Event) -> str:
    """Returns an event as `DatabaseSessionService` stores it.

    Raises:
        ValueError: As for a state.
    """
    if event.actions and event.actions.state_delta:
        state_json(event.actions.state_delta)
    return event.model_dump_json(exclude_none=True)


def events_from_json(text: str) -> list[Event]:
    """Returns the events of a JSON array."""
    return _EVENTS.validate_json(text)


def _refuse_constant(constant: str) -> NoReturn:
    raise InputValidationError(f"The state contains {constant}, which is no JSON.")
