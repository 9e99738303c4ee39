"""Long calls into C that Ctrl-C can end.

Python delivers Ctrl-C to the main thread between bytecodes, so a call into C that lasts half a minute would hold it up,
and one that comes while a C callback runs Python would be printed and lost. So the call runs on a thread of its own,
the main thread waits where it can be interrupted, and the C code is told to stop through its abort callback.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")

AbortCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
POLL_SECONDS = 0.2  # Windows cannot interrupt a wait, only the gap between two

NEVER = AbortCallback(0)
"""An abort callback that is not there: costs nothing."""


class InterruptibleThread:
    """One thread on which all calls of one owner run, in order.

    Attributes:
        abort: a C callback that answers true once the running call is to stop.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._stop = False
        self.abort = AbortCallback(self._asked)

    def _asked(self, _: Any) -> bool:
        return self._stop

    def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. An exception here (Ctrl-C) stops it, waits until it has ended, and is raised."""
        try:
            future = self._pool.submit(call)
            while not future.done():
                wait([future], timeout=POLL_SECONDS)
        except BaseException:
            self._stop = True
            self._finish()
            self._stop = False
            raise
        return future.result()

    def _finish(self) -> None:
        """Wait until what runs has ended, however often Ctrl-C is pressed: it must not go on behind our back."""
        while True:
            try:
                wait([self._pool.submit(lambda: None)])  # calls run in order, so the one before has ended then
                return
            except KeyboardInterrupt:
                continue

    @property
    def stopped(self) -> bool:
        """Is what runs to end (:meth:`stop`)?"""
        return self._stop

    def stop(self) -> None:
        """End what runs, from any thread; what comes later too, until :meth:`resume`."""
        self._stop = True

    def resume(self) -> None:
        """Let calls run again."""
        self._stop = False

    def close(self) -> None:
        self._pool.shutdown()
