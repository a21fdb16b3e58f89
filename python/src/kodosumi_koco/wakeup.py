"""Wakes an event loop at each signal. Used by the launcher alone."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Has each signal wake the loop, in the main thread, unless the loop sees to that itself, as uvloop does.

    Python calls a handler between two of its own steps. A signal that comes after the last of them and before the loop
    waits would otherwise be handled only when something else wakes it.
    """
    read, write = socket.socketpair()
    with read, write:
        for end in (read, write):
            end.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            yield
            return
        loop.add_reader(read, read.recv, 4096)
        try:
            yield
        finally:
            loop.remove_reader(read)
            # What the agent has set meanwhile stays, such as by its loop's add_signal_handler.
            now = signal.set_wakeup_fd(-1)
            if now not in (write.fileno(), -1):
                signal.set_wakeup_fd(now)
