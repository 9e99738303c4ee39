"""Older GGUF files of this family → what today's engine needs; every change is listed.

Files of 2024 keep ``kv_b`` whole, so the engine caches full keys and values instead of the small latent vectors: 9
(Lite) to 70 (236B) times the memory. They also lack the group keys and the FIM ids, and some have token types, a
pre-tokenizer or a YaRN value that are wrong.
"""

from typing import Any

from gguf import GGUFValueType

from converters.config import ModelConfig
from converters.gguf_header import GgufError
from converters.gguf_model import GgufModel, has_unsplit_attention
from converters.metadata import ARCHITECTURE, Metadata, Value, f32, i32s, text, u32
from converters.tensor_table import Part, Wanted, split_kv_b, tensor_table
from converters.tokenizer import CONTROL, FIM_TOKENS, NORMAL, UNUSED, USER_DEFINED, looks_special
from quant.block_types import Q8_0, BlockType
from quant.recipes import Choice, fit

_PUBLISHED = {
    # (layers, hidden, routed experts) → (groups, groups used, yarn multiplier): facts that old files leave out.
    # The 236B's multiplier is not among them: published copies of its config disagree.
    (27, 2048, 64): (1, 1, 0.0707),
    (60, 5120, 160): (8, 3, None),
}


def source_table(model: GgufModel, config: ModelConfig) -> list[Wanted]:
    """The tensors of an up-to-date file, made from those of `model`.

    Raises:
        GgufError: a tensor is missing, has the wrong shape, or is left over.
    """
    table: list[Wanted] = []
    left = dict(model.tensors)
    unsplit = has_unsplit_attention(model)
    for wanted in _with_fused_experts(tensor_table(config), model):
        layer, _, kind = wanted.name.rpartition(".attn_")
        if unsplit and kind in ("k_b.weight", "v_b.weight"):
            old = f"{layer}.attn_kv_b.weight"
            left.pop(wanted.name, None)  # some interim files carry both; the whole one is the one to trust
            halves = split_kv_b(config, layer, old)
            made = halves[0] if kind == "k_b.weight" else halves[1]
            _check(model, old, made.parts[0].stored_shape)
            left.pop(old, None)
        else:
            made = _as_stored(wanted)
            _check(model, wanted.name, wanted.shape)
            left.pop(wanted.name)
        table.append(made)
    if left:
        raise GgufError(f"{model.path}: tensor {min(left)} is left over; its keys have no place for it")
    return table


def _with_fused_experts(table: list[Wanted], model: GgufModel) -> list[Wanted]:
    out = []
    for wanted in table:
        fused = wanted.name.replace("ffn_gate_exps", "ffn_gate_up_exps")
        if "ffn_gate_exps" in wanted.name and fused in model.tensors:
            experts, rows, columns = wanted.shape
            out.append(Wanted(fused, (experts, 2 * rows, columns), ()))
        elif "ffn_up_exps" in wanted.name and wanted.name.replace("up_exps", "gate_up_exps") in model.tensors:
            continue
        else:
            out.append(wanted)
    return out


def _as_stored(wanted: Wanted) -> Wanted:
    """The same tensor, taken from a tensor of the same name: one part for each outermost slice of a stack."""
    slices, rows = (1, 1, *wanted.shape[:-1])[-2:]
    shape = (slices * rows, wanted.shape[-1])
    return Wanted(wanted.name, wanted.shape, tuple(Part(wanted.name, shape, s * rows, rows) for s in range(slices)))


def _check(model: GgufModel, name: str, shape: tuple[int, ...]) -> None:
    if name not in model.tensors:
        raise GgufError(f"{model.path}: tensor {name} is missing, which its keys call for")
    found = model.tensors[name][1].shape
    if found != shape:
        raise GgufError(f"{model.path}: tensor {name} has shape {found}; its keys make it {shape}")


def upgraded_type(model: GgufModel, wanted: Wanted) -> Choice:
    """The type that a tensor has in the upgraded file: its own, but for the transposed half of ``kv_b``."""
    own: BlockType = model.tensors[wanted.parts[0].stored][1].type
    if not any(p.transposed for p in wanted.parts):
        return Choice(own)
    kind = own if own.is_float else Q8_0  # its rows are turned into columns: quantize again, and lose next to nothing
    return fit(kind, wanted.shape[-1])


def upgraded_keys(model: GgufModel, config: ModelConfig) -> tuple[Metadata, list[str], list[str]]:
    """The keys of the upgraded file, the list of changes, and what is wrong but cannot be put right; a line each."""
    keys: Metadata = {}
    for key, value in model.metadata.items():
        if key.startswith("split.") or key == "general.alignment" or value in ("", []):
            continue
        kind, element = model.header.value_types[key]
        keys[key] = Value(value, GGUFValueType(kind), None if element is None else GGUFValueType(element))
    changes: list[str] = []
    remarks: list[str] = []

    def put(key: str, value: Value) -> None:
        before = keys.get(key)
        if before is None or before.value != value.value:
            changes.append(f"{key}: {_short(before.value) if before else 'absent'} → {_short(value.value)}")
            keys[key] = value

    _fix_attention(model, config, put)
    _fix_routing(config, keys, remarks, put)
    _fix_rope(config, keys, remarks, put)
    _fix_tokenizer(keys, put)
    return keys, changes, remarks


def _fix_attention(model: GgufModel, c: ModelConfig, put: Any) -> None:
    a = ARCHITECTURE
    if has_unsplit_attention(model):
        put(f"{a}.attention.head_count_kv", u32(1))
        put(f"{a}.attention.key_length", u32(c.kv_lora_rank + c.qk_rope_head_dim))
        put(f"{a}.attention.value_length", u32(c.kv_lora_rank))
        put(f"{a}.attention.key_length_mla", u32(c.qk_head_dim))
        put(f"{a}.attention.value_length_mla", u32(c.v_head_dim))
    if c.q_lora_rank is None:
        put(f"{a}.attention.q_lora_rank", u32(0))


def _fix_routing(c: ModelConfig, keys: Metadata, remarks: list[str], put: Any) -> None:
    a = ARCHITECTURE
    put(f"{a}.expert_gating_func", u32(1))
    if f"{a}.expert_group_count" in keys:
        return
    known = _PUBLISHED.get((c.n_layers, c.hidden_size, c.n_routed_experts))
    if known is None:
        remarks.append(f"{a}.expert_group_count: absent, and not known for a model of this shape; left so")
        return
    put(f"{a}.expert_group_count", u32(known[0]))
    put(f"{a}.expert_group_used_count", u32(known[1]))


def _fix_rope(c: ModelConfig, keys: Metadata, remarks: list[str], put: Any) -> None:
    key = f"{ARCHITECTURE}.rope.scaling.yarn_log_multiplier"
    if c.yarn is None:
        return
    value = keys[key].value if key in keys else None
    if value is None:
        known = _PUBLISHED.get((c.n_layers, c.hidden_size, c.n_routed_experts))
        if known is None or known[2] is None:
            remarks.append(f"{key}: absent, and the file does not tell it; left so: attention is scaled wrongly")
        else:
            put(key, f32(known[2]))
    else:
        put(key, f32(yarn_multiplier(value)))


def yarn_multiplier(stored: float) -> float:
    """The YaRN multiplier that a file means by `stored`, the value of its key ``yarn_log_multiplier``.

    Some files of 2024 have mscale itself there, 0.707 or 1, instead of a tenth of it.
    """
    return stored * 0.1 if stored > 0.3 else stored


def _fix_tokenizer(keys: Metadata, put: Any) -> None:
    tokens = keys["tokenizer.ggml.tokens"].value if "tokenizer.ggml.tokens" in keys else []
    ids = {t: i for i, t in enumerate(tokens) if looks_special(t)}
    if "<｜begin▁of▁sentence｜>" not in ids:
        return  # a vocabulary of another family: nothing is known about it
    put("tokenizer.ggml.pre", text("deepseek-llm"))
    for name, token in FIM_TOKENS.items():
        if token in ids:
            put(f"tokenizer.ggml.{name}_token_id", u32(ids[token]))
    types = list(keys["tokenizer.ggml.token_type"].value) if "tokenizer.ggml.token_type" in keys else []
    if len(types) != len(tokens):
        types = [NORMAL] * len(tokens)
    special_ids = set(ids.values())
    fixed = [
        CONTROL if i in special_ids else UNUSED if t.startswith("[PAD") and k == NORMAL and t == f"[PAD{i}]" else k
        for i, (t, k) in enumerate(zip(tokens, types, strict=True))
    ]
    put("tokenizer.ggml.token_type", i32s(fixed))


def _short(value: Any) -> str:
    if isinstance(value, list):
        special = sum(v in (CONTROL, USER_DEFINED) for v in value)
        return f"{len(value)} values, {special} special"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
