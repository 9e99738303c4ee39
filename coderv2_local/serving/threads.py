"""Threads on which requests are prepared: turning text into tokens takes seconds for long texts.

Infills have threads of their own for it, so that no number of long conversations holds them up.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from coderv2_local.serving.errors import ApiError, shutting_down
from coderv2_local.serving.jobs import Lane

THREADS: Mapping[Lane, int] = {"answer": 4, "infill": 2}
Made = TypeVar("Made")


class Threads:
    """The threads of one server.

    Args:
        most: requests of each lane that may be prepared, or wait for that.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pools = {lane: ThreadPoolExecutor(n, f"{lane}-prompt") for lane, n in THREADS.items()}
        self._pending: Counter[Lane] = Counter()
        self._lock = threading.Lock()
        self._is_closed = False

    async def run(self, lane: Lane, seconds: float, make: Callable[..., Made], *values: Any) -> Made:
        """What `make` returns, or raises.

        What has not begun when the time is over never does, and its values are let go. What has begun goes on, and
        counts as pending until it ends.

        Raises:
            ApiError: too many wait already, or the server is ending (503), or it is not done within `seconds` (408).
        """
        call = [(make, values)]  # to be emptied: the pool's queue holds on to what is cancelled

        def run_it() -> Made:
            make, values = call.pop()
            return make(*values)

        future = self._submit(lane, run_it)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), max(seconds, 0))
        except asyncio.TimeoutError:
            raise ApiError(408, "its time was over before its prompt was read", code="timeout") from None
        finally:
            if future.cancel():
                call.clear()

    def _submit(self, lane: Lane, call: Callable[[], Made]) -> "Future[Made]":
        with self._lock:
            if self._is_closed:
                raise shutting_down()
            if self._pending[lane] >= self._most:
                raise ApiError(503, f"{self._most} requests are being read already: try again later", code="queue_full")
            self._pending[lane] += 1
            future = self._pools[lane].submit(call)
        future.add_done_callback(lambda _: self._is_done(lane))
        return future

    def _is_done(self, lane: Lane) -> None:
        with self._lock:
            self._pending[lane] -= 1

    def close(self) -> None:
        """Begin nothing any more, and wait for what runs: it uses the model. Safe to call twice."""
        with self._lock:
            self._is_closed = True
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
