"""The real `coder serve` as a process of its own, and small clients for it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import ROOT

from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.serving.app import make_app
from coderv2_local.serving.server import Server, bind
from coderv2_local.serving.state import Limits, Serving

HELLO = [{"role": "user", "content": "Write a Python function `is_even`: Return True if a number is even"}]
EOS = "4088"  # the id of `tiny`'s end token
LONG = {"messages": HELLO, "logit_bias": {EOS: -100}, "max_tokens": 440, "temperature": 0}


@dataclass
class Served:
    """A running server.

    Attributes:
        log: lines of its stderr so far.
    """

    port: int
    process: subprocess.Popen[str]
    home: Path
    log: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.send(urllib.request.Request(self.address + path, headers=headers))

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Send JSON, or bytes as they are; the status and the JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        return self.send(urllib.request.Request(self.address + path, data, headers))

    def send(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                data, status = response.read(), response.status
        except urllib.error.HTTPError as error:
            with error:
                data, status = error.read(), error.code
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode()

    def events(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """The server-sent events of a streamed answer; close it to hang up."""
        request = urllib.request.Request(self.address + path, json.dumps({**body, "stream": True}).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                    yield json.loads(line[6:])

    def metric(self, name: str) -> float:
        text = self.get("/metrics")[1]
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"coder_{name} "))

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has at least this value."""
        deadline = time.monotonic() + 30
        while self.metric(name) < value:
            assert time.monotonic() < deadline, f"{name} stays below {value}"
            time.sleep(0.01)

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 30
        while self.metric("requests_running") or self.metric("requests_waiting"):
            assert time.monotonic() < deadline, "the server stays busy"
            time.sleep(0.01)

    def raw(self) -> socket.socket:
        """A connection that says nothing yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextlib.contextmanager
def serving(
    home: Path, *options: str, environment: dict[str, str] | None = None, files: tuple[int, int] | None = None
) -> Iterator[Served]:
    """`coder serve` with the embedded model, ended by SIGTERM.

    Args:
        files: that it may have open, and how far it may raise that.
    """
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--threads", "1", *options]
    settings = dict(os.environ, CODER_HOME=str(home), NO_COLOR="1", PYTHONPATH=str(ROOT), COLUMNS="200")
    settings.update(environment or {})
    if files:
        command = ["bash", "-c", 'ulimit -Sn "$0" && ulimit -Hn "$1" && exec "${@:2}"', *map(str, files), *command]
    process = subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    served = Served(0, process, home)
    ready = threading.Event()

    def read() -> None:
        for line in process.stderr:
            served.log.append(line)
            if "Ctrl-C ends it" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(60), served.log
        assert process.poll() is None, served.log
        served.port = int(served.log[0].split(":")[-1].split()[0])
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stderr.close()


@contextlib.contextmanager
def in_this_process(
    limits: Limits | None = None, prepare: Callable[[Serving], None] = lambda _: None
) -> Iterator[Served]:
    """A server with limits of its own, on a thread; `prepare` may change more of it."""
    ready = threading.Event()
    with LocalBackend(find_model("tiny").path, LoadOptions(n_threads=1)) as backend:
        room = Serving(backend, "test", "test", limits=limits or Limits())
        prepare(room)
        listener = bind("127.0.0.1", 0)
        server = Server(room, make_app(room), ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20)
            yield Served(listener.getsockname()[1], None, None)
        finally:
            server.should_exit = True
            thread.join()
            listener.close()


def text_of(events: Iterator[Any]) -> str:
    """The whole text of a streamed chat."""
    return "".join(c["delta"].get("content", "") for event in events for c in event["choices"])
