from asyncio import AbstractEventLoop, Future
from typing import Any, TypedDict

# Who waits: the loop calls `_calls.settle` with a list of futures, each with an error as JSON, or None, and a value.
Caller = tuple[AbstractEventLoop, Future[Any]]
Key = tuple[str, str, str]

class Options(TypedDict):
    create_tables: bool
    schema: str | None
    table_prefix: str | None
    accept_risks: list[str]
    max_connections: int | None
    acquire_timeout: float | None
    max_lifetime: float | None
    statement_timeout: float | None

class Copy(TypedDict):
    revision: str | None
    update_time: int | None
    last_update_time: float
    last_event_id: str | None

class SessionRow(TypedDict):
    app_name: str
    user_id: str
    id: str
    state: str
    events: str
    last_update_time: float
    revision: str

class Store:
    def __new__(cls, url: str, options: Options) -> Store: ...
    def prepare(self, caller: Caller) -> None: ...
    def _panic(self, caller: Caller) -> None: ...
    def check_health(self, caller: Caller) -> None: ...
    def close(self, caller: Caller) -> None: ...
    def create_session(
        self, caller: Caller, app_name: str, user_id: str, session_id: str | None, state: str
    ) -> None: ...
    def get_session(
        self, caller: Caller, key: Key, num_recent_events: int | None, after_timestamp: float | None
    ) -> None: ...
    def get_or_create(
        self, caller: Caller, key: Key, num_recent_events: int | None, after_timestamp: float | None, state: str
    ) -> None: ...
    def list_sessions(self, caller: Caller, app_name: str, user_id: str | None) -> None: ...
    def delete_session(self, caller: Caller, key: Key) -> None: ...
    def append_event(self, caller: Caller, key: Key, event: str, copy: Copy | None) -> None: ...
    def list_events(self, caller: Caller, key: Key, limit: int, cursor: str | None, newest_first: bool) -> None: ...
    def get_app_state(self, caller: Caller, app_name: str) -> None: ...
    def get_user_state(self, caller: Caller, app_name: str, user_id: str) -> None: ...

def begin() -> None: ...
def shutdown() -> None: ...
