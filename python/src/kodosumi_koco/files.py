"""Files that are left for koco's runner, and texts that it cuts."""

import os
from pathlib import Path


def write_whole(path: str, text: bytes) -> None:
    """Complete or not at all: the pod may end at any time."""
    temporary = f"{path}.{os.getpid()}"
    Path(temporary).write_bytes(text)
    os.replace(temporary, path)


def cut(text: str, size: int) -> str:
    """At most so many bytes of a text; the last of them say that it was longer."""
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= size else raw[: size - 3].decode(errors="ignore") + "…"
