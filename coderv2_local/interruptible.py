"""Long calls into C that Ctrl-C can end.

Python delivers Ctrl-C to the main thread between bytecodes, so a call into C that lasts half a minute would hold it up,
and one that comes while a C callback runs Python would be printed and lost. So the call runs on a thread of its own,
the main thread waits where it can be interrupted, and the C code is told to stop through its abort callback.

An interrupt can also fall between any two lines that clean up after the first. So what must not be torn apart is one
call: it runs on the thread to its end, whatever happens to the one who waits, and the next call comes after it.

Ctrl-C reaches no other thread than the main one. A call from elsewhere, as a server's, runs where it is: handing it
over and back takes up to 0.1 ms, which is much for a model whose token takes 0.5 ms.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

AbortCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
POLL_SECONDS = 0.2  # Windows cannot interrupt a wait, only the gap between two

_libc = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
is_stopped = AbortCallback(ctypes.cast(_libc.strlen, ctypes.c_void_p).value or 0)
"""An abort callback that reads a :class:`StopFlag`. It is C's strlen: llama.cpp asks before every node of its graph. A
function in Python would need the interpreter's lock each time, and would wait for it while other threads run."""


class StopFlag:
    """A bit that C can read without Python: a text of one character or of none.

    Attributes:
        address: for :data:`is_stopped`.
    """

    def __init__(self) -> None:
        self._text = (ctypes.c_uint8 * 2)()
        self.address = ctypes.c_void_p(ctypes.addressof(self._text))

    def __bool__(self) -> bool:
        return self._text[0] != 0

    def set(self, to: bool) -> None:
        self._text[0] = to


class InterruptibleThread:
    """One thread on which all calls of one owner run, one at a time, but for those that cannot be interrupted anyway.

    Attributes:
        flag: for :data:`is_stopped`: set once the running call is to stop.
    """

    def __init__(self) -> None:
        # queues in C: an interrupt cannot leave a lock behind in them, as it can in those of concurrent.futures
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._one_at_a_time = threading.Lock()
        arguments = (self._calls, self._one_at_a_time)
        self._thread = threading.Thread(target=_serve, args=arguments, name="engine", daemon=True)
        self._thread.start()
        self._closed = False
        self.flag = StopFlag()

    def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. An exception here (Ctrl-C) stops it, waits until it has ended, and is raised.

        Raises:
            RuntimeError: after :meth:`close`.
        """
        if threading.current_thread() is not threading.main_thread():
            with self._one_at_a_time:
                self._check_open()
                return call()
        self._check_open()
        reply: SimpleQueue[Any] = SimpleQueue()
        try:
            self._calls.put((call, reply))
            value, error = _wait_for(reply)
        except BaseException:
            self.flag.set(True)
            self._settle()
            self.flag.set(False)
            raise
        if error is not None:
            raise error
        result: T = value
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")

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
        return bool(self.flag)

    def stop(self) -> None:
        """End what runs, from any thread; what comes later too, until :meth:`resume`."""
        self.flag.set(True)

    def resume(self) -> None:
        """Let calls run again."""
        self.flag.set(False)

    def close(self) -> None:
        """End the thread, once what runs has ended. Safe to call twice."""
        with self._one_at_a_time:
            self._closed = True
        self._calls.put(None)
        self._thread.join()


def _wait_for(reply: "SimpleQueue[Any]") -> Any:
    while True:
        try:
            return reply.get(timeout=POLL_SECONDS)
        except Empty:
            continue


def _serve(calls: "SimpleQueue[Any]", one_at_a_time: threading.Lock) -> None:
    """What the thread does. It knows the queue and the lock alone, so that it keeps nobody alive."""
    while (item := calls.get()) is not None:
        call, reply = item
        result: Any
        try:
            with one_at_a_time:
                result = call(), None
        except BaseException as error:
            result = None, error
        reply.put(result)
        del item, call, reply, result
