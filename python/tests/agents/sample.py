"""Entry points for the tests. Nothing here needs the package but what is about the package."""

import asyncio
import atexit
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import kodosumi_koco

NOT_CALLABLE = 3


def by_name(topic: str, count: int = 2, /, *, loud: bool = False) -> dict[str, Any]:
    return {"text": " ".join([topic] * count).upper() if loud else " ".join([topic] * count)}


def whole(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"keys": sorted(inputs)}


def rest(topic: str, **others: Any) -> list[Any]:
    return [topic, others]


def none() -> None:
    print("nothing to say")


def progress(file: str) -> list[Any]:
    reports = []

    def read() -> None:
        reports.append(json.loads(Path(file).read_text()))

    kodosumi_koco.report_progress(12.5, "reads", input_tokens=100, output_tokens=7)
    read()
    kodosumi_koco.report_progress(message="é" * 1000, input_tokens=20, cost_micros=5)
    read()
    for wrong in ({"percent": -1}, {"percent": 100.5}, {"percent": float("nan")}, {"output_tokens": -1}):
        with suppress(ValueError):
            kodosumi_koco.report_progress(**wrong)
            raise AssertionError(wrong)
    read()
    threads = [threading.Thread(target=kodosumi_koco.report_progress, kwargs={"input_tokens": 1}) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read()
    return reports


class Tools:
    @staticmethod
    def reverse(text: str) -> str:
        return text[::-1]


twice = functools.partial(by_name, "tea", 2)


@dataclass
class Part:
    name: str
    weight: float = 1.0


@dataclass
class Order:
    kind: Literal["small", "large"]
    parts: list[Part] = field(default_factory=list)
    note: str | None = None


def dataclass_inputs(order: Order) -> Order:
    return order


async def slow(text: str) -> str:
    await asyncio.sleep(0)
    return text


def job() -> dict[str, Any]:
    job = kodosumi_koco.current_job()
    folder = kodosumi_koco.checkpoint_dir()
    return {"fid": job.fid, "attempt": job.attempt, "resumed": job.resumed, "extra": job.extra, "folder": str(folder)}


class Quota(kodosumi_koco.NonRetryableError):
    pass


def fail(kind: str = "ValueError", text: str = "no such luck") -> None:
    raise {"ValueError": ValueError, "Quota": Quota, "KeyError": KeyError}[kind](text)


def fail_deeply(levels: int) -> None:
    if levels:
        fail_deeply(levels - 1)
    raise ValueError("x" * 100_000)


async def fail_slowly() -> None:
    await asyncio.sleep(0)
    raise OSError("the line is dead")


def leave(code: Any) -> None:
    sys.exit(code)


def large(size: int) -> str:
    return "x" * size


def unserializable() -> dict[str, Any]:
    return {"found": [{"when": time.gmtime(0)}, {"a b": {1, 2}}]}


def wait() -> None:
    try:
        _waits()
    finally:
        print("cleaned up")


def wait_and_get_another() -> None:
    try:
        _waits()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up")


def wait_and_finish() -> str:
    try:
        _waits()
    except kodosumi_koco.Cancelled:
        return "done all the same"
    return "never"


async def wait_slowly() -> None:
    try:
        Path(os.environ["MARK"]).touch()
        await asyncio.sleep(600)
    finally:
        print("cleaned up")


async def wait_slowly_and_finish() -> str:
    try:
        await wait_slowly()
    except asyncio.CancelledError:
        return "done all the same"
    return "never"


async def wait_for_a_thread(finish: bool) -> str:
    atexit.register(print, "left")
    background = asyncio.create_task(wait_slowly())
    try:
        await asyncio.to_thread(time.sleep, 600)
    except asyncio.CancelledError:
        if not finish:
            raise
    return f"done, and {background.done()=}"


async def leave_a_thread_slowly() -> str:
    print("printed")
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(time.sleep, 600), 0.01)
    return "done"


def leave_a_thread(fails: bool) -> str:
    print("printed")
    threading.Thread(target=time.sleep, args=(600,)).start()
    if fails:
        raise ValueError("no such luck")
    return "done"


class Lazy(Mapping[str, int]):
    __slots__ = ("cache",)

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def lazy() -> Lazy:
    return Lazy()


async def cancels_itself() -> None:
    raise asyncio.CancelledError


def ends_a_child() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


def _waits() -> None:
    Path(os.environ["MARK"]).touch()
    time.sleep(600)


async def tells(text: str, tracer: kodosumi_koco.Tracer) -> dict[str, str]:
    tracer.text_sync(text)
    await tracer.markdown(f"*{text}*")
    return {"told": text}


def tells_from_threads(threads: int, count: int, tracer: kodosumi_koco.Tracer) -> None:
    def tell(thread: int) -> None:
        for n in range(count):
            tracer.action_sync({"thread": thread, "n": n})

    all_of_them = [threading.Thread(target=tell, args=(thread,)) for thread in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def postpones(mark: str, go: str) -> str:
    with kodosumi_koco.postpone_pause():
        Path(mark).touch()
        while not Path(go).exists():
            time.sleep(0.01)
        print("the block has ended")
    print("goes on")
    return "done"


def _tells_and_waits(pipe: int) -> None:
    os.write(pipe, b".")
    time.sleep(600)


def signals_a_child() -> int | None:
    read, write = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=_tells_and_waits, args=(write,))
    child.start()
    os.read(read, 1)  # Python forgets a signal that comes while a child begins
    os.kill(child.pid or 0, signal.SIGUSR1)
    child.join()
    return child.exitcode


async def wakeups() -> dict[str, bool]:
    launchers = signal.set_wakeup_fd(-1)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, print)
    own = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(own)
    return {"set": launchers != -1, "own": own not in (-1, launchers)}
