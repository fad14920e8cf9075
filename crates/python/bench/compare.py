"""Measures `SeabedSessionService` beside google-adk's `DatabaseSessionService`, in turn, on one database.

    python bench/compare.py sqlite+aiosqlite:////tmp/compare.db --rounds 5

For each operation and number of callers it prints the medians over the rounds: calls per second, the 99th percentile of
a call in milliseconds, and the ratio of the rates within a round. Calls that fail are counted, and are not in the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from google.genai import types
from seabed_adk import SeabedSessionService

CALLERS = (1, 8, 32)
EVENTS = 100

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Outcome:
    rate: float
    p99: float
    failed: int


def event(number: int) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=f"message {number} " + "x" * 200)])
    actions = EventActions(state_delta={f"k{number % 10}": number})
    return Event(author="user", invocation_id="run", content=content, actions=actions)


async def creates(service: BaseSessionService, app: str, caller: int) -> Call:
    return lambda: service.create_session(app_name=app, user_id=f"u{caller}", state={"k": caller})


async def appends(service: BaseSessionService, app: str, caller: int) -> Call:
    """Appends to one session for each caller."""
    session = await service.create_session(app_name=app, user_id=f"u{caller}")
    numbers = itertools.count()

    async def append() -> Session:
        # A long transcript in memory is no part of what is measured.
        session.events.clear()
        await service.append_event(session, event(next(numbers)))
        return session

    return append


async def gets(service: BaseSessionService, app: str, caller: int) -> Call:
    """Reads sessions of 100 events."""
    session = await service.create_session(app_name=app, user_id=f"u{caller}")
    for number in range(EVENTS):
        await service.append_event(session, event(number))
    return lambda: service.get_session(app_name=app, user_id=f"u{caller}", session_id=session.id)


OPERATIONS = {"create": creates, "append": appends, "get of 100 events": gets}


async def measure(calls: list[Call], seconds: float) -> Outcome:
    """Repeats each call for a while, all of them at the same time."""
    times: list[float] = []
    failed = 0
    started = time.perf_counter()

    async def repeat(call: Call) -> None:
        nonlocal failed
        while (before := time.perf_counter()) < started + seconds:
            try:
                await call()
            except Exception:
                failed += 1
            else:
                times.append(time.perf_counter() - before)

    await asyncio.gather(*(repeat(call) for call in calls))
    rate = len(times) / (time.perf_counter() - started)
    p99 = sorted(times)[int(len(times) * 0.99)] if times else float("nan")
    return Outcome(rate, p99 * 1000, failed)


@asynccontextmanager
async def opened(kind: type, url: str) -> AsyncIterator[BaseSessionService]:
    async with kind(url) as service:
        await service.prepare_tables()
        yield service


async def compare(url: str, rounds: int, seconds: float) -> None:
    print("| operation | callers | google-adk | p99 ms | failed | Seabed | p99 ms | failed | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    # Seabed first: it creates the tables, which google-adk's service then takes as they are.
    async with opened(SeabedSessionService, url) as seabed, opened(DatabaseSessionService, url) as adk:
        for (name, operation), callers in itertools.product(OPERATIONS.items(), CALLERS):
            outcomes: dict[str, list[Outcome]] = {"adk": [], "seabed": []}
            for _ in range(rounds):
                for label, service in (("adk", adk), ("seabed", seabed)):
                    app = f"bench-{uuid.uuid4()}"
                    calls = [await operation(service, app, caller) for caller in range(callers)]
                    outcomes[label].append(await measure(calls, seconds))
            pairs = zip(outcomes["adk"], outcomes["seabed"])
            ratios = (ours.rate / theirs.rate if theirs.rate else float("inf") for theirs, ours in pairs)
            cells = [name, str(callers)]
            for label in ("adk", "seabed"):
                cells.append(f"{statistics.median(outcome.rate for outcome in outcomes[label]):.0f}")
                cells.append(f"{statistics.median(outcome.p99 for outcome in outcomes[label]):.1f}")
                cells.append(str(sum(outcome.failed for outcome in outcomes[label])))
            print(f"| {' | '.join(cells)} | {statistics.median(ratios):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the URL of a database for this alone, as google-adk takes it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement takes")
    arguments = parser.parse_args()
    asyncio.run(compare(arguments.url, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
