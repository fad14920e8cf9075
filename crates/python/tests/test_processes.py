"""Processes that fork, end or are interrupted while a service is open."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from seabed_adk import SeabedSessionService

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a fork of this process. Returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_forked_process_connects_anew(url: str, app: str) -> None:
    service = SeabedSessionService(url)

    def create(user: str) -> None:
        asyncio.run(service.create_session(app_name=app, user_id=user, state={f"app:{user}": 1}))

    create("before")
    if "sqlite" in url:
        asyncio.run(service.close())
    assert in_child(lambda: create("child")) == 0
    create("after")
    assert asyncio.run(service.get_app_state(app_name=app)) == {"before": 1, "child": 1, "after": 1}
    asyncio.run(service.close())


def test_an_open_file_is_refused_in_a_fork(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/agents.db"
    service = SeabedSessionService(url)
    asyncio.run(service.create_session(app_name="a", user_id="u"))

    def use() -> None:
        for used in (service, SeabedSessionService(url)):
            with pytest.raises(RuntimeError, match="forked while"):
                asyncio.run(used.create_session(app_name="a", user_id="child"))

    assert in_child(use) == 0
    asyncio.run(service.create_session(app_name="a", user_id="u"))


@pytest.mark.parametrize("parameters", ["", "?cache=shared"])
def test_a_database_in_memory_stays_with_its_process(parameters: str) -> None:
    service = SeabedSessionService(f"sqlite+aiosqlite:///:memory:{parameters}")
    asyncio.run(service.create_session(app_name="a", user_id="u", state={"app:k": 1}))

    def use() -> None:
        with pytest.raises(RuntimeError, match="in memory"):
            asyncio.run(service.get_app_state(app_name="a"))

    assert in_child(use) == 0
    assert asyncio.run(service.get_app_state(app_name="a")) == {"k": 1}


def run(url: str, program: str, first: str = "") -> subprocess.Popen[str]:
    imports = "import asyncio, sys\nfrom seabed_adk import SeabedSessionService\n"
    program = first + imports + textwrap.dedent(program)
    arguments = [sys.executable, "-c", program, url]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_program_ends_with_calls_on_their_way(url: str, app: str) -> None:
    program = f"""
        async def main():
            service = SeabedSessionService(sys.argv[1])
            await service.create_session(app_name="{app}", user_id="u")
            for number in range(100):
                asyncio.ensure_future(service.create_session(app_name="{app}", user_id=str(number)))
            await asyncio.sleep(0)
        asyncio.run(main())
    """
    ended = run(url, program)
    _, errors = ended.communicate(timeout=30)
    assert (ended.returncode, errors) == (0, "")
    assert count_sessions(url, app) == 101


def test_a_call_of_a_loop_s_last_turn_is_carried_out(url: str, app: str) -> None:
    service = SeabedSessionService(url)
    create = partial(service.create_session, app_name=app, user_id="u")

    async def handle() -> None:
        asyncio.ensure_future(create())

    asyncio.run(create())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(handle())
    end = time.monotonic() + 20
    # Nothing here calls the service again.
    while count_sessions(url, app) < 2:
        assert time.monotonic() < end
    loop.close()
    asyncio.run(service.close())


def count_sessions(url: str, app: str) -> int:
    """Counts them in another process: the file of a database is open in this one, and another copy of SQLite, such as
    Python's own, would drop its locks."""
    program = f"""
        async def main():
            listed = await SeabedSessionService(sys.argv[1]).list_sessions(app_name="{app}")
            print(len(listed.sessions))
        asyncio.run(main())
    """
    output, _ = run(url, program).communicate(timeout=30)
    return int(output)


def test_calls_while_the_interpreter_exits(url: str, app: str) -> None:
    program = f"""
        import threading
        service = SeabedSessionService(sys.argv[1])
        def call(name):
            try:
                asyncio.run(service.create_session(app_name="{app}", user_id="u", session_id=name))
                print(name, "is created")
            except RuntimeError as error:
                print(name, "is refused:", error)
        def call_for_ever():
            while True:
                try:
                    asyncio.run(service.list_sessions(app_name="{app}"))
                except RuntimeError:
                    pass
        call("first")
        # These run in the reverse order of their registration, and Seabed's own before the last.
        early.append(lambda: call("last"))
        atexit.register(lambda: call("second"))
        threading.Thread(target=call_for_ever, daemon=True).start()
    """
    first = "import atexit\nearly = []\natexit.register(lambda: early[0]())\n"
    ended = run(url, program, first)
    output, errors = ended.communicate(timeout=30)
    assert (ended.returncode, errors) == (0, "")
    assert output.splitlines() == [
        "first is created",
        "second is created",
        "last is refused: the interpreter is shutting down",
    ]


def test_an_interrupt_ends_a_program_that_waits(url: str, app: str) -> None:
    program = f"""
        async def main():
            service = SeabedSessionService(sys.argv[1])
            await service.create_session(app_name="{app}", user_id="u")
            print("started", flush=True)
            while True:
                await service.list_sessions(app_name="{app}")
        asyncio.run(main())
    """
    interrupted = run(url, program)
    assert interrupted.stdout is not None and interrupted.stdout.readline() == "started\n"
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=30)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_the_program_of_the_readme_runs(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert program is not None
    ran = subprocess.run([sys.executable, "-c", program[1]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "{'user:home': 'Bergen'} 1\n"
    assert (tmp_path / "agents.db").exists()
