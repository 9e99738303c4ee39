"""The synthetic models that measurements run on: shapes, types, holes, and that they compute something."""

import math

import numpy as np
import pytest
from synthetic_models import GROUPED, LITE, small_model, tool

from coderv2_local.engine import Engine
from coderv2_local.loadable import check_loadable
from coderv2_local.placement.load_options import LoadOptions
from converters.gguf_header import read_header
from converters.tensor_table import tensor_table


@pytest.mark.parametrize(("config", "billions"), [(tool.LITE, 15.71), (tool.FULL, 235.74)])
def test_the_true_shapes_have_the_published_number_of_weights(config, billions):
    assert sum(math.prod(w.shape) for w in tensor_table(config)) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("config", [LITE, GROUPED], ids=["lite", "grouped"])
def test_a_model_loads_and_its_logits_are_finite_and_differ_between_tokens(tmp_path, config):
    path = small_model(tmp_path / "m.gguf", config)
    check_loadable(read_header(path), path)
    with Engine(path, LoadOptions(n_ctx=64, n_threads=1)) as engine:
        rows = [engine.evaluate([390, token]) for token in (5, 6)]
    assert np.isfinite(rows).all()
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert not list(tmp_path.glob("*.part"))


def test_types_are_those_of_the_recipe(tmp_path):
    header = read_header(small_model(tmp_path / "m.gguf"))
    kinds = {name.removeprefix("blk.2."): t.type.name for name, t in header.tensors.items()}
    assert kinds["ffn_gate_exps.weight"] == "Q4_K"
    assert kinds["ffn_gate_inp.weight"] == "F32"
    assert kinds["output.weight"] == "Q6_K"
    assert header.metadata["general.file_type"] == 15


def test_no_two_experts_and_no_two_routers_are_alike(tmp_path):
    path = small_model(tmp_path / "m.gguf")
    data, header = path.read_bytes(), read_header(path)
    pieces = []
    for layer in range(1, LITE.n_layers):
        router = header.tensors[f"blk.{layer}.ffn_gate_inp.weight"]
        pieces.append(data[router.offset : router.offset + router.nbytes])
        stack = header.tensors[f"blk.{layer}.ffn_gate_exps.weight"]
        size = stack.nbytes // LITE.n_routed_experts
        starts = range(stack.offset, stack.offset + stack.nbytes, size)
        pieces += [data[at : at + size] for at in starts]
    assert len(set(pieces)) == len(pieces)


def test_holes_take_no_room_read_as_zeros_and_change_no_length(tmp_path):
    full, sparse = small_model(tmp_path / "full.gguf"), small_model(tmp_path / "sparse.gguf", holes=True)
    assert sparse.stat().st_size == full.stat().st_size
    if sparse.stat().st_blocks * 512 >= full.stat().st_blocks * 512:
        pytest.skip("this file system has no holes")
    stack = read_header(sparse).tensors["blk.1.ffn_up_exps.weight"]
    with open(sparse, "rb") as f:
        f.seek(stack.offset)
        assert f.read(stack.nbytes) == bytes(stack.nbytes)
    with Engine(sparse, LoadOptions(n_ctx=64, n_threads=1)) as engine:
        assert np.isfinite(engine.evaluate([390, 5, 6])).all()
