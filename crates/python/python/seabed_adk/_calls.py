"""Calls of the native module."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from typing import Any

from seabed_adk import _native
from seabed_adk._errors import exception

# Rust threads must not call Python while the interpreter exits.
atexit.register(_native.shutdown)


async def call(operation: Callable[..., None], *arguments: Any) -> Any:
    """Waits for an operation of the native module. It goes on when this is cancelled, and its reply is then ignored."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    operation((loop, future), *arguments)
    # After all tasks that can run now, so that their calls begin together.
    loop.call_soon(_native.begin)
    return await future


def settle(outcomes: list[tuple[asyncio.Future[Any], str | None, Any]]) -> None:
    """Hands the outcomes of operations to those who wait. Rust calls this in the thread of their event loop."""
    for future, error, value in outcomes:
        if future.done():
            continue
        try:
            failed = None if error is None else exception(error)
        except Exception as bug:  # The others still get their outcomes.
            failed = bug
        if failed is None:
            future.set_result(value)
        else:
            future.set_exception(failed)
