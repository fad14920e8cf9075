"""What `SeabedSessionService` does where `DatabaseSessionService` fails, and what only it has."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections import Counter
from functools import partial

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from seabed_adk import BackendError, SeabedSessionService
from seabed_adk._calls import call
from test_drop_in import event, setting

pytestmark = pytest.mark.anyio


async def get(service: SeabedSessionService | DatabaseSessionService, session: Session) -> Session:
    found = await service.get_session(app_name=session.app_name, user_id=session.user_id, session_id=session.id)
    assert found is not None
    return found


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


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
async def test_one_session_object_serves_both_services(
    seabed: SeabedSessionService, adk: DatabaseSessionService, app: str, copied: bool
) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    for number, service in enumerate([adk, seabed, seabed, adk, adk, seabed]):
        if copied:
            session = pickle.loads(pickle.dumps(session.model_copy(deep=True)))
        stale = await get((adk, seabed)[number % 2], session)
        await service.append_event(session, event(str(number)))
        for refusing in (seabed, adk):
            with pytest.raises(StaleSessionError):
                await refusing.append_event(stale, event("lost"))
    assert (await get(adk, session)).events == (await get(seabed, session)).events == session.events
    made_there = await adk.create_session(app_name=app, user_id="u")
    await seabed.append_event(made_there, event("through Seabed"))
    await adk.append_event(made_there, event("through google-adk"))
    assert (await get(seabed, made_there)).events == made_there.events


async def test_an_object_of_a_deleted_session_is_stale_for_the_next_of_its_id(
    seabed: SeabedSessionService, app: str
) -> None:
    key = {"app_name": app, "user_id": "u", "session_id": "s"}
    session = await seabed.create_session(**key)
    await seabed.delete_session(**key)
    await seabed.create_session(**key)
    session.last_update_time += 3600
    with pytest.raises(StaleSessionError):
        await seabed.append_event(session, event())


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


@pytest.mark.parametrize("others_append", [False, True], ids=["alone", "beside others"])
async def test_a_cancelled_append_leaves_its_session_object_right(
    seabed: SeabedSessionService, app: str, others_append: bool
) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    for number in range(20):
        if others_append and number % 3 == 0:
            await seabed.append_latest(await get(seabed, session), event("by another"))
        append = asyncio.ensure_future(
            seabed.append_latest(session, setting(**{f"k{number}": 1, f"app__k{number}": 1}))
        )
        # Before it begins, while it runs, and after it has ended.
        for _ in range(number % 4):
            await asyncio.sleep(0)
        await asyncio.sleep(number / 5_000 if number > 10 else 0)
        append.cancel()
        await asyncio.gather(append, return_exceptions=True)
    # It waits for the append that goes on, and needs the revision that comes of it.
    await seabed.append_event(session, event("after all"))
    found = await get(seabed, session)
    assert session.events == found.events and session.state == found.state
    by_event = {key for event in found.events for key in event.actions.state_delta}
    # The first had begun. Others may have waited for it, and never began.
    assert "k0" in by_event and set(found.state) == by_event
    assert {key.removeprefix("app:") for key in by_event if key.startswith("app:")} == set(
        await seabed.get_app_state(app_name=app)
    )


async def test_a_call_that_waits_for_an_append_can_be_cancelled(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    first, second = (asyncio.ensure_future(seabed.append_event(session, event(text))) for text in ("first", "second"))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await seabed.append_event(session, event("third"))
    assert [event.content.parts[0].text for event in session.events] == ["first", "third"]
    assert (await get(seabed, session)).events == session.events


async def test_a_close_waits_for_the_calls_before_it(url: str, app: str) -> None:
    service = SeabedSessionService(url)
    for _ in range(3):
        # The first of them connects.
        creates = [service.create_session(app_name=app, user_id=str(number)) for number in range(40)]
        lists = [service.list_sessions(app_name=app) for _ in range(40)]
        calls = [asyncio.ensure_future(call) for call in creates + lists]
        await asyncio.sleep(0)
        await service.close()
        assert all(call.done() for call in calls)
        await asyncio.gather(*calls)
    assert len((await service.list_sessions(app_name=app)).sessions) == 120
    await service.close()


async def test_a_close_waits_for_appends_that_wait_for_each_other(url: str, app: str) -> None:
    service = SeabedSessionService(url)
    session = await service.create_session(app_name=app, user_id="u")
    other = await get(service, session)
    await service.append_event(session, event("makes the other stale"))
    appends = [asyncio.ensure_future(service.append_latest(other, event(str(number)))) for number in range(5)]
    await asyncio.sleep(0)
    await service.close()
    assert all(append.done() for append in appends)
    await asyncio.gather(*appends)
    assert len((await get(service, session)).events) == 6
    await service.close()


async def test_an_append_that_fails_after_its_caller_has_gone_is_not_reported(
    seabed: SeabedSessionService, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    stale = await get(seabed, session)
    await seabed.append_event(session, event("first"))
    append = asyncio.ensure_future(seabed.append_event(stale, event("refused")))
    await asyncio.sleep(0)
    append.cancel()
    await asyncio.wait([append])
    await seabed.close()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_panic_is_an_exception_and_the_service_goes_on(
    seabed: SeabedSessionService, app: str, capfd: pytest.CaptureFixture[str]
) -> None:
    create = partial(seabed.create_session, app_name=app, user_id="u")
    calls = asyncio.gather(create(), call(seabed._store._panic), create(), return_exceptions=True)
    before, panic, after = await asyncio.wait_for(calls, 30)
    assert isinstance(panic, BackendError) and "panicked" in str(panic)
    assert (panic.kind, panic.is_retryable) == ("unexpected", False)
    assert isinstance(before, Session) and isinstance(after, Session)
    assert "a test asked for this panic" in capfd.readouterr().err
    await seabed.append_event(after, event("and the service goes on"))
    await seabed.close()


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


async def test_one_session_object_serves_several_loops(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u")
    began = threading.Barrier(2)

    def work(name: str) -> None:
        async def append() -> None:
            began.wait(30)
            await asyncio.gather(*(seabed.append_latest(session, event(f"{name} {number}")) for number in range(10)))

        asyncio.run(append())

    await asyncio.gather(*(asyncio.to_thread(work, name) for name in ("one", "other")))
    assert len((await get(seabed, session)).events) == 20


async def test_the_loop_runs_while_the_database_works(seabed: SeabedSessionService, app: str) -> None:
    session = await seabed.create_session(app_name=app, user_id="u", state={"large": "x" * 1_000_000})
    reads = asyncio.gather(*(seabed.list_sessions(app_name=app) for _ in range(20)))
    turns = 0
    while not reads.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await reads)[0].sessions[0].id == session.id
    assert turns > 20
