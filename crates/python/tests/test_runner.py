"""A Runner of google-adk's on either service, and a service by its URI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.apps.app import EventsCompactionConfig
from google.adk.apps.llm_event_summarizer import LlmEventSummarizer
from google.adk.cli.service_registry import load_services_module
from google.adk.cli.utils.service_factory import create_session_service_from_options
from google.adk.events.event import Event
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.tools import ToolContext
from google.genai import types
from seabed_adk import SeabedSessionService

pytestmark = pytest.mark.anyio

TURNS = 50


class ScriptedModel(BaseLlm):
    """Calls the tool when the user speaks, and says what the tool returned. In between, it streams a fragment."""

    model: str = "scripted"

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        last = llm_request.contents[-1].parts[-1]
        if last.function_response is not None:
            answer = types.Part(text=f"noted: {last.function_response.response['count']}")
            yield LlmResponse(content=types.Content(role="model", parts=[answer]), partial=True)
        elif llm_request.config.tools:
            answer = types.Part(function_call=types.FunctionCall(name="note", args={"text": last.text}))
        else:
            answer = types.Part(text="a summary")
        yield LlmResponse(content=types.Content(role="model", parts=[answer]))


def note(text: str, tool_context: ToolContext) -> dict[str, int]:
    """Notes a text."""
    count = tool_context.state.get("count", 0) + 1
    tool_context.state["count"] = count
    tool_context.state["user:last"] = text
    tool_context.state["app:total"] = tool_context.state.get("app:total", 0) + 1
    tool_context.state["temp:now"] = text
    return {"count": count}


def transcript(events: list[Event]) -> list[dict[str, Any]]:
    """The events without what differs from run to run. Invocations are numbered."""
    invocations: dict[str, str] = {}
    calls: dict[str, str] = {}
    for event in events:
        invocations.setdefault(event.invocation_id, f"invocation {len(invocations)}")
        for call in event.get_function_calls():
            calls.setdefault(str(call.id), f"call {len(calls)}")
    dumped = []
    for event in events:
        fields = event.model_dump(mode="json", exclude_none=True, exclude={"id", "timestamp"})
        if (compaction := fields["actions"].get("compaction")) is not None:
            del compaction["start_timestamp"], compaction["end_timestamp"]
        dumped.append(replaced(fields, {**invocations, **calls}))
    return dumped


def replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: replaced(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


async def converse(service: BaseSessionService, app: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fifty turns, with a rewind after every tenth."""
    model = ScriptedModel()
    agent = LlmAgent(name="agent", model=model, tools=[note])
    compaction = EventsCompactionConfig(
        summarizer=LlmEventSummarizer(llm=model), compaction_interval=5, overlap_size=1
    )
    runner = Runner(
        app=App(name="runner", root_agent=agent, events_compaction_config=compaction),
        app_name=app,
        session_service=service,
    )
    await service.create_session(app_name=app, user_id="u", session_id="s", state={"start": 1})
    for turn in range(TURNS):
        invocation = ""
        message = types.Content(role="user", parts=[types.Part(text=f"turn {turn}")])
        async for event in runner.run_async(user_id="u", session_id="s", new_message=message):
            invocation = event.invocation_id
        if turn % 10 == 9:
            await runner.rewind_async(user_id="u", session_id="s", rewind_before_invocation_id=invocation)
    session = await service.get_session(app_name=app, user_id="u", session_id="s")
    assert session is not None
    return transcript(session.events), session.state


async def test_a_conversation_of_fifty_turns_is_the_same_on_both(
    seabed: SeabedSessionService, adk: DatabaseSessionService, app: str
) -> None:
    ours, our_state = await converse(seabed, f"{app}-1")
    theirs, their_state = await converse(adk, f"{app}-2")
    assert our_state == their_state
    assert our_state["app:total"] == TURNS
    assert ours == theirs
    assert sum("compaction" in event["actions"] for event in ours) >= 5
    assert sum("rewind_before_invocation_id" in event["actions"] for event in ours) == 5
    key = {"app_name": f"{app}-2", "user_id": "u", "session_id": "s"}
    through_seabed, through_adk = await seabed.get_session(**key), await adk.get_session(**key)
    assert through_seabed is not None and through_adk is not None
    assert through_seabed.model_dump() == through_adk.model_dump()


async def test_google_adk_finds_the_service_by_its_uri(tmp_path: Path, app: str) -> None:
    services = "services:\n  - {scheme: seabed+sqlite, type: session, class: seabed_adk.SeabedSessionService}\n"
    (tmp_path / "services.yaml").write_text(services)
    load_services_module(str(tmp_path))
    service = create_session_service_from_options(
        base_dir=tmp_path,
        session_service_uri=f"seabed+sqlite:///{tmp_path}/agents.db",
        session_db_kwargs={"pool_size": 3},
    )
    assert isinstance(service, SeabedSessionService)
    await service.create_session(app_name=app, user_id="u")
    assert (tmp_path / "agents.db").exists()
    await service.close()
