from collections.abc import Callable
from typing import Any, TypedDict

# `reply(error, value)`, from another thread; `error` is JSON, or None.
Reply = Callable[[str | None, Any], object]
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
    def prepare(self, reply: Reply) -> None: ...
    def check_health(self, reply: Reply) -> None: ...
    def close(self, reply: Reply) -> None: ...
    def create_session(
        self, reply: Reply, app_name: str, user_id: str, session_id: str | None, state: str
    ) -> None: ...
    def get_session(
        self, reply: Reply, key: Key, num_recent_events: int | None, after_timestamp: float | None
    ) -> None: ...
    def get_or_create(
        self, reply: Reply, key: Key, num_recent_events: int | None, after_timestamp: float | None, state: str
    ) -> None: ...
    def list_sessions(self, reply: Reply, app_name: str, user_id: str | None) -> None: ...
    def delete_session(self, reply: Reply, key: Key) -> None: ...
    def append_event(self, reply: Reply, key: Key, event: str, copy: Copy | None) -> None: ...
    def list_events(
        self, reply: Reply, key: Key, limit: int, cursor: str | None, newest_first: bool
    ) -> None: ...
    def get_app_state(self, reply: Reply, app_name: str) -> None: ...
    def get_user_state(self, reply: Reply, app_name: str, user_id: str) -> None: ...

def shutdown() -> None: ...
