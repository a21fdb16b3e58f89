"""What an agent reports of how far it is, and of what it has used."""

import json
import os
import threading

from kodosumi_koco.files import cut, write_whole

MAX_MESSAGE_BYTES = 256  # koco cuts there, and ignores a file of more than 4 KiB

_lock = threading.Lock()
_percent: float | None = None
_message: str | None = None
_usage = {"inputTokens": 0, "outputTokens": 0, "costMicros": 0}


def report_progress(
    percent: float | None = None,
    message: str | None = None,
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cost_micros: int = 0,
) -> None:
    """Tells koco how far the agent is, 0 to 100, and what it is doing; ``None`` leaves that as it was told before.

    Tokens and cost, in millionths of a currency's unit, are **added** to those of earlier calls: give what a call of a
    model has used. They count against the job's budget. koco reads the newest report every 5 seconds. Threads may call
    it; of several processes only one should, as each knows its own totals alone. Does nothing outside of koco. Raises
    :class:`ValueError` for what is no report, and :class:`OSError` if it can't be written.
    """
    global _percent, _message  # noqa: PLW0603  # a process has one report
    if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004  # percent
        raise ValueError(f"percent is {percent}, and not between 0 and 100")
    used = {"inputTokens": input_tokens, "outputTokens": output_tokens, "costMicros": cost_micros}
    for name, number in used.items():
        if number < 0:
            raise ValueError(f"{name} is {number}: what is used can't be taken back")
    with _lock:
        if percent is not None:
            _percent = percent
        if message is not None:
            _message = message
        for name, number in used.items():
            _usage[name] += number
        report = {"percent": _percent, "message": _message and cut(_message, MAX_MESSAGE_BYTES), "usage": _usage}
        path = os.environ.get("KODO_PROGRESS_FILE")
        if path is not None:
            write_whole(path, json.dumps(report).encode())
