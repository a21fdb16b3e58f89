"""What SIGTERM does to a running entry point. Used by the launcher alone."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from kodosumi_koco.errors import Cancelled


class Sigterm:
    """From its creation on SIGTERM raises :class:`Cancelled`, once, until :meth:`ignore`. For the main thread only."""

    def __init__(self) -> None:
        self.received = False
        self._cancel: Callable[[], object] | None = None
        self._ignored = False
        self._masks = threading.local()
        signal.signal(signal.SIGTERM, self._handle)
        os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._leave)

    def call_instead(self, cancel: Callable[[], object] | None) -> None:
        """Has SIGTERM call this instead of raising; with ``None`` it raises again."""
        self._cancel = cancel

    def ignore(self) -> None:
        """From now on the agent's work is done, and only its result has to be written."""
        self._ignored = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.received or self._ignored:
            return
        self.received = True
        if self._cancel is None:
            raise Cancelled
        self._cancel()

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
