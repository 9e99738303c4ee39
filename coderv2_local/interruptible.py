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
        self._stop = False
        future = self._pool.submit(call)
        try:
            while not future.done():
                wait([future], timeout=POLL_SECONDS)
        except BaseException:
            self._stop = True
            wait([future])
            raise
        return future.result()

    def close(self) -> None:
        self._pool.shutdown()
