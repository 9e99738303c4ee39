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
STUCK_SECONDS = 120.0
"""A client that reads nothing for so long is taken for gone."""
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
        self._begun = self._is_stuck = False
        self._sending_since = 0.0
        self._last = time.monotonic()
        self._comment: asyncio.Task[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Watched(self._job, receive):
            keeper = asyncio.create_task(self._keep_alive(send, asyncio.current_task()))
            try:
                await self._send_all(send)
            except asyncio.CancelledError:
                if not self._is_stuck:
                    raise
            finally:
                if self._comment:
                    self._comment.cancel()  # before it begins, should it be about to: nothing follows the end
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
        self._sending_since = self._last = time.monotonic()
        if not self._begun:
            self._begun = True
            await send(HEAD)
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending_since = 0.0
        return b""

    async def _keep_alive(self, send: Send, sender: "asyncio.Task[None] | None") -> None:
        while not self._is_stuck:
            await asyncio.sleep(QUIET_SECONDS)
            now = time.monotonic()
            if self._sending_since:
                if now - self._sending_since > STUCK_SECONDS and sender:
                    self._is_stuck = True
                    sender.cancel()  # the connection is closed with the response unfinished
            elif now - self._last > QUIET_SECONDS and (self._comment is None or self._comment.done()):
                # on its own: it may wait for the client, too, and the time has to be looked at meanwhile
                self._comment = asyncio.create_task(self._send(send, b": waiting\n\n"))


def _nothing() -> Awaitable[Message]:
    raise RuntimeError("an error is sent without reading more of the request")


__all__ = ["DONE", "EventStream", "event", "whole"]
