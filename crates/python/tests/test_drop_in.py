"""What `DatabaseSessionService` does, `SeabedSessionService` does too: each test runs against both."""

from __future__ import annotations

import copy

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig
from google.genai import types

pytestmark = pytest.mark.anyio


def event(text: str = "hello", **fields: object) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=text)])
    return Event(author="user", invocation_id="run", content=content, **fields)


def setting(**delta: object) -> Event:
    keys = {key.replace("__", ":"): value for key, value in delta.items()}
    return Event(author="agent", invocation_id="run", actions=EventActions(state_delta=keys))


async def test_a_session_comes_back_as_it_was_created(service: BaseSessionService, app: str) -> None:
    state = {"app:a": 1, "user:b": [None, "é 🐢"], "c": {"d": None}, "n": None, "temp:e": 5}
    created = await service.create_session(app_name=app, user_id="u", state=state, session_id="s")
    stored = {key: value for key, value in state.items() if not key.startswith("temp:")}
    assert (created.id, created.app_name, created.user_id, created.events) == ("s", app, "u", [])
    assert created.state == stored
    found = await service.get_session(app_name=app, user_id="u", session_id="s")
    assert found == created


async def test_an_absent_session_is_none_and_deleting_it_succeeds(service: BaseSessionService, app: str) -> None:
    assert await service.get_session(app_name=app, user_id="u", session_id="s") is None
    await service.delete_session(app_name=app, user_id="u", session_id="s")


async def test_ids_are_generated_and_taken_ids_refused(service: BaseSessionService, app: str) -> None:
    first = await service.create_session(app_name=app, user_id="u")
    second = await service.create_session(app_name=app, user_id="u")
    assert first.id != second.id
    with pytest.raises(AlreadyExistsError):
        await service.create_session(app_name=app, user_id="u", session_id=first.id, state={"app:lost": 1})
    found = await service.get_session(app_name=app, user_id="u", session_id=first.id)
    assert found is not None and found.state == {}


async def test_an_event_comes_back_field_by_field(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    parts = [
        types.Part(text="é\u2028\"\\ 🐢"),
        types.Part(inline_data=types.Blob(data=b"\x00\xff", mime_type="x/y")),
        types.Part(function_call=types.FunctionCall(id="1", name="f", args={"n": 12345678901234567890, "x": None})),
    ]
    appended = Event(
        author="agent",
        invocation_id="run",
        content=types.Content(role="model", parts=parts),
        actions=EventActions(state_delta={"k": None}, artifact_delta={"file": 2}, escalate=True),
        long_running_tool_ids={"1", "2"},
        branch="a.b",
        custom_metadata={"m": [1.5, None]},
        turn_complete=True,
    )
    assert await service.append_event(session, appended) is appended
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and found.events == [appended] == session.events
    assert type(found.events[0]) is Event
    assert found.last_update_time == session.last_update_time == pytest.approx(appended.timestamp, abs=1e-3)


async def test_deltas_go_to_their_scopes(service: BaseSessionService, app: str) -> None:
    one = await service.create_session(app_name=app, user_id="u", state={"k": {"deep": 1}})
    await service.append_event(one, setting(k={"other": 2}, app__a=1, user__b=2, temp__t=3, gone=None))
    expected = {"k": {"other": 2}, "app:a": 1, "user:b": 2, "gone": None}
    assert one.state == {**expected, "temp:t": 3}
    assert "temp:t" not in one.events[0].actions.state_delta
    found = await service.get_session(app_name=app, user_id="u", session_id=one.id)
    assert found is not None and found.state == expected
    two = await service.create_session(app_name=app, user_id="u")
    assert two.state == {"app:a": 1, "user:b": 2}
    three = await service.create_session(app_name=app, user_id="v")
    assert three.state == {"app:a": 1}
    assert await service.get_user_state(app_name=app, user_id="u") == {"b": 2}
    assert await service.get_user_state(app_name=app, user_id="nobody") == {}


async def test_fragments_are_not_stored(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    fragment = event(partial=True)
    assert await service.append_event(session, fragment) is fragment
    assert session.events == []
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and found.events == []


async def test_a_read_can_be_limited(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    start = session.last_update_time
    for number in range(5):
        await service.append_event(session, event(str(number), timestamp=start + 1 + number))

    async def texts(**limits: object) -> list[str]:
        config = GetSessionConfig(**limits)
        found = await service.get_session(app_name=app, user_id="u", session_id=session.id, config=config)
        assert found is not None
        return [event.content.parts[0].text for event in found.events]

    assert await texts() == list("01234")
    assert await texts(num_recent_events=2) == list("34")
    assert await texts(num_recent_events=0) == []
    assert await texts(after_timestamp=start + 3) == list("234")
    assert await texts(after_timestamp=0.0) == list("01234")
    assert await texts(after_timestamp=start + 3, num_recent_events=1) == list("4")


async def test_a_listing_ends_with_the_session_that_changed_last(service: BaseSessionService, app: str) -> None:
    sessions = [await service.create_session(app_name=app, user_id=user, state={"user:k": user}) for user in "uvu"]
    await service.append_event(sessions[0], event())
    listed = (await service.list_sessions(app_name=app, user_id="u")).sessions
    assert [session.id for session in listed] == [sessions[2].id, sessions[0].id]
    assert all(session.events == [] and session.state == {"user:k": "u"} for session in listed)
    everybody = (await service.list_sessions(app_name=app)).sessions
    assert [session.id for session in everybody] == [sessions[1].id, sessions[2].id, sessions[0].id]
    assert (await service.list_sessions(app_name=app, user_id="nobody")).sessions == []


async def test_deleted_is_deleted_and_shared_state_stays(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u", state={"user:k": 1, "own": 2})
    await service.append_event(session, event())
    await service.delete_session(app_name=app, user_id="u", session_id=session.id)
    assert await service.get_session(app_name=app, user_id="u", session_id=session.id) is None
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, event())
    again = await service.create_session(app_name=app, user_id="u", session_id=session.id)
    assert again.state == {"user:k": 1} and again.events == []


async def test_a_stale_copy_is_refused_and_nothing_stored(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    stale = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert stale is not None
    await service.append_event(session, event("first"))
    with pytest.raises(StaleSessionError):
        await service.append_event(stale, setting(lost=1))
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and len(found.events) == 1 and found.state == {}
    await service.append_event(found, event("second"))


async def test_a_copy_keeps_its_revision(service: BaseSessionService, app: str) -> None:
    session = copy.deepcopy(await service.create_session(app_name=app, user_id="u"))
    await service.append_event(session, event("first"))
    session = session.model_copy(deep=True)
    await service.append_event(session, event("second"))
    assert len(session.events) == 2


async def test_a_session_without_a_revision_is_judged_by_its_events(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    await service.append_event(session, event("first"))
    rebuilt = type(session)(**session.model_dump(exclude={"last_update_time"}), last_update_time=0.0)
    await service.append_event(rebuilt, event("second"))
    stale = type(session)(**session.model_dump(exclude={"last_update_time"}), last_update_time=0.0)
    with pytest.raises(StaleSessionError):
        await service.append_event(stale, event("third"))


async def test_what_is_no_json_becomes_its_repr(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u", state={"f": print, "k": 1})
    await service.append_event(session, setting(g=print))
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and found.state == {"f": repr(print), "k": 1, "g": repr(print)}


async def test_bytes_in_state_become_text(service: BaseSessionService, app: str) -> None:
    state = {"b": "é".encode(), "app:b": [b"x"], "k": 1}
    session = await service.create_session(app_name=app, user_id="u", state=state)
    await service.append_event(session, setting(user__c={"deep": b"text"}, k=2))
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None
    assert found.state == {"b": "é", "app:b": ["x"], "user:c": {"deep": "text"}, "k": 2}


async def test_bytes_that_are_no_text_are_a_value_error(service: BaseSessionService, app: str) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        await service.create_session(app_name=app, user_id="u", state={"b": b"\xff"})
    session = await service.create_session(app_name=app, user_id="u")
    with pytest.raises(ValueError, match="utf-8"):
        await service.append_event(session, setting(app__c=b"\xff", k=2))
    found = await service.get_session(app_name=app, user_id="u", session_id=session.id)
    assert found is not None and found.state == {} and found.events == []


async def test_flush_and_close_can_be_repeated(service: BaseSessionService, app: str) -> None:
    session = await service.create_session(app_name=app, user_id="u")
    await service.flush()
    await service.close()
    await service.close()
    assert await service.get_session(app_name=app, user_id="u", session_id=session.id) == session
