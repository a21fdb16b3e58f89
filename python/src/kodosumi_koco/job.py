"""What koco tells an agent about its job, read from the environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kodosumi_koco.errors import CheckpointError, EntryPointError, InvalidInputs


@dataclass(frozen=True)
class Job:
    """A job as its agent sees it."""

    fid: str
    """The execution id: 24 hex digits. Empty outside of koco."""
    entry_point: str
    """``spec.entryPoint``."""
    attempt: int
    """The attempt, from 1."""
    resumed: bool
    """Whether this pod continues an evicted attempt: look for a checkpoint."""
    inputs: dict[str, Any]
    """``spec.inputs``, and what ``spec.inputsFrom`` names."""
    extra: dict[str, Any]
    """``spec.extra``."""


def current_job(environment: Mapping[str, str] | None = None) -> Job:
    """Reads the job. Raises :class:`InvalidInputs` or :class:`EntryPointError` if it isn't readable."""
    env = os.environ if environment is None else environment
    attempt = env.get("KODO_ATTEMPT", "1")
    if not attempt.isascii() or not attempt.isdigit():
        raise EntryPointError(f"KODO_ATTEMPT is not a number: {attempt!r}")
    return Job(
        fid=env.get("KODO_FID", ""),
        entry_point=env.get("KODO_ENTRY_POINT", ""),
        attempt=int(attempt),
        resumed=env.get("KODO_RESUMED") == "1",
        inputs=_object(env, "KODO_INPUTS_FILE"),
        extra=_object(env, "KODO_EXTRA_FILE"),
    )


def checkpoint_dir() -> Path:
    """The job's own folder for checkpoints, below ``CHECKPOINT_DIR``; it is made if it is missing.

    Set ``CHECKPOINT_DIR`` in the job's template, to where it mounts a volume that outlives the pod. The folder is the
    same in all attempts of a job. A pod may end at any time: write to another name, then rename.
    """
    root = os.environ.get("CHECKPOINT_DIR")
    if not root:
        raise CheckpointError("CHECKPOINT_DIR is not set: name a mounted volume there, in the job's template")
    folder = Path(root) / (os.environ.get("KODO_FID") or "local")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"CHECKPOINT_DIR: {error}") from error
    return folder


def _object(env: Mapping[str, str], variable: str) -> dict[str, Any]:
    path = env.get(variable)
    if path is None:
        return {}
    try:
        value = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputs(f"{variable}: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputs(f"{variable}: {path} does not hold a JSON object")
    return value
