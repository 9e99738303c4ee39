"""From a request's fields to a job in the queue: what takes long is done on threads, within the request's time."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from coderv2_local.engine_errors import ContextFull
from coderv2_local.serving.errors import bad
from coderv2_local.serving.incoming import incoming_of
from coderv2_local.serving.jobs import Job, Lane, Task
from coderv2_local.serving.state import Serving
from coderv2_local.serving.threads import Made


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
    """What `make` returns, made on one of a lane's threads. Raises as :meth:`.Threads.run`."""
    serving: Serving = request.app.state.serving
    return await serving.threads.run(lane, serving.limits.seconds if seconds is None else seconds, make, *values)


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
