"""GGUF files as sources: older ones upgraded, split ones joined, finished ones in the engine."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from checkpoints import FULL, LITE, convert, read_tensors, write_checkpoint
from small_models import golden, patch_float, write_gguf

from coderv2_local.engine import Engine
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps
from converters.gguf_config import config_of
from converters.gguf_header import read_header
from converters.gguf_model import open_gguf
from converters.job import Options, plan_source
from converters.upgrade import upgraded_keys
from quant import ggml
from quant.block_types import Q8_0, block_type
from quant.errors import InputError

IDS = list(np.random.default_rng(5).integers(0, 250, 24))


def logits(path: Path, ids: list[int] = IDS) -> np.ndarray:
    taps = install_taps(read_header(path).metadata)
    engine = Engine(path, LoadOptions(n_ctx=256, n_threads=2, flash_attention=False, kv_type="f32"), taps=taps)
    try:
        return np.array(engine.evaluate([int(i) for i in ids], every_position=True), dtype=np.float64)
    finally:
        engine.close()


def mean_kl(a: np.ndarray, b: np.ndarray) -> float:
    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(a), log_softmax(b)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("name", ["lite", "full"])
def test_the_f32_file_gives_transformers_logits(tmp_path: Path, name: str) -> None:
    folder = golden(name)
    path = convert(folder, tmp_path / "f32.gguf", "f32")
    data = np.load(folder / "golden.npz")
    for i in range(3):
        assert mean_kl(data[f"logits_{i}"].astype(np.float64), logits(path, list(data[f"ids_{i}"]))) < 1e-9


@pytest.mark.parametrize("config", [LITE, FULL], ids=["lite", "full"])
def test_an_old_f32_file_becomes_what_a_new_conversion_gives(tmp_path: Path, config: dict[str, object]) -> None:
    folder = write_checkpoint(tmp_path / "in", config)
    old = write_gguf(folder, tmp_path / "old.gguf", split_mla=False, group_keys=False)
    new = convert(old, tmp_path / "new.gguf")
    assert read_tensors(new) == read_tensors(convert(folder, tmp_path / "fresh.gguf", "f32"))
    m = read_header(new).metadata
    a = "deepseek2.attention"
    assert (m[f"{a}.head_count_kv"], m[f"{a}.key_length"], m[f"{a}.value_length"]) == (1, 80, 64)
    assert (m[f"{a}.key_length_mla"], m[f"{a}.value_length_mla"]) == (48, 32)
    assert mean_kl(logits(old), logits(new)) < 1e-9
    with pytest.raises(InputError, match="needs no upgrade"):
        convert(new, tmp_path / "again.gguf")


def test_a_stack_of_one_keeps_all_its_rows(tmp_path: Path) -> None:
    one = {"num_attention_heads": 1, "num_key_value_heads": 1, "n_routed_experts": 1, "num_experts_per_tok": 1}
    folder = write_checkpoint(tmp_path / "in", LITE | one)
    again = convert(convert(folder, tmp_path / "f32.gguf", "f32"), tmp_path / "f16.gguf", "f16")
    assert read_tensors(again) == read_tensors(convert(folder, tmp_path / "direct.gguf", "f16"))


def test_only_the_split_tensor_is_touched(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    old = write_gguf(folder, tmp_path / "old.gguf", split_mla=False, matrices="Q4_0")
    before, after = read_tensors(old), read_tensors(convert(old, tmp_path / "new.gguf"))
    kv_b = {n: before.pop(n) for n in list(before) if "attn_kv_b" in n}
    assert len(kv_b) == 3
    assert {n: after[n] for n in before} == before
    for name, (_, (rows, columns), raw) in kv_b.items():
        blocks = np.frombuffer(raw, dtype=np.uint8).reshape(2, rows // 2, -1)  # two heads
        kind, shape, values = after[name.replace("kv_b", "v_b")]
        assert (kind, shape) == ("Q4_0", (2, 32, 64))
        assert values == blocks[:, 32:].tobytes()  # whole rows: copied, not quantized again
        whole = ggml.dequantize(blocks.reshape(-1), block_type("Q4_0")).reshape(2, rows // 2, columns)
        turned = np.ascontiguousarray(whole[:, :32].swapaxes(1, 2))
        kind, shape, values = after[name.replace("kv_b", "k_b")]
        assert (kind, shape) == ("Q8_0", (2, 64, 32))
        assert values == ggml.quantize(turned.reshape(-1, 32), Q8_0).tobytes()


def test_every_repair_is_made_and_listed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    old = write_gguf(folder, tmp_path / "old.gguf", split_mla=False, special_tokens=False)
    patch_float(old, "deepseek2.rope.scaling.yarn_log_multiplier", 0.707)
    old.write_bytes(old.read_bytes().replace(b"deepseek-llm", b"deepseek-v33"))
    job = plan_source(old, tmp_path / "new.gguf", Options())
    listed = "\n".join(job.plan.notices)
    for words in (
        "attn_kv_b of 3 layers",
        "head_count_kv: 2 → 1",
        "pre: deepseek-v33 → deepseek-llm",
        "0.707 → 0.0707",
        "fim_pre_token_id: absent → 267",
        "token_type: 288 values, 0 special → 288 values, 6 special",
    ):
        assert words in listed, listed
    assert "expert_group_count: absent" in listed
    m = read_header(convert(old, tmp_path / "new.gguf")).metadata
    assert m["tokenizer.ggml.pre"] == "deepseek-llm"
    assert m["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.0707)
    assert m["tokenizer.ggml.token_type"][264:270] == [3] * 6


def test_the_published_models_get_their_group_keys(tmp_path: Path) -> None:
    model = open_gguf(write_gguf(write_checkpoint(tmp_path / "in"), tmp_path / "old.gguf", split_mla=False))
    config = config_of(model.whole)
    for shape, groups in (((60, 5120, 160), (8, 3)), ((27, 2048, 64), (1, 1))):
        layers, hidden, experts = shape
        known = dataclasses.replace(config, n_layers=layers, hidden_size=hidden, n_routed_experts=experts)
        keys, _, _ = upgraded_keys(model, known)
        found = [keys[f"deepseek2.expert_group_{k}count"].value for k in ("", "used_")]
        assert tuple(found) == groups


def test_low_bit_files_are_not_quantized_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    low = convert(folder, tmp_path / "low.gguf", "q4_k_m")
    with pytest.raises(InputError, match="Q4_K"):
        convert(low, tmp_path / "x.gguf", "q8_0")
    eight = convert(folder, tmp_path / "eight.gguf", "q8_0")
    assert read_tensors(convert(eight, tmp_path / "y.gguf", "q4_0"))["blk.1.ffn_up_exps.weight"][0] == "Q4_0"


def test_split_files_load_and_join(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    whole = convert(folder, tmp_path / "whole.gguf", "q8_0")
    first = convert(folder, tmp_path / "s.gguf", "q8_0", split_bytes=300_000)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert first == parts[0]
    assert [p.name for p in parts] == [f"s-{i + 1:05d}-of-{len(parts):05d}.gguf" for i in range(len(parts))]
    assert all(p.stat().st_size < 400_000 for p in parts[1:])
    m = [read_header(p).metadata for p in parts]
    assert [(x["split.no"], x["split.count"]) for x in m] == [(i, len(parts)) for i in range(len(parts))]
    assert m[0]["split.tensors.count"] == len(read_tensors(whole))
    np.testing.assert_array_equal(logits(first), logits(whole))
    joined = convert(first, tmp_path / "joined.gguf", "q8_0")
    assert read_tensors(joined) == read_tensors(whole)
    parts[1].unlink()
    with pytest.raises(InputError, match="00002"):
        convert(first, tmp_path / "z.gguf", "q8_0")
    with pytest.raises(InputError, match="part"):
        convert(parts[2], tmp_path / "z.gguf", "q8_0")


def test_a_file_whose_keys_and_tensors_disagree(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    path = convert(folder, tmp_path / "x.gguf", "f16")
    raw = path.read_bytes()
    for before, after, words in (
        (b"blk.1.ffn_up_exps", b"blk.1.ffn_xx_exps", "ffn_up_exps.*missing"),
        (b"deepseek2.block_count", b"deepseek2.block_xount", "block_count"),
        (b"deepseek2", b"deepseek9", "deepseek9"),
    ):
        path.write_bytes(raw.replace(before, after))
        with pytest.raises(InputError, match=words):
            convert(path, tmp_path / "out.gguf", "q8_0")


def test_a_block_with_a_broken_scale_is_named(tmp_path: Path) -> None:
    path = convert(write_checkpoint(tmp_path / "in"), tmp_path / "x.gguf", "q8_0")
    info = read_header(path).tensors["blk.1.ffn_up_exps.weight"]
    raw = bytearray(path.read_bytes())
    raw[info.offset + 340 : info.offset + 342] = b"\x00\x7e"  # the F16 scale of the eleventh block: NaN
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"blk\.1\.ffn_up_exps\.weight.*NaN"):
        convert(path, tmp_path / "y.gguf", "q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "x.gguf"]
