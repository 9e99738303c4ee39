"""Server-sent events and a client that reads nothing: the order of what is sent, and when it is given up."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.serving import events
from coderv2_local.serving.jobs import Job, Task


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(events, "STUCK_SECONDS", 0.05)


class Client:
    """Stands in for the connection: `send` waits while `reads` is not set, as uvicorn's does with a full buffer."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("it says nothing more")

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


def stream(says: AsyncIterator[bytes]) -> tuple[Job, events.EventStream]:
    job = Job(Task("answer", [1], SamplingOptions(), 9, is_streamed=True), lambda _: None)
    return job, events.EventStream(job, says)


async def one_and_wait(until: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"data: 1\n\n"
    await until.wait()
    yield b"data: 2\n\n"


def test_a_comment_goes_before_no_head(monkeypatch: pytest.MonkeyPatch):
    """A pipelined request may find the buffer full of the answer before it."""
    monkeypatch.setattr(events, "STUCK_SECONDS", 60)

    async def story() -> None:
        client, more = Client(), asyncio.Event()
        _, response = stream(one_and_wait(more))
        answering = asyncio.create_task(response({}, client.receive, client.send))
        await asyncio.sleep(0.1)
        client.reads.set()
        await asyncio.sleep(0.1)
        more.set()
        await answering
        assert [message["type"] for message in client.sent[:2]] == ["http.response.start", "http.response.body"]
        assert client.bodies[0] == b"data: 1\n\n"
        assert b": waiting\n\n" in client.bodies
        assert client.bodies[-2:] == [b"data: 2\n\n", b""]

    asyncio.run(asyncio.wait_for(story(), 30))


@pytest.mark.parametrize("when", ["head", "comment", "event"])
def test_a_client_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, when):
    async def story() -> None:
        client, more = Client(), asyncio.Event()
        if when == "event":
            monkeypatch.setattr(events, "QUIET_SECONDS", 0.2)  # no comment comes before it
        job, response = stream(one_and_wait(more))
        if when != "head":
            client.reads.set()
        answering = asyncio.create_task(response({}, client.receive, client.send))
        while when != "head" and not client.bodies:
            await asyncio.sleep(0.001)
        client.reads.clear()
        if when == "event":
            more.set()
        await answering
        assert job.is_gone, "its generation goes on"
        assert b"" not in client.bodies, "the response looks whole"

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_comment_that_is_about_to_be_sent_does_not_follow_the_end():
    async def story() -> None:
        client = Client()
        client.reads.set()

        async def says() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            response._comment = asyncio.create_task(response._send(client.send, b": waiting\n\n"))

        _, response = stream(says())
        await response({}, client.receive, client.send)
        await asyncio.sleep(0.01)
        assert client.bodies == [b"data: 1\n\n", b""]

    asyncio.run(asyncio.wait_for(story(), 30))
