"""Does a GGUF have the tensors, in the shapes, that its own metadata call for? Looked at before anything is run."""

from collections.abc import Iterator

from converters.config import ModelConfig
from converters.gguf_header import GgufHeader
from converters.tensor_table import Part, Wanted, tensor_table


def expected_tensors(header: GgufHeader, config: ModelConfig) -> Iterator[Wanted]:
    """The tensors that the file should have, in the form that it has them.

    A file from before the MLA split holds the key and value expansions as the checkpoint does, in one ``attn_kv_b``. A
    file may hold the gate and up matrices of its experts fused, as llama.cpp can load them: an expert's gate, then its
    up, in one ``ffn_gate_up_exps``.
    """
    table = {wanted.name: wanted for wanted in tensor_table(config)}
    for wanted in table.values():
        layer, _, kind = wanted.name.rpartition(".")[0].rpartition(".")
        fused, whole = f"{layer}.ffn_gate_up_exps.weight", f"{layer}.attn_kv_b.weight"
        if kind in ("attn_k_b", "attn_v_b") and whole in header.tensors:
            if kind == "attn_k_b":
                stored, shape = wanted.parts[0].stored, wanted.parts[0].stored_shape
                yield Wanted(whole, shape, (Part(stored, shape, 0, shape[0]),))
        elif kind in ("ffn_gate_exps", "ffn_up_exps") and fused in header.tensors:
            if kind == "ffn_gate_exps":
                yield _fused(fused, wanted, table[f"{layer}.ffn_up_exps.weight"])
        else:
            yield wanted


def _fused(name: str, gate: Wanted, up: Wanted) -> Wanted:
    experts, rows, columns = gate.shape
    parts = tuple(part for pair in zip(gate.parts, up.parts, strict=True) for part in pair)
    return Wanted(name, (experts, 2 * rows, columns), parts)


def problems(header: GgufHeader, config: ModelConfig) -> list[str]:
    """What is missing or has another shape, in words."""
    found = []
    for wanted in expected_tensors(header, config):
        info = header.tensors.get(wanted.name)
        if info is None:
            found.append(f"tensor {wanted.name} is missing")
        elif info.shape != wanted.shape:
            turned = info.shape == (*wanted.shape[:-2], *wanted.shape[:-3:-1]) and len(info.shape) > 1
            why = ": it was not transposed" if turned else ""
            found.append(f"tensor {wanted.name} has shape {info.shape}, not {wanted.shape}{why}")
    return found
