"""Conversion, tensor for tensor: against gguf-py's numpy, and against llama.cpp's own quantizer."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import FULL, LITE, convert, random_tensors, read_tensors, write_checkpoint

from coderv2_local import llama_library
from coderv2_local.llama_library import llama
from converters.gguf_header import read_header
from converters.safetensors_shards import Checkpoint

DEEP = LITE | {"num_hidden_layers": 17, "n_routed_experts": 2, "num_experts_per_tok": 1, "intermediate_size": 256,
               "moe_intermediate_size": 256, "hidden_size": 256}  # fmt: skip
EIGHT = FULL | {"num_hidden_layers": 9, "moe_intermediate_size": 32}
FTYPES = {"q4_0": 2, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "q8_0": 7}


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("lite"))


@pytest.mark.parametrize("recipe", ["f32", "f16", "bf16", "q8_0"])
def test_straight_types_have_the_bytes_that_gguf_py_makes(lite: Path, tmp_path: Path, recipe: str) -> None:
    found = read_tensors(convert(lite, tmp_path / "out.gguf", recipe))
    source = Checkpoint.open(lite)
    experts = [source.read_f32(f"model.layers.2.mlp.experts.{e}.down_proj.weight") for e in range(6)]
    kv_b = source.read_f32("model.layers.1.self_attn.kv_b_proj.weight").reshape(2, 64, 64)
    expected = {
        "token_embd.weight": source.read_f32("model.embed_tokens.weight"),
        "output.weight": source.read_f32("lm_head.weight"),
        "blk.0.ffn_down.weight": source.read_f32("model.layers.0.mlp.down_proj.weight"),
        "blk.2.ffn_down_exps.weight": np.stack(experts),
        "blk.1.attn_k_b.weight": np.ascontiguousarray(kv_b[:, :32].swapaxes(1, 2)),
        "blk.1.attn_v_b.weight": np.ascontiguousarray(kv_b[:, 32:]),
    }
    kind = gguf.GGMLQuantizationType[recipe.upper()]
    for name, values in expected.items():
        type_name, shape, raw = found[name]
        assert (type_name, shape) == (kind.name, values.shape)
        assert raw == gguf.quants.quantize(values, kind).tobytes(), name
    for name in ("blk.1.ffn_gate_inp.weight", "output_norm.weight", "blk.0.attn_norm.weight"):
        assert found[name][0] == "F32"
    router = source.read_f32("model.layers.1.mlp.gate.weight")
    assert found["blk.1.ffn_gate_inp.weight"][2] == router.tobytes()


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_other_stored_types(tmp_path: Path, dtype: str) -> None:
    folder = write_checkpoint(tmp_path / "in", dtype=dtype, n_shards=1)
    found = read_tensors(convert(folder, tmp_path / "out.gguf", "q8_0"))
    values = random_tensors(LITE)["lm_head.weight"].astype(np.float16 if dtype == "F16" else np.float32)
    expected = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    assert found["output.weight"][2] == expected.tobytes()


@pytest.fixture(scope="module", params=["deep", "eight"])
def sixteen_bits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BF16 file with layers enough for llama.cpp's exceptions by layer, or with the eight experts it treats apart."""
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder / "in", DEEP if request.param == "deep" else EIGHT)
    return convert(folder / "in", folder / "bf16.gguf", "bf16")


@pytest.mark.parametrize("recipe", FTYPES)
def test_llama_names_give_the_bytes_of_llama_cpp(sixteen_bits: Path, tmp_path: Path, recipe: str) -> None:
    ours = read_tensors(convert(sixteen_bits.parent / "in", tmp_path / "ours.gguf", recipe))
    assert ours == read_tensors(llama_quantize(sixteen_bits, tmp_path / "theirs.gguf", FTYPES[recipe]))
    requantized = convert(sixteen_bits, tmp_path / "again.gguf", recipe)
    assert read_tensors(requantized) == ours


def llama_quantize(source: Path, destination: Path, ftype: int) -> Path:
    llama_library.start()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    assert llama.llama_model_quantize(str(source).encode(), str(destination).encode(), params) == 0
    return destination


def test_moe_recipes_follow_their_words(lite: Path, tmp_path: Path) -> None:
    four = {n: t for n, (t, _, _) in read_tensors(convert(lite, tmp_path / "4.gguf", "moe-4")).items()}
    assert four["blk.1.ffn_up_exps.weight"] == "Q4_K"
    assert four["blk.1.ffn_down_exps.weight"] == "Q5_0"  # rows of 96
    rest = {t for n, t in four.items() if "_exps" not in n}
    assert rest == {"Q8_0", "F32"}
    eight = {n: t for n, (t, _, _) in read_tensors(convert(lite, tmp_path / "8.gguf", "moe-8")).items()}
    assert {t for n, t in eight.items() if "_exps" in n} == {"Q8_0"}
    assert {t for n, t in eight.items() if "_exps" not in n} == {"BF16", "F32"}
    over = read_tensors(convert(lite, tmp_path / "o.gguf", "q8_0", experts="iq4_xs"))
    assert over["blk.1.ffn_gate_exps.weight"][0] == "IQ4_XS"
    assert over["blk.1.ffn_down_exps.weight"][0] == "IQ4_NL"


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(lite: Path, tmp_path: Path, threads: int) -> None:
    one = convert(lite, tmp_path / "a.gguf", "q4_k_m", threads=2).read_bytes()
    assert convert(lite, tmp_path / "b.gguf", "q4_k_m", threads=threads).read_bytes() == one


def test_metadata_says_what_llama_cpp_and_users_need(lite: Path, tmp_path: Path) -> None:
    m = read_header(convert(lite, tmp_path / "out.gguf")).metadata
    a = "deepseek2"
    assert m[f"{a}.attention.q_lora_rank"] == 0
    assert m[f"{a}.attention.head_count_kv"] == 1
    assert (m[f"{a}.attention.key_length"], m[f"{a}.attention.key_length_mla"]) == (80, 48)
    assert m[f"{a}.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.0707)
    assert m["tokenizer.ggml.pre"] == "deepseek-llm"
    ids = [m[f"tokenizer.ggml.fim_{k}_token_id"] for k in ("pre", "suf", "mid")]
    tokens = m["tokenizer.ggml.tokens"]
    assert [tokens[i] for i in ids] == ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]
    types = m["tokenizer.ggml.token_type"]
    assert {types[tokens.index(s)] for s in tokens if s.startswith(("<｜", "<|"))} == {3}
    assert len(tokens) == 288
    assert types[-1] == 5  # padding
    assert m["tokenizer.chat_template"].startswith("{{ bos_token }}")
    assert m["coder.convert.recipe"] == "moe-4"
    assert len(m["coder.convert.source_fingerprint"]) == 64
    assert not any(str(tmp_path) in str(v) for v in m.values())


def test_group_keys_and_query_compression(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", FULL)
    m = read_header(convert(tmp_path / "in", tmp_path / "out.gguf", "f32")).metadata
    assert (m["deepseek2.expert_group_count"], m["deepseek2.expert_group_used_count"]) == (4, 2)
    assert m["deepseek2.attention.q_lora_rank"] == 96
    assert m["deepseek2.expert_weights_scale"] == 16.0


def test_both_spellings_of_the_config_give_one_model(tmp_path: Path) -> None:
    new = {k: v for k, v in LITE.items() if k not in ("rope_theta", "rope_scaling")}
    scaling = {k: v for k, v in LITE["rope_scaling"].items() if k != "type"}
    new["rope_parameters"] = scaling | {"rope_type": "yarn", "rope_theta": 10000}
    old_file = convert(write_checkpoint(tmp_path / "m", LITE), tmp_path / "a.gguf", "f16").read_bytes()
    assert convert(write_checkpoint(tmp_path / "m", new), tmp_path / "b.gguf", "f16").read_bytes() == old_file
