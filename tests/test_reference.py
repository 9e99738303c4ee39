"""The numpy reference: by hand where a hand can count, against itself, and against transformers' logits."""

import dataclasses
import math

import numpy as np
import pytest
from small_models import FULL, LITE, golden, random_checkpoint, write_gguf

from coderv2_local.reference.attention import QUERY_BLOCK, attention
from coderv2_local.reference.checkpoint_weights import CheckpointWeights
from coderv2_local.reference.feedforward import dense, mixture
from coderv2_local.reference.gguf_weights import GgufWeights
from coderv2_local.reference.model import forward
from coderv2_local.reference.norm import rms_norm
from coderv2_local.reference.rope import frequencies, magnitude, rotary_gain, rotate, softmax_scale
from coderv2_local.reference.router import best_groups, greedy, group_limited_greedy, route
from coderv2_local.reference.weights import Dense, Mixture
from converters.config import ModelConfig
from converters.expert_groups import grouping
from converters.gguf_config import config_of
from quant.errors import InputError

CONFIGS = {"lite": LITE, "full": FULL}


def config(**changes) -> ModelConfig:
    return dataclasses.replace(ModelConfig.from_dict(FULL), **changes)


def test_rms_norm_by_hand():
    x = np.array([[3.0, 4.0]])
    assert rms_norm(x, np.array([1.0, 2.0]), 0.0) == pytest.approx(np.array([[3, 8]]) / math.sqrt(12.5))


def test_rotation_turns_neighbours_not_halves():
    x = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    turned = rotate(x, np.array([0, 1]), np.array([math.pi / 2, 0.1]))
    assert turned == pytest.approx(np.array([[1, 0, 0, 0], [0, 1, 0, 0]]), abs=1e-12)


def test_rotated_products_depend_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 8))
    freqs = frequencies(8, 10000, None, np.float64)

    def product(i, j):
        return float((rotate(q, np.array([i]), freqs) @ rotate(k, np.array([j]), freqs).T).item())

    assert product(7, 3) == pytest.approx(product(107, 103))
    assert product(7, 3) != pytest.approx(product(7, 4))


def test_yarn_keeps_fast_pairs_and_slows_slow_ones():
    yarn = config().yarn
    plain, slowed = frequencies(64, 10000, None, np.float64), frequencies(64, 10000, yarn, np.float64)
    # 32 turns in 4096 positions is pair 10.5, one turn is pair 22.5: floor and ceiling give 10 and 23
    assert slowed[:11] == pytest.approx(plain[:11])
    assert slowed[23:] == pytest.approx(plain[23:] / 40)
    assert slowed[16] == pytest.approx(plain[16] * (6 / 13 / 40 + 7 / 13))


def test_softmax_scale_carries_yarns_magnitude_squared():
    yarn = config().yarn
    assert softmax_scale(192, None) == pytest.approx(1 / math.sqrt(192))
    assert softmax_scale(192, yarn) == pytest.approx((0.0707 * math.log(40) + 1) ** 2 / math.sqrt(192))
    assert magnitude(1.0, 5.0) == 1.0


def test_rotary_gain_is_the_ratio_of_the_two_mscales():
    yarn = config().yarn
    assert rotary_gain(yarn) == 1
    uneven = dataclasses.replace(yarn, mscale=1.0, mscale_all_dim=0.5)
    assert rotary_gain(uneven) == pytest.approx((0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1))


def test_greedy_takes_the_best_first():
    assert greedy(np.array([[0.1, 0.4, 0.2, 0.3]]), 3).tolist() == [[1, 3, 2]]


def test_groups_are_scored_by_their_best_expert_not_by_the_sum_of_two():
    scores = np.array([[0.40, 0.01, 0.25, 0.24, 0.05, 0.05]])  # sums of two: .41, .49, .10
    assert best_groups(scores, 3, 1).tolist() == [[0]]
    assert group_limited_greedy(scores, 2, 3, 1).tolist() == [[0, 1]]
    assert group_limited_greedy(scores, 2, 3, 2).tolist() == [[0, 2]]


def test_experts_outside_the_chosen_groups_are_out_of_reach():
    scores = np.array([[0.30, 0.02, 0.25, 0.03, 0.20, 0.20]])
    assert group_limited_greedy(scores, 3, 3, 2).tolist() == [[0, 2, 3]]  # 4 and 5 score higher than 3


def test_weights_are_shares_of_all_experts_times_the_scale():
    c = config(n_routed_experts=4, n_groups=2, n_groups_used=1, n_experts_per_token=2, routed_scaling_factor=16.0)
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]]))
    ids, weights = route(logits, c)
    assert ids.tolist() == [[3, 2]]
    assert weights == pytest.approx(np.array([[6.4, 4.8]]))
    _, normed = route(logits, dataclasses.replace(c, norm_topk_prob=True, routed_scaling_factor=1.0))
    assert normed == pytest.approx(np.array([[4 / 7, 3 / 7]]))


def test_the_gated_network_by_hand():
    w = Dense(gate=np.array([[1.0]]), up=np.array([[2.0]]), down=np.array([[3.0]]))
    assert dense(np.array([[1.0]]), w).item() == pytest.approx(6 / (1 + math.exp(-1)))
    assert dense(np.array([[-1e4]]), w).item() == pytest.approx(0)


def test_a_mixture_adds_shared_and_routed_experts_by_hand():
    one = np.array([[1.0]])
    c = config(n_routed_experts=2, n_groups=1, n_groups_used=1, n_experts_per_token=1, topk_method="greedy")
    w = Mixture(
        router=np.log(np.array([[0.25], [0.75]])),
        shared=Dense(gate=one, up=one, down=one),
        expert=lambda e: Dense(gate=one, up=one, down=one * (e + 1)),
    )
    silu = 1 / (1 + math.exp(-1))
    out, chosen = mixture(one, w, c)
    assert chosen.tolist() == [[1]]
    assert out.item() == pytest.approx(silu + 16 * 0.75 * 2 * silu)


@pytest.mark.parametrize("name", CONFIGS)
def test_absorbed_attention_is_plain_attention(tmp_path, name):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", CONFIGS[name]), np.float64)
    ids = np.random.default_rng(3).integers(0, 290, QUERY_BLOCK + 5)  # more than one block of queries
    plain, absorbed = forward(w, ids), forward(w, ids, absorbed=True)
    assert np.abs(plain - absorbed).max() < 1e-9
    assert np.abs(plain).max() > 1


def test_no_token_sees_its_future(tmp_path):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", FULL), np.float64)
    ids = np.random.default_rng(3).integers(0, 290, 20)
    changed = ids.copy()
    changed[12:] = 5
    a, b = forward(w, ids), forward(w, changed)
    assert np.abs(a[:12] - b[:12]).max() < 1e-12
    assert np.abs(a[12:] - b[12:]).max() > 0.1


def test_one_token_attends_to_itself(tmp_path):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", LITE), np.float64)
    c, layer = w.config, w.layer(0)
    x = np.random.default_rng(0).normal(size=(1, c.hidden_size))
    latent = rms_norm((x @ layer.attention.kv_a.T)[:, : c.kv_lora_rank], layer.attention.kv_a_norm, c.rms_norm_eps)
    values = np.concatenate([latent @ v.T for v in layer.attention.v_b], axis=-1)
    assert attention(x, layer.attention, c) == pytest.approx(values @ layer.attention.o.T)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("split_mla", [True, False])
def test_a_gguf_computes_what_its_checkpoint_computes(tmp_path, name, split_mla):
    folder = random_checkpoint(tmp_path / "c", CONFIGS[name])
    path = write_gguf(folder, tmp_path / "m.gguf", split_mla=split_mla)
    ids = np.random.default_rng(4).integers(0, 290, 12)
    a, b = forward(CheckpointWeights.open(folder), ids), forward(GgufWeights.open(path), ids)
    assert np.abs(a - b).max() < 1e-5


def test_tied_embeddings_are_the_output(tmp_path):
    folder = random_checkpoint(tmp_path / "c", LITE | {"tie_word_embeddings": True})
    path = write_gguf(folder, tmp_path / "m.gguf")
    a, b = forward(CheckpointWeights.open(folder), [1, 2, 3]), forward(GgufWeights.open(path), [1, 2, 3])
    assert a == pytest.approx(b, abs=1e-5)


def test_the_config_of_a_gguf_is_that_of_its_checkpoint(tmp_path):
    folder = random_checkpoint(tmp_path / "c", FULL)
    ours = CheckpointWeights.open(folder).config
    theirs = config_of(GgufWeights.open(write_gguf(folder, tmp_path / "m.gguf")).model.whole)
    assert theirs.yarn.mscale_all_dim == pytest.approx(0.707)
    assert theirs.rms_norm_eps == pytest.approx(1e-6)
    changes = {"rms_norm_eps": 1e-6, "yarn": ours.yarn}
    assert dataclasses.replace(theirs, **changes) == ours


def test_group_keys_that_are_missing_come_from_what_the_file_says_it_is():
    def found(said=None, **keys):
        g = grouping({f"deepseek2.{k}": v for k, v in keys.items()} | (said or {}))
        return g.groups, g.used, g.origin

    assert found(expert_group_count=8, expert_group_used_count=3) == (8, 3, "keys")
    assert found(expert_group_count=1, block_count=60, expert_count=160) == (1, 1, "keys")
    assert found(block_count=60, expert_count=160) == (8, 3, "shape")
    assert found(block_count=27, expert_count=64) == (1, 1, "shape")
    assert found(block_count=4, expert_count=160) == (1, 1, "nothing")
    source = {"coder.convert.source": "deepseek-ai/DeepSeek-Coder-V2-Instruct-0724"}
    assert found(source, block_count=4, expert_count=160) == (8, 3, "name")
    assert found(source, block_count=4, expert_count=32) == (1, 1, "nothing")  # it cannot be that model
    for name, experts, groups in (
        ("DeepSeek-V2.5", 160, 8),
        ("https://huggingface.co/deepseek-ai/DeepSeek-V2", 160, 8),
        ("DeepSeek-Coder-V2-Lite-Base", 64, 1),
    ):
        assert found({"general.name": name}, expert_count=experts) == (groups, 3 if groups == 8 else 1, "name")
    assert found({"general.name": "DeepSeek-V20"}, expert_count=160) == (1, 1, "nothing")


@pytest.mark.parametrize(("count", "used"), [(8, 0), (8, 9), (-8, 3), ("8", 3), (8, None), (True, 3)])
def test_group_keys_that_cannot_be_are_refused(count, used):
    keys = {"deepseek2.expert_group_count": count, "deepseek2.expert_group_used_count": used}
    with pytest.raises(InputError, match="expert_group_count"):
        grouping({k: v for k, v in keys.items() if v is not None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 1 << 24),
        ("block_count", 1000),  # possible, but the file has tensors for three
        ("expert_count", 4096),
        ("expert_count", 1 << 30),
        ("attention.head_count", 1 << 31),
        ("expert_shared_count", 1 << 20),
        ("embedding_length", -1),
        ("embedding_length", "64"),
        ("rope.dimension_count", 7),
        ("expert_gating_func", 2),
        ("expert_group_used_count", 9),
    ],
)
def test_impossible_metadata_are_refused_at_once(tmp_path, key, value):
    header = GgufWeights.open(write_gguf(random_checkpoint(tmp_path / "c", FULL), tmp_path / "m.gguf")).model.whole
    metadata = dict(header.metadata) | {f"deepseek2.{key}": value}
    with pytest.raises(InputError):
        config_of(dataclasses.replace(header, metadata=metadata))


def changed_config(header, **keys):
    metadata = dict(header.metadata) | {f"deepseek2.{k}": v for k, v in keys.items()}
    return config_of(dataclasses.replace(header, metadata=metadata))


def test_what_other_converters_write_is_read_too(tmp_path):
    header = GgufWeights.open(write_gguf(random_checkpoint(tmp_path / "c", FULL), tmp_path / "m.gguf")).model.whole
    same = config_of(header)
    assert changed_config(header, **{"attention.head_count": [2, 2, 2]}) == same  # a number for each layer
    assert changed_config(header, expert_gating_func=0) == same
    assert changed_config(header, expert_weights_scale=0.0).routed_scaling_factor == 1
    for key, value, words in (
        ("attention.head_count", [2, 3, 2], r"deepseek2\.attention\.head_count is \[2, 3, 2\], not an integer"),
        ("block_count", 5000, r"m\.gguf: deepseek2\.block_count is 5000, outside"),
        ("expert_gating_func", 2, "not a softmax"),
        ("expert_count", 31, "the router of the first such layer is for 32|does not divide"),
        ("rope.scaling.yarn_log_multiplier", "0.1", "yarn_log_multiplier is '0.1', not a number"),
        ("context_length", None, r"the key deepseek2\.context_length is missing"),
    ):
        with pytest.raises(InputError, match=words):
            changed_config(header, **{key: value})


def test_stages_are_told_in_order_and_add_up(tmp_path):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", LITE), np.float64)
    seen: dict[tuple[str, int], np.ndarray] = {}
    forward(w, [1, 2, 3], watch=lambda stage, layer, value: seen.__setitem__((stage, layer), value))
    assert list(seen)[:4] == [("embedding", -1), ("attention", 0), ("feedforward", 0), ("layer", 0)]
    assert ("experts_chosen", 1) in seen
    total = seen["layer", 0] + seen["attention", 1] + seen["feedforward", 1]
    assert total == pytest.approx(seen["layer", 1])


def test_only_the_last_rows_when_asked(tmp_path):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", LITE))
    assert forward(w, [1, 2, 3], last=1) == pytest.approx(forward(w, [1, 2, 3])[-1:], abs=1e-5)


@pytest.mark.parametrize("ids", [[], [300], [1, -1], [[1, 2]], [1.5]])
def test_ids_that_are_no_ids_are_refused(tmp_path, ids):
    w = CheckpointWeights.open(random_checkpoint(tmp_path / "c", LITE))
    with pytest.raises(InputError):
        forward(w, ids)


def test_a_tensor_of_another_shape_is_named(tmp_path):
    folder = random_checkpoint(tmp_path / "c", LITE)
    text = (folder / "config.json").read_text().replace('"kv_lora_rank": 32', '"kv_lora_rank": 16')
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match="kv_b_proj"):
        forward(CheckpointWeights.open(folder), [1])


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_transformers(name, absorbed):
    folder = golden(name)
    expected, w = np.load(folder / "golden.npz"), CheckpointWeights.open(folder)
    for i in range(3):
        logits = forward(w, expected[f"ids_{i}"], absorbed=absorbed)
        assert logits.dtype == np.float32
        assert np.abs(logits - expected[f"logits_{i}"]).max() <= 1e-4


@pytest.mark.parametrize(("name", "absorbed"), [("lite", True), ("full", False)])  # all four would take long
def test_agrees_with_transformers_past_the_original_context(name, absorbed):
    folder = golden(name)
    expected, w = np.load(folder / "golden.npz"), CheckpointWeights.open(folder)
    logits = forward(w, expected["ids_long"], last=4, absorbed=absorbed)
    assert np.abs(logits - expected["logits_long_last4"]).max() <= 1e-4
