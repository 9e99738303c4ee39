"""A time limit on silence that can change while a connection is read.

A read that waits cannot be given another time limit, so a second thread keeps the time and shuts the socket down; the
read then returns. Shutting down is all it does: the connection is closed by its owner.
"""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any


class Watchdog:
    """Use it as a context manager around the reads, and call :meth:`allow` whenever something came.

    Args:
        connection: the socket to shut down; None only keeps the time.
        seconds: until then nothing may come.

    Attributes:
        expired: was the socket shut down?
    """

    def __init__(self, connection: Any, seconds: float) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._deadline = time.monotonic() + seconds
        self._over = False
        self.expired = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def allow(self, seconds: float) -> None:
        """The next sign of life may take so long, counted from now."""
        with self._changed:
            earlier = time.monotonic() + seconds < self._deadline
            self._deadline = time.monotonic() + seconds
            if earlier:  # a later deadline is found out when the old one is reached
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                left = self._deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self.expired = self._over = True
                if isinstance(self._connection, socket.socket):
                    with suppress(OSError):
                        # not SSLSocket's own shutdown, which would pull the encryption away under the reader
                        socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()
