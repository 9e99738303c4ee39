"""Running a model larger than memory: the chosen experts are read all at once, the next layer's before it chooses.

A mixture model reads a tenth of its experts for a token, and which ones is known only once a layer's router has
chosen. Left to page faults the disk then reads one small piece at a time. The tap stops at ``ffn_moe_topk``, the
chosen ids, and advises the kernel of all their bytes in one go. It also guesses the next layer's choice, by holding
this layer's hidden state against the next layer's router, and advises the surest guesses too, so that the disk works
while this layer computes. The experts used least make room. docs/larger-than-memory.md has the figures.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coderv2_local.hooks import HookError, TensorHead
from coderv2_local.hot_experts import HotExperts
from coderv2_local.residency import SUPPORTED, ModelFiles, available_memory
from coderv2_local.router_ahead import RouterAhead
from coderv2_local.routing import read_floats
from coderv2_local.weight_ranges import Range, WeightRanges, weight_ranges
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from quant.ggml import tensor_get

_NODE = re.compile(r"(ffn_moe_topk|ffn_inp)-(\d+)")
_I32 = 26  # ggml_type
DENSE_PIECE = 1 << 20
"""Dense tensors are watched in pieces of so many bytes."""
RESERVE = 0.04
"""Share of the available memory that is left to the kernel and to reads on their way."""
DECODES_A_LOOK = 32
"""How often the memory that can be had is asked for again."""


@dataclass
class PrefetchCounters:
    """What the tap has seen. An expert is counted once a layer and decode, for however many tokens it is used."""

    decodes: int = 0
    chosen: int = 0
    """Experts that routers chose."""
    in_memory: int = 0
    """Of those, the ones that were in memory when first heard of, guessed or chosen."""
    guessed: int = 0
    """Of those chosen, the ones that had been guessed a layer ahead."""
    guesses: int = 0
    """Experts guessed a layer ahead, right or wrong."""
    advised_bytes: int = 0
    """Bytes of advice on experts, in memory or not."""
    dropped: int = 0
    """Experts given up to make room."""
    dense_bytes_renewed: int = 0
    """Bytes of dense tensors that had fallen out of memory and were read again ahead of use."""
    uses: dict[tuple[int, int], int] = field(default_factory=dict)
    """(layer, expert) → how often it was chosen."""

    @property
    def cache_hit_rate(self) -> float:
        """Share of the chosen experts that were in memory."""
        return self.in_memory / max(1, self.chosen)

    @property
    def guess_hit_rate(self) -> float:
        """Share of the chosen experts that had been guessed."""
        return self.guessed / max(1, self.chosen)

    @property
    def guess_precision(self) -> float:
        """Share of the guesses that were right."""
        return self.guessed / max(1, self.guesses)


class ExpertPrefetch:
    """The tap. Put it after exact routing: it takes the choice as it then is.

    Args:
        ranges: where the weights lie.
        files: the same files, opened for advice.
        ahead: guesses the next layer; None to advise only what is chosen.
        keep_dense: lock what every token reads, or, where the limit on locked memory forbids it, watch it.
        make_room: tell the kernel which experts are used least, so that it drops those.
    """

    name = "expert prefetch"

    def __init__(
        self,
        ranges: WeightRanges,
        files: ModelFiles,
        ahead: RouterAhead | None,
        *,
        keep_dense: bool = True,
        make_room: bool = True,
    ) -> None:
        self.ranges, self.files, self.ahead = ranges, files, ahead
        self.keep_dense, self.make_room = keep_dense, make_room
        self.counters = PrefetchCounters()
        sizes = {layer: sum(s.expert_bytes for s in stacks) for layer, stacks in ranges.stacks.items()}
        most = max((s.n_experts for stacks in ranges.stacks.values() for s in stacks), default=0)
        self.hot = HotExperts(sizes, most)
        layers = sorted(ranges.stacks)
        self._next = dict(itertools.pairwise(layers))
        self._hidden: dict[int, int] = {}  # layer → address of its hidden state, in the graph now computed
        self._known: dict[int, dict[int, bool]] = {}  # layer → expert guessed in this decode → was it in memory?
        self._watched: list[Range] = []
        self._started = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._job: Future[int] | None = None

    @property
    def notices(self) -> Sequence[str]:
        """What the kernel refused, for the user."""
        return self.files.notices

    def notes(self, node_name: str) -> bool:
        """The hidden state before the experts: it stays in memory until the layer's output is added to it."""
        match = _NODE.fullmatch(node_name)
        return self.ahead is not None and match is not None and match[1] == "ffn_inp" and int(match[2]) in self._next

    def note(self, node_name: str, tensor: int) -> None:
        """Remember where the hidden state of this layer will be."""
        self._hidden[int(node_name.rpartition("-")[2])] = tensor

    def wants(self, node_name: str) -> bool:
        """The chosen ids."""
        match = _NODE.fullmatch(node_name)
        return match is not None and match[1] == "ffn_moe_topk" and int(match[2]) in self.ranges.stacks

    def __call__(self, node_name: str, tensor: int) -> None:
        """Advise the chosen experts of this layer, and those that the next one will probably choose."""
        if not self._started:
            self._start()
        self._await_job()
        layer = int(node_name.rpartition("-")[2])
        chosen = np.unique(read_ids(tensor)).tolist()
        known = self._known.pop(layer, {})
        late = self._look_at(layer, [e for e in chosen if e not in known])
        self.counters.advised_bytes += self._advise(layer, late)
        self._count(layer, chosen, known, late)
        after = self._next.get(layer)
        guesses = self._guess(layer, after) if chosen and after is not None else {}
        room = self.hot.give_up() if self.make_room else []
        if guesses or room:  # beside the layer's own work
            self._job = self._worker.submit(self._look_ahead, room, after, guesses)

    def _count(self, layer: int, chosen: list[int], known: dict[int, bool], late: dict[int, bool]) -> None:
        c = self.counters
        c.chosen += len(chosen)
        c.guessed += sum(e in known for e in chosen)
        c.in_memory += sum((known | late)[e] for e in chosen)
        for e in chosen:
            c.uses[layer, e] = c.uses.get((layer, e), 0) + 1
        self.hot.add(layer, chosen)
        self.hot.count(layer, chosen)

    def _guess(self, layer: int, after: int) -> dict[int, bool]:
        address = self._hidden.pop(layer, None)
        guess = self.ahead.guess(after, read_floats(address)) if self.ahead and address is not None else None
        if guess is None:
            return {}
        # The surer half: a wrong guess costs as much of the disk's time as a right one saves.
        sure = guess[:, : max(1, guess.shape[1] // 2)]
        known = self._known[after] = self._look_at(after, np.unique(sure).tolist())
        self.hot.add(after, known)
        self.counters.guesses += len(known)
        return known

    def _look_ahead(self, room: list[tuple[int, int]], layer: int | None, guesses: Iterable[int]) -> int:
        """In the worker thread: make room, then advise the guesses. Returns the bytes advised."""
        advised = self._advise(layer, guesses) if layer is not None else 0
        for old_layer, e in room:
            self.files.cool(r for s in self.ranges.stacks[old_layer] for r in s.ranges([e]))
        return advised

    def _await_job(self) -> None:
        if self._job is not None:
            self.counters.advised_bytes += self._job.result()
            self._job = None

    def _look_at(self, layer: int, experts: Iterable[int]) -> dict[int, bool]:
        """Expert → is it in memory?"""
        stacks = self.ranges.stacks[layer]
        return {e: all(self.files.in_memory(r) for s in stacks for r in s.ranges([e])) for e in experts}

    def _advise(self, layer: int, experts: Iterable[int]) -> int:
        """Advise experts (ascending ids), also those that seem to be there: single pages may have gone."""
        wanted = list(experts)
        return sum(self.files.will_need(stack.ranges(wanted)) for stack in self.ranges.stacks[layer])

    def _start(self) -> None:
        """At the first decode: the model is mapped now."""
        self._started = True
        self.files.find_mappings()
        if self.ranges.dense_bytes > available_memory():
            self.files.notices.append(
                f"memory is too small even for the {self.ranges.dense_bytes / 1e9:.1f} GB that every token reads:"
                " expect seconds a token"
            )
            self.keep_dense = False
        if self.keep_dense and not self.files.lock(self.ranges.dense):
            self._watched = [piece for r in self.ranges.dense for piece in pieces(r, DENSE_PIECE)]
            self._renew()
        self._set_budget()
        if self.make_room:
            self._take_stock()

    def _set_budget(self) -> None:
        available = available_memory()
        self.hot.budget = int(available * (1 - RESERVE)) - (self.ranges.dense_bytes - self.files.locked_bytes)

    def _take_stock(self) -> None:
        """Which experts are in memory already?"""
        for layer, stacks in self.ranges.stacks.items():
            there = self._look_at(layer, range(stacks[0].n_experts))
            self.hot.add(layer, [e for e, found in there.items() if found])
        self.hot.end_decode()

    def finish(self) -> None:
        """At the end of a decode: read again what has fallen out of memory of the dense tensors."""
        self._await_job()
        self.counters.decodes += 1
        self._hidden.clear()
        self._known.clear()
        self.hot.end_decode()
        self.counters.dropped = self.hot.given_up
        if self._started:
            self._renew()
            if self.counters.decodes % DECODES_A_LOOK == 0:
                self._set_budget()

    def _renew(self) -> None:
        missing = [r for r in self._watched if not self.files.in_memory(r)]
        self.counters.dense_bytes_renewed += self.files.will_need(missing)

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._worker.shutdown()
        self.files.close()


def larger_than_memory(path: Path, header: GgufHeader) -> list[ExpertPrefetch]:
    """The taps for a model whose files exceed the memory that can cache them. They go last in the engine's list.

    Args:
        path: the model's file, the first part where it is split.
        header: of that file.

    Returns:
        One tap; none where the system gives no such control (other than Linux) or the model has no routed experts:
        plain mmap has to do then.

    Raises:
        GgufError: a part of a split model is missing or damaged.
        ReadError: a file cannot be opened.
    """
    if not SUPPORTED:
        return []
    ranges = weight_ranges(path)
    if not ranges.stacks:
        return []
    return [ExpertPrefetch(ranges, ModelFiles(ranges.files), RouterAhead(ranges, config_of(header)))]


def pieces(r: Range, size: int) -> list[Range]:
    """The range cut into pieces of at most `size` bytes."""
    return [Range(r.file, at, min(r.end, at + size)) for at in range(r.start, r.end, size)]


def read_ids(tensor: int) -> npt.NDArray[np.int32]:
    """A (rows, columns) tensor of ids, whose rows may lie further apart than they are long.

    Raises:
        HookError: it is of another type or shape.
    """
    head = TensorHead.from_address(tensor)
    rows, columns, stride = head.ne[1], head.ne[0], head.nb[1]
    if head.type != _I32 or head.ne[2] != 1 or head.nb[0] != 4 or stride % 4:
        raise HookError(f"{head.name.decode()} is no matrix of ids (ggml type {head.type})")
    if rows == 0:  # the last layer, when no logits are asked for
        return np.empty((0, columns), np.int32)
    flat = np.empty((rows - 1) * (stride // 4) + columns, np.int32)
    tensor_get(tensor, flat)
    ids: npt.NDArray[np.int32] = np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride, 4)).copy()
    return ids
