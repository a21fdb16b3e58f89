"""Runs a job's entry point, and leaves its result or error where koco looks for them."""

import asyncio
import functools
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from kodosumi_koco.arguments import bind
from kodosumi_koco.errors import Cancelled, EntryPointError, NonRetryableError
from kodosumi_koco.files import cut, write_whole
from kodosumi_koco.job import current_job
from kodosumi_koco.pauses import stop_on_notice
from kodosumi_koco.payload import serialize
from kodosumi_koco.result import MAX_BYTES, to_json
from kodosumi_koco.sigterm import Sigterm
from kodosumi_koco.tracer import Tracer
from kodosumi_koco.wakeup import woken_by_signals

EXIT_FAILED = 1
EXIT_SIGTERM = 143  # as a shell has it
MAX_MESSAGE_BYTES = 2048  # koco cuts there
MAX_TRACEBACK_BYTES = 16 * 1024

_PACKAGE = os.path.dirname(__file__)


def run(non_retryable: Iterable[str] = ()) -> int:
    """Runs the entry point in the main thread, and returns the exit code."""
    stop_on_notice()
    sigterm, runner = Sigterm(), asyncio.Runner()
    code = _run_to_its_end(sigterm, runner, frozenset(non_retryable))
    sigterm.end_with(code)
    _close(runner, sigterm)
    sigterm.end_if_received()
    return code


def _run_to_its_end(sigterm: Sigterm, runner: asyncio.Runner, non_retryable: frozenset[str]) -> int:
    tracer = Tracer()
    try:
        value = _run_entry_point(sigterm, runner, tracer)
        sigterm.ignore()
        _write_result(to_json(value))
        _tell_final(tracer, value)
    except Cancelled:
        _say("ended by SIGTERM")
        # Seen only where nobody asked koco for it: else the reason of the SIGTERM is the error.
        _write_error({"type": "Terminated", "message": "ended by SIGTERM"})
        return EXIT_SIGTERM
    except SystemExit as error:
        sigterm.ignore()
        return _leave(error.code)
    except BaseException as error:
        sigterm.ignore()
        return _fail(error, non_retryable)
    return 0


def _run_entry_point(sigterm: Sigterm, runner: asyncio.Runner, tracer: Tracer) -> Any:
    job = current_job()
    if job.resumed:
        _say(f"continues attempt {job.attempt}, which was evicted")
    function = load(job.entry_point)
    positional, named = bind(function, job.inputs, tracer)
    value = function(*positional, **named)
    return _await(value, sigterm, runner) if inspect.isawaitable(value) else value


def load(entry_point: str) -> Callable[..., Any]:
    """What ``module:name`` or ``module.name`` names; the name may have dots. Raises :class:`EntryPointError`."""
    module, colon, name = entry_point.partition(":")
    if not colon:
        module, _, name = entry_point.rpartition(".")
    if not module or not name:
        raise EntryPointError(f"the entry point must be module:function, and is {entry_point!r}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # One that the agent's own code misses is an error of that code.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise EntryPointError(f"there is no module {error.name} (in {os.getcwd()} or installed)") from error
    try:
        found = functools.reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise EntryPointError(f"{module} has no {name}") from error
    if not callable(found):
        raise EntryPointError(f"{entry_point} is a {type(found).__name__}, and can't be called")
    function: Callable[..., Any] = found
    return function


def _await(value: Awaitable[Any], sigterm: Sigterm, runner: asyncio.Runner) -> Any:
    async def main() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            sigterm.call_instead(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            with woken_by_signals(loop):
                return await value
        except asyncio.CancelledError:
            if sigterm.received:
                raise Cancelled from None
            raise
        finally:
            sigterm.ignore()

    return runner.run(main())


def _close(runner: asyncio.Runner, sigterm: Sigterm) -> None:
    """Ends the tasks that are left, and waits for threads; after SIGTERM only for the tasks.

    Called once the result is written: a thread may take longer than the pod has.
    """
    try:
        if sigterm.received:
            runner.get_loop().set_default_executor(ThreadPoolExecutor())
        runner.close()
    except BaseException as error:
        _say(f"the event loop could not be closed: {error!r}")


def _write_result(text: bytes) -> None:
    if len(text) > MAX_BYTES:
        _say(f"the result has {len(text)} bytes: of more than {MAX_BYTES} koco keeps size and digest only")
    path = os.environ.get("KODO_RESULT_FILE")
    if path is None:
        print(text.decode())
        return
    write_whole(path, text)


def _tell_final(tracer: Tracer, value: Any) -> None:
    """The result as an event. It is written already: nothing that goes wrong here is the agent's failure."""
    try:
        tracer.emit("final", serialize(value))
    except Exception as error:
        _say(f"the result is no event: {error}")


def _leave(code: object) -> int:
    """The exit code of ``sys.exit``, as the interpreter has it."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    if isinstance(code, str):
        _write_error({"message": cut(code, MAX_MESSAGE_BYTES)})
    return EXIT_FAILED


def _fail(error: BaseException, non_retryable: frozenset[str]) -> int:
    trace = _strip(error.__traceback__)
    report = traceback.TracebackException(type(error), error, trace, compact=True)
    print(_middle_out("".join(report.format()), MAX_TRACEBACK_BYTES), file=sys.stderr, end="")
    final = isinstance(error, NonRetryableError) or not non_retryable.isdisjoint(_names(type(error)))
    _write_error({"type": type(error).__name__, "message": _message(error, trace), "nonRetryable": final})
    return EXIT_FAILED


def _names(kind: type[BaseException]) -> set[str]:
    classes = [each for each in kind.__mro__ if each is not object]
    return {each.__name__ for each in classes} | {f"{each.__module__}.{each.__qualname__}" for each in classes}


def _strip(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the agent's first frame on; all of it if the launcher itself raised."""
    start = trace
    while start is not None and os.path.dirname(start.tb_frame.f_code.co_filename) == _PACKAGE:
        start = start.tb_next
    return start or trace


def _message(error: BaseException, trace: TracebackType | None) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    place = ""
    if not isinstance(error, NonRetryableError) and trace is not None:
        last = traceback.extract_tb(trace)[-1]
        place = f" ({'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}, in {last.name})"
    return cut(text or type(error).__name__, MAX_MESSAGE_BYTES - len(place.encode())) + place


def _write_error(error: dict[str, Any]) -> None:
    path = os.environ.get("KODO_ERROR_FILE")
    if path is None:
        return
    try:
        write_whole(path, json.dumps(error).encode())
    except OSError as failure:
        _say(f"the error file could not be written: {failure}")


def _say(text: str) -> None:
    print(f"kodosumi_koco: {text}", file=sys.stderr)


def _middle_out(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    return f"{text[: size // 4]}\n[{len(text) - size} characters left out]\n{text[-(size - size // 4) :]}"
