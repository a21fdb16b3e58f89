"""What SIGTERM does to a running entry point. Used by the launcher alone."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from kodosumi_koco.errors import Cancelled


class Sigterm:
    """What SIGTERM means, for the main thread only.

    From its creation on it raises :class:`Cancelled`, once; after :meth:`ignore` it is noted; after :meth:`end_with` it
    ends the process.
    """

    def __init__(self) -> None:
        self.received = False
        self._cancel: Callable[[], object] | None = None
        self._ignored = False
        self._code: int | None = None
        self._masks = threading.local()
        signal.signal(signal.SIGTERM, self._handle)
        os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._leave)

    def call_instead(self, cancel: Callable[[], object] | None) -> None:
        """Has SIGTERM call this instead of raising; with ``None`` it raises again."""
        self._cancel = cancel

    def ignore(self) -> None:
        """From now on the agent's work is done, and only its result has to be written."""
        self._ignored = True

    def end_with(self, code: int) -> None:
        """From now on the result or error is written: SIGTERM ends the process at once, with this exit code."""
        self._code = code

    def end_if_received(self) -> None:
        """Ends the process if SIGTERM came, as the interpreter would, but without waiting for threads.

        They may take longer than the pod has, and a result counts only with the exit code 0.
        """
        if self.received:
            atexit._run_exitfuncs()
            self._end()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._code is not None:
            self._end()
        if self.received:
            return
        self.received = True
        if self._ignored:
            return
        if self._cancel is None:
            raise Cancelled
        self._cancel()

    def _end(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # such as a flush that the signal interrupts
                stream.flush()
        os._exit((self._code or 0) & 0xFF)

    # A forked child ends by SIGTERM as it would without us. Python forgets a signal that comes while a child begins, so
    # the kernel holds it until then.

    def _hold(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def _release(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _leave(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._release()
