"""A request on its way in: since when, how much of it is in memory, and whether it is whole."""

import asyncio
import time
from contextlib import suppress

from starlette.types import Message, Receive, Scope

from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.state import Serving

SMALL_BODY = 256 << 10
"""Bytes that every request may have: the number of connections bounds them together."""
DRAIN_BYTES = 64 << 20
DRAIN_SECONDS = 5.0
"""Of what a client goes on sending after it was refused. If its connection were closed at once, it would meet a broken
pipe instead of the answer that says why."""
KEY = "coder.incoming"


class Incoming:
    """Stands in for the ASGI `receive` of one request.

    Attributes:
        arrived: when its head was there, by `time.monotonic`.
        is_whole: there is no more of its body.
        is_gone: the client has closed its connection; only known once something was asked for after that.
    """

    def __init__(self, receive: Receive, serving: Serving) -> None:
        self.arrived = time.monotonic()
        self.is_whole = self.is_gone = False
        self._receive, self._serving = receive, serving
        self._size = self._held = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self.is_gone = self.is_gone or message["type"] == "http.disconnect"
        self.is_whole = self.is_whole or not message.get("more_body", False)
        return message

    def count(self, size: int) -> None:
        """So many more bytes are in memory, as text or as what was read of it, until :meth:`release`.

        Raises:
            ApiError: those of all requests together are too many (503).
        """
        self._size += size
        more = max(self._size - SMALL_BODY, 0) - self._held
        if self._serving.held_bytes + more > self._serving.limits.bodies:
            raise ApiError(503, "too many large requests at a time: try again later", code="bodies_full")
        self._held += more
        self._serving.held_bytes += more

    def release(self) -> None:
        """The request is done with."""
        self._serving.held_bytes -= self._held
        self._held = 0

    async def drain(self) -> None:
        """Read what still comes and forget it, within bounds."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(), DRAIN_SECONDS)

    async def _drain(self) -> None:
        left = DRAIN_BYTES
        while not self.is_whole and left > 0:
            left -= len((await self()).get("body", b""))


def incoming_of(scope: Scope) -> Incoming:
    """What the frame around the router has put there."""
    found: Incoming = scope[KEY]
    return found
