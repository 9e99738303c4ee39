"""Exact routing: DeepSeek-V2's choice of experts put in the place of llama.cpp's.

The 236B chooses its experts in two steps (paper, section 2.2.2): the 3 of 8 groups whose *best* expert scores highest,
then the 6 best experts inside them. llama.cpp takes the *sum of the two best* for a group's score, the rule of
DeepSeek-V3, whenever the file has group keys, and no groups at all where it has none. Both pick other experts than the
model was trained with. docs/routing.md has the figures.

The tap stops once a layer, at ``ffn_moe_topk``, the chosen ids, which every later step of the layer reads. It computes
the choice anew from ``ffn_moe_probs`` and overwrites the ids. So it needs no group keys in the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from coderv2_local.hooks import HookError, TensorHead
from coderv2_local.reference.router import group_limited_greedy
from converters.expert_groups import Grouping, grouping
from converters.gguf_config import SOFTMAX_GATING
from converters.metadata import ARCHITECTURE
from quant.errors import InputError
from quant.ggml import tensor_get, tensor_set

_NODE = re.compile(r"ffn_moe_(probs|topk)-(\d+)")
_F32, _I32 = 0, 26  # ggml_type


class ExactRouting:
    """A tap that replaces the chosen experts by those of ``group_limited_greedy``.

    Args:
        n_groups: groups the experts are in.
        n_groups_used: groups a token may use.
        n_moe_layers: layers with experts: how many choices a decode must at least replace.
    """

    name = "exact routing"

    def __init__(self, n_groups: int, n_groups_used: int, n_moe_layers: int) -> None:
        self.n_groups, self.n_groups_used, self.n_moe_layers = n_groups, n_groups_used, n_moe_layers
        self._probs: dict[str, int] = {}  # layer number → address of its probabilities, in the graph now computed
        self._replaced = 0

    def notes(self, node_name: str) -> bool:
        """The probabilities: they stay in memory until the weights are gathered, which is after the choice."""
        match = _NODE.fullmatch(node_name)
        return match is not None and match[1] == "probs"

    def note(self, node_name: str, tensor: int) -> None:
        """Remember where the probabilities of this layer will be."""
        self._probs[node_name.rpartition("-")[2]] = tensor

    def wants(self, node_name: str) -> bool:
        """The chosen ids."""
        match = _NODE.fullmatch(node_name)
        return match is not None and match[1] == "topk"

    def __call__(self, node_name: str, tensor: int) -> None:
        """Overwrite the chosen ids of one layer."""
        address = self._probs.pop(node_name.rpartition("-")[2], None)
        if address is None:
            raise HookError("the router's probabilities did not come before its choice")
        self._replaced += 1
        if _rows(tensor) == 0:  # the last layer, when no logits are asked for
            return
        probs = read_floats(address)
        write_ids(tensor, group_limited_greedy(probs, _columns(tensor), self.n_groups, self.n_groups_used))

    def finish(self) -> None:
        """Refuse a decode in which fewer layers were put right than there are.

        The last layer may be missing: llama.cpp need not evaluate it when no logits are asked for.

        Raises:
            HookError: this llama.cpp names or orders its nodes in another way.
        """
        replaced = self._replaced
        self.abandon()
        if replaced < self.n_moe_layers - 1:
            raise HookError(
                f"exact routing reached {replaced} of {self.n_moe_layers} layers: the answer would be wrong",
                hint="this version of llama.cpp is not known; --stock-routing turns exact routing off",
            )

    def abandon(self) -> None:
        """Forget the decode."""
        self._replaced = 0
        self._probs.clear()


def install_taps(metadata: Mapping[str, Any], known: Grouping | None = None) -> list[ExactRouting]:
    """The taps that a file of this family needs to be routed as its model was trained.

    Args:
        metadata: of its GGUF header.
        known: how the experts are grouped, where that is known from elsewhere (the config that the file was made from)
            and the file itself does not tell.

    Returns:
        One tap where the experts are grouped, also where a published model's file lacks the keys for it; else none.

    Raises:
        InputError: group keys, or numbers of layers, that cannot be.
    """
    if metadata.get("general.architecture") != ARCHITECTURE:
        return []
    if metadata.get(f"{ARCHITECTURE}.expert_gating_func", SOFTMAX_GATING[-1]) not in SOFTMAX_GATING:
        return []  # a sigmoid router is DeepSeek-V3's, for which the sum of two is right
    found = grouping(metadata)
    if found.origin == "nothing" and known is not None:
        found = known
    if found.groups <= 1:
        return []
    layers, dense = (metadata.get(f"{ARCHITECTURE}.{k}", 0) for k in ("block_count", "leading_dense_block_count"))
    if type(layers) is not int or type(dense) is not int:
        raise InputError(
            f"the file's number of layers is {layers!r:.40}, of dense ones {dense!r:.40}: not whole numbers"
        )
    return [ExactRouting(found.groups, found.used, layers - dense)]


def read_floats(tensor: int) -> npt.NDArray[np.float32]:
    """A contiguous float32 tensor of the graph: (rows, columns).

    Raises:
        HookError: it is of another type, or not contiguous.
    """
    head = TensorHead.from_address(tensor)
    columns, rows = head.ne[0], head.ne[1] * head.ne[2] * head.ne[3]
    if head.type != _F32 or head.nb[0] != 4 or (rows > 1 and head.nb[1] != 4 * columns):
        raise HookError(f"{head.name.decode()} is no contiguous float32 tensor (ggml type {head.type})")
    values = np.empty((rows, columns), np.float32)
    tensor_get(tensor, values)
    return values


def write_ids(tensor: int, ids: npt.NDArray[np.intp]) -> None:
    """Overwrite a (rows, columns) tensor of ids, whose rows may lie further apart than they are long.

    Raises:
        HookError: it is of another type or shape.
    """
    head = TensorHead.from_address(tensor)
    rows, columns, stride = head.ne[1], head.ne[0], head.nb[1]
    if head.type != _I32 or (rows, columns) != ids.shape or head.ne[2] != 1 or head.nb[0] != 4 or stride % 4:
        raise HookError(f"{head.name.decode()} is no tensor of {ids.shape} ids (ggml type {head.type})")
    if rows == 1:
        tensor_set(tensor, ids.astype(np.int32))
        return
    flat = np.empty((rows - 1) * (stride // 4) + columns, np.int32)
    tensor_get(tensor, flat)
    np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride, 4))[:] = ids
    tensor_set(tensor, flat)


def _rows(tensor: int) -> int:
    return int(TensorHead.from_address(tensor).ne[1])


def _columns(tensor: int) -> int:
    return int(TensorHead.from_address(tensor).ne[0])
