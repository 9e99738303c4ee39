"""Long calls into C that Ctrl-C can end.

Python delivers Ctrl-C to the main thread between bytecodes, so a call into C that lasts half a minute would hold it up,
and one that comes while a C callback runs Python would be printed and lost. So the call runs on a thread of its own,
the main thread waits where it can be interrupted, and the C code is told to stop through its abort callback.

An interrupt can also fall between any two lines that clean up after the first. So what must not be torn apart is one
call: it runs on the thread to its end, whatever happens to the one who waits, and the next call comes after it.
"""

import ctypes
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
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
        # queues in C: an interrupt cannot leave a lock behind in them, as it can in those of concurrent.futures
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name="engine", daemon=True)
        self._thread.start()
        self._stop = self._closed = False
        self.abort = AbortCallback(self._asked)

    def _asked(self, _: Any) -> bool:
        return self._stop

    def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. An exception here (Ctrl-C) stops it, waits until it has ended, and is raised.

        Raises:
            RuntimeError: after :meth:`close`.
        """
        if self._closed:
            raise RuntimeError("the engine is closed")
        reply: SimpleQueue[Any] = SimpleQueue()
        try:
            self._calls.put((call, reply))
            value, error = _wait_for(reply)
        except BaseException:
            self._stop = True
            self._settle()
            self._stop = False
            raise
        if error is not None:
            raise error
        result: T = value
        return result

    def _settle(self) -> None:
        """Wait until what runs has ended, however often Ctrl-C is pressed."""
        while True:
            try:
                reply: SimpleQueue[Any] = SimpleQueue()
                self._calls.put((lambda: None, reply))
                _wait_for(reply)
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
        """End the thread, once what runs has ended. Safe to call twice."""
        self._closed = True
        self._calls.put(None)
        self._thread.join()


def _wait_for(reply: "SimpleQueue[Any]") -> Any:
    while True:
        try:
            return reply.get(timeout=POLL_SECONDS)
        except Empty:
            continue


def _serve(calls: "SimpleQueue[Any]") -> None:
    """What the thread does. It knows the queue alone, so that it keeps nobody alive."""
    while (item := calls.get()) is not None:
        call, reply = item
        try:
            reply.put((call(), None))
        except BaseException as error:
            reply.put((None, error))
        del item, call, reply
