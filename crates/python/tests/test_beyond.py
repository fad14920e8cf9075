"""What `SeabedSessionService` does where `DatabaseSessionService` fails, and what only it has."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from seabed_adk import SeabedSessionService
from test_drop_in import event, setting

pytestmark = pytest.mark.anyio


async def get(service: SeabedSessionService | DatabaseSessionService, session: Session) -> Session:
    found = await service.get_session(app_name=session.app_name, user_id=session.user_id, session_id=session.id)
    assert found is not None
    return found


async def test_a_hundred_creates_at_once_keep_a_hundred_app_keys(url: str, app: str) -> None:
    async with SeabedSessionService(url) as one, SeabedSessionService(url) as other:
        creates = [
            (one, other)[number % 2].create_session(app_name=app, user_id=f"u{number % 7}", state={f"app:k{number}": 1})
            for number in range(100)
        ]
        await asyncio.gather(*creates)
        assert await one.get_app_state(app_name=app) == {f"k{number}": 1 for number in range(100)}


async def test_of_creates_with_one_id_one_succeeds(seabed: SeabedSessionService, app: str) -> None:
    key = {"app_name": app, "user_id": "u", "session_id": "s"}
    creates = (seabed.create_session(**key, state={"app:k": number}) for number in range(20))
    outcomes = await asyncio.gather(*creates, return_exceptions=True)
    created = [outcome for outcome in outcomes if isinstance(outcome, Session)]
    assert len(created) == 1
    assert Counter(type(outcome).__name__ for outcome in outcomes) == {"Session": 1, "AlreadyExistsError": 19}
    assert await seabed.get_app_state(app_name=app) == {"k": created[0].state["app:k"]}


async def test_appends_through_one_object_wait_for_each_other(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    await asyncio.gather(*(seabed.append_event(session, setting(**{f"k{number}": 1})) for number in range(20)))
    found = await get(seabed, session)
    assert found.events == session.events and found.state == session.state and len(found.state) == 20


async def test_appends_at_any_revision_all_succeed(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    copies = [await get(seabed, session) for _ in range(10)]
    await asyncio.gather(*(seabed.append_latest(copy, setting(**{f"k{i}": 1})) for i, copy in enumerate(copies)))
    found = await get(seabed, session)
    assert len(found.events) == 10 and len(found.state) == 10
    last = max(copies, key=lambda copy: copy.last_update_time)
    assert last.events == found.events
    await seabed.append_event(last, event())


async def test_an_event_is_stored_once(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    before = await get(seabed, session)
    once = event()
    await seabed.append_event(session, once)
    await seabed.append_event(session, event("by another"))
    await seabed.append_event(before, once)
    assert before.events == session.events
    await seabed.append_event(before, event("next"))
    changed = once.model_copy(update={"author": "somebody"})
    with pytest.raises(ValueError, match="belongs to an event with other content"):
        await seabed.append_event(before, changed)


async def test_copies_of_google_adk_s_service_are_taken(
    seabed: SeabedSessionService, adk: DatabaseSessionService, app: str
) -> None:
    made_there = await adk.create_session(app_name=app, user_id="u")
    stale = await get(adk, made_there)
    await seabed.append_event(made_there, event("through Seabed"))
    assert (await get(adk, made_there)).events == made_there.events
    with pytest.raises(StaleSessionError):
        await seabed.append_event(stale, event())
    with pytest.raises(StaleSessionError):
        await adk.append_event(stale, event())
    read_there = await get(adk, made_there)
    await adk.append_event(read_there, event("through google-adk"))
    with pytest.raises(StaleSessionError):
        await seabed.append_event(made_there, event())
    assert (await get(seabed, made_there)).events == read_there.events


async def test_get_or_create_makes_one_session(seabed: SeabedSessionService, app: str) -> None:
    key = {"app_name": app, "user_id": "u", "session_id": "s"}
    found = await asyncio.gather(*(seabed.get_or_create(**key, state={"k": number}) for number in range(20)))
    assert sum(is_new for _, is_new in found) == 1
    assert len({str(session.state) for session, _ in found}) == 1
    await seabed.append_event(found[0][0], event())
    session, is_new = await seabed.get_or_create(**key, config=GetSessionConfig(num_recent_events=0))
    assert not is_new and session.events == []


async def test_events_come_in_pages(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    for number in range(7):
        await seabed.append_event(session, event(str(number)))
    key = {"app_name": app, "user_id": "u", "session_id": session.id}
    page = await seabed.list_events(**key, limit=4)
    rest = await seabed.list_events(**key, limit=4, cursor=page.next_cursor)
    assert page.events + rest.events == session.events and rest.next_cursor is None
    newest = await seabed.list_events(**key, limit=2, newest_first=True)
    assert newest.events == session.events[:-3:-1]
    assert [event async for event in seabed.stream_events(**key)] == session.events
    with pytest.raises(SessionNotFoundError):
        await seabed.list_events(**{**key, "session_id": "absent"})


async def test_a_cancelled_append_is_stored_entirely_or_not_at_all(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    for number in range(40):
        both_scopes = setting(**{f"k{number}": 1, f"app__k{number}": 1})
        append = asyncio.ensure_future(seabed.append_latest(session, both_scopes))
        await asyncio.sleep(number / 10_000)
        append.cancel()
        await asyncio.gather(append, return_exceptions=True)
    await seabed.append_latest(session, event("after all"))
    # An append that had begun goes on, perhaps after this one: wait until nothing changes any more.
    found = await get(seabed, session)
    while (later := (await asyncio.sleep(0.5), await get(seabed, session))[1]).events != found.events:
        found = later
    by_event = {key for event in found.events for key in event.actions.state_delta}
    assert set(found.state) == by_event
    assert {key.removeprefix("app:") for key in by_event} == set(await seabed.get_app_state(app_name=app))
    await seabed.append_event(found, event("and the service goes on"))


async def test_one_service_serves_several_loops_and_threads(seabed: SeabedSessionService, app: str) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        async def append() -> None:
            session = await seabed.create_session(app_name=app, user_id=str(number), state={f"app:k{number}": 1})
            for _ in range(5):
                await seabed.append_event(session, event())

        try:
            asyncio.run(append())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert failures == []
    assert len(await seabed.get_app_state(app_name=app)) == 8


async def test_the_loop_runs_while_the_database_works(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u", state={"large": "x" * 1_000_000})
    reads = asyncio.gather(*(seabed.list_sessions(app_name=app) for _ in range(20)))
    turns = 0
    while not reads.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await reads)[0].sessions[0].id == session.id
    assert turns > 20
