"""A batch that is nearly a tile of llama.cpp's attention is filled up with tokens that were evaluated before."""

from dataclasses import replace

import numpy as np
import pytest

from coderv2_local.attention_tiles import TILE, AttentionTiles
from coderv2_local.engine import Engine
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.options import SamplingOptions
from converters.gguf_header import read_header

TINY = find_model("tiny").path
CODE = "def add(first, second):\n    return first + second\n\n" * 200


def fewest_filled(tiles, depth):
    return next((n for n in range(1, TILE) if tiles.begin(depth, depth + n) != depth), None)


def test_the_further_in_the_sooner_a_tile_is_filled():
    tiles = AttentionTiles(read_header(TINY), LoadOptions())
    fewest = [fewest_filled(tiles, depth) for depth in (100, 500, 1600)]
    assert fewest == sorted(fewest, reverse=True)
    assert 30 < fewest[-1] < 45
    assert tiles.begin(1600, 1600 + 50) == 1600 + 50 - TILE
    assert tiles.begin(1600, 1600 + 1) == 1600, "a token of an answer is evaluated alone"
    assert tiles.begin(1600, 1600 + TILE) == 1600, "already a tile"
    assert tiles.begin(5, 5 + 50) == 5, "there is not enough to fill it with"


@pytest.mark.parametrize(
    "change", [{"flash_attention": False}, {"n_gpu_layers": 3}, {"stream_experts": True}, {"n_ubatch": 32}], ids=str
)
def test_where_there_are_no_tiles_nothing_is_evaluated_again(change):
    tiles = AttentionTiles(read_header(TINY), replace(LoadOptions(), **change))
    assert fewest_filled(tiles, 1600) is None


def test_the_answer_is_that_of_all_tokens_evaluated_in_order():
    with Engine(TINY, LoadOptions(n_threads=1)) as engine:
        ids = engine.vocabulary.encode(CODE)[:1250]
        engine.evaluate(ids[:1200])
        done = []
        filled = engine.evaluate(ids, on_progress=lambda n, of: done.append((n, of)))
        assert done == [(TILE, TILE)]
        assert engine.tokens == ids
        engine.truncate(0)
        plain = engine.evaluate(ids)
    np.testing.assert_allclose(filled, plain, atol=0.05)
    assert filled.argmax() == plain.argmax()


def test_a_backend_counts_as_reused_what_was_not_evaluated_again():
    with LocalBackend(TINY, LoadOptions(n_threads=1)) as backend:
        text = backend.vocabulary.decode(backend.vocabulary.encode(CODE)[:1200])
        list(backend.infill(text, "", SamplingOptions(), 1))
        more = backend.infill(text + CODE[:170], "", SamplingOptions(), 1)
        list(more)
        assert more.prompt_tokens - more.reused_tokens == TILE
