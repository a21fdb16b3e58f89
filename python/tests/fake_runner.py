"""What koco-runner gives an agent, and the launcher as a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AGENTS = Path(__file__).parent / "agents"
PATIENCE = 60.0


@dataclass
class Ended:
    """How an agent ended."""

    code: int
    result: Any
    error: Any
    log: str
    output: str


class FakeRunner:
    """The files and variables of one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result, self.error = folder / "out/result.json", folder / "out/error.json"
        for name in ("in", "out"):
            (folder / name).mkdir()
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("KODO_", "CHECKPOINT_"))},
            "KODO_FID": "6720c0ffee0123456789abcd",
            "KODO_ATTEMPT": "1",
            "KODO_INPUTS_FILE": str(folder / "in/inputs.json"),
            "KODO_EXTRA_FILE": str(folder / "in/extra.json"),
            "KODO_RESULT_FILE": str(self.result),
            "KODO_ERROR_FILE": str(self.error),
            "PYTHONUNBUFFERED": "1",
        }
        self.python, self.cwd = sys.executable, AGENTS
        self.write(inputs={}, extra={})

    def write(self, **objects: Any) -> None:
        for name, value in objects.items():
            (self.folder / f"in/{name}.json").write_text(json.dumps(value))

    def start(
        self, entry_point: str, inputs: Any = None, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        self.write(inputs={} if inputs is None else inputs)
        return subprocess.Popen(
            [self.python, "-m", "kodosumi_koco", "run", *arguments],
            env={**self.env, "KODO_ENTRY_POINT": entry_point, **(env or {})},
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        try:
            output, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        result, error = (json.loads(f.read_text()) if f.exists() else ... for f in (self.result, self.error))
        assert not [f for f in (self.folder / "out").iterdir() if f not in (self.result, self.error)]
        return Ended(process.returncode, result, error, log, output)

    def run(self, entry_point: str, inputs: Any = None, *arguments: str, env: dict[str, str] | None = None) -> Ended:
        return self.ended(self.start(entry_point, inputs, *arguments, env=env))

    def terminated(self, entry_point: str, inputs: Any = None, once: Path | None = None) -> Ended:
        """Runs it until there is this file, or it says in one that it waits, and sends SIGTERM."""
        mark = self.folder / "waits"
        process = self.start(entry_point, inputs, env={"MARK": str(mark), "PYTHONUNBUFFERED": ""})
        try:
            wait_for(lambda: (once or mark).exists() or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            return self.ended(process)
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
