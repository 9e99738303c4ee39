"""What is looked at before llama.cpp is given a file, because it would end the whole process over it."""

from dataclasses import replace
from pathlib import Path

from converters.config import ModelConfig
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import open_gguf
from converters.metadata import ARCHITECTURE
from quant.errors import InputError


def check_loadable(header: GgufHeader, path: Path) -> None:
    """Refuse what llama.cpp would abort the process on.

    Raises:
        InputError: another architecture, numbers that cannot be, or a vocabulary that is not one.
    """
    meta = header.metadata
    architecture = meta.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise InputError(
            f"{path}: its architecture is {architecture!r}, not {ARCHITECTURE!r}",
            hint="this program runs DeepSeek-Coder-V2 and its relatives",
        )

    def number(key: str) -> int:
        value = meta.get(f"{ARCHITECTURE}.{key}", 0)
        if not isinstance(value, int) or value < 0:
            raise InputError(f"{path}: {ARCHITECTURE}.{key} is {value!r}: a number was expected")
        return value

    experts, used = number("expert_count"), number("expert_used_count")
    groups, groups_used = number("expert_group_count"), number("expert_group_used_count")
    if used > experts:
        raise InputError(f"{path}: {used} experts are to be used of {experts}")
    if groups > 1 and (experts % groups or not 0 < groups_used <= groups or used > experts // groups * groups_used):
        raise InputError(
            f"{path}: {experts} experts cannot be routed in {groups} groups of which {groups_used} are used"
        )
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
    """Metadata on which llama.cpp would end the whole process instead of refusing the file, in words."""
    found = []
    metadata = header.metadata
    scaling = metadata.get("deepseek2.rope.scaling.type", "none")
    if scaling not in ("none", "yarn"):
        found.append(f"deepseek2.rope.scaling.type is {scaling!r:.40}")
    whole = any(name.endswith(".attn_kv_b.weight") for name in header.tensors)
    sizes = {
        "attention.head_count_kv": config.n_heads if whole else 1,
        "attention.key_length": config.qk_head_dim if whole else config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.v_head_dim if whole else config.kv_lora_rank,
    }
    for key, expected in sizes.items():
        value = metadata.get(f"deepseek2.{key}")
        if value not in (expected, [expected] * config.n_layers):
            found.append(f"deepseek2.{key} is {value!r:.40}, not {expected}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        return [*found, "the list of tokens is missing"]
    if len(tokens) != config.vocab_size:
        found.append(f"there are {len(tokens)} tokens for {config.vocab_size} rows of the embedding")
    merges = metadata.get("tokenizer.ggml.merges")
    for kind, texts in (("tokens", tokens), ("merges", merges if isinstance(merges, list) else [])):
        # C reads a text up to its NUL: what is left may be another one's
        if cut := sum(isinstance(t, str) and "\0" in t for t in texts):
            found.append(f"a NUL character is in {cut} of the {kind}")
    if len(set(tokens)) != len(tokens):
        found.append(f"{len(tokens) - len(set(tokens))} tokens are in the vocabulary twice")
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or len(types) not in (0, len(tokens)):
        found.append("there are not as many token types as tokens")
    return found
