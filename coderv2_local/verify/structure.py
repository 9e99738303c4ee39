"""Does a GGUF have the tensors, in the shapes, that its own metadata call for? Looked at before anything is run."""

from collections.abc import Iterator

from converters.config import ModelConfig
from converters.gguf_header import GgufHeader
from converters.tensor_table import Part, Wanted, tensor_table


def expected_tensors(header: GgufHeader, config: ModelConfig) -> Iterator[Wanted]:
    """The tensors that the file should have, in the form that it has them.

    A file from before the MLA split holds the key and value expansions as the checkpoint does, in one ``attn_kv_b``.
    """
    for wanted in tensor_table(config):
        layer, _, rest = wanted.name.rpartition(".attn_")
        if rest not in ("k_b.weight", "v_b.weight") or f"{layer}.attn_kv_b.weight" not in header.tensors:
            yield wanted
        elif rest == "k_b.weight":
            part = wanted.parts[0]
            whole = Part(part.stored, part.stored_shape, 0, part.stored_shape[0])
            yield Wanted(f"{layer}.attn_kv_b.weight", part.stored_shape, (whole,))


def problems(header: GgufHeader, config: ModelConfig) -> list[str]:
    """What is missing or has another shape, in words."""
    found = []
    for wanted in expected_tensors(header, config):
        info = header.tensors.get(wanted.name)
        if info is None and _fused(header, wanted.name):
            continue
        if info is None:
            found.append(f"tensor {wanted.name} is missing")
        elif info.shape != wanted.shape:
            turned = info.shape == (*wanted.shape[:-2], *wanted.shape[:-3:-1]) and len(info.shape) > 1
            why = ": it was not transposed" if turned else ""
            found.append(f"tensor {wanted.name} has shape {info.shape}, not {wanted.shape}{why}")
    return found


def _fused(header: GgufHeader, name: str) -> bool:
    """Is this the gate or up of experts that the file holds fused, as llama.cpp can?"""
    stem = name.replace("ffn_gate_exps", "ffn_gate_up_exps").replace("ffn_up_exps", "ffn_gate_up_exps")
    return stem != name and stem in header.tensors
