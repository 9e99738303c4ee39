"""What a job says on its way: how many tokens its pieces hold, and how far the evaluation of its prompt is."""

import asyncio

from serve_room import answer, working

from coderv2_local.serving.jobs import Piece


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
