"""What a job says on its way: how many tokens its pieces hold, and how far the evaluation of its prompt is."""

import asyncio
import itertools

import pytest
from serve_room import answer, infill, working

from coderv2_local.attention_tiles import TILE
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.jobs import Job, Piece, Task
from coderv2_local.serving.state import Serving
from coderv2_local.serving.usage import timings, usage

CODE = "def add(first, second):\n    return first + second\n\n"


def test_a_piece_says_how_many_tokens_there_are_so_far():
    """Text that may begin a stop is held back: there are fewer pieces than tokens then."""

    async def story() -> None:
        job = room.submit(answer(room, "x", stop=("\n    never", " never", "e never")))
        pieces: list[Piece] = [piece async for piece in job.pieces() if piece.progress is None]
        counts = [piece.tokens for piece in pieces]
        assert len(pieces) < job.figures.tokens == 40
        assert counts == sorted(set(counts)), "each is of more tokens than the one before"
        for n, piece in enumerate(pieces, 1):
            so_far = "".join(p.text for p in pieces[:n])
            assert room.backend.vocabulary.decode(job.ids[: piece.tokens]).startswith(so_far)

    with working() as room:
        asyncio.run(story())


def test_tokens_that_are_evaluated_once_more_are_not_reused():
    """50 new tokens far into a context are evaluated with the 14 before them, a tile of llama.cpp's attention."""

    async def story() -> None:
        ids = room.backend.vocabulary.encode(CODE * 200)[:1250]
        await room.submit(Task("answer", ids[:1200], SamplingOptions(), 0)).finish()
        job = room.submit(Task("answer", ids, SamplingOptions(), 1))
        await job.finish()
        assert usage(job)["prompt_tokens_details"]["cached_tokens"] == 1250 - TILE
        assert (timings(job)["cache_n"], timings(job)["prompt_n"]) == (1250 - TILE, TILE)
        assert room.metrics.totals["prompt_tokens_total"] == 1200 + 1250
        assert room.metrics.totals["reused_tokens_total"] == 1250 - TILE

    with working() as room:
        asyncio.run(story())


def interrupted(room: Serving, monkeypatch: pytest.MonkeyPatch, at: int, call) -> None:
    """Before the engine computes its batch number `at`, something happens."""
    decode, batches = room.backend.engine._decode, itertools.count(1)

    def _decode(*args, **kwargs):
        if next(batches) == at:
            call()
        return decode(*args, **kwargs)

    monkeypatch.setattr(room.backend.engine, "_decode", _decode)


def test_progress_goes_on_where_a_batch_was_given_up(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        short = Job(infill(room), room.worker.stop)
        interrupted(room, monkeypatch, 4, lambda: room.worker.submit(short))
        job = room.submit(answer(room))
        steps = [piece.progress async for piece in job.pieces() if piece.progress is not None]
        assert short.text, "no batch was given up"
        assert steps[:3] == [32, 64, 96]
        assert steps == sorted(set(steps))
        assert steps[-1] < len(job.task.prompt) <= steps[-1] + 32
        assert job.figures.reused == 0
        assert job.figures.prompt == len(job.task.prompt)

    with working(n_batch=32) as room:
        asyncio.run(story())


def test_of_a_prompt_that_is_given_up_only_what_was_evaluated_is_counted(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        job = Job(answer(room), room.worker.stop)
        interrupted(room, monkeypatch, 3, job.cancel)
        room.worker.submit(job)
        with pytest.raises(ApiError):
            await job.finish()
        late = room.submit(answer(room, "another", seconds=0))
        with pytest.raises(ApiError):
            await late.finish()
        assert room.metrics.totals["prompt_tokens_total"] == 64
        assert room.metrics.totals["reused_tokens_total"] == 0

    with working(n_batch=32) as room:
        asyncio.run(story())
