"""Runs Python functions as koco agents: ``python -m kodosumi_koco run``.

The launcher imports what ``spec.entryPoint`` names, calls it with the job's inputs, and leaves its result or error
where koco looks for them. An agent's own file needs nothing of this package; what is here is for one that wants more.
"""

from kodosumi_koco.connection import TracerError
from kodosumi_koco.errors import (
    Cancelled,
    CheckpointError,
    EntryPointError,
    InvalidInputs,
    NonRetryableError,
    UnserializableResult,
)
from kodosumi_koco.job import Job, checkpoint_dir, current_job
from kodosumi_koco.pauses import postpone_pause
from kodosumi_koco.progress import report_progress
from kodosumi_koco.tracer import Tracer

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "CheckpointError",
    "EntryPointError",
    "InvalidInputs",
    "Job",
    "NonRetryableError",
    "Tracer",
    "TracerError",
    "UnserializableResult",
    "checkpoint_dir",
    "current_job",
    "postpone_pause",
    "report_progress",
]
