"""Connections that say nothing, or read nothing: bounded in number and in time, so that they cannot keep others out.

uvicorn waits for the first request of a connection as long as it takes. Here the head of a request has to arrive in
time, and where there are too many connections, the one that has been idle longest is closed for the new one. A
connection is idle until its request has arrived whole, and again once that is answered.

A client that reads nothing of its answer is cut off after a while. To close its connection would not do: asyncio and
uvicorn wait until all that was written is sent.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.guard import MAX_HEAD
from coderv2_local.serving.incoming import DRAIN_BYTES, DRAIN_SECONDS
from coderv2_local.serving.state import Serving

REASONS = {
    431: f"the head of the request is larger than {MAX_HEAD} bytes",
    501: "this Transfer-Encoding is not known here: chunked is",
}
log = logging.getLogger("coder.serve")


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

    @property
    def stuck_seconds(self) -> float:
        return self._serving.limits.stuck_seconds

    def enter(self, connection: "Connection", is_open: int) -> None:
        """A new one. Those that are being answered do not give way to it: the queue bounds them."""
        if is_open > self._serving.limits.connections and self._idle:
            oldest = next(iter(self._idle))
            self.leave(oldest)
            self._serving.metrics.add("shed_connections_total")
            oldest.transport.abort()
        self.rest(connection)

    def refuse(self, status: int) -> None:
        """Count and log a request that is none."""
        self._serving.metrics.requests["other", status] += 1
        log.info("no request %d", status)

    def cut_off(self) -> None:
        """Count and log a client that reads nothing."""
        self._serving.metrics.add("stuck_connections_total")
        log.info("a client reads nothing: its connection is closed")

    def rest(self, connection: "Connection") -> None:
        """It waits for a request, or for the rest of one."""
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
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._is_refused, self._swallowed = False, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        self._all.enter(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._is_read()
        self._all.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._swallow(len(data))
            return
        super().data_received(data)
        if self._is_answering():
            self._stop_timer()
            if self.conn.their_state is not h11.SEND_BODY:
                self._all.leave(self)
        elif self._head_timer is None:
            self._expect_head()  # a second request has begun to arrive

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering():
            self._all.rest(self)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the same shape of error as any other bad request, and the connection is closed.

        uvicorn calls this where it has caught h11's error, which knows a better status than 400.
        """
        fault = sys.exc_info()[1]
        status = fault.error_status_hint if isinstance(fault, h11.RemoteProtocolError) else 400
        body = json.dumps(ApiError(status, REASONS.get(status, msg.rstrip("."))).body()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        try:
            for part in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        except h11.LocalProtocolError:  # an answer has begun already
            self.transport.close()
            return
        self._all.refuse(status)
        self._is_refused = True
        self._stop_timer()
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)

    def _swallow(self, size: int) -> None:
        """What comes after that is not looked at."""
        self._swallowed += size
        if self._swallowed > DRAIN_BYTES:
            self.transport.abort()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stuck_timer = self.loop.call_later(self._all.stuck_seconds, self._look_for_reader, unsent)

    def _look_for_reader(self, unsent: int) -> None:
        """Nothing is written while the transport is paused: if it has less to send, some of it was read."""
        if self.transport.get_write_buffer_size() >= unsent:
            self._all.cut_off()
            self.transport.abort()
        else:
            self._expect_reader()

    def _is_read(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

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
