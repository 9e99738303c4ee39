"""The worker's interruptions at any moment: in a prompt, between tokens, by infills that are themselves given up."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from serve_room import answer, infill, text, working

from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.jobs import Job
from coderv2_local.serving.queue import JobQueue
from coderv2_local.serving.state import Serving


@pytest.fixture
def room() -> Iterator[Serving]:
    """A model whose prompts are evaluated in batches of 32 tokens, and its worker."""
    with working(n_batch=32) as serving:
        yield serving


def test_an_infill_stops_a_prompt_that_is_being_evaluated(room: Serving):
    async def story() -> None:
        alone = await text(room.submit(answer(room)))
        filled = await text(room.submit(infill(room)))
        room.kept.clear()
        room.backend.engine.truncate(0)
        long = room.submit(answer(room))
        pieces = long.pieces()
        first = await anext(pieces)
        assert first.progress is not None
        short = room.submit(infill(room))
        assert await text(short) == filled
        assert not long.ids, "the infill waited for the prompt's end"
        async for _ in pieces:
            pass
        assert long.text == alone
        assert long.figures.reused == 0

    asyncio.run(story())


def test_the_batch_that_is_being_computed_is_given_up_for_an_infill():
    """All of the prompt is one batch here: an infill that waited for its end would come after the first token."""

    async def story(room: Serving) -> None:
        for _ in range(10):
            room.kept.clear()
            await asyncio.to_thread(room.backend.engine.truncate, 0)
            long = room.submit(answer(room))
            while not room.worker.is_busy:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            came_in_time = not long.ids
            short = room.submit(infill(room))
            await short.finish()
            in_prompt = not long.ids
            await long.finish()
            assert room.backend.engine.tokens == [*long.task.prompt, *long.ids[:-1]]
            assert len(long.ids) == 40
            if came_in_time:
                assert in_prompt, "the infill waited for the batch"
                return
        pytest.skip("this machine evaluates the prompt faster than a second request can be sent")

    with working() as room:
        asyncio.run(story(room))


def test_an_answer_is_the_same_whatever_infills_come_and_go(room: Serving):
    chance = random.Random(3)

    async def story() -> None:
        room.kept.clear()
        alone = await text(room.submit(answer(room, limit=120)))
        for _ in range(3):
            long = room.submit(answer(room, limit=120))
            waiting = asyncio.create_task(text(long))
            while not waiting.done():
                job = room.submit(infill(room, chance.choice("abc"), chance.randint(1, 8)))
                await asyncio.sleep(chance.random() * 0.03)
                if chance.random() < 0.6:
                    job.cancel()
                else:
                    await job.finish()
            assert await waiting == alone

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_cancelled_prompt_ends_within_a_batch_and_the_next_job_runs(room: Serving):
    async def story() -> None:
        long = room.submit(answer(room))
        await anext(long.pieces())
        long.cancel()
        assert await text(room.submit(infill(room))) == await text(room.submit(infill(room)))
        assert not long.ids
        assert room.metrics.totals["cancelled_total"] == 1

    asyncio.run(story())


def test_a_deadline_in_a_prompt_is_an_error_and_in_an_answer_an_end(room: Serving):
    async def story() -> None:
        with pytest.raises(ApiError, match="its time was over"):
            await room.submit(answer(room, seconds=0.001)).finish()
        short = room.submit(answer(room, "x", limit=450))
        await anext(short.pieces())
        short.is_late = True  # as its timer does
        await short.finish()
        assert short.ending == "time"
        assert 0 < len(short.ids) < 450

    asyncio.run(story())


def test_what_fails_is_that_job_s_error_alone(room: Serving, monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(room.backend.engine, "generate", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await room.submit(infill(room)).finish()
        assert await text(room.submit(infill(room))) is not None

    asyncio.run(story())


def test_closing_ends_what_runs_and_what_waits(room: Serving):
    async def story() -> None:
        running = room.submit(answer(room, "x", limit=450))
        waiting = room.submit(answer(room, "y"))
        await anext(running.pieces())
        await asyncio.to_thread(room.worker.close)
        for job in (running, waiting):
            with pytest.raises(ApiError) as caught:
                await job.finish()
            assert caught.value.status == 503
        with pytest.raises(ApiError):
            room.submit(infill(room))

    asyncio.run(story())


def test_answers_that_wait_keep_no_infill_out_of_the_queue(room: Serving):
    async def story() -> None:
        queue = JobQueue(most=2)
        for _ in range(2):
            queue.put(Job(answer(room), lambda _: None))
        with pytest.raises(ApiError, match="2 requests wait"):
            queue.put(Job(answer(room), lambda _: None))
        for _ in range(2):
            queue.put(Job(infill(room), lambda _: None))
        with pytest.raises(ApiError, match="2 requests wait"):
            queue.put(Job(infill(room), lambda _: None))

    asyncio.run(story())


def test_an_answer_that_waited_long_enough_goes_before_infills(room: Serving):
    async def story() -> None:
        queue, jobs = JobQueue(), [Job(answer(room), lambda _: None), Job(infill(room), lambda _: None)]
        for job in jobs:
            queue.put(job)
        assert queue.take() is jobs[1]
        queue.put(jobs[1])
        jobs[0].born -= 60
        assert queue.take() is jobs[0]
        assert queue.take_infill() is jobs[1]
        assert queue.take_infill() is None

    asyncio.run(story())
