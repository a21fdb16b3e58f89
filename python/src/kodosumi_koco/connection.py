"""The socket to the runner: one JSON object a line. Used by the tracer alone.

An event is ``{"seq": 1, "ts": 1700000000.5, "kind": "result", "payload": "..."}``. The runner answers ``{"ack": 1}``
once it has the event, and all before it. Or ``{"error": {"reason": "...", "message": "...", "seq": 1}}``:
it doesn't take it. Numbers count within a connection, from 1. Other lines of the runner's are skipped.
"""

import json
import select
import socket
import time
from contextlib import suppress
from typing import Any

MAX_LINE_BYTES = 8 * 1024 * 1024

_STEP = 0.5  # seconds: an agent that was frozen meanwhile has waited for one step, not for hours
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class TracerError(Exception):
    """The runner has not taken an event; or, if the time was over, has perhaps."""


class Connection:
    """Sends events one after the other, and connects again as needed. For one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._seq = 0
        self._received = b""
        self._left = 0.0

    def send(self, kind: str, payload: str, patience: float) -> None:
        """Returns when the runner has the event. Raises :class:`TracerError` after so many seconds."""
        now, self._left, pause = time.time(), patience, _FIRST_PAUSE
        while True:
            line = _line(self._seq + 1, now, kind, payload)
            try:
                self._try(line)
            except OSError as error:  # the connection is gone, or there is no socket yet
                self.close()
                if self._left <= pause:
                    raise TracerError(f"the runner took no event at {self._path}: {error}") from error
            except BaseException:  # such as Cancelled: how far it came is unknown
                self.close()
                raise
            else:
                return
            time.sleep(pause)
            self._left -= pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Forgets the connection; the next event makes another."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket, self._seq, self._received = None, 0, b""

    def _try(self, line: bytes) -> None:
        connection = self._socket
        if connection is None:
            connection = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            connection.connect(self._path)
        self._seq += 1
        rest = memoryview(line)
        while rest:
            self._wait(connection, select.POLLOUT)
            with suppress(BlockingIOError):
                rest = rest[connection.send(rest) :]
        while not self._is_acknowledged():
            self._wait(connection, select.POLLIN)
            with suppress(BlockingIOError):
                received = connection.recv(65536)
                if not received:
                    raise ConnectionResetError("it closed the connection")
                self._received += received

    def _wait(self, connection: socket.socket, what: int) -> None:
        """Waits for the socket, for a step. What has arrived counts, even if there is no time left."""
        poll, started = select.poll(), time.monotonic()
        poll.register(connection, what)
        if poll.poll(min(_STEP, max(self._left, 0)) * 1000):
            return
        if self._left <= 0:
            raise TracerError(f"the runner took no event at {self._path}: it does not answer")
        self._left -= min(time.monotonic() - started, _STEP)

    def _is_acknowledged(self) -> bool:
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > MAX_LINE_BYTES:
            raise ConnectionError("its line is too long")
        messages = [_message(line) for line in lines]
        for error in [message["error"] for message in messages if "error" in message]:
            raise TracerError(f"the runner does not take the event: {_reason(error)}")
        acks = [message["ack"] for message in messages if isinstance(message.get("ack"), int)]
        return max(acks, default=0) >= self._seq


def _line(seq: int, now: float, kind: str, payload: str) -> bytes:
    event = {"seq": seq, "ts": now, "kind": kind, "payload": payload}
    # Half of a surrogate pair is no Unicode.
    line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise TracerError(f"an event of {len(line)} bytes is too large: the most is {MAX_LINE_BYTES}")
    return line


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ConnectionError(f"it says {line[:80]!r}") from error
    return message if isinstance(message, dict) else {}


def _reason(error: Any) -> str:
    said = error if isinstance(error, dict) else {}
    return f"{said.get('reason', 'Unknown')}: {said.get('message', '')}"
