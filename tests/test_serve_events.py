"""Server-sent events, and a client that reads nothing for a while: the order of what is sent."""

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


def test_a_comment_goes_before_no_head():
    """A pipelined request may find the buffer full of the answer before it."""

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


def test_a_comment_that_waits_for_the_client_does_not_follow_the_end():
    async def story() -> None:
        client, more = Client(), asyncio.Event()
        client.reads.set()
        _, response = stream(one_and_wait(more))
        answering = asyncio.create_task(response({}, client.receive, client.send))
        while not client.bodies:
            await asyncio.sleep(0.001)
        client.reads.clear()
        await asyncio.sleep(0.1)
        more.set()
        await asyncio.sleep(0.01)
        client.reads.set()
        await answering
        await asyncio.sleep(0.1)
        assert client.bodies.count(b": waiting\n\n") == 1, "one more after the other, and nothing is read"
        assert [body for body in client.bodies if body[:1] != b":"] == [b"data: 1\n\n", b"data: 2\n\n", b""]
        assert client.bodies[-1] == b""

    asyncio.run(asyncio.wait_for(story(), 30))
