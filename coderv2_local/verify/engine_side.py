"""The engine's side: its logits, and what its layers computed on the way."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coderv2_local.engine import Engine
from coderv2_local.hooks import HookError, Tap, TensorHead
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import read_floats
from quant.ggml import tensor_get

from .measures import Logits

Values = npt.NDArray[np.generic]

STAGES = {
    "embd": "embedding",
    "ffn_inp": "attention",
    "ffn_moe_probs": "probabilities",
    "ffn_moe_topk": "router",
    "ffn_out": "experts",
    "result_norm": "norm",
}
"""The engine's node → the stage's name. `attention` is the residual stream after attention."""
_NODE = re.compile(r"(embd|inp_embd|result_norm|(?:ffn_inp|ffn_moe_probs|ffn_moe_topk|ffn_out)-(\d+))")


class StageTap:
    """A tap that keeps what every layer computed.

    Attributes:
        values: (stage, layer) → the rows of each batch; layer is -1 outside the layers.
    """

    name = "stages"

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], list[Values]] = {}

    def wants(self, node_name: str) -> bool:
        """The nodes of `STAGES`."""
        return _NODE.fullmatch(node_name) is not None

    def __call__(self, node_name: str, tensor: int) -> None:
        """Keep a copy."""
        stem, _, layer = node_name.partition("-")
        stage = STAGES["embd" if stem == "inp_embd" else stem]
        value = read_ids(tensor) if stage == "router" else read_floats(tensor)
        self.values.setdefault((stage, int(layer or -1)), []).append(value)

    def stage(self, stage: str, layer: int) -> Values | None:
        """All rows of a stage, or None if the engine has no such node."""
        found = self.values.get((stage, layer))
        return np.concatenate(found) if found else None


def read_ids(tensor: int) -> npt.NDArray[np.int32]:
    """A (rows, columns) tensor of ids, whose rows may lie further apart than they are long."""
    head = TensorHead.from_address(tensor)
    rows, columns, stride = head.ne[1], head.ne[0], head.nb[1] // 4
    if head.type != 26 or head.nb[0] != 4:
        raise HookError(f"{head.name.decode()} is no tensor of ids (ggml type {head.type})")
    if not rows:
        return np.empty((0, columns), np.int32)
    flat = np.empty((rows - 1) * stride + columns, np.int32)
    tensor_get(tensor, flat)
    ids: npt.NDArray[np.int32] = np.lib.stride_tricks.as_strided(flat, (rows, columns), (4 * stride, 4)).copy()
    return ids


def exact_engine(path: Path, n_tokens: int, threads: int | None, taps: Sequence[Tap]) -> Engine:
    """An engine that rounds nothing it need not: KV in F32, no flash attention."""
    room = -(-n_tokens // 256) * 256
    return Engine(path, LoadOptions(n_ctx=room, n_threads=threads, flash_attention=False, kv_type="f32"), taps=taps)


def engine_logits(engine: Engine, ids: npt.NDArray[np.integer]) -> Logits:
    """Raw logits of every position: (T, vocabulary)."""
    return engine.evaluate(ids.tolist(), every_position=True)
