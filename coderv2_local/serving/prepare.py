"""From a request's fields to a job in the queue: what takes long is done on threads, within the request's time.

Turning text into tokens takes seconds for long texts. Infills have threads of their own for it, so that no number of
long conversations holds them up.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from coderv2_local.engine import ContextFull
from coderv2_local.serving.errors import ApiError, bad
from coderv2_local.serving.incoming import incoming_of
from coderv2_local.serving.jobs import Job, Lane, Task
from coderv2_local.serving.state import Serving

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

    async def run(self, lane: Lane, seconds: float, make: Callable[..., Made], *values: Any) -> Made:
        """What `make` returns, or raises.

        Raises:
            ApiError: too many wait already (503), or it is not done within `seconds` (408).
        """
        if self._pending[lane] >= self._most:
            raise ApiError(503, f"{self._most} requests are being read already: try again later", code="queue_full")
        self._pending[lane] += 1
        try:
            made = asyncio.get_running_loop().run_in_executor(self._pools[lane], make, *values)
            return await asyncio.wait_for(made, max(seconds, 0))
        except asyncio.TimeoutError:
            raise ApiError(408, "its time was over before its prompt was read", code="timeout") from None
        finally:
            self._pending[lane] -= 1


async def submitted(
    request: Request,
    values: Mapping[str, Any],
    make: Callable[[Serving, Mapping[str, Any]], Task],
    lane: Lane = "answer",
    *,
    quick: bool = False,
) -> Job:
    """The job that a request's checked `values` ask for, in the queue. Its time runs from the request's arrival.

    Args:
        make: the task of values.
        lane: whose threads make it.
        quick: it is made so fast that other connections can wait for it.

    Raises:
        ApiError, InputError, ContextFull: as `make`, and where the queue is full or the time over.
    """
    serving: Serving = request.app.state.serving
    arrived = incoming_of(request.scope).arrived
    left = arrived + seconds_of(serving, values) - time.monotonic()
    task = make(serving, values) if quick else await on_thread(request, make, serving, values, lane=lane, seconds=left)
    return serving.submit(task, arrived)


async def on_thread(
    request: Request, make: Callable[..., Made], *values: Any, lane: Lane = "answer", seconds: float | None = None
) -> Made:
    """What `make` returns, made on one of a lane's threads. Raises as :meth:`Threads.run`."""
    serving: Serving = request.app.state.serving
    threads: Threads = request.app.state.threads
    return await threads.run(lane, serving.limits.seconds if seconds is None else seconds, make, *values)


def seconds_of(serving: Serving, values: Mapping[str, Any]) -> float:
    """For everything, from the request's arrival on."""
    return float(values["deadline_ms"]) / 1000 if "deadline_ms" in values else serving.limits.seconds


def limit_of(values: Mapping[str, Any], *names: str) -> int | None:
    """The tokens that the first of these fields asks for; None where none does, or says -1: no limit of its own.

    Raises:
        ApiError: it is 0, which asks for nothing but in llama-server's `n_predict`: there the prompt is evaluated.
    """
    for name in names:
        if name in values:
            if values[name] == 0 and name != "n_predict":
                raise bad(f"{name} must be 1 or more, or -1 for no limit of its own", name)
            return None if values[name] < 0 else int(values[name])
    return None


def check_length(serving: Serving, characters: int) -> None:
    """Raises ContextFull where a text cannot fit the context, whatever is in it: so that it is not encoded first."""
    if characters > serving.longest_text:
        raise ContextFull(
            f"the prompt has {characters} characters, more than the {serving.backend.n_ctx} tokens "
            "of this server's context can hold"
        )
