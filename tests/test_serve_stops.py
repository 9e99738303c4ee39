"""Jobs that are told to end: at the moment when it is easiest to miss, and what is left of an answer then."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from serve_room import answer, infill, text, working

from coderv2_local.engine import Cancelled, Engine
from coderv2_local.fim.hole import Hole
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.serving import jobs
from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.jobs import Job, Task
from coderv2_local.serving.state import Serving


def test_what_is_cancelled_before_it_begins_does_not_begin():
    with Engine(find_model("tiny").path, LoadOptions(n_threads=1)) as engine:
        ids = engine.vocabulary.encode("def add(a, b):")
        engine.cancel()
        with pytest.raises(Cancelled):
            engine.evaluate(ids)
        engine.evaluate(ids)
        engine.cancel()
        engine.resume()
        engine.evaluate(ids)
        assert engine.tokens == ids


def just_before_a_prompt(room: Serving, monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> list[int]:
    """Once, after the worker's last look and before the engine begins, something happens.

    Returns:
        Filled with how many tokens the engine computes at a time.
    """
    engine, sizes, calls = room.backend.engine, [], [call]
    generate, decode = engine.generate, engine._decode

    def _generate(*args):
        if calls:
            calls.pop()()
        return generate(*args)

    def _decode(ids, **more):
        decode(ids, **more)
        sizes.append(len(ids))

    monkeypatch.setattr(engine, "generate", _generate)
    monkeypatch.setattr(engine, "_decode", _decode)
    return sizes


def test_who_goes_just_before_a_prompt_is_evaluated_is_not_worked_for(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        job = Job(answer(room), room.worker.stop)
        sizes = just_before_a_prompt(room, monkeypatch, job.cancel)
        room.worker.submit(job)
        with pytest.raises(ApiError):
            await job.finish()
        assert not sizes
        assert await text(room.submit(infill(room))), "the stop was for that job alone"

    with working() as room:
        asyncio.run(story())


def test_an_infill_that_comes_just_before_a_prompt_goes_first(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        short = Job(infill(room), room.worker.stop)
        sizes = just_before_a_prompt(room, monkeypatch, lambda: room.worker.submit(short))
        long = room.submit(answer(room))
        await short.finish()
        await long.finish()
        assert sizes[0] == len(short.task.prompt) < len(long.task.prompt)
        assert len(long.ids) == 40

    with working() as room:
        asyncio.run(story())


def test_a_job_between_queue_and_worker_is_cut_too(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        take = room.queue.take

        def taken():
            job = take()
            if job:
                room.worker.cut()
            return job

        monkeypatch.setattr(room.queue, "take", taken)
        first = room.submit(answer(room, limit=0))  # the worker waits in the real `take` for this one
        await first.finish()
        job = room.submit(answer(room))
        with pytest.raises(ApiError):
            await job.finish()
        assert not job.ids

    with working() as room:
        asyncio.run(story())


def test_the_first_text_of_an_answer_waits_for_nothing_after_progress(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "PACE_SECONDS", 60)

    async def story() -> None:
        job = room.submit(answer(room))
        pieces = job.pieces()
        assert (await anext(pieces)).progress is not None
        while (await asyncio.wait_for(anext(pieces), 20)).progress is not None:
            pass
        job.cancel()

    with working(n_batch=32) as room:
        asyncio.run(story())


def late_after(room: Serving, monkeypatch: pytest.MonkeyPatch, task: Task, n: int) -> Job:
    """A job whose time is over when `n` of its tokens are there."""
    job, generate = Job(task, room.worker.stop), room.backend.engine.generate

    def _generate(*args):
        for token in generate(*args):
            job.is_late = len(job.ids) == n - 1
            yield token

    monkeypatch.setattr(room.backend.engine, "generate", _generate)
    room.worker.submit(job)
    return job


def endless(room: Serving, **changes) -> Task:
    task = infill(room, limit=60)
    return replace(task, options=replace(task.options, logit_bias={room.backend.vocabulary.eos: -100.0}), **changes)


def test_a_middle_that_is_late_is_trimmed_as_any_other(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        raw = (await text(room.submit(endless(room, limit=12))))[-3:]
        hole = Hole("def f(x):\n    return ", raw + "\n")
        late = late_after(room, monkeypatch, endless(room, hole=hole), 12)
        await late.finish()
        assert late.ending == "time"
        assert room.backend.vocabulary.decode(late.ids) == late.text.rstrip() + " " + raw, "it would stand there twice"

    with working() as room:
        asyncio.run(story())


def test_text_that_is_held_back_for_a_stop_is_not_lost_at_a_deadline(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        raw = await text(room.submit(endless(room, limit=12)))
        task = endless(room)
        task = replace(task, options=replace(task.options, stop=[raw[-1] + "never"]))
        late = late_after(room, monkeypatch, task, 12)
        assert await text(late) == raw
        assert late.ending == "time"

    with working() as room:
        asyncio.run(story())
