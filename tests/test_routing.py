"""Exact routing in the engine: against the reference, and against transformers' logits where they are at hand."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import FULL, LITE, golden, random_checkpoint, write_gguf

from coderv2_local.engine import Engine
from coderv2_local.hooks import HookError, TensorHead
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.reference.checkpoint_weights import CheckpointWeights
from coderv2_local.reference.model import forward
from coderv2_local.reference.router import group_limited_greedy
from coderv2_local.routing import ExactRouting, install_taps, read_floats, write_ids
from converters.gguf_header import read_header


def kl(p_logits, q_logits):
    """KL(p‖q) of each row, in nats."""

    def log_p(x):
        x = np.asarray(x, np.float64)
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_p(p_logits), log_p(q_logits)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def exact_engine(path, taps=None, **options) -> Engine:
    taps = install_taps(read_header(path).metadata) if taps is None else taps
    exact = {"n_ctx": 256, "n_threads": 1, "flash_attention": False, "kv_type": "f32"}
    return Engine(path, LoadOptions(**exact | options), taps=taps)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A random grouped model: its GGUF, ids, and the reference's logits in float64."""
    folder = random_checkpoint(tmp_path_factory.mktemp("grouped") / "c", FULL)
    ids = np.random.default_rng(5).integers(0, 290, 40)
    return write_gguf(folder, folder / "m.gguf"), ids.tolist(), forward(CheckpointWeights.open(folder, np.float64), ids)


def test_the_tap_is_there_for_grouped_models_only(tmp_path, grouped):
    (tap,) = install_taps(read_header(grouped[0]).metadata)
    assert (tap.n_groups, tap.n_groups_used, tap.n_moe_layers) == (8, 3, 2)
    lite = write_gguf(random_checkpoint(tmp_path / "c", LITE), tmp_path / "m.gguf")
    assert install_taps(read_header(lite).metadata) == []


def test_a_known_model_without_group_keys_gets_it_too_and_a_sigmoid_router_never():
    base = {"general.architecture": "deepseek2"}
    keys = {"block_count": 60, "expert_count": 160, "leading_dense_block_count": 1}
    metadata = base | {f"deepseek2.{k}": v for k, v in keys.items()}
    (tap,) = install_taps(metadata)
    assert (tap.n_groups, tap.n_groups_used, tap.n_moe_layers) == (8, 3, 59)
    v3 = {"deepseek2.expert_gating_func": 2, "deepseek2.expert_group_count": 8, "deepseek2.expert_group_used_count": 4}
    assert install_taps(metadata | v3) == []
    assert install_taps(metadata | {"general.architecture": "llama"}) == []


def test_the_engine_computes_what_the_reference_computes(grouped):
    path, ids, expected = grouped
    with exact_engine(path) as engine:
        assert kl(expected, engine.evaluate(ids, every_position=True)).max() < 1e-9
    with exact_engine(path, taps=[]) as engine:  # and would not without the tap
        assert kl(expected, engine.evaluate(ids, every_position=True)).mean() > 1e-3


@pytest.mark.parametrize("n_batch", [1, 7, 16])
def test_split_batches_are_routed_too(grouped, n_batch):
    path, ids, expected = grouped
    with exact_engine(path, n_batch=n_batch) as engine:
        assert kl(expected, engine.evaluate(ids, every_position=True)).max() < 1e-9
        engine.truncate(0)
        assert kl(expected[-1], engine.evaluate(ids)) < 1e-9  # here most batches ask for no logits


def test_single_tokens_are_routed_too(grouped):
    path, ids, expected = grouped
    with exact_engine(path) as engine:
        singles = [engine.evaluate(ids[: n + 1]) for n in range(len(ids))]
    assert kl(expected, singles).max() < 1e-9


def test_a_file_without_group_keys_is_put_right_as_well(tmp_path, grouped):
    path = write_gguf(grouped[0].parent, tmp_path / "m.gguf", group_keys=False)
    with exact_engine(path, taps=[ExactRouting(8, 3, 2)]) as engine:
        assert kl(grouped[2], engine.evaluate(grouped[1], every_position=True)).max() < 1e-9


def test_an_exception_in_the_tap_reaches_the_caller_and_the_engine_stays_usable(grouped):
    class Failing(ExactRouting):
        broken = True

        def __call__(self, node_name, tensor):
            if self.broken:
                raise ValueError("broken tap")
            super().__call__(node_name, tensor)

    tap = Failing(8, 3, 2)
    with exact_engine(grouped[0], taps=[tap]) as engine:
        with pytest.raises(HookError, match="exact routing at ffn_moe_topk-1 failed: broken tap"):
            engine.evaluate(grouped[1])
        tap.broken = False
        assert kl(grouped[2][-1], engine.evaluate(grouped[1])) < 1e-9


def test_a_graph_whose_nodes_are_called_otherwise_is_no_good_decode(grouped):
    class Deaf(ExactRouting):
        def wants(self, node_name):
            return False

    with exact_engine(grouped[0], taps=[Deaf(8, 3, 2)]) as engine, pytest.raises(HookError, match="0 of 2 layers"):
        engine.evaluate(grouped[1])


def test_tensors_of_another_kind_are_not_touched():
    head = TensorHead(type=1, name=b"half")
    head.ne[:], head.nb[:] = (4, 2, 1, 1), (2, 8, 16, 16)
    with pytest.raises(HookError, match="half"):
        read_floats(ctypes.addressof(head))
    with pytest.raises(HookError, match="half"):
        write_ids(ctypes.addressof(head), np.zeros((2, 4), np.intp))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The golden grouped model: its folder, transformers' logits, its GGUF in F32."""
    folder = golden("full")
    return folder, np.load(folder / "golden.npz"), write_gguf(folder, tmp_path_factory.mktemp("golden") / "m.gguf")


@pytest.mark.parametrize("n_batch", [256, 16, 17, 7, 1])
def test_agrees_with_transformers_however_the_prompt_is_split(published, n_batch):
    _, expected, path = published
    with exact_engine(path, n_batch=n_batch) as engine:
        for i in range(3):
            logits = engine.evaluate(expected[f"ids_{i}"].tolist(), every_position=True)
            assert kl(expected[f"logits_{i}"], logits).mean() <= 1e-9
            assert (logits.argmax(-1) == expected[f"logits_{i}"].argmax(-1)).all()


def test_agrees_with_transformers_token_by_token(published):
    _, expected, path = published
    with exact_engine(path) as engine:
        ids = expected["ids_0"].tolist()
        logits = np.stack([engine.evaluate(ids[: n + 1]) for n in range(len(ids))])
    assert kl(expected["logits_0"], logits).mean() <= 1e-9
    assert (logits.argmax(-1) == expected["logits_0"].argmax(-1)).all()


class Settled(ExactRouting):
    """Exact routing that takes one choice, of one token in one layer, from elsewhere."""

    layer, token = 1, 1292
    choice: np.ndarray
    changed = seen = 0

    def __call__(self, node_name, tensor):
        here = int(node_name.rpartition("-")[2]) == self.layer
        rows = TensorHead.from_address(tensor).ne[1]
        probabilities = read_floats(self._probs[str(self.layer)]) if here else None
        super().__call__(node_name, tensor)
        if here and self.seen <= self.token < self.seen + rows:
            ids = group_limited_greedy(probabilities, 6, 8, 3)
            self.changed += set(ids[self.token - self.seen].tolist()) != set(self.choice.tolist())
            ids[self.token - self.seen] = self.choice
            write_ids(tensor, ids)
        self.seen += rows if here else 0


def test_agrees_with_transformers_past_the_original_context(published):
    """One of 13 800 choices is a tie (a relative 6e-7 apart), which float32 may settle either way: docs/routing.md."""
    folder, expected, path = published
    ids, chosen = expected["ids_long"], {}
    forward(
        CheckpointWeights.open(folder, np.float64),
        ids,
        last=1,
        watch=lambda stage, layer, value: chosen.update({layer: value}) if stage == "experts_chosen" else None,
    )
    tap = Settled(8, 3, 3)
    tap.choice = chosen[Settled.layer][Settled.token]
    for taps, bound in (([tap], 1e-9), (None, 1e-8)):
        with exact_engine(path, taps, n_ctx=4608, n_batch=512, n_threads=2) as engine:
            logits = np.stack([engine.evaluate(ids[:n].tolist()) for n in range(len(ids) - 3, len(ids) + 1)])
        assert kl(expected["logits_long_last4"], logits).mean() <= bound
        assert (logits.argmax(-1) == expected["logits_long_last4"].argmax(-1)).all()
    assert tap.changed <= 1


def test_the_reproduction_in_the_document_runs_and_finds_it(tmp_path, grouped):
    document = (Path(__file__).parent.parent / "docs" / "routing.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", document, re.S)
    script = tmp_path / "reproduce.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script, grouped[0]], capture_output=True, text=True, timeout=60, check=True)
    found = re.findall(r"layer (\d): other experts than the model's for (\d+) of (\d+) tokens", done.stdout)
    assert [(layer, total) for layer, _, total in found] == [("1", "10"), ("2", "1")]
    assert int(found[0][1]) > 0
