"""Notices of pauses: the signal of a job's ``pauseNotice``, on which an agent stops itself where it is safe to.

After a notice koco waits for as long as ``pauseNotice.seconds`` says, and then stops the agent wherever it is. One that
stops itself later than that, or when the pause was withdrawn, is continued by koco at once.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Both are changed by steps that no thread and no signal can cut in two: a handler could not wait for a lock that the
# thread which it interrupts holds.
_postponed: set[object] = set()
_noticed: list[object] = []


@contextmanager
def postpone_pause() -> Iterator[None]:
    """Has a pause wait for the end of the block, in any thread or task: for what must not be cut in two.

    Only for as long as ``pauseNotice.seconds`` says, and only for jobs that have a ``pauseNotice``. A block that
    another thread begins in the very moment in which the process stops is not waited for.
    """
    block = object()
    try:
        _postponed.add(block)
        yield
    finally:
        _postponed.discard(block)
        _stop_if_noticed()


def stop_on_notice() -> None:
    """From now on a notice stops the process, where it would end it by default. Used by the launcher alone."""
    name = os.environ.get("KODO_PAUSE_SIGNAL")
    if name not in ("SIGUSR1", "SIGUSR2"):  # the job has no pauseNotice
        return
    number = signal.Signals[name]
    if signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, _notice)
        os.register_at_fork(after_in_child=lambda: _leave(number))


def _notice(_number: int, _frame: FrameType | None) -> None:
    _noticed.append(object())
    _stop_if_noticed()


def _stop_if_noticed() -> None:
    if _postponed:
        return
    try:
        _noticed.pop()  # by one alone
    except IndexError:
        return
    _noticed.clear()
    os.kill(os.getpid(), signal.SIGSTOP)


def _leave(number: signal.Signals) -> None:
    """A forked child ends by the signal, as it would without us: koco sends notices to the agent's first process."""
    if signal.getsignal(number) is _notice:
        signal.signal(number, signal.SIG_DFL)
    _postponed.clear()
    _noticed.clear()
