"""Connections that say nothing: bounded in number and in time, so that they cannot keep others out.

uvicorn waits for the first request of a connection as long as it takes. Here the head of a request has to arrive in
time, and where there are too many connections, the one that has been idle longest is closed for the new one. A
connection whose request is being answered is not idle.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coderv2_local.serving.errors import bad
from coderv2_local.serving.state import Serving


class Connections:
    """The idle connections of one server, oldest first."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._idle: dict[Connection, None] = {}

    def protocol(self, *args: Any, **kwargs: Any) -> "Connection":
        """What uvicorn makes for each connection."""
        return Connection(self, *args, **kwargs)

    @property
    def head_seconds(self) -> float:
        return self._serving.limits.head_seconds

    def enter(self, connection: "Connection", is_open: int) -> None:
        self.rest(connection)
        if is_open > self._serving.limits.connections and self._idle:
            oldest = next(iter(self._idle))
            self.leave(oldest)
            self._serving.metrics.add("shed_connections_total")
            oldest.transport.abort()

    def rest(self, connection: "Connection") -> None:
        """It waits for a request now."""
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def leave(self, connection: "Connection") -> None:
        """It is being answered, or closed."""
        self._idle.pop(connection, None)


class Connection(H11Protocol):
    """One connection."""

    def __init__(self, all_of_them: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = all_of_them
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        self._all.enter(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._stop_timer()
            self._all.leave(self)
        elif self._head_timer is None:
            self._expect_head()  # a second request has begun to arrive

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering() and not self.transport.is_closing():
            self._all.rest(self)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the same shape of error as any other bad request, and the connection is closed."""
        body = json.dumps(bad(msg.rstrip(".")).body()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with suppress(h11.LocalProtocolError):  # an answer has begun already
            for part in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._all.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._is_answering():
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
