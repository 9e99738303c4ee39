"""Recipes: which type each tensor of the model takes.

``moe-4`` and ``moe-8`` are this project's: routed experts are 92–95 % of the weights and take 4 or 8 bits; what every
token passes through keeps more. The other names are llama.cpp's and choose what its ``llama-quantize`` chooses for
this architecture (src/llama-quant.cpp).
"""

import re
from dataclasses import dataclass

from quant.block_types import F16, F32, Q8_0, BlockType, block_type
from quant.errors import InputError

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Recipe:
    """A named choice of types."""

    name: str
    experts: str
    """Type of the routed experts."""
    rest: str
    """Type of the other matrices; norms and the router stay F32."""
    file_type: int
    """``general.file_type``, llama.cpp's number for the mixture."""
    summary: str
    ours: bool = False
    """Is it this project's, without llama.cpp's exceptions for single tensors?"""


RECIPES = {
    r.name: r
    for r in (
        Recipe("moe-4", "Q4_K", "Q8_0", 15, "routed experts 4 bits, all else 8 bits (default)", ours=True),
        Recipe("moe-8", "Q8_0", "BF16", 7, "routed experts 8 bits, all else as published (BF16)", ours=True),
        Recipe("q4_0", "Q4_0", "Q4_0", 2, "llama.cpp's q4_0"),
        Recipe("q4_k_s", "Q4_K", "Q4_K", 14, "llama.cpp's q4_k_s"),
        Recipe("q4_k_m", "Q4_K", "Q4_K", 15, "llama.cpp's q4_k_m"),
        Recipe("q5_k_m", "Q5_K", "Q5_K", 17, "llama.cpp's q5_k_m"),
        Recipe("q6_k", "Q6_K", "Q6_K", 18, "llama.cpp's q6_k"),
        Recipe("q8_0", "Q8_0", "Q8_0", 7, "llama.cpp's q8_0"),
        Recipe("f16", "F16", "F16", 1, "16-bit floats"),
        Recipe("bf16", "BF16", "BF16", 32, "as published, nothing lost"),
        Recipe("f32", "F32", "F32", 0, "32-bit floats, for checking"),
    )
}

_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
"""For rows that are not multiples of 256: llama.cpp's own substitutes."""

_NEXT_UP = {
    "Q4_0": "Q5_0", "IQ4_NL": "Q5_0", "Q4_1": "Q5_1", "IQ4_XS": "Q5_K", "Q4_K": "Q5_K", "Q5_K": "Q6_K", "Q6_K": "Q8_0",
    "Q5_0": "Q8_0", "Q5_1": "Q8_0",
}  # fmt: skip


@dataclass(frozen=True)
class ModelShape:
    """What llama.cpp's exceptions for single tensors depend on."""

    n_layers: int
    n_experts: int
    tied: bool
    """Do embeddings and output share one tensor?"""
    has_imatrix: bool = False


@dataclass(frozen=True)
class Choice:
    """A type, and the reason where it is not the recipe's plain answer."""

    type: BlockType
    note: str = ""


def recipe(name: str) -> Recipe:
    """The recipe called `name`, in either case.

    Raises:
        InputError: there is none.
    """
    try:
        return RECIPES[name.lower()]
    except KeyError:
        raise InputError(f"no recipe is called {name!r}", hint=f"known are {' '.join(RECIPES)}") from None


def is_expert(name: str) -> bool:
    """Is it a stack of routed experts?"""
    return "_exps." in name


def stays_f32(name: str, n_dims: int) -> bool:
    """Norms and the router: small, and every decision hangs on them."""
    return n_dims < 2 or name.endswith("_norm.weight") or ".ffn_gate_inp." in name


def next_up(kind: BlockType) -> BlockType:
    """The next more exact type, for layers with too little calibration; the type itself where there is none."""
    return block_type(_NEXT_UP.get(kind.name, kind.name))


def fit(kind: BlockType, columns: int) -> Choice:
    """`kind`, or what takes its place when a row of `columns` is not whole blocks of it."""
    if kind.fits(columns):
        return Choice(kind)
    note = f"rows of {columns} are not multiples of {kind.block_size}"
    narrow = block_type(_NARROW.get(kind.name, "F16"))
    return Choice(narrow if narrow.fits(columns) else F16, f"{note}: {kind.name} → {narrow.name}")


def choose(
    r: Recipe,
    name: str,
    shape: tuple[int, ...],
    model: ModelShape,
    *,
    experts: BlockType | None = None,
    raise_experts: bool = False,
) -> Choice:
    """The type for one tensor.

    Args:
        r: the recipe.
        name: the tensor's GGUF name.
        shape: outermost dimension first.
        model: what the whole model looks like.
        experts: overrides the recipe's type for routed experts.
        raise_experts: this layer's experts lack calibration and go up one type.
    """
    if stays_f32(name, len(shape)):
        return Choice(F32)
    if is_expert(name) and experts is not None:
        kind = experts
    elif r.ours:
        kind = block_type(r.experts if is_expert(name) else r.rest)
    else:
        kind = _llama_choice(r, name, shape, model)
    note = ""
    if raise_experts and is_expert(name) and next_up(kind) != kind:
        note = f"too few experts calibrated: {kind.name} → {next_up(kind).name}"
        kind = next_up(kind)
    fitted = fit(kind, shape[-1])
    return Choice(fitted.type, "; ".join(n for n in (note, fitted.note) if n))


def _llama_choice(r: Recipe, name: str, shape: tuple[int, ...], model: ModelShape) -> BlockType:
    default = block_type(r.rest)
    if default.is_float:
        return default
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return Q8_0 if default == Q8_0 or not default.fits(shape[-1]) else block_type("Q6_K")
    if "ffn_down" in name:
        return _llama_down(r, _layer_of(name), model) or default
    if "attn_output.weight" in name and model.n_experts == 8 and r.name in ("q4_k_s", "q4_k_m"):
        return block_type("Q5_K")
    return default


def _llama_down(r: Recipe, layer: int, model: ModelShape) -> BlockType | None:
    n = model.n_layers
    eighth = n // 8
    sensitive = layer < eighth or layer >= 7 * n // 8 or (layer - eighth) % 3 == 2
    if r.name in ("q4_k_m", "q5_k_m") and sensitive:
        return block_type("Q6_K")
    if r.name == "q4_k_s" and layer < eighth:
        return block_type("Q5_K")
    if r.name == "q4_0" and model.has_imatrix and layer < eighth:
        return block_type("Q4_1")
    return None


def _layer_of(name: str) -> int:
    found = _LAYER.match(name)
    return int(found.group(1)) if found else 0
