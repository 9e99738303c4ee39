"""Every known defect of a model file is caught and named, whatever its matrices are stored as.

Twice: against the checkpoint, as a user would; and with nothing but the engine's steps over the file's own weights, as
if it were the engine that did the wrong thing. The second must find it without knowing any source.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from checkpoints import FULL, convert, write_checkpoint
from conftest import assert_refused
from small_models import patch_float, patch_tensor

from coderv2_local.reference.gguf_weights import GgufWeights
from coderv2_local.routing import install_taps
from coderv2_local.verify import judge
from coderv2_local.verify.engine_side import StageTap, engine_logits, exact_engine
from coderv2_local.verify.judge import CODE, text_ids, verify
from coderv2_local.verify.steps import step_differences
from coderv2_local.verify.structure import problems
from coderv2_local.verify.thresholds import with_bounds
from converters.config import ModelConfig
from converters.gguf_config import config_of
from converters.gguf_header import dequantize, read_header

TOKENS = 48
RECIPES = ["f32", "bf16", "q8_0", "moe-4", "q4_k_m"]
CONFIG = ModelConfig.from_dict(FULL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("c") / "c", FULL)


@pytest.fixture(scope="module", params=RECIPES)
def good(request, tmp_path_factory, checkpoint):
    """A good file."""
    return convert(checkpoint, tmp_path_factory.mktemp(request.param) / "good.gguf", request.param)


@pytest.fixture
def damaged(good, tmp_path):
    """A copy of it, to be damaged."""
    path = tmp_path / "m.gguf"
    path.write_bytes(good.read_bytes())
    return path


def tensor(path: Path, name: str) -> np.ndarray:
    return dequantize(path, read_header(path).tensors[name])


def keys_not_transposed(path: Path) -> None:
    patch_tensor(path, "blk.1.attn_k_b.weight", tensor(path, "blk.1.attn_k_b.weight").swapaxes(1, 2))


def wrong_yarn_multiplier(path: Path) -> None:
    patch_float(path, "deepseek2.rope.scaling.yarn_log_multiplier", 0.1)


def pairs_not_interleaved(path: Path, name: str) -> None:
    c, values = CONFIG, tensor(path, name)
    halves = np.r_[0 : c.qk_rope_head_dim : 2, 1 : c.qk_rope_head_dim : 2]
    if "attn_q_b" in name:
        heads = values.reshape(c.n_heads, c.qk_head_dim, -1)
        heads[:, c.qk_nope_head_dim :] = heads[:, c.qk_nope_head_dim :][:, halves]
    else:
        values[c.kv_lora_rank :] = values[c.kv_lora_rank :][halves]
    patch_tensor(path, name, values)


def two_experts_swapped(path: Path) -> None:
    for kind in ("gate", "up", "down"):
        experts = tensor(path, f"blk.2.ffn_{kind}_exps.weight")
        experts[[3, 6]] = experts[[6, 3]]
        patch_tensor(path, f"blk.2.ffn_{kind}_exps.weight", experts)


def router_scale_lost(path: Path) -> None:
    patch_float(path, "deepseek2.expert_weights_scale", 1.0)


@dataclass(frozen=True)
class Defect:
    """How to make it, and how it is named."""

    make: Callable[[Path], None]
    named: tuple[str, ...]
    """By the comparison with the checkpoint."""
    steps: set[tuple[str, int]]
    """The steps that it changes."""


DEFECTS = {
    "keys not transposed": Defect(
        keys_not_transposed, ("blk.1.attn_k_b.weight, head 0", "blk.1.attn_k_b.weight, head 1"), {("attention", 1)}
    ),
    "wrong YaRN multiplier": Defect(
        wrong_yarn_multiplier,
        ("YaRN's multiplier is 1 in the file, 0.707 in its source",),
        {("attention", i) for i in range(3)},
    ),
    "queries' pairs not interleaved": Defect(
        lambda path: pairs_not_interleaved(path, "blk.0.attn_q_b.weight"),
        ("blk.0.attn_q_b.weight",),
        {("attention", 0)},
    ),
    "keys' pairs not interleaved": Defect(
        lambda path: pairs_not_interleaved(path, "blk.0.attn_kv_a_mqa.weight"),
        ("blk.0.attn_kv_a_mqa.weight",),
        {("attention", 0)},
    ),
    "two experts swapped": Defect(
        two_experts_swapped,
        tuple(f"blk.2.ffn_{kind}_exps.weight, expert {e}" for kind in ("gate", "down", "up") for e in (3, 6)),
        {("experts", 2)},
    ),
    "the router's scale lost": Defect(
        router_scale_lost, ("the router's scale is 1 in the file, 16 in its source",), {("experts", 1), ("experts", 2)}
    ),
}


def wrong_steps(path: Path, weights: GgufWeights):
    """The engine's steps on one file that are too far from the reference's over another."""
    header, tap = read_header(path), StageTap()
    with exact_engine(path, TOKENS, 1, [*install_taps(header.metadata), tap]) as engine:
        logits = engine_logits(engine, text_ids(engine.vocabulary, CODE, TOKENS))
    return [s for s in with_bounds(header, step_differences(weights, tap, logits)) if not s.good]


def test_a_good_file_is_good(checkpoint, good):
    for verdict in (verify(good, max_tokens=TOKENS, threads=1), verify(good, against=checkpoint, max_tokens=TOKENS)):
        assert verdict.good, verdict.reasons
        assert [(s.stage, s.layer) for s in verdict.steps] == [
            *((stage, i) for i in range(3) for stage in ("attention", "experts")),
            ("norm", -1),
            ("output", -1),
        ]
        assert all(s.difference > 0 for s in verdict.steps)
    assert verdict.tensors.identical == verdict.tensors.parts


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_named_against_the_checkpoint(checkpoint, damaged, name):
    DEFECTS[name].make(damaged)
    found = "\n".join(verify(damaged, against=checkpoint, max_tokens=TOKENS, threads=1).reasons)
    for words in DEFECTS[name].named:
        assert words in found


@pytest.mark.parametrize("name", DEFECTS)
def test_an_engine_that_did_so_would_be_caught_by_its_steps_alone(good, damaged, name):
    DEFECTS[name].make(damaged)
    over = wrong_steps(damaged, GgufWeights.open(good))
    assert {(s.stage, s.layer) for s in over} == DEFECTS[name].steps
    assert "may cost" in str(over[0])


@pytest.mark.parametrize("name", ["keys not transposed", "two experts swapped"])
def test_a_wrong_engine_speaks_against_the_file(good, damaged, monkeypatch, name):
    DEFECTS[name].make(damaged)
    monkeypatch.setattr(judge, "exact_engine", lambda path, *rest: exact_engine(damaged, *rest))
    ((stage, layer),) = DEFECTS[name].steps
    assert any(f"the engine's {stage} in layer {layer} is" in r for r in verify(good, max_tokens=TOKENS).reasons)


@pytest.mark.parametrize("against", [False, True])
def test_stock_routing_of_a_grouped_model(checkpoint, good, against):
    verdict = verify(good, against=checkpoint if against else None, max_tokens=TOKENS, threads=1, stock_routing=True)
    assert "chosen by another rule than the model's" in "\n".join(verdict.reasons)


def test_one_bad_block_in_one_expert(checkpoint, damaged):
    name = "blk.1.ffn_down_exps.weight"
    info = read_header(damaged).tensors[name]
    with open(damaged, "r+b") as f:
        f.seek(info.offset + 5 * info.nbytes // 8 + 3 * info.row_bytes)  # expert 5, row 3
        block = bytearray(f.read(info.type.block_bytes * max(1, 32 // info.type.block_size)))
        f.seek(-len(block), 1)
        f.write(bytes(b ^ 0x75 for b in block))
    verdict = verify(damaged, against=checkpoint, max_tokens=2, threads=1)
    assert [(b.tensor, b.part, b.blocks) for b in verdict.tensors.bad] == [(name, 5, 1)]
    assert f"{name}, expert 5: 1 of" in verdict.reasons[0]


def test_a_truncated_file_is_refused_with_both_lengths(coder, good, damaged):
    size = damaged.stat().st_size
    with open(damaged, "r+b") as f:
        f.truncate(size - 5000)
    for command in ("verify", "inspect"):
        assert_refused(coder(command, damaged), "is truncated: tensor", f"the file at {size - 5000}", "again")
    assert_refused(coder("verify", good, "--against", damaged), "is truncated")
    with open(damaged, "r+b") as f:
        f.truncate(1000)  # in the header
    assert_refused(coder("verify", damaged), "is truncated", "1000 bytes")


def test_keys_not_transposed_in_their_shape_either(good):
    header = read_header(good)
    info = header.tensors["blk.1.attn_k_b.weight"]
    turned = type(info)(info.name, (info.shape[0], info.shape[2], info.shape[1]), info.type, info.offset, info.nbytes)
    header.tensors[info.name] = turned
    assert problems(header, config_of(header)) == [
        "tensor blk.1.attn_k_b.weight has shape (2, 32, 64), not (2, 64, 32): it was not transposed"
    ]
    del header.tensors["blk.1.ffn_up_exps.weight"]
    assert problems(header, config_of(header))[1:] == ["tensor blk.1.ffn_up_exps.weight is missing"]
