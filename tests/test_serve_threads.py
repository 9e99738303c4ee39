"""The threads that read prompts: what is too late leaves no memory behind, and none of them outlives the model."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from serve_process import Served

from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.serving import server
from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.server import bind, run
from coderv2_local.serving.state import Serving
from coderv2_local.serving.threads import THREADS, Threads


class Text(str):
    """One that can be watched."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What is made waits for it."""
    event = threading.Event()
    yield event
    event.set()


async def refusal(threads: Threads, seconds: float, make, *values) -> int:
    """The status with which a call is refused. The error, and what its frames hold, is gone afterwards."""
    try:
        await threads.run("answer", seconds, make, *values)
    except ApiError as error:
        return error.status
    raise AssertionError("it was made")


def test_what_is_given_up_in_the_queue_is_not_kept_in_memory(gate: threading.Event):
    async def story() -> None:
        threads = Threads(most=64)
        running = [asyncio.create_task(threads.run("answer", 60, gate.wait)) for _ in range(THREADS["answer"])]
        await asyncio.sleep(0)
        text = Text("x")
        watched = weakref.ref(text)
        assert await refusal(threads, 0.001, len, text) == 408
        del text
        gc.collect()
        assert watched() is None
        gate.set()
        await asyncio.gather(*running)
        assert await threads.run("answer", 60, len, "abc") == 3

    asyncio.run(story())


def test_what_still_runs_counts_until_it_ends(gate: threading.Event):
    async def story() -> None:
        threads = Threads(most=THREADS["answer"])
        for _ in range(THREADS["answer"]):
            assert await refusal(threads, 0.01, gate.wait) == 408
        assert await refusal(threads, 60, len, "abc") == 503
        gate.set()
        while threads._pending["answer"]:
            await asyncio.sleep(0.001)
        assert await threads.run("answer", 60, len, "abc") == 3

    asyncio.run(story())


def test_what_waited_and_was_given_up_counts_no_more(gate: threading.Event):
    async def story() -> None:
        threads = Threads(most=THREADS["answer"] + 1)
        running = [asyncio.create_task(threads.run("answer", 60, gate.wait)) for _ in range(THREADS["answer"])]
        await asyncio.sleep(0)
        for _ in range(3):
            assert await refusal(threads, 0.001, len, "abc") == 408
        gate.set()
        await asyncio.gather(*running)

    asyncio.run(story())


def test_a_server_that_does_not_wait_for_answers_waits_for_what_uses_its_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    """As after a second Ctrl-C: the model must not be closed under a thread that turns text into tokens with it."""
    monkeypatch.setenv("CODER_HOME", str(tmp_path))
    servers, answers = [], []
    begun, done = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    class Recorded(server.Server):
        def __init__(self, *args):
            super().__init__(*args)
            servers.append(self)

    def encode(text: str) -> list[int]:
        begun.set()
        time.sleep(0.3)
        done.set()
        return []

    def client() -> None:
        try:
            answers.append(served.post("/tokenize", {"content": "x"}))
        except OSError as error:  # the connection is closed
            answers.append(error)

    monkeypatch.setattr(server, "Server", Recorded)
    with LocalBackend(find_model("tiny").path, LoadOptions(n_threads=1)) as backend:
        monkeypatch.setattr(backend.vocabulary, "encode", encode)
        room, listener, ready = Serving(backend, "test", "test"), bind("127.0.0.1", 0), threading.Event()
        thread = threading.Thread(target=run, args=(room, listener, ready.set))
        thread.start()
        try:
            assert ready.wait(20)
            served = Served(listener.getsockname()[1], None, tmp_path)
            asking = threading.Thread(target=client)
            asking.start()
            assert begun.wait(20)
            servers[0].force_exit = servers[0].should_exit = True
            thread.join(20)
            assert not thread.is_alive()
            assert done.is_set(), "it has ended before"
            asking.join(20)
        finally:
            listener.close()
    assert set(threading.enumerate()) <= before


def test_after_the_end_nothing_is_begun():
    async def story() -> None:
        threads = Threads(most=4)
        threads.close()
        assert await refusal(threads, 60, len, "abc") == 503

    asyncio.run(story())
