"""Makes a schema v0 database, where event actions are pickles.

Usage: python make_v0.py URL COUNT [--refused]

Run it with google-adk 1.21.0, the last release that writes schema v0 (the
oldest with an asynchronous engine, and so with such URLs, is 1.19.0), on an
empty database. COUNT is how many events it makes. The first ones go through
DatabaseSessionService, the rest are inserted through the service's own models
in one transaction. The same arguments make the same rows.

Schema v0 has event times in the local time of the process, so set TZ to try
another time zone. On MySQL this takes a PyMySQL before 1.2, as aiomysql 0.3.2
cannot escape bytes with a later one.

--refused adds, as last event, one whose pickle has a class that google-adk's
later versions refuse to load.
"""

import argparse
import asyncio
import collections
import datetime
import decimal
import fractions
import os
import pathlib
import sys
import uuid

from google.adk.auth.auth_credential import AuthCredential
from google.adk.auth.auth_credential import AuthCredentialTypes
from google.adk.auth.auth_credential import OAuth2Auth
from google.adk.auth.auth_tool import AuthConfig
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.events.event_actions import EventCompaction
from google.adk.sessions import database_session_service as database
from google.adk.tools.tool_confirmation import ToolConfirmation
from google.genai import types
import sqlalchemy

# How many events go through the service.
SERVED = 300
START = 1_700_000_000
TEXT = "é e\u0301 עברית \U00020b9f 👩\u200d👩\u200d👧 \u2028 \"\\/\b\t\n\x1f"
SESSIONS = [(app, user, f"session-{number}")
            for app in ("app", "app é") for user in ("user", "Ünal 𠮟")
            for number in range(3)]
UTC = datetime.timezone.utc
DAY = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)
# What a pickle can hold and JSON cannot, of the types that google-adk's later
# versions still load from a pickle.
EXOTIC = {
    "datetime": DAY, "datetime utc": DAY.replace(tzinfo=UTC),
    "datetime offset": DAY.replace(tzinfo=datetime.timezone(
        datetime.timedelta(hours=5, minutes=30))),
    "date": DAY.date(), "time": DAY.time(),
    "timedelta": datetime.timedelta(days=1, microseconds=5),
    "tuple": (1, "two", (None,)), "set": {3}, "empty set": set(),
    "frozenset": frozenset({"a"}), "bytes": b"bytes \xc3\xa9",
    "bytearray": bytearray(b"array"), "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "ordered": collections.OrderedDict(b=1, a=2),
    "default": collections.defaultdict(list, a=[1]),
    "model": types.Part(text=TEXT), "enum": types.Outcome.OUTCOME_OK,
    "keys": {1: "int", 1.5: "float", False: "bool", None: "none"},
}
# google-adk's migration makes JSON of all else in another way when there is a
# value like this path, which pydantic does not know how to (and it drops the
# event when it is in a payload, so it is not in one here).
PATH = {"path": pathlib.PurePosixPath("/a/b")}
STATE = {
    "null": None, "nested": {"list": [1, 1.5, True, None, {}], TEXT: TEXT},
    "int": [2**63 - 1, -2**63, 2**64, 10**30], "float": [0.1, 1e-7, 5e-324],
    "tuple": (1, 2), "app:shared": 1, "user:shared": None, "temp:secret": 1,
}
CALL = types.FunctionCall(id="call-1", name="book", args={"to": TEXT, "n": 1})
RESPONSE = types.FunctionResponse(
    id="call-1", name="book", response={"ok": [1, None, {"é": 0.5}]})


def content(*parts, role="model"):
    return {"content": types.Content(role=role, parts=list(parts))}


def actions(**fields):
    return {"actions": EventActions(**fields)}


def auth_config():
    return AuthConfig(
        auth_scheme={"type": "oauth2", "flows": {"authorizationCode": {
            "authorizationUrl": "https://example.com/authorize",
            "tokenUrl": "https://example.com/token",
            "scopes": {"read": TEXT}}}},
        raw_auth_credential=AuthCredential(
            auth_type=AuthCredentialTypes.OAUTH2,
            oauth2=OAuth2Auth(client_id="client", client_secret="secret")))


def kinds(number):
    """The fields of each kind of event that a service stores."""
    return [
        {"author": "user", **content(
            types.Part(text=f"{number}: {TEXT}"), role="user")},
        content(
            types.Part(text="let me think", thought=True),
            types.Part(function_call=CALL,
                       thought_signature=bytes(range(256))),
        ) | {"long_running_tool_ids": {"call-1", "call-2"},
             "branch": "root.booking", "partial": False},
        content(types.Part(function_response=RESPONSE), role="user") | actions(
            state_delta={f"key-{number}": number, f"app:k{number % 50}": TEXT,
                         f"user:k{number % 50}": [number], **STATE},
            artifact_delta={"report é.pdf": number}),
        content(types.Part(inline_data=types.Blob(
            data=b"\x00\xff\xfe" * 20, mime_type="image/png"))),
        content(types.Part(executable_code=types.ExecutableCode(
                    code="print(1)", language=types.Language.PYTHON)),
                types.Part(code_execution_result=types.CodeExecutionResult(
                    outcome=types.Outcome.OUTCOME_OK, output="1\n")),
                types.Part(file_data=types.FileData(
                    file_uri="gs://bucket/é", mime_type="text/plain"))),
        actions(skip_summarization=True, requested_auth_configs={
            "call-1": auth_config()}),
        actions(requested_tool_confirmations={
            "call-1": ToolConfirmation(hint=TEXT, payload=EXOTIC),
            "call-2": ToolConfirmation(confirmed=True)}),
        actions(compaction=EventCompaction(
            start_timestamp=START + 0.25, end_timestamp=START + number + 0.5,
            compacted_content=content(types.Part(text=TEXT))["content"])),
        actions(agent_state={"step": number, **EXOTIC}, end_of_agent=False),
        actions(agent_state=PATH),
        actions(end_of_agent=True, transfer_to_agent="other", escalate=True),
        actions(rewind_before_invocation_id="invocation-1"),
        {"error_code": "SAFETY", "error_message": "é" * 1000,
         "interrupted": True, "turn_complete": True},
        {"custom_metadata": {"a": [None, 1.5], TEXT: TEXT},
         "grounding_metadata": types.GroundingMetadata(
             web_search_queries=[TEXT]),
         "usage_metadata": types.GenerateContentResponseUsageMetadata(
             prompt_token_count=1, candidates_token_count=2,
             total_token_count=3),
         "citation_metadata": types.CitationMetadata(citations=[
             types.Citation(start_index=0, end_index=3, uri="https://a/é",
                            publication_date={"year": 2024, "month": 2})])},
        {"input_transcription": types.Transcription(text=TEXT, finished=True),
         "output_transcription": types.Transcription(text="", finished=False)},
        # With as little as there can be.
        {"author": "", "long_running_tool_ids": set()},
    ]


def make_event(number, fields):
    """Makes an event; each fourth has the time of the one before."""
    return Event(**{
        "id": f"event-{number:07}", "author": "agent",
        "invocation_id": f"invocation-{number // 12 // 4}",
        "timestamp": START + number - (number % 4 == 3) + 0.123456, **fields})


def make_events(count):
    """Makes the events, those of one session at distances of the sessions."""
    for number in range(count):
        # By the turn, or else a session would have few of the kinds.
        turn = number // len(SESSIONS)
        choices = kinds(number)
        fields = choices[turn % len(choices)]
        if number >= SERVED and turn % 40 == 39:
            # The service cannot store these, as they cannot go to the state.
            fields = actions(state_delta=EXOTIC)
        yield number, SESSIONS[number % len(SESSIONS)], make_event(
            number, fields)


async def serve_events(service, events, live):
    """Appends events through the service."""
    for _, key, event in events:
        if key not in live:
            app, user, session = key
            live[key] = await service.create_session(
                app_name=app, user_id=user, session_id=session,
                state={"made": START, "app:made": True, "user:made": TEXT})
        await service.append_event(live[key], event)


async def insert_events(sql, events, live):
    """Inserts events through the models, with what they do to the state."""
    session_rows, app_rows, user_rows = {}, {}, {}
    for key in SESSIONS:
        app, user, _ = key
        session_rows[key] = await sql.get(database.StorageSession, key)
        app_rows[key] = await sql.get(database.StorageAppState, app)
        user_rows[key] = await sql.get(
            database.StorageUserState, (app, user))
    for number, key, event in events:
        delta = event.actions.state_delta
        delta.pop("temp:secret", None)
        if delta.keys() != EXOTIC.keys():
            for name, value in delta.items():
                scope, _, rest = name.partition(":")
                rows = {"app": app_rows, "user": user_rows}.get(scope)
                if rows:
                    rows[key].state[rest] = value
                else:
                    session_rows[key].state[name] = value
        sql.add(database.StorageEvent.from_event(live[key], event))
        if number % 1000 == 0:
            await sql.flush()
    await sql.flush()


async def settle_times(sql):
    """Gives the rows times of their own instead of those of this run.

    In the time zones that the service has: all but the times of events, and
    outside SQLite those of the last event, are the database's, here UTC.
    """
    utc = sql.bind.dialect.name == "sqlite"
    latest = sqlalchemy.select(
        sqlalchemy.func.max(database.StorageEvent.timestamp))
    first = datetime.datetime.fromtimestamp(START, UTC).replace(tzinfo=None)
    for row in (await sql.scalars(
            sqlalchemy.select(database.StorageSession))).all():
        row.create_time = first
        last = await sql.scalar(latest.where(
            database.StorageEvent.app_name == row.app_name,
            database.StorageEvent.user_id == row.user_id,
            database.StorageEvent.session_id == row.id))
        if last:
            row.update_time = (
                last.astimezone(UTC).replace(tzinfo=None) if utc else last)
    for model in (database.StorageAppState, database.StorageUserState):
        for row in (await sql.scalars(sqlalchemy.select(model))).all():
            row.update_time = first


async def make(url, count, refused):
    service = database.DatabaseSessionService(url)
    served = min(count, SERVED)
    events = make_events(count)
    live = {}
    await serve_events(
        service, (next(events) for _ in range(served)), live)
    async with service.database_session_factory() as sql, sql.begin():
        if count > served:
            await insert_events(sql, events, live)
        if refused:
            key = SESSIONS[0]
            sql.add(database.StorageEvent.from_event(live[key], make_event(
                count, actions(state_delta={
                    "third": fractions.Fraction(1, 3), "plain": 1}))))
        await settle_times(sql)
    await service.db_engine.dispose()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--refused", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(make(arguments.url, arguments.count, arguments.refused))


if __name__ == "__main__":
    # A pickle has sets in the order of hashes, which vary with the run.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  {**os.environ, "PYTHONHASHSEED": "0"})
    main()
