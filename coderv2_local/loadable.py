"""What is looked at before llama.cpp is given a file, because it would end the whole process over it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.config import ModelConfig
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import open_gguf
from converters.metadata import ARCHITECTURE
from quant.block_types import F32
from quant.errors import InputError

FOREIGN = ("nextn_predict_layers", "attention.temperature_scale")
"""Keys of other models of the same architecture, on which it asserts what does not hold for this family's tensors."""
UNUSABLE = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
"""Types that weights never have: whole numbers, and forms that values have only between two steps of a calculation."""


def check_loadable(header: GgufHeader, path: Path) -> None:
    """Refuse what llama.cpp would abort the process on.

    Raises:
        InputError: another architecture, numbers or types that cannot be, or a vocabulary that is not one.
    """
    whole = with_all_parts(header, path)
    if wrong := impossible(whole, config_of(whole)):
        raise InputError(f"{path}: {wrong[0]}", hint="the file is damaged; convert or download it again")


def with_all_parts(header: GgufHeader, path: Path) -> GgufHeader:
    """The header of a split file's first part with the tensors of all parts; of any other file, as it is.

    Raises:
        InputError: a part is missing, or does not belong to the file.
    """
    if header.metadata.get("split.count", 1) in (0, 1):
        return header
    return replace(header, tensors={name: info for name, (_, info) in open_gguf(path).tensors.items()})


def impossible(header: GgufHeader, config: ModelConfig) -> list[str]:
    """Metadata and types on which llama.cpp would end the whole process instead of refusing the file, in words."""
    return [*_settings(header, config), *_types(header), *_vocabulary(header, config)]


def _settings(header: GgufHeader, config: ModelConfig) -> Iterator[str]:
    def value(key: str, default: Any) -> Any:
        return header.metadata.get(f"{ARCHITECTURE}.{key}", default)

    scaling = value("rope.scaling.type", "none")
    if scaling not in ("none", "yarn"):
        yield f"{ARCHITECTURE}.rope.scaling.type is {scaling!r:.40}"
    for key in FOREIGN:
        if value(key, 0) != 0:
            yield f"{ARCHITECTURE}.{key} is {value(key, 0)!r:.40}: no model of this family has it"
    groups, used = value("expert_group_count", 0), value("expert_group_used_count", 0)
    if groups >= config.n_routed_experts or (groups > 1 and used >= groups):
        yield f"{config.n_routed_experts} experts are in {groups} groups of which {used} are used: that is no choice"
    whole = any(name.endswith(".attn_kv_b.weight") for name in header.tensors)
    sizes = {
        "attention.head_count_kv": config.n_heads if whole else 1,
        "attention.key_length": config.qk_head_dim if whole else config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.v_head_dim if whole else config.kv_lora_rank,
    }
    for key, expected in sizes.items():
        found = value(key, None)
        if found not in (expected, [expected] * config.n_layers):
            yield f"{ARCHITECTURE}.{key} is {found!r:.40}, not {expected}"


def _types(header: GgufHeader) -> Iterator[str]:
    """Types that the engine cannot compute with in that place."""
    for name, info in header.tensors.items():
        norm = name.endswith("_norm.weight")
        if info.type.name in UNUSABLE or (norm and info.type != F32):
            yield f"tensor {name} is of type {info.type.name}" + (", not F32" if norm else "")


def _vocabulary(header: GgufHeader, config: ModelConfig) -> Iterator[str]:
    metadata = header.metadata
    for key, wrong in (
        ("model", metadata.get("tokenizer.ggml.model") != "gpt2"),
        ("pre", metadata.get("tokenizer.ggml.pre") == "whitespace"),
    ):
        if wrong:
            yield f"tokenizer.ggml.{key} is {metadata.get(f'tokenizer.ggml.{key}')!r:.40}"
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        yield "the list of tokens is missing"
        return
    if len(tokens) != config.vocab_size:
        yield f"there are {len(tokens)} tokens for {config.vocab_size} rows of the embedding"
    merges = metadata.get("tokenizer.ggml.merges")
    for kind, texts in (("tokens", tokens), ("merges", merges if isinstance(merges, list) else [])):
        # C reads a text up to its NUL: what is left may be another one's
        if cut := sum(isinstance(t, str) and "\0" in t for t in texts):
            yield f"a NUL character is in {cut} of the {kind}"
    if len(set(tokens)) != len(tokens):
        yield f"{len(tokens) - len(set(tokens))} tokens are in the vocabulary twice"
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or len(types) not in (0, len(tokens)):
        yield "there are not as many token types as tokens"
