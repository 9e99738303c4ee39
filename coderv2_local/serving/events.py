"""Answers on their way to the client: whole, or as server-sent events; a client that has gone ends its generation."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from coderv2_local.serving.errors import api_error
from coderv2_local.serving.jobs import Job
from coderv2_local.serving.json_answer import JsonAnswer, to_json

QUIET_SECONDS = 10.0
"""After so long without an event, a comment keeps the connection alive."""
UNWATCHED_SECONDS = 0.05
"""Before a client is looked after that may go away."""
log = logging.getLogger("coder.serve")
DONE = b"data: [DONE]\n\n"
HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")],
}


def event(data: Any) -> bytes:
    """One server-sent event of JSON."""
    return b"data: " + to_json(data) + b"\n\n"


async def until_gone(receive: Receive) -> None:
    """Returns once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Watched:
    """While this is entered, a client that goes away cancels the job; so does leaving it before the job's end.

    What is answered within `UNWATCHED_SECONDS` is not worth the task that watches.
    """

    def __init__(self, job: Job, receive: Receive) -> None:
        self._job, self._receive = job, receive
        self._task: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await until_gone(self._receive)
        self._job.cancel()

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, self._begin)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._job.cancel()


async def whole(job: Job, receive: Receive, make: Callable[[], dict[str, Any]]) -> Response:
    """Wait for the end, then answer with what `make` gives."""
    async with Watched(job, receive):
        await job.finish()
    return JsonAnswer(make())


class EventStream(Response):
    """A response of server-sent events.

    The status is sent with the first event: what fails before it is answered with a status of its own.

    Args:
        events: of the job, as bytes.
    """

    def __init__(self, job: Job, events: AsyncIterator[bytes]) -> None:
        self.status_code, self.background = 200, None
        self._job, self._events = job, events
        self._begun = self._is_sending = False
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Watched(self._job, receive):
            keeper = asyncio.create_task(self._keep_alive(send))
            try:
                await self._send_all(send)
            finally:
                keeper.cancel()
                with suppress(asyncio.CancelledError):
                    await keeper

    async def _send_all(self, send: Send) -> None:
        ready = b""
        try:
            async for data in self._events:
                ready += data
                if not self._job.is_ahead:
                    ready = await self._send(send, ready)
            if ready:
                await self._send(send, ready)
        except Exception as error:
            failure = api_error(error)
            if failure.status >= 500 and failure is not error:
                log.error("a streamed answer failed", exc_info=error)
            if not self._begun:
                await JsonAnswer(failure.body(), failure.status, failure.headers())({"type": "http"}, _nothing, send)
                return
            await self._send(send, ready + event(failure.body()))
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, data: bytes) -> bytes:
        """Send, and return what is left to send: nothing."""
        self._is_sending = True  # until the client has read enough of what came before
        self._last = time.monotonic()
        if not self._begun:
            self._begun = True
            await send(HEAD)
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_sending = False
        return b""

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            if not self._is_sending and time.monotonic() - self._last > QUIET_SECONDS:
                await self._send(send, b": waiting\n\n")


def _nothing() -> Awaitable[Message]:
    raise RuntimeError("an error is sent without reading more of the request")


__all__ = ["DONE", "EventStream", "event", "whole"]
