"""What is refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from seabed_adk import BackendError, SeabedSessionService
from seabed_adk._json import _stored_events, events_from_json
from test_drop_in import event, setting

pytestmark = pytest.mark.anyio

SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "agents.db",
        f"mssql+aioodbc://user:{SECRET}@host/db",
        f"spanner+spanner:///{SECRET}",
        f"postgresql://user:{SECRET}@host:port/db",
        f"postgresql+asyncpg://user:pass/{SECRET}@host/db",
        f"postgresql+asyncpg://host/db?prepared_statement_cache_size={SECRET}",
        f"mysql+aiomysql://user:{SECRET}@host/db?charset=latin1",
        f"sqlite+aiosqlite:///agents.db?{SECRET}=1",
    ],
)
def test_a_url_that_cannot_be_used_is_a_value_error_without_the_url(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        SeabedSessionService(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass@host/db",
        "postgresql+asyncpg://user:pass@host/db?ssl=require",
        "postgresql+psycopg://user:pass@host/db?sslmode=require",
        "mysql+aiomysql://user:pass@host/db?charset=utf8mb4",
        "mariadb+asyncmy://user:pass@host/db",
        "sqlite+aiosqlite:///agents.db",
        "sqlite:///agents.db",
        "sqlite+aiosqlite:///:memory:",
        "sqlite://",
    ],
)
def test_the_urls_of_google_adk_are_taken(url: str) -> None:
    SeabedSessionService(url)
    SeabedSessionService(uri=f"seabed+{url}", agents_dir=".")


@pytest.mark.parametrize(
    "options",
    [
        {"uri": "sqlite://"},
        {"accept_risks": ["everything"]},
        {"table_prefix": "no prefix"},
        {"pool_size": 0, "max_overflow": 0},
        {"pool_timeout": -1.0},
        {"statement_timeout": float("nan")},
    ],
)
def test_an_option_that_cannot_be_used_is_a_value_error(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SeabedSessionService("sqlite://", **options)
    with pytest.raises(TypeError, match="no_such_option"):
        SeabedSessionService("sqlite://", no_such_option=1)


async def test_three_slashes_begin_a_relative_path_as_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sqlite+aiosqlite:///one.db", "sqlite:///two.db", f"sqlite:///{tmp_path}/three.db"):
        async with SeabedSessionService(name) as service:
            await service.prepare_tables()
    assert {path.name for path in tmp_path.glob("*.db")} == {"one.db", "two.db", "three.db"}


async def test_without_create_tables_nothing_is_created(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/agents.db"
    service = SeabedSessionService(url, create_tables=False)
    with pytest.raises(BackendError, match="seabed-migrate up") as raised:
        await service.prepare_tables()
    assert raised.value.kind == "schema" and not raised.value.is_retryable
    assert list(tmp_path.iterdir()) == []
    async with SeabedSessionService(url) as creator:
        await creator.prepare_tables()
    await service.check_health()
    await service.close()


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    service = SeabedSessionService(f"postgresql+asyncpg://user:{SECRET}@127.0.0.1:1/db")
    with pytest.raises(BackendError) as raised:
        await service.get_session(app_name="a", user_id="u", session_id="s")
    assert raised.value.kind == "unavailable" and raised.value.is_retryable
    assert SECRET not in str(raised.value)


async def test_tables_of_the_old_schema_are_refused_with_the_command_that_upgrades(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "agents.db") as database:
        tables = Path(__file__).parents[3] / "tests" / "adk" / "v0.sql"
        database.executescript(tables.read_text())
    with pytest.raises(BackendError, match="seabed-migrate upgrade") as raised:
        await SeabedSessionService(f"sqlite:///{tmp_path}/agents.db").prepare_tables()
    assert raised.value.kind == "schema"


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], nested(200), nested(1000), "\ud800", "\0", 10**2000],
    ids=["nan", "infinity", "deep", "deeper", "surrogate", "nul", "huge"],
)
async def test_state_that_not_every_database_can_hold_is_a_value_error(
    seabed: SeabedSessionService, app: str, value: object
) -> None:
    with pytest.raises(ValueError):
        await seabed.create_session(app_name=app, user_id="u", state={"app:k": value})
    session = await seabed.create_session(app_name=app, user_id="u")
    with pytest.raises(ValueError):
        await seabed.append_event(session, setting(k=value))
    await seabed.append_event(session, setting(k="NaN and Infinity are words here"))
    found = await seabed.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and len(found.events) == 1


@pytest.mark.parametrize("name", ["", "x" * 129, "\0", "\ud800"], ids=["empty", "long", "nul", "surrogate"])
async def test_ids_that_do_not_fit_are_value_errors(seabed: SeabedSessionService, app: str, name: str) -> None:
    with pytest.raises(ValueError):
        await seabed.create_session(app_name=name, user_id="u")
    with pytest.raises(ValueError):
        await seabed.create_session(app_name=app, user_id="u", session_id=name)
    with pytest.raises(ValueError):
        await seabed.get_session(app_name=app, user_id=name, session_id="s")


async def test_fields_that_google_adk_does_not_know_are_stored(seabed: SeabedSessionService, app: str) -> None:
    class Marked(Event):
        mark: str = ""

    session = await seabed.create_session(app_name=app, user_id="u")
    await seabed.append_event(session, Marked(author="agent", mark="m", actions=EventActions(state_delta={"k": 1})))
    found = await seabed.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and type(found.events[0]) is Event and found.state == {"k": 1}


@pytest.mark.parametrize(
    "stored",
    [
        {"author": "agent", "message": "hello", "state": {"k": 1}, "route": "r", "node_path": "a/b"},
        {"author": "agent", "unknown": [1], "content": {"role": "user", "parts": [{"text": "é"}]}},
        {"author": "agent", "invocationId": "i", "turnComplete": True, "actions": {"stateDelta": {"k": None}}},
        {"content": {"parts": [{"inlineData": {"data": "AP8=", "mimeType": "x/y"}}]}, "longRunningToolIds": ["1"]},
        {"actions": {"compaction": {"startTimestamp": 1, "endTimestamp": 2, "compactedContent": {"parts": []}}}},
        {"content": {"role": None, "parts": [{"text": "t", "thought": None}, {"inline_data": None}, {}]}},
        {
            "content": {
                "parts": [{"function_call": {"name": "f", "args": {"message": None}}}, {"toolCall": {"id": "1"}}]
            }
        },
        {"author": "agent", "actions": {"unknown": 1}},
        {"author": "agent", "content": {"parts": [{"text": 1}]}},
        {"author": ["agent"]},
        {"message": "hello", "content": {"parts": []}},
        "no event",
    ],
)
def test_stored_events_are_read_as_google_adk_s_models_read_them(stored: object) -> None:
    # The quick way of reading is taken with the versions that these tests run with.
    assert isinstance(_stored_events(), SchemaValidator)
    text = json.dumps([{"id": "1", "timestamp": 1.5, **stored} if isinstance(stored, dict) else stored])
    try:
        expected = TypeAdapter(list[Event]).validate_json(text)
    except ValidationError as refused:
        with pytest.raises(ValidationError) as raised:
            events_from_json(text)
        assert str(raised.value) == str(refused)
    else:
        events = events_from_json(text)
        assert events == expected
        assert [e.model_dump(exclude_unset=True) for e in events] == [
            e.model_dump(exclude_unset=True) for e in expected
        ]


async def test_a_revision_that_is_none_is_a_value_error(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    for marker in ("", "seabed:1", "yesterday"):
        session._storage_update_marker = marker
        with pytest.raises(ValueError):
            await seabed.append_event(session, event())
