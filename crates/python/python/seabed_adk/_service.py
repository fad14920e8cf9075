"""The session service."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from google.adk.errors import StaleSessionError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
from google.adk.sessions.session import Session
from google.adk.sessions.state import State

from seabed_adk import _native
from seabed_adk._calls import call
from seabed_adk._json import event_json, events_from_json, state_json
from seabed_adk._revision import copy, set_revision

_MAX_COUNT = 2**32 - 1
# SQLAlchemy's defaults, for those who set one of the two.
_POOL_SIZE = 5
_MAX_OVERFLOW = 10


@dataclass(frozen=True)
class EventPage:
    """A page of a session's events.

    Attributes:
        events: The events, in the order that was asked for.
        next_cursor: Where the next page begins; None on the last page. It does not expire.
    """

    events: list[Event]
    next_cursor: str | None


class SeabedSessionService(BaseSessionService):
    """A session service on google-adk's own tables, in PostgreSQL, MySQL, MariaDB or SQLite.

    It takes the place of `DatabaseSessionService`: the same URLs, tables, exceptions and semantics. One service may be
    used from several event loops and threads. In a forked process it connects anew, but for SQLite: a database that
    was open then is refused there, because SQLite's locks do not survive a fork.
    """

    def __init__(
        self,
        db_url: str | None = None,
        *,
        uri: str | None = None,
        agents_dir: str | None = None,
        create_tables: bool = True,
        schema: str | None = None,
        table_prefix: str | None = None,
        accept_risks: Sequence[str] = (),
        pool_size: int | None = None,
        max_overflow: int | None = None,
        pool_timeout: float | None = None,
        pool_recycle: float | None = None,
        pool_pre_ping: bool = True,
        statement_timeout: float | None = None,
    ) -> None:
        """Checks the URL and the options. The first call connects.

        Args:
            db_url: The URL of the database, as `DatabaseSessionService` takes it.
            uri: The same, as google-adk's service registry passes it. The scheme may begin with `seabed+`.
            agents_dir: Ignored; google-adk's service registry passes it.
            create_tables: Whether the first call creates missing tables. Turn it off where `seabed-migrate` does that.
            schema: The schema of the tables; by default the one that the connections look in.
            table_prefix: The prefix of the tables' names.
            accept_risks: Names of faults of existing tables to accept, such as `inexact_ids`. An error names them.
            pool_size: With `max_overflow`, the largest number of connections; 10 in all by default.
            max_overflow: See `pool_size`.
            pool_timeout: How long a call waits for a connection, in seconds; 5 by default.
            pool_recycle: How long a connection is used, in seconds; 30 minutes by default, and for -1.
            pool_pre_ping: Ignored: a connection that was idle for a second is always tested.
            statement_timeout: How long a statement may take, in seconds; 30 by default, and 60 on SQLite.

        Raises:
            ValueError: For a URL or an option that cannot be used. No message contains the URL.
        """
        if (db_url is None) == (uri is None):
            raise ValueError("Exactly one of 'db_url' and 'uri' must be provided.")
        max_connections = None
        if pool_size is not None or max_overflow is not None:
            size = _POOL_SIZE if pool_size is None else pool_size
            max_connections = size + (_MAX_OVERFLOW if max_overflow is None else max_overflow)
            if size < 1 or max_connections < size:
                raise ValueError("'pool_size' must be 1 or more, and 'max_overflow' 0 or more; both are limits.")
        options: _native.Options = {
            "create_tables": create_tables,
            "schema": schema,
            "table_prefix": table_prefix,
            "accept_risks": list(accept_risks),
            "max_connections": max_connections,
            "acquire_timeout": pool_timeout,
            "max_lifetime": None if pool_recycle == -1 else pool_recycle,
            "statement_timeout": statement_timeout,
        }
        self._store = _native.Store(db_url if db_url is not None else uri or "", options)
        # The lock of each session object that is being appended to.
        self._locks: weakref.WeakValueDictionary[tuple[int, int], asyncio.Lock] = weakref.WeakValueDictionary()
        # A future for each append that has not ended, also while it waits for another, and the appends themselves: an
        # event loop alone does not keep its tasks.
        self._appends: set[asyncio.Future[Any]] = set()

    async def prepare_tables(self) -> None:
        """Connects, and creates missing tables if the service may. The first call of any method does so too.

        Raises:
            BackendError: Of kind `unavailable` for a server that does not answer, and of kind `schema` for tables that
                are unknown, or unable to keep the guarantees.
        """
        await call(self._store.prepare)

    async def check_health(self) -> None:
        """Checks that the database answers and has its tables, within 5 seconds. The first call connects, as any does.

        Raises:
            BackendError: If not.
        """
        await call(self._store.check_health)

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Creates a session. Any number of calls at once succeed, and none loses a key of `app:` or `user:` state.

        Raises:
            AlreadyExistsError: For an id that is taken.
        """
        return _session(await call(self._store.create_session, app_name, user_id, session_id, state_json(state)))

    async def get_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        config: GetSessionConfig | None = None,
    ) -> Session | None:
        """Reads a session, its events and its state, all of one instant. Returns None if it does not exist."""
        row = await call(self._store.get_session, (app_name, user_id, session_id), *_limits(config))
        return None if row is None else _session(row)

    async def get_or_create(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        state: dict[str, Any] | None = None,
        config: GetSessionConfig | None = None,
    ) -> tuple[Session, bool]:
        """Reads a session, or creates it with `state`. Returns it, and whether it is new.

        Of any number of calls at once, one creates the session.
        """
        key = (app_name, user_id, session_id)
        row, is_new = await call(self._store.get_or_create, key, *_limits(config), state_json(state))
        return _session(row), is_new

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Lists the sessions of a user or an app without their events, the one that changed last at the end."""
        rows = await call(self._store.list_sessions, app_name, user_id)
        return ListSessionsResponse(sessions=[_session(row) for row in rows])

    async def delete_session(self, app_name: str, user_id: str, session_id: str) -> None:
        """Deletes a session and its events, if it exists. The state of its app and its user stays."""
        await call(self._store.delete_session, (app_name, user_id, session_id))

    async def append_event(self, session: Session, event: Event) -> Event:
        """Appends an event, if the session has not changed since `session` was read.

        The event and its state delta are stored together or not at all. An event that is stored already is not stored
        again, and `session` is then read anew, with all of its events. An append that has begun goes on when its call
        is cancelled, and brings `session` up to date; the next append through `session` waits for it.

        Raises:
            StaleSessionError: If others have appended. Get the session again, and decide again.
            SessionNotFoundError: If the session does not exist.
        """
        return await self._append_through(session, event, at_any_revision=False)

    async def append_latest(self, session: Session, event: Event) -> Event:
        """Appends an event at any revision of the session. If others have appended, `session` is then read anew, with
        all of its events.

        For events that do not depend on what was read, such as the message of a user.

        Raises:
            SessionNotFoundError: If the session does not exist.
        """
        return await self._append_through(session, event, at_any_revision=True)

    async def refresh(self, session: Session) -> None:
        """Reads a session again, with all of its events. `temp:` keys stay.

        Raises:
            SessionNotFoundError: If the session was deleted.
        """
        found = await self.get_session(app_name=session.app_name, user_id=session.user_id, session_id=session.id)
        if found is None:
            raise SessionNotFoundError(f"Session {session.id} not found.")
        found.state.update({key: value for key, value in session.state.items() if key.startswith(State.TEMP_PREFIX)})
        # Tool contexts of google-adk's hold these objects themselves.
        session.state.clear()
        session.state.update(found.state)
        session.events[:] = found.events
        session.last_update_time = found.last_update_time
        session._storage_update_marker = found._storage_update_marker

    async def list_events(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        limit: int = 100,
        cursor: str | None = None,
        newest_first: bool = False,
    ) -> EventPage:
        """Reads a page of at most `limit` events, 1 to 1000.

        Raises:
            SessionNotFoundError: If the session does not exist.
        """
        key = (app_name, user_id, session_id)
        page = await call(self._store.list_events, key, limit, cursor, newest_first)
        return EventPage(events_from_json(page["events"]), page["next_cursor"])

    async def stream_events(
        self, *, app_name: str, user_id: str, session_id: str, newest_first: bool = False
    ) -> AsyncIterator[Event]:
        """Reads all events of a session, a page at a time.

        Raises:
            SessionNotFoundError: If the session does not exist.
        """
        cursor = None
        while True:
            page = await self.list_events(
                app_name=app_name, user_id=user_id, session_id=session_id, cursor=cursor, newest_first=newest_first
            )
            for event in page.events:
                yield event
            cursor = page.next_cursor
            if cursor is None:
                return

    async def get_app_state(self, *, app_name: str) -> dict[str, Any]:
        """Returns the state that all users of an app share, without the prefix `app:`; empty for an unknown app."""
        return _object(await call(self._store.get_app_state, app_name))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Returns the state that all sessions of a user share, without the prefix `user:`."""
        return _object(await call(self._store.get_user_state, app_name, user_id))

    async def close(self) -> None:
        """Closes the connections, once the calls before it have ended: appends of the running event loop, and all other
        calls. A later call opens new ones."""
        loop = asyncio.get_running_loop()
        appends = [append for append in self._appends if append.get_loop() is loop]
        if appends:
            await asyncio.wait(appends)
        await call(self._store.close)

    async def __aenter__(self) -> SeabedSessionService:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _lock(self, session: Session) -> asyncio.Lock:
        """The lock of a session object: an append through it needs the revision that the one before it returns."""
        key = (id(asyncio.get_running_loop()), id(session))
        return self._locks.setdefault(key, asyncio.Lock())

    async def _append_through(self, session: Session, event: Event, *, at_any_revision: bool) -> Event:
        """Appends an event, and brings the session object up to date, also when the caller is cancelled meanwhile."""
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        lock = self._lock(session)
        ended = asyncio.get_running_loop().create_future()
        self._keep(ended)
        try:
            await lock.acquire()
        except BaseException:
            ended.set_result(None)
            raise
        append = asyncio.ensure_future(self._append(session, event, at_any_revision))
        self._keep(append)

        def end(append: asyncio.Future[Event]) -> None:
            lock.release()
            ended.set_result(None)
            # asyncio reports errors that nobody asks for; this one is the caller's, who may be gone.
            if not append.cancelled():
                append.exception()

        append.add_done_callback(end)
        return await asyncio.shield(append)

    def _keep(self, append: asyncio.Future[Any]) -> None:
        self._appends.add(append)
        append.add_done_callback(self._appends.discard)

    async def _append(self, session: Session, event: Event, at_any_revision: bool) -> Event:
        key, text = (session.app_name, session.user_id, session.id), event_json(event)
        try:
            appended = await call(self._store.append_event, key, text, copy(session))
        except StaleSessionError:
            if not at_any_revision:
                raise
            await call(self._store.append_event, key, text, None)
            await self.refresh(session)
            return event
        last_update_time, revision, is_replayed = appended
        if is_replayed:
            # Others may have appended between the two attempts.
            await self.refresh(session)
            return event
        session.last_update_time = last_update_time
        set_revision(session, revision)
        return self._commit_event_to_session(session, event)


def _limits(config: GetSessionConfig | None) -> tuple[int | None, float | None]:
    """How many events to read, and since when."""
    if config is None:
        return None, None
    count = config.num_recent_events
    # As in google-adk, a time of 0 is no limit.
    return None if count is None else min(count, _MAX_COUNT), config.after_timestamp or None


def _session(row: _native.SessionRow) -> Session:
    session = Session(
        id=row["id"],
        app_name=row["app_name"],
        user_id=row["user_id"],
        state=_object(row["state"]),
        events=events_from_json(row["events"]),
        last_update_time=row["last_update_time"],
    )
    set_revision(session, row["revision"])
    return session


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
