"""The races that `DatabaseSessionService` loses: the same program runs against both services."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field

import pytest
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from seabed_adk import SeabedSessionService

pytestmark = pytest.mark.anyio

AGENTS = 100


@dataclass
class Outcome:
    """What came of sub-agents that began at once.

    Attributes:
        errors: How often each exception was raised.
        kept: How many keys of the app's state are there of those that successful calls set.
        acknowledged: How many calls succeeded.
    """

    errors: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    acknowledged: int = 0

    @property
    def is_right(self) -> bool:
        return not self.errors and self.kept == self.acknowledged == AGENTS


async def start_sub_agents(services: list[BaseSessionService], app: str) -> Outcome:
    """Reproduces google/adk-python issue 4954: sub-agents start in parallel, and each creates a session of an app that
    nobody has used before. Each sets a key of the app's state."""
    creates = (
        services[number % len(services)].create_session(
            app_name=app, user_id=f"u{number % 7}", state={f"app:k{number}": number}
        )
        for number in range(AGENTS)
    )
    outcome = Outcome()
    keys = set()
    for number, created in enumerate(await asyncio.gather(*creates, return_exceptions=True)):
        if isinstance(created, Session):
            keys.add(f"app:k{number}")
        else:
            outcome.errors[type(created).__name__] += 1
    session = await services[0].create_session(app_name=app, user_id="afterwards")
    outcome.acknowledged, outcome.kept = len(keys), len(keys & session.state.keys())
    return outcome


async def test_issue_4954_fails_on_google_adk_s_service_and_not_on_seabed_s(
    seabed: SeabedSessionService, adk: DatabaseSessionService, app: str
) -> None:
    theirs = await start_sub_agents([adk], f"{app}-1")
    ours = await start_sub_agents([seabed], f"{app}-2")
    assert ours == Outcome(Counter(), AGENTS, AGENTS)
    # Else the program shows nothing.
    assert not theirs.is_right, theirs


async def test_it_does_not_fail_for_several_services_on_an_empty_database(url: str, app: str) -> None:
    # The tables have names of their own, so that there are none yet.
    prefix = f"t{uuid.uuid4().hex[:8]}_"
    services: list[BaseSessionService] = [SeabedSessionService(url, table_prefix=prefix) for _ in range(4)]
    try:
        assert await start_sub_agents(services, app) == Outcome(Counter(), AGENTS, AGENTS)
    finally:
        await asyncio.gather(*(service.close() for service in services))
