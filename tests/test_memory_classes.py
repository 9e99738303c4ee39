"""Bytes by class, from headers and recipes: the formulas are held against llama.cpp's own report."""

import re
from pathlib import Path

import pytest
from small_models import LITE as SMALL_LITE
from small_models import random_checkpoint, write_gguf
from some_machines import TINY, model

from coderv2_local import llama_library
from coderv2_local.engine import Engine
from coderv2_local.llama_library import llama
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.memory_classes import memory_of_file
from coderv2_local.registry import known_model
from converters.gguf_header import read_header
from converters.metadata import architecture_keys, encode_header, text, tokenizer_keys, u32
from converters.metadata import lay_out as lay_out_file
from converters.tensor_table import tensor_table
from converters.tokenizer import CONTROL, NORMAL, TokenizerData
from converters.type_choice import TypeChoice
from quant.block_types import Q8_0
from quant.recipes import recipe


def headers_only(path: Path, name: str, recipe_name: str, *, mla: bool = True) -> Path:
    """A file of a published shape with a made-up vocabulary and holes for weights: enough for llama.cpp to plan.

    Without `mla` it is laid out as files were before ``kv_b`` was split.
    """
    config = known_model(name).shape()
    table, chosen = tensor_table(config), recipe(recipe_name)
    types = TypeChoice(config, chosen, None, None, table)
    heads = [(w.name, w.shape, types.choice(w).type) for w in table]
    keys = architecture_keys(config)
    if not mla:
        whole = (config.n_heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank)
        heads = [(n.replace("attn_k_b", "attn_kv_b"), whole if "attn_k_b" in n else s, t) for n, s, t in heads]
        heads = [(n, s, Q8_0 if "attn_kv_b" in n else t) for n, s, t in heads if "attn_v_b" not in n]
        keys = {k: v for k, v in keys.items() if not k.endswith("_mla")}
        keys["deepseek2.attention.head_count_kv"] = u32(config.n_heads)
        keys["deepseek2.attention.key_length"] = u32(config.qk_head_dim)
        keys["deepseek2.attention.value_length"] = u32(config.v_head_dim)
    tokens = [f"t{i}" for i in range(config.vocab_size)]
    kinds = [NORMAL] * (config.vocab_size - 2) + [CONTROL] * 2
    bos, eos = config.vocab_size - 2, config.vocab_size - 1
    data = TokenizerData(tokens, kinds, ["a b"], "deepseek-llm", bos, eos, None, True, False, {}, None)
    metadata = {"general.architecture": text("deepseek2"), "general.file_type": u32(chosen.file_type)}
    header = encode_header(metadata | keys | tokenizer_keys(data), heads)
    last = lay_out_file(heads, len(header))[-1]
    with open(path, "wb") as f:
        f.write(header)
        f.truncate(last.offset + -(-last.nbytes // 32) * 32)
    return path


def planned_by_llama(path: Path, contexts: list[tuple[int, int]], *, flash: bool = True) -> list[int]:
    """Bytes of llama.cpp's compute buffer for each (context, ubatch), from its own planning: nothing is allocated."""
    llama_library.start()
    params = llama.llama_model_default_params()
    params.load_mode, params.use_extra_bufts, params.no_alloc = llama.LLAMA_LOAD_MODE_NONE, False, True
    loaded = llama.llama_model_load_from_file(str(path).encode(), params)
    assert loaded, llama_library.complaints()
    out = []
    for n_ctx, n_ubatch in contexts:
        p = llama.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.flash_attn_type = n_ctx, n_ubatch, n_ubatch, 1, int(flash)
        llama_library.forget_log()
        context = llama.llama_init_from_model(loaded, p)
        log = "".join(line for _, line in llama_library._log)
        out.append(int(float(re.findall(r"compute buffer size =\s*([\d.]+) MiB", log)[-1]) * 2**20))
        llama.llama_free(context)
    llama.llama_model_free(loaded)
    return out


@pytest.mark.parametrize(
    ("name", "mla", "off"), [("lite", True, 0.01), ("236b", True, 0.01), ("lite", False, 0.15), ("236b", False, 0.02)]
)
def test_buffers_of_the_published_shapes_are_what_llama_plans(name, mla, off, tmp_path):
    path = headers_only(tmp_path / "m.gguf", name, "moe-4", mla=mla)
    memory = memory_of_file(read_header(path))
    assert memory.mla is mla
    cases = [(n, b) for n in (2048, 4096, 16384, 32768, 131072) for b in (512, 2048)]
    for (n_ctx, n_ubatch), real in zip(cases, planned_by_llama(path, cases), strict=True):
        assert memory.compute_bytes(n_ctx, n_ubatch) == pytest.approx(real, rel=off), (n_ctx, n_ubatch)


@pytest.mark.parametrize(("name", "mla", "off"), [("lite", True, 0.05), ("236b", True, 0.05), ("lite", False, 0.2)])
def test_without_flash_attention_buffers_grow_with_the_context(name, mla, off, tmp_path):
    path = headers_only(tmp_path / "m.gguf", name, "moe-4", mla=mla)
    memory = memory_of_file(read_header(path))
    cases = [(n, b) for n in (4096, 16384, 32768) for b in (64, 512, 2048)]
    for (n_ctx, n_ubatch), real in zip(cases, planned_by_llama(path, cases, flash=False), strict=True):
        planned = memory.compute_bytes(n_ctx, n_ubatch, flash_attention=False)
        assert planned == pytest.approx(real, rel=off), (n_ctx, n_ubatch)


def test_buffers_of_tiny_are_near_what_llama_plans():
    memory = memory_of_file(read_header(TINY))
    (real,) = planned_by_llama(TINY, [(512, 512)])
    assert memory.compute_bytes(512, 512) == pytest.approx(real, abs=4 << 20)


@pytest.mark.parametrize("mla", [True, False])
def test_the_kv_cache_is_what_llama_allocates(tmp_path, mla):
    folder = random_checkpoint(tmp_path / "c", SMALL_LITE)
    path = write_gguf(folder, tmp_path / "m.gguf", split_mla=mla)
    memory = memory_of_file(read_header(path))
    assert memory.mla is mla
    with Engine(path, LoadOptions(n_ctx=5000, n_threads=1)) as engine:
        engine._context.reserve(5000, carry=False)
        log = "".join(line for _, line in llama_library._log)
    sizes = [float(x) for x in re.findall(r"KV buffer size =\s*([\d.]+) MiB", log)]
    assert sizes
    assert memory.kv_bytes(5000) / 2**20 == pytest.approx(sum(sizes), rel=0.01)


def test_a_recipe_and_the_file_made_with_it_agree(tmp_path):
    path = headers_only(tmp_path / "m.gguf", "lite", "q4_k_m")
    assert memory_of_file(read_header(path)).weights == model("lite", "q4_k_m").weights
    assert path.stat().st_size == pytest.approx(model("lite", "q4_k_m").total, rel=0.01)


def test_classes_of_the_published_models():
    """Shares and cache sizes as in the papers: experts are 92–95 % of the weights, the cache 31 or 69 KB a token."""
    for name, kv in (("lite", 576 * 27 * 2), ("236b", 576 * 60 * 2)):
        memory = model(name, "f16")
        assert sum(memory.nbytes(k) for k in ("dense", "experts", "embedding", "output")) == memory.total
        assert 0.91 < memory.nbytes("experts") / memory.total < 0.95
        assert memory.kv_bytes(1024) == 1024 * kv
    assert model("236b", mla=False).kv_bytes(1024) / model("236b").kv_bytes(1024) == pytest.approx(71, abs=1)
