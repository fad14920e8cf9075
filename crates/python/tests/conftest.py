"""Which database the tests run on, and which services."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.database_session_service import DatabaseSessionService
from seabed_adk import SeabedSessionService

# A database for these tests alone, as google-adk's URL; by default, each test has a file of its own.
URL = os.environ.get("SEABED_ADK_TEST_URL")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return URL or f"sqlite+aiosqlite:///{tmp_path}/agents.db"


@pytest.fixture
def app() -> str:
    """An app of the test's own, since all tests share a server's database."""
    return f"app-{uuid.uuid4()}"


@pytest.fixture
async def seabed(url: str) -> AsyncIterator[SeabedSessionService]:
    async with SeabedSessionService(url) as service:
        yield service


@pytest.fixture
async def adk(url: str, seabed: SeabedSessionService) -> AsyncIterator[DatabaseSessionService]:
    """google-adk's own service, on tables that Seabed created: its own on MySQL compare ids without case."""
    await seabed.prepare_tables()
    async with DatabaseSessionService(url) as service:
        yield service


@pytest.fixture(params=["seabed", "adk"])
def service(request: pytest.FixtureRequest) -> BaseSessionService:
    """Each in turn: what holds for google-adk's own service holds for Seabed's."""
    service: BaseSessionService = request.getfixturevalue(request.param)
    return service
