"""Serves a session service of google-adk's to the tests as a child process.

Usage: python peer.py URL [SERVICE]

URL is one of SQLAlchemy's with an asynchronous driver, and SERVICE the class:
google-adk's own DatabaseSessionService, or seabed_adk.SeabedSessionService.

Each line on standard input is a request, {"id": 1, "call": "get", ...}, and
each line on standard output an answer, {"id": 1, "ok": ...} or {"id": 1,
"error": {"type": ..., "message": ...}}. Requests run concurrently, so answers
come in any order. The program ends at the end of its input, once the requests
under way are answered.
"""

import asyncio
import collections
import datetime
import enum
import importlib
import importlib.metadata
import inspect
import itertools
import json
import os
import platform
import random
import sys
import time
import types as python_types
import typing
import unittest.mock

from google.adk.auth.auth_tool import AuthConfig
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.genai import types
import pydantic
from pydantic.alias_generators import to_camel

# How long requests under way may take after the end of the input.
GRACE_SECONDS = 30

# Precomposed and combining accents, right-to-left text, a character outside
# the basic plane, an emoji sequence, a line separator and what JSON escapes.
TEXT = "é e\u0301 עברית \U00020b9f 👩\u200d👩\u200d👧 \u2028 \"\\/\b\t\n\x1f"
ANY = {"null": None, "list": [None, True, {}, []], TEXT: TEXT, "float": 0.1}
STATE = {
    "null": None, "nested": ANY, "empty": "", TEXT: TEXT, "": "empty key",
    "app:null": None, "app:count": 2**53 + 1, "app:a:b": [1, 1.0, "1"],
    "user:null": None, "user:" + TEXT: ANY, "user:": "only the prefix",
    "temp:secret": "not to be stored", "other:prefix": True, "App:case": 1,
    "int": [0, -1, 2**53 + 1, 2**63 - 1, -2**63, 2**63, 2**64 - 1],
    "beyond 64 bits": [2**64, -2**63 - 1, 2**70, 10**30 + 1],
    "float": [0.1, 1.0, -0.0, 1e16, 1e22, 1e-7, 5e-324, 1.5e-310,
              1.7976931348623157e308, 2.2250738585072014e-308, 1 / 3],
}
AUTH_SCHEME = {"type": "oauth2", "flows": {"authorizationCode": {
    "authorizationUrl": "https://example.com/authorize",
    "tokenUrl": "https://example.com/token", "scopes": {"read": TEXT}}}}
# Values that the type of a field alone does not tell.
BY_NAME = {
    "state_delta": STATE,
    "auth_scheme": AUTH_SCHEME,
    "partial": False,  # A partial event is not stored.
    "id": "id", "timestamp": 1_700_000_000.123456,
}
BY_TYPE = {
    bool: True, int: 2**31, float: 0.1, str: TEXT, bytes: bytes(range(256)),
    datetime.datetime: datetime.datetime(
        2024, 2, 29, 12, 0, 0, 123456, datetime.timezone.utc),
    datetime.timedelta: datetime.timedelta(seconds=1.5),
}


def fill(hint, name, outer=()):
    """Makes a value of a type, with a value in each field of each model.

    None where the type is a model that contains itself.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fill(arguments[0], name, outer)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, python_types.UnionType):
        # The later arms are the richer ones.
        values = (fill(argument, name, outer) for argument in arguments[::-1]
                  if argument is not type(None))
        return next((value for value in values if value is not None), None)
    if origin is list and arguments[0] is types.Part:
        return [types.Part(**{key: fill(field.annotation, key, outer)})
                for key, field in types.Part.model_fields.items()]
    if origin in (list, set, frozenset, tuple):
        item = fill(arguments[0], name, outer)
        return None if item is None else [item]
    if origin is dict:
        return {TEXT: fill(arguments[1], name, outer)}
    if not inspect.isclass(hint):
        return ANY
    if issubclass(hint, pydantic.BaseModel):
        return None if hint in outer else build(hint, (*outer, hint))
    if issubclass(hint, enum.Enum):
        return list(hint)[-1]
    return BY_TYPE.get(hint, ANY)


def build(model, outer=()):
    """Makes a model with a value in each of its fields."""
    values = {
        name: (BY_NAME[name] if name in BY_NAME
               else fill(field.annotation, name, outer))
        for name, field in model.model_fields.items()}
    # Without the absent ones, which need not be of an optional type.
    return model(**{k: v for k, v in values.items() if v is not None})


# Some versions declare its values to be of any type.
BY_NAME["requested_auth_configs"] = {"call-1": build(AuthConfig)}


def sample_events():
    """Makes events that together use every field this google-adk knows.

    An event for each field alone, so that a failure tells the field, then
    one that has them all.
    """
    samples = [("bare", {})]
    for name, value in build(Event):
        if name == "content":
            samples += [
                (f"part.{next(iter(part.model_fields_set))}",
                 {"content": types.Content(role="model", parts=[part])})
                for part in value.parts]
        elif name == "actions":
            samples += [(f"actions.{action}",
                         {"actions": EventActions(**{action: value})})
                        for action, value in value]
        elif name not in ("id", "invocation_id", "author", "timestamp"):
            samples.append((name, {name: value}))
    everything = {k: v for k, v in build(Event) if v is not None}
    samples.append(("everything", everything))
    return [
        dump(Event(**{
            **values, "author": "user" if number % 2 else "agent",
            "id": f"sample-{number:03}-{name}",
            "invocation_id": f"invocation-{number // 4}",
            # Microseconds that a float holds exactly enough to come back.
            "timestamp": 1_700_000_000 + number + 0.000001 * (number + 1)}))
        for number, (name, values) in enumerate(samples)]


SMALL_SAMPLES = [
    # Other names for content, state_delta, route and path.
    {"message": "text", "state": {}, "route": 1, "node_path": "a"},
    # Without credentials, which are large and take almost anything.
    {"actions": {"requested_auth_configs": {"call-1": {
        "auth_scheme": {"type": "oauth2", "flows": {}},
        "credential_key": "key"}}}}]
# A value of every type, and of every type that pydantic converts.
OTHER_VALUES = [None, True, 7, 1.5, "text", "1.0", [], ["text"], {},
                {"unknown": None}]


def variants(value):
    """Makes values that differ from a JSON value in one place.

    Another value, a key more, a key less or a key in camelCase, at each place
    down to the leaves. Of a list, only the first item counts.
    """
    yield from OTHER_VALUES
    if isinstance(value, dict):
        yield {**value, "unknown": 1}
        for key, item in value.items():
            rest = {k: v for k, v in value.items() if k != key}
            yield rest
            yield {**rest, to_camel(key): item}
            yield {**value, to_camel(key): item}
            yield from ({**value, key: other} for other in variants(item))
    elif isinstance(value, list) and value:
        yield from ([other] for other in variants(value[0]))


def without(value, common):
    """Returns an object without what it has in common with another."""
    return {
        key: (without(item, common[key])
              if isinstance(item, dict) and key in common else item)
        for key, item in value.items()
        if key not in common or item != common[key]}


def dump(event):
    """Renders an event as google-adk stores it."""
    return event.model_dump(mode="json", exclude_none=True)


class Reached(Exception):
    """Carries the events that a request is built from."""


async def effective_events(events, agent, state, before):
    """Tells what google-adk makes of a history: the ids of the live events,
    the events that the contents of a request are built from, and the state
    delta of a rewind to before an invocation.

    The second are a local variable of google-adk's own function. Of an event
    of the history, only its id is told; a summary is a new event.
    """
    from google.adk.events._rewind_events import _apply_rewinds
    from google.adk.flows.llm_flows.context import _contents
    from google.adk.sessions import _rewind_utils
    from google.adk.sessions.session import Session

    events = [Event.model_validate(event) for event in events]
    ids = {id(event): event.id for event in events}

    def reach(_):
        raise Reached(sys._getframe(1).f_locals["events_to_process"])

    with unittest.mock.patch.object(
            _contents, "_drop_orphaned_function_responses", reach):
        try:
            _contents._get_contents(
                agent["branch"], events, agent["name"],
                isolation_scope=agent["isolation_scope"],
                node_path=agent["node_path"],
                is_single_turn=agent["is_single_turn"],
                include_thoughts_from_other_agents=agent["thoughts"])
        except Reached as reached:
            used, = reached.args
    first = next((index for index, event in enumerate(events)
                  if before and event.invocation_id == before), None)
    session = Session(
        id="s", app_name="a", user_id="u", state=state, events=events)
    return {
        "live": [event.id for event in _apply_rewinds(events)],
        "used": [
            {"id": ids[id(event)]} if id(event) in ids else
            {"summary": [event.timestamp, event.author, event.invocation_id,
                         event.branch, event.isolation_scope,
                         (event.content.parts or [types.Part()])[0].text]}
            for event in used],
        "delta": None if first is None else
            await _rewind_utils.compute_state_delta_for_rewind(session, first)}


def dump_session(session):
    """Renders a session."""
    return {
        "app": session.app_name, "user": session.user_id, "id": session.id,
        "state": session.state, "last_update_time": session.last_update_time,
        "events": [dump(event) for event in session.events]}


def is_stale(error):
    """Tells whether an append was refused since the session has changed."""
    # By name, as google-adk 1 has no such class: there it is a ValueError.
    return (type(error).__name__ == "StaleSessionError"
            or isinstance(error, ValueError) and "stale" in str(error).lower())


class Peer:
    """The calls; `kept` has the session objects that appends go through."""

    def __init__(self, url, service=None):
        if service is None:
            self.service = DatabaseSessionService(url)
        else:
            module, name = service.rsplit(".", 1)
            service_class = getattr(importlib.import_module(module), name)
            self.service = service_class(url)
        self.kept = {}

    async def create(self, app, user, session=None, state=None):
        made = await self.service.create_session(
            app_name=app, user_id=user, session_id=session, state=state)
        self.kept[app, user, made.id] = made
        return dump_session(made)

    async def fetch(self, app, user, session, **config):
        """Reads a session and keeps its object; None when there is none."""
        found = await self.service.get_session(
            app_name=app, user_id=user, session_id=session,
            config=GetSessionConfig(**config) if config else None)
        if found is None:
            self.kept.pop((app, user, session), None)
        else:
            self.kept[app, user, session] = found
        return found

    async def get(self, app, user, session, **config):
        found = await self.fetch(app, user, session, **config)
        return found and dump_session(found)

    async def append(self, app, user, session, event, reload=False):
        target = self.kept.get((app, user, session))
        if target is None or reload:
            target = await self.fetch(app, user, session)
        if target is None:
            raise LookupError(f"no session {session!r}")
        return dump(await self.service.append_event(
            target, Event.model_validate(event)))

    async def list(self, app, user=None):
        found = await self.service.list_sessions(app_name=app, user_id=user)
        return [dump_session(session) for session in found.sessions]

    async def delete(self, app, user, session):
        await self.service.delete_session(
            app_name=app, user_id=user, session_id=session)
        self.kept.pop((app, user, session), None)

    async def sample_events(self):
        return sample_events()

    async def misshapen_events(self):
        """Makes events that differ in one place from one of the samples.

        From what only that sample has, and without the sample that has all
        that the others have.
        """
        bare, *samples = [
            {k: v for k, v in sample.items()
             if k not in ("id", "author", "invocation_id", "timestamp")}
            for sample in sample_events()[:-1]
            if not sample["id"].endswith("requested_auth_configs")]
        samples = [without(sample, bare) for sample in samples]
        return [event for sample in (bare, *samples, *SMALL_SAMPLES)
                for event in variants(sample) if isinstance(event, dict)]

    async def objections(self, events):
        """Tells for each event why it cannot be read: the types of the
        errors, none if it can."""
        def objections(event):
            try:
                Event.model_validate(event)
                return []
            except pydantic.ValidationError as error:
                return sorted({each["type"] for each in error.errors()})
            except Exception as error:
                return [type(error).__name__]
        return [objections(event) for event in events]

    async def effective_events(self, histories):
        """Tells what google-adk makes of each history."""
        return [await effective_events(**history) for history in histories]

    async def rewind(self, app, user, session, before):
        """Rewinds as google-adk's runner does."""
        from google.adk.sessions import _rewind_utils

        target = await self.fetch(app, user, session)
        await _rewind_utils.rewind_session(
            session_service=self.service, session=target, app_name=app,
            rewind_before_invocation_id=before)

    async def versions(self):
        return {"google-adk": importlib.metadata.version("google-adk"),
                "python": platform.python_version()}

    async def hammer(self, app, user, sessions, seconds, writer):
        """Appends to the sessions side by side for a time.

        An append that fails otherwise than by staleness may have been stored
        all the same, so its keys are not used again. The pause after an
        append gives other writers the time to reload the session and have
        their turn; else one writer alone may win each time.
        """
        pace = random.Random(writer)
        end = time.monotonic() + seconds
        numbers = itertools.count(1)
        acknowledged, errors, stale = [], collections.Counter(), 0

        async def run(session):
            nonlocal stale
            number = next(numbers)
            target = None
            while time.monotonic() < end:
                start = time.monotonic()
                keys = [f"{scope}{writer}-{number}"
                        for scope in ("app:", "user:", "")]
                event = Event(
                    id=f"{writer}-{number}", author=writer,
                    invocation_id=f"{writer}-invocation",
                    actions=EventActions(state_delta=dict.fromkeys(keys, 1)))
                try:
                    # One event is enough for the state and the time.
                    target = target or await self.fetch(
                        app, user, session, num_recent_events=1)
                    if target is None:
                        raise LookupError("no such session")
                    await self.service.append_event(target, event)
                except Exception as error:
                    target = None
                    if is_stale(error):
                        stale += 1
                        continue
                    errors[f"{type(error).__name__}: {str(error)[:80]}"] += 1
                    await asyncio.sleep(0.01)
                else:
                    acknowledged.append({"session": session, "keys": keys,
                                         "event_id": event.id})
                    took = time.monotonic() - start
                    await asyncio.sleep(took * pace.uniform(0, 4))
                number = next(numbers)

        await asyncio.gather(*map(run, sessions))
        return {"acknowledged": acknowledged, "errors": errors, "stale": stale}


async def serve(answers, *arguments):
    """Answers requests until the input ends."""
    peer = Peer(*arguments)

    async def answer(request):
        number, name = request.pop("id"), request.pop("call")
        try:
            if name.startswith("_") or name in ("fetch", "service", "kept"):
                raise AttributeError(f"no call {name!r}")
            reply = {"ok": await getattr(peer, name)(**request)}
        except Exception as error:
            reply = {"error": {"type": type(error).__name__,
                               "message": str(error)}}
        print(json.dumps({"id": number, **reply}), file=answers, flush=True)

    tasks = set()
    # In a thread, as asyncio cannot read files, only pipes.
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    await peer.service.close()


def main():
    """Keeps standard output for the answers, whatever else may print."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8")
    asyncio.run(serve(answers, *sys.argv[1:]))


if __name__ == "__main__":
    main()
