"""What an agent tells while it runs: events, by the names of Kodosumi's ``Tracer``."""

import asyncio
import functools
import logging
import os
import sys
import threading
import traceback
from typing import Any

from kodosumi_koco.connection import Connection, TracerError
from kodosumi_koco.payload import body, serialize

_LOG = logging.getLogger("kodosumi_koco")


class Tracer:
    """Tells the runner what happens. Each method returns when the runner has the event.

    For any thread and any task; after a fork, parent and child each go on for themselves. Where the runner keeps no
    events, all of it does nothing. Methods that end with ``_sync`` are for functions, the others for ``async`` ones.

    Raises :class:`TracerError` if the runner doesn't take an event within ``patience`` seconds, or if it is too large.
    An event whose connection breaks is sent again: the runner may then have it twice.
    """

    def __init__(self, path: str | None = None, *, patience: float = 60.0) -> None:
        self._path = os.environ.get("KODO_RUNNER_SOCK", "") if path is None else path
        self._patience = patience
        self._state = _State(self._path)
        if not self._path:
            _say_once()

    def __reduce__(self) -> tuple[Any, ...]:  # for other processes
        return Tracer, (self._path,)

    def emit(self, kind: str, payload: str) -> None:
        """Tells an event as it is."""
        if not self._path:
            return
        state = self._current()
        if state.owner == threading.get_ident():
            raise TracerError("a signal handler can't tell an event while it interrupts one")
        with state.lock:
            state.owner = threading.get_ident()
            try:
                state.connection.send(kind, payload, self._patience)
            finally:
                state.owner = None

    def debug_sync(self, *message: str) -> None:
        """Tells developers something."""
        self.emit("debug", "\n".join(message))

    def result_sync(self, *message: Any) -> None:
        """Shows intermediate results, each one an event."""
        for value in message:
            self.emit("result", serialize(value))

    def action_sync(self, *message: Any) -> None:
        """Shows what the agent did, each one an event."""
        for value in message:
            self.emit("action", serialize(value))

    def markdown_sync(self, *message: str) -> None:
        """Shows a result, paragraphs of Markdown."""
        self.emit("result", body("Markdown", "\n\n".join(message)))

    def html_sync(self, *message: str) -> None:
        """Shows a result, lines of HTML."""
        self.emit("result", body("HTML", "\n".join(message)))

    def text_sync(self, *message: str) -> None:
        """Shows a result, lines of text."""
        self.emit("result", body("Text", "\n".join(message)))

    def warning_sync(self, *message: str, exc_info: bool = False) -> None:
        """Warns, on stderr; with the traceback of the exception that is handled, if asked.

        What is on stderr is in the log, and the runner makes events of it.
        """
        print("\n".join([*message, traceback.format_exc()] if exc_info else message), file=sys.stderr, flush=True)

    async def debug(self, *message: str) -> None:
        """Tells developers something."""
        await asyncio.to_thread(self.debug_sync, *message)

    async def result(self, *message: Any) -> None:
        """Shows intermediate results, each one an event."""
        await asyncio.to_thread(self.result_sync, *message)

    async def action(self, *message: Any) -> None:
        """Shows what the agent did, each one an event."""
        await asyncio.to_thread(self.action_sync, *message)

    async def markdown(self, *message: str) -> None:
        """Shows a result, paragraphs of Markdown."""
        await asyncio.to_thread(self.markdown_sync, *message)

    async def html(self, *message: str) -> None:
        """Shows a result, lines of HTML."""
        await asyncio.to_thread(self.html_sync, *message)

    async def text(self, *message: str) -> None:
        """Shows a result, lines of text."""
        await asyncio.to_thread(self.text_sync, *message)

    async def warning(self, *message: str, exc_info: bool = False) -> None:
        """Warns, on stderr; with the traceback of the exception that is handled, if asked."""
        self.warning_sync(*message, exc_info=exc_info)

    def close(self) -> None:
        """Closes the connection. The next event opens another."""
        state = self._current()
        with state.lock:
            state.connection.close()

    def _current(self) -> "_State":
        state = self._state
        if state.process != os.getpid():  # forked: the connection is the parent's, and the lock may be held for ever
            state = self._state = _State(self._path)
        return state


class _State:
    """What belongs to one process."""

    def __init__(self, path: str) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.owner: int | None = None
        self.connection = Connection(path)


@functools.cache
def _say_once() -> None:
    _LOG.debug("KODO_RUNNER_SOCK is not set: this agent's events are not kept")
