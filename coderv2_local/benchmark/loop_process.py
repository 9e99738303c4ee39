"""A loop in a process of its own, so that nothing is shared with the engine but the page cache.

OpenMP's threads are the reason: a second team of them in one process makes more threads than cores, and libgomp then
sends all of them to sleep between any two steps, which makes a small model many times slower. It also lets Ctrl-C end
a loop that is deep inside llama.cpp.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from coderv2_local.benchmark.runs import Loop, Run
from quant.errors import CoderError


class LoopError(CoderError):
    """A loop could not load the model or evaluate, or its process ended."""


class LoopProcess:
    """Use it as a context manager, or call :meth:`close`.

    Args:
        make: makes the loop, there: a class or function of a module.
        arguments: of `make`.

    Raises:
        LoopError: the loop could not be made.
    """

    def __init__(self, make: Callable[..., Loop], *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with _ctrl_c_ignored():  # the process inherits that: it is this one that ends it
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def run(self, ids: Sequence[int], n_tokens: int) -> Run:
        """As the loop's; the clock is read there.

        Raises:
            LoopError: llama.cpp failed, or the process is gone.
        """
        self._connection.send((list(ids), n_tokens))
        found = self._receive()
        assert isinstance(found, Run)
        return found

    def _receive(self) -> Any:
        try:
            found = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise LoopError(
                f"a second process with the model ended (code {self._process.exitcode})",
                hint="perhaps memory ran out: it needs as much again as the first, the model's file not counted",
            ) from None
        if isinstance(found, str):
            raise LoopError(found)
        return found

    def close(self) -> None:
        """End the process. Safe to call twice."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> "LoopProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(connection: Connection, make: Callable[..., Loop], arguments: Sequence[Any]) -> None:
    """What the process does: answer to (ids, number of tokens) with a run, to a failure with its message."""
    try:
        loop = make(*arguments)
        connection.send(None)
        while True:
            connection.send(loop.run(*connection.recv()))
    except CoderError as error:
        connection.send(error.message)
    except (EOFError, BrokenPipeError):
        return  # the other side is gone


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
