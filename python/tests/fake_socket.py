"""The runner's end of the socket."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class FakeSocket:
    """Takes events, and answers each with what ``answer`` says: by default its acknowledgement. ``None`` hangs up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.answer: Callable[[dict[str, Any]], bytes | None] = acknowledge
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(event["kind"], event["payload"]) for event in map(json.loads, self.lines)]

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                self.lines.append(line)
                answer = self.answer(json.loads(line))
                if answer is None:
                    return
                try:
                    connection.sendall(answer)
                except OSError:
                    return


def acknowledge(event: dict[str, Any]) -> bytes:
    return json.dumps({"ack": event["seq"]}).encode() + b"\n"
