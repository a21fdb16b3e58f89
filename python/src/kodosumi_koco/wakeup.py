"""Wakes an event loop at each signal. Used by the launcher alone."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Has each signal wake the loop, in the main thread.

    Python calls a handler between two of its own steps. A signal that comes after the last of them and before the loop
    waits would otherwise be handled only when something else wakes it.
    """
    read, write = socket.socketpair()
    with read, write:
        for end in (read, write):
            end.setblocking(False)
        loop.add_reader(read, read.recv, 4096)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(read)
