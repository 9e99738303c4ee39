"""How far stored blocks may be from their source: what is made honestly passes, with importance weights too."""

import os

import numpy as np
import pytest
from checkpoints import LITE, convert, random_tensors, shard_up, write_checkpoint, write_shards
from small_models import patch_tensor

from coderv2_local.verify.blocks import REQUANTIZED, PartErrors
from coderv2_local.verify.judge import verify
from coderv2_local.verify.sources import open_source
from coderv2_local.verify.structure import expected_tensors
from coderv2_local.verify.tensors import compare_tensors
from converters.gguf_header import dequantize, read_header
from converters.gguf_model import open_gguf
from quant import ggml
from quant.block_types import WRITABLE, block_type
from quant.errors import InputError

ROWS, COLUMNS = 32, 512
SLOW = ["IQ2_XXS", "IQ3_S"]


def weights(shape: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = {
        "normal": lambda: rng.standard_normal((ROWS, COLUMNS)),
        "heavy tails": lambda: rng.standard_t(4, (ROWS, COLUMNS)),
        "half of them 0": lambda: rng.standard_normal((ROWS, COLUMNS)) * (np.arange(ROWS) % 2)[:, None],
        "positive": lambda: np.abs(rng.standard_normal((ROWS, COLUMNS))) + 0.5,
    }[shape]()
    return np.ascontiguousarray(values * 0.02, np.float32)


def importance() -> np.ndarray:
    """As measured on models: most columns within a few times of each other, few of them thousands of times more."""
    rng = np.random.default_rng(6)
    columns = np.exp(rng.standard_normal(COLUMNS))
    columns[rng.integers(0, COLUMNS, 3)] *= 3000
    return columns.astype(np.float32)


def judged(raw, expected, kind) -> PartErrors:
    found = PartErrors(kind)
    half = len(raw) // 2
    found.add(raw[:half], expected[: ROWS // 2])
    found.add(raw[half:], expected[ROWS // 2 :])
    return found


def off(found: PartErrors) -> bool:
    return bool(found.bad_blocks()[0] or found.fault())


@pytest.mark.parametrize("shape", ["normal", "heavy tails", "half of them 0", "positive"])
@pytest.mark.parametrize("name", sorted(REQUANTIZED) + SLOW)
def test_what_is_made_honestly_passes_with_importance_weights_too(name, shape):
    kind, expected = block_type(name), weights(shape)
    plain = ggml.quantize(expected, kind, importance=np.ones(COLUMNS, np.float32))
    weighted = ggml.quantize(expected, kind, importance=importance())
    for raw in (plain, weighted):
        found = judged(raw, expected, kind)
        assert (found.bad_blocks()[0], found.fault()) == (0, "")


@pytest.mark.parametrize("factor", [0.78, 0.9, 1.1])
@pytest.mark.parametrize("name", WRITABLE)
def test_a_part_that_is_scaled_is_found_in_every_type(name, factor):
    kind, expected = block_type(name), weights("normal")
    for columns in (None, importance()):
        raw = ggml.quantize(expected * np.float32(factor), kind, importance=columns)
        assert off(judged(raw, expected, kind))
        if kind.bits < 6:  # no single block is off by much
            words = judged(raw, expected, kind).fault()
            assert float(words.split()[3]) == pytest.approx(factor, abs=0.02)


@pytest.mark.parametrize("name", WRITABLE)
def test_noise_on_all_of_a_part_is_found(name):
    kind, expected = block_type(name), weights("normal")
    noise = np.random.default_rng(7).standard_normal(expected.shape) * 0.2 * 0.02
    assert off(judged(ggml.quantize((expected + noise).astype(np.float32), kind), expected, kind))


@pytest.mark.parametrize(("name", "least"), [("BF16", 90), ("Q8_0", 90), ("Q4_0", 85), ("Q4_K", 90), ("Q6_K", 90)])
def test_a_changed_byte_is_found_where_the_rest_is_as_ggml_makes_it(name, least):
    kind, expected = block_type(name), weights("normal")
    raw, rng, found = ggml.quantize(expected, kind), np.random.default_rng(8), 0
    for _ in range(100):
        damaged = raw.copy()
        damaged[rng.integers(len(damaged))] ^= rng.integers(1, 256)
        found += off(judged(damaged, expected, kind))
    assert found >= least


@pytest.mark.parametrize("name", sorted(REQUANTIZED) + SLOW)
def test_what_belongs_elsewhere_is_found(name):
    kind, expected = block_type(name), weights("normal")
    raw = ggml.quantize(expected, kind, importance=importance())
    assert off(judged(raw, np.ascontiguousarray(expected[::-1]), kind))
    assert off(judged(np.zeros_like(raw), expected, kind))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Rows of the embedding and of the output are small."""
    folder = write_checkpoint(tmp_path_factory.mktemp("c") / "c", LITE)
    tensors = random_tensors(LITE)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name][140:180] *= 2e-3
    write_shards(folder, shard_up(tensors))
    return folder


def test_scaled_experts_and_small_rows_in_another_order_speak_against_a_file(checkpoint, tmp_path):
    path = convert(checkpoint, tmp_path / "m.gguf", "bf16")
    values = dequantize(path, read_header(path).tensors["token_embd.weight"])
    values[140:180] = values[140:180][::-1].copy()
    patch_tensor(path, "token_embd.weight", values)
    (bad,) = compare_tensors(open_gguf(path), open_source(checkpoint)).bad
    assert (bad.tensor, bad.blocks) == ("token_embd.weight", 40 * 256 // 32)

    path = convert(checkpoint, tmp_path / "q.gguf", "moe-4")
    for kind in ("gate", "up", "down"):
        name = f"blk.1.ffn_{kind}_exps.weight"
        patch_tensor(path, name, dequantize(path, read_header(path).tensors[name]) * np.float32(0.9))
    reasons = verify(path, against=checkpoint, max_tokens=2, threads=1).reasons
    assert len(reasons) == 3 * 6
    assert reasons[0].startswith("blk.1.ffn_gate_exps.weight, expert 0: its values are 0.9")


@pytest.mark.parametrize("which", ["file", "shard"])
def test_a_file_that_shrinks_in_use_is_an_error_and_not_the_end(checkpoint, tmp_path, which):
    path = convert(checkpoint, tmp_path / "m.gguf", "bf16")
    folder = write_checkpoint(tmp_path / "c", LITE)
    model, source = open_gguf(path), open_source(folder)
    for one in [path] if which == "file" else folder.glob("*.safetensors"):
        os.truncate(one, 4096)
    with pytest.raises(InputError, match="has shrunk while in use"):
        compare_tensors(model, source)


def test_rows_of_a_part_are_the_part(checkpoint, tmp_path):
    """A part is read some rows at a time, whatever the source, transposed or not."""
    path = convert(checkpoint, tmp_path / "m.gguf", "f32")
    for source in (open_source(checkpoint), open_source(path)):
        for wanted in expected_tensors(read_header(path), source.config):
            part = wanted.parts[-1]
            whole = source.part(part)
            if len(whole) > 5:
                pieces = [source.part(part, 0, 2), source.part(part, 2, 3), source.part(part, 5)]
                np.testing.assert_array_equal(np.concatenate(pieces), whole)
