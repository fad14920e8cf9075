"""JSON text, the form in which sessions and events cross to Rust."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any, NoReturn

from google.adk.errors.input_validation_error import InputValidationError
from google.adk.events.event import Event
from google.genai import types
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator, core_schema, to_json

logger = logging.getLogger("seabed_adk")

_EVENTS = TypeAdapter(list[Event])
# Hooks of google-adk's models that look only at what a program passes: at objects, and at arguments such as `message`.
_HOOKS_FOR_PROGRAMS = {"_accept_convenience_kwargs", "_check_field_type_mismatches"}


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
    if event.actions and (delta := event.actions.state_delta):
        text = state_json(delta)
        # There, bytes are text in the state, and Base64 in the event. Here, the state is made of the event.
        if to_json(delta, bytes_mode="base64", serialize_unknown=True) != text.encode():
            actions = event.actions.model_copy(update={"state_delta": json.loads(text)})
            event = event.model_copy(update={"actions": actions})
    return event.model_dump_json(exclude_none=True)


def events_from_json(text: str) -> list[Event]:
    """Returns the events of a JSON array.

    Raises:
        ValidationError: For an event that google-adk's models refuse.
    """
    try:
        events: list[Event] = _stored_events().validate_json(text)
    except ValidationError:
        # Whatever is unusual is left to the models as they are.
        events = _EVENTS.validate_json(text)
    return events


@cache
def _stored_events() -> SchemaValidator | TypeAdapter[list[Event]]:
    """The validator of google-adk's models without what they do in Python, which takes two thirds of the time.

    All of that is for programs, which pass objects, and arguments such as `message`. Where stored JSON would come out
    differently without it, this validator refuses it: unknown fields of an event, and null as a field of a part.
    """
    try:
        schema = _for_stored(Event.__pydantic_core_schema__)
        model = schema["schema"] if schema["type"] == "definitions" else schema
        model["config"]["extra_fields_behavior"] = "forbid"
        events: core_schema.CoreSchema = core_schema.list_schema(model)
        if model is not schema:
            events = core_schema.definitions_schema(events, schema["definitions"])
        return SchemaValidator(events, _use_prebuilt=False)
    except Exception:  # Another version of pydantic's, whose schemas are of another form.
        logger.debug("The events of sessions are validated by the models themselves.", exc_info=True)
        return _EVENTS


def _for_stored(schema: Any) -> Any:
    """Returns a copy of a schema of pydantic's without what is for programs."""
    if isinstance(schema, list):
        return [_for_stored(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "function-before" and schema["function"]["function"].__name__ in _HOOKS_FOR_PROGRAMS:
        return _for_stored(schema["schema"])
    copy = {key: item if key == "metadata" else _for_stored(item) for key, item in schema.items()}
    if copy.get("type") == "model" and copy["cls"] is types.Part:
        # Its constructor leaves out what is None.
        copy["custom_init"] = False
        for field in copy["schema"]["fields"].values():
            optional = field["schema"]["schema"]
            if optional["type"] != "nullable":
                raise TypeError("a part has a field that is not optional")
            field["schema"]["schema"] = optional["schema"]
    return copy


def _refuse_constant(constant: str) -> NoReturn:
    raise InputValidationError(f"The state contains {constant}, which is no JSON.")
