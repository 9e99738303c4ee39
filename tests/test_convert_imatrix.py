"""Importance weights: both formats, expert by expert, and what happens to experts that were never reached."""

import ctypes
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import LITE, convert, read_tensors, write_checkpoint

from coderv2_local import llama_library
from coderv2_local.llama_library import llama
from converters.imatrix import Imatrix
from converters.job import Options, plan_source
from converters.safetensors_shards import Checkpoint
from quant import ggml
from quant.block_types import block_type
from quant.errors import InputError

NAME = "blk.1.ffn_up_exps.weight"
EXPERTS, COLUMNS = 20, 256
SUMS = np.random.default_rng(2).uniform(0.01, 9, (EXPERTS, COLUMNS)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("in"), LITE | {"n_routed_experts": EXPERTS})


def write_new(path: Path, unhit: list[int], names: tuple[str, ...] = (NAME,), sums: np.ndarray = SUMS) -> Path:
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    counts = np.full((len(sums), 1), 4, dtype=np.float32)
    counts[unhit] = 0
    for name in names:
        writer.add_tensor(f"{name}.in_sum2", np.where(counts > 0, sums, 0).astype(np.float32))
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old(path: Path, unhit: list[int], filler: float) -> Path:
    calls = 7
    values = SUMS / 4 * calls
    values[unhit] = filler * calls
    name = NAME.encode()
    body = struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, values.size) + values.tobytes()
    path.write_bytes(struct.pack("<i", 1) + body + struct.pack("<ii", 9, 4) + b"text")
    return path


def expected(folder: Path, kind: str, unhit: list[int]) -> bytes:
    source = Checkpoint.open(folder)
    out = b""
    for e in range(EXPERTS):
        weights = np.ones(COLUMNS, dtype=np.float32) if e in unhit else SUMS[e] / 4
        values = source.read_f32(f"model.layers.1.mlp.experts.{e}.up_proj.weight")
        out += ggml.quantize(values, block_type(kind), importance=weights).tobytes()
    return out


@pytest.mark.parametrize("form", ["new", "old with ones", "old with zeros"])
def test_each_expert_is_quantized_by_its_own_weights(folder: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "imatrix"
    write_new(path, [3]) if form == "new" else write_old(path, [3], 1.0 if form.endswith("ones") else 0.0)
    job = plan_source(folder, tmp_path / "x.gguf", Options("q4_k_s", imatrix=path))
    assert any("layer 1: 1 of 20 experts without calibration" in n for n in job.plan.notices)
    found = read_tensors(convert(folder, tmp_path / "x.gguf", "q4_k_s", imatrix=path))
    assert found[NAME][0] == "Q4_K"
    same = found[NAME][2] == expected(folder, "Q4_K", [3])
    if form == "new":
        assert same
    else:  # the old format went through another division: equal up to float32's last digit, so compare the values
        a = ggml.dequantize(np.frombuffer(found[NAME][2], dtype=np.uint8), block_type("Q4_K"))
        b = ggml.dequantize(np.frombuffer(expected(folder, "Q4_K", [3]), dtype=np.uint8), block_type("Q4_K"))
        assert np.mean(a != b) < 0.01
    plain = read_tensors(convert(folder, tmp_path / "plain.gguf", "q4_k_s"))
    assert plain[NAME][2] != found[NAME][2]
    assert plain["blk.2.ffn_up_exps.weight"] == found["blk.2.ffn_up_exps.weight"]


def test_a_layer_with_too_many_unhit_experts_goes_up_one_type(folder: Path, tmp_path: Path) -> None:
    path = write_new(tmp_path / "imatrix", [1, 5, 9])
    found = read_tensors(convert(folder, tmp_path / "x.gguf", "moe-4", imatrix=path))
    assert found[NAME][0] == "Q5_K"
    assert found["blk.1.ffn_gate_exps.weight"][0] == "Q5_K"  # the layer, not only the tensor
    assert found["blk.1.ffn_down_exps.weight"][0] == "Q5_1"  # rows of 96: the substitute of Q5_K
    assert found["blk.2.ffn_up_exps.weight"][0] == "Q4_K"
    assert found[NAME][2] == expected(folder, "Q5_K", [1, 5, 9])


@pytest.mark.parametrize("importance", [0.0, 1e-37])
def test_a_dense_tensor_that_the_calibration_never_reached_is_quantized_without(
    folder: Path, tmp_path: Path, importance: float
) -> None:
    name = "blk.0.attn_output.weight"
    source = Checkpoint.open(folder).read_f32("model.layers.0.self_attn.o_proj.weight")
    values = np.full(source.shape[1], importance, dtype="<f4")
    path, encoded = tmp_path / "imatrix", name.encode()
    head = struct.pack("<ii", 1, len(encoded)) + encoded + struct.pack("<ii", 1, len(values))
    path.write_bytes(head + values.tobytes())
    found = read_tensors(convert(folder, tmp_path / "x.gguf", "q4_0", imatrix=path))[name]
    even = ggml.quantize(source, block_type("Q4_0"), importance=np.ones(source.shape[1], dtype=np.float32))
    assert found == ("Q4_0", source.shape, even.tobytes())


def test_files_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    wrong = write_new(tmp_path / "wrong", [], sums=SUMS[:, :128])
    with pytest.raises(InputError, match=r"ffn_up_exps.*256"):
        convert(folder, tmp_path / "x.gguf", "q4_0", imatrix=wrong)
    bad = write_new(tmp_path / "nan", [], sums=np.where(np.arange(COLUMNS) == 3, np.nan, SUMS))
    with pytest.raises(InputError, match="finite"):
        Imatrix.read(bad)
    for absurd in (np.inf, 1e38, -1e-3):
        huge = write_new(tmp_path / "huge", [], sums=np.where(np.arange(COLUMNS) == 3, absurd, SUMS))
        with pytest.raises(InputError, match=r"huge.*blk\.1\.ffn_up_exps\.weight.* up to 1e\+20"):
            Imatrix.read(huge)
    (tmp_path / "cut").write_bytes(write_old(tmp_path / "old", [], 0).read_bytes()[:900])
    with pytest.raises(InputError, match="truncated"):
        Imatrix.read(tmp_path / "cut")
    with pytest.raises(InputError, match="not an importance matrix"):
        Imatrix.read(convert(folder, tmp_path / "model.gguf", "q4_0"))


@pytest.mark.parametrize(("recipe", "ftype"), [("q4_0", 2), ("q4_k_m", 15)])
def test_the_bytes_are_those_of_llama_cpp_with_the_same_weights(
    folder: Path, tmp_path: Path, recipe: str, ftype: int
) -> None:
    path = write_new(tmp_path / "imatrix", [4], names=(NAME, "blk.2.ffn_gate_exps.weight"))
    ours = read_tensors(convert(folder, tmp_path / "ours.gguf", recipe, imatrix=path))
    source = convert(folder, tmp_path / "bf16.gguf", "bf16")
    weights = SUMS / 4
    weights[4] = 1
    entries = (llama.llama_model_imatrix_data * 3)()
    for i, name in enumerate((NAME, "blk.2.ffn_gate_exps.weight")):
        entries[i].name, entries[i].size = name.encode(), weights.size
        entries[i].data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    llama_library.start()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    params.imatrix = ctypes.cast(entries, type(params.imatrix))
    theirs = tmp_path / "theirs.gguf"
    assert llama.llama_model_quantize(str(source).encode(), str(theirs).encode(), params) == 0
    assert ours == read_tensors(theirs)
