"""Runs the server: binds, loads nothing itself, answers until it is told to end, and then saves what is evaluated."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from coderv2_local.home import home
from coderv2_local.serving.app import make_app
from coderv2_local.serving.connections import Connections
from coderv2_local.serving.guard import MAX_HEAD
from coderv2_local.serving.state import Serving
from coderv2_local.states.prefix_states import PrefixStates
from quant.errors import CoderError, InputError

GRACE_SECONDS = 5
"""That a running answer has when the server is told to end. Those that wait for their turn are refused at once."""
CUT_SECONDS = 5
"""And then to be told so, before its connection is closed."""
KEEP_ALIVE_SECONDS = 75
BACKLOG = 512
AT_ONCE = 16
"""Connections that asyncio takes before others are closed for them: it has one number for that and for the backlog."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: no such address here, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):  # the latter of names that are none, such as a..b
        raise InputError(f"{host}: there is no such address here", hint="--host 127.0.0.1 is this machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"cannot listen at {host}:{port}: {reason}",
            hint="another port: --port 8013; `coder serve --status` shows what runs",
        ) from None
    return listener


def run(serving: Serving, listener: socket.socket, on_ready: Callable[[], None], port: int = 0) -> str | None:
    """Serve until SIGINT, SIGTERM or SIGHUP. Returns a notice where something could not be kept.

    Args:
        on_ready: called once requests are answered.
        port: that was asked for. What is evaluated is kept by it: two servers of one model keep their own.

    Raises:
        CoderError: it could not start.
    """
    states = PrefixStates(home() / "states")
    name = f"{serving.fingerprint[:24]}-{port}"
    notice = serving.kept.restore(serving.backend.engine, states, name)
    if notice:
        logging.getLogger("coder.serve").warning(notice)
    server = Server(serving, make_app(serving), on_ready)
    try:
        server.run(sockets=[listener])
    finally:
        serving.close()
    if not server.was_ready:
        raise CoderError("the server could not start")
    return serving.kept.save(serving.backend.engine, states, name)


class Server(uvicorn.Server):
    """uvicorn's server, which here ends on a signal without raising that signal again."""

    def __init__(self, serving: Serving, app: ASGIApp, on_ready: Callable[[], None]) -> None:
        self._serving, self._on_ready = serving, on_ready
        self.was_ready = False
        super().__init__(
            uvicorn.Config(
                _Lifespan(app, serving),
                http=Connections(serving).protocol,  # type: ignore[arg-type]  # a function that makes one
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS + CUT_SECONDS,
                h11_max_incomplete_event_size=MAX_HEAD,
                backlog=AT_ONCE,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # errors are answered and logged by the app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            for listener in sockets or []:
                listener.listen(BACKLOG)
            self.was_ready = True
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        worker = self._serving.worker
        worker.refuse()
        cut = asyncio.get_running_loop().call_later(GRACE_SECONDS, worker.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """A terminal that is closed ends the server as SIGTERM does, unless that was to be ignored (nohup)."""
        hangup = getattr(signal, "SIGHUP", None)  # not on Windows
        is_main = threading.current_thread() is threading.main_thread()
        with super().capture_signals():
            if hangup is None or not is_main or signal.getsignal(hangup) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(hangup, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(hangup, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets running answers end, a second one does not wait for them."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class _Lifespan:
    """Starts the worker with the server, and ends it and the other threads after the last answer."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        self._serving.worker.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self._serving.close)
        await send({"type": "lifespan.shutdown.complete"})
