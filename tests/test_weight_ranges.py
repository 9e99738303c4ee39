"""Where the weights lie in a file, held against the tensors themselves."""

import numpy as np
import pytest
from synthetic_models import LITE, small_model

from coderv2_local.larger_than_memory.weight_ranges import Range, Stack, dense_bytes, weight_ranges
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from converters.gguf_header import dequantize, read_header
from quant import ggml


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "m.gguf")


def test_an_expert_lies_where_its_range_says(path):
    ranges, header, data = weight_ranges(path), read_header(path), path.read_bytes()
    assert sorted(ranges.stacks) == [1, 2, 3, 4]  # layer 0 is dense
    names = ("gate", "up", "down")  # the order of use, not that of the file
    for stack, name in zip(ranges.stacks[3], names, strict=True):
        info = header.tensors[f"blk.3.ffn_{name}_exps.weight"]
        whole = dequantize(path, info)
        (r,) = stack.ranges([5])
        expert = ggml.dequantize(np.frombuffer(data[r.start : r.end], np.uint8), info.type)
        np.testing.assert_array_equal(expert.reshape(whole[5].shape), whole[5])


def test_neighbouring_experts_are_one_range():
    stack = Stack(file=0, start=1000, expert_bytes=10, n_experts=8)
    assert stack.ranges([0, 1, 2, 5, 7]) == [Range(0, 1000, 1030), Range(0, 1050, 1060), Range(0, 1070, 1080)]
    assert stack.ranges([]) == []


def test_every_byte_is_an_expert_s_or_dense_or_the_embedding_s(path):
    header, ranges = read_header(path), weight_ranges(path)
    total = sum(t.nbytes for t in header.tensors.values())
    embedding = header.tensors["token_embd.weight"].nbytes
    assert dense_bytes(header) + ranges.expert_bytes + embedding == total
    padding = 4096 * len(header.tensors)
    assert dense_bytes(header) <= ranges.dense_bytes < dense_bytes(header) + padding
    for a, b in zip(ranges.dense, ranges.dense[1:], strict=False):
        assert a.end < b.start


@pytest.mark.parametrize(
    ("options", "expert_layers", "dense_layers"),
    [
        (LoadOptions(), {1, 2, 3, 4}, {0, 1, 2, 3, 4}),
        (LoadOptions(n_gpu_layers=1), {1, 2, 3, 4}, {0, 1, 2, 3, 4}),  # the output alone
        (LoadOptions(n_gpu_layers=3), {1, 2}, {0, 1, 2}),
        (LoadOptions(n_gpu_layers=3, cpu_expert_layers=(4,)), {1, 2, 4}, {0, 1, 2}),
        (LoadOptions(n_gpu_layers=99, cpu_expert_layers=(1, 2)), {1, 2}, set()),
        (LoadOptions(n_gpu_layers=6), set(), set()),
    ],
    ids=["no GPU", "the output", "two layers", "one with experts", "all but experts", "everything"],
)
def test_what_lies_on_a_gpu_is_not_the_processor_s_to_read(path, options, expert_layers, dense_layers):
    header, ranges = read_header(path), weight_ranges(path).on_processor(options)
    assert set(ranges.stacks) == expert_layers
    for name, info in header.tensors.items():
        if "_exps." in name or name == "token_embd.weight":
            continue
        there = any(r.start <= info.offset and info.offset + info.nbytes <= r.end for r in ranges.dense)
        layer = int(name.split(".")[1]) if name.startswith("blk.") else None
        assert there == (not options.n_gpu_layers if layer is None else layer in dense_layers), name


def test_a_split_model_s_experts_are_found_in_all_its_parts(tmp_path, coder):
    whole = find_model("tiny").path
    done = coder("convert", whole, tmp_path / "s.gguf", "-q", "q8_0", "--split-size", "1M")
    assert done.returncode == 0, done.stderr
    first = min(tmp_path.glob("s-*.gguf"))
    ranges = weight_ranges(first)
    assert len(ranges.files) > 1
    together, header = weight_ranges(whole), read_header(whole)
    assert {k: len(v) for k, v in ranges.stacks.items()} == {k: len(v) for k, v in together.stacks.items()}
    assert ranges.expert_bytes == together.expert_bytes
    for layer, stacks in ranges.stacks.items():
        for stack, same in zip(stacks, together.stacks[layer], strict=True):
            (a,), (b,) = stack.ranges([1]), same.ranges([1])
            data = ranges.files[a.file].read_bytes()[a.start : a.end]
            assert data == whole.read_bytes()[b.start : b.end]
    assert header.tensors.keys() == ranges.tensors.keys()


def test_the_shapes_are_those_the_config_says(path):
    stacks = weight_ranges(path).stacks
    assert {s.n_experts for found in stacks.values() for s in found} == {LITE.n_routed_experts}
