"""Running a model larger than memory: the chosen experts are read all at once, the next layer's before it chooses.

A mixture model reads a tenth of its experts for a token, and which ones is known only once a layer's router has
chosen. Left to page faults the disk then reads one small piece at a time. The tap stops at ``ffn_moe_topk``, the
chosen ids, and advises the kernel of all their bytes in one go. It also guesses the next layer's choice, by holding
this layer's hidden state against the next layer's router, and advises the surest guesses too, so that the disk works
while this layer computes. docs/larger-than-memory.md has the figures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coderv2_local.hooks import HookError, TensorHead
from coderv2_local.larger_than_memory.advised_experts import AdvisedExperts
from coderv2_local.larger_than_memory.expert_cache import ExpertCache
from coderv2_local.larger_than_memory.expert_store import ExpertStore, NotCacheable
from coderv2_local.larger_than_memory.residency import SUPPORTED, ModelFiles, available_memory
from coderv2_local.larger_than_memory.router_ahead import RouterAhead
from coderv2_local.larger_than_memory.weight_ranges import Range, WeightRanges, weight_ranges
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import read_floats
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from quant.ggml import tensor_get

_NODE = re.compile(r"(ffn_moe_topk|ffn_moe_swiglu|ffn_inp)-(\d+)")
_I32 = 26  # ggml_type


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
        expert_memory: bytes of this program's memory for experts; None for as much as is free; 0 leaves them to the
            page cache, which is also done where own memory cannot be had.
        ahead: guesses the next layer; None to advise only what is chosen.
        keep_dense: lock what every token reads, or, where the limit on locked memory forbids it, watch it.
    """

    name = "expert prefetch"

    def __init__(
        self,
        ranges: WeightRanges,
        files: ModelFiles,
        ahead: RouterAhead | None,
        *,
        expert_memory: int | None = None,
        keep_dense: bool = True,
    ) -> None:
        self.ranges, self.files, self.ahead, self.keep_dense = ranges, files, ahead, keep_dense
        self.expert_memory = expert_memory
        self.experts: ExpertStore = AdvisedExperts(ranges, files)
        self.counters = PrefetchCounters()
        self._next: dict[int, int] = {}  # layer → the one after it
        self._hidden: dict[int, int] = {}  # layer → address of its hidden state, in the graph now computed
        self._known: dict[int, dict[int, bool]] = {}  # layer → expert guessed in this decode → was it in memory?
        self._guessed: set[int] = set()  # of the next layer
        self._tokens = 0  # of this decode
        self._half_used: dict[int, list[int]] = {}  # layer → chosen experts whose last matrix may still be on its way
        self._dense: tuple[Range, ...] = ()  # what is to be kept in memory
        self._watch_dense = False
        self._brought_in = False

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
        """The chosen ids, and what comes between an expert's first two matrices and its last."""
        match = _NODE.fullmatch(node_name)
        return match is not None and match[1] != "ffn_inp" and int(match[2]) in self.ranges.stacks

    def __call__(self, node_name: str, tensor: int) -> None:
        """Take the chosen experts of a layer, or let it go on to their last matrix when that is there."""
        name, _, number = node_name.rpartition("-")
        if name == "ffn_moe_topk":
            self._fetch(int(number), tensor)
        else:
            self.experts.wait(int(number), self._half_used.pop(int(number), ()), "rest")

    def _fetch(self, layer: int, tensor: int) -> None:
        """Fetch the chosen experts of this layer, and those that the next one will probably choose."""
        if not self._brought_in:
            self._bring_in_dense()
        ids = read_ids(tensor)
        unique, times = np.unique(ids, return_counts=True)
        chosen, counts = unique.tolist(), times.tolist()
        self._tokens = max(self._tokens, len(ids))
        known = self._known.pop(layer, {})
        known |= self.experts.look_at(layer, [e for e in chosen if e not in known])
        self.experts.fetch(layer, chosen)
        self._count(layer, chosen, known)
        self.experts.used(layer, chosen, counts)
        after = self._next.get(layer)
        if chosen and after is not None:
            self._look_ahead(layer, after)
        self.experts.wait(layer, chosen, "first")
        if chosen:
            self._half_used[layer] = chosen

    def _count(self, layer: int, chosen: list[int], known: dict[int, bool]) -> None:
        c = self.counters
        c.chosen += len(chosen)
        c.guessed += len(self._guessed.intersection(chosen))
        c.in_memory += sum(known[e] for e in chosen)
        for e in chosen:
            c.uses[layer, e] = c.uses.get((layer, e), 0) + 1

    def _look_ahead(self, layer: int, after: int) -> None:
        """Fetch what layer `after` will probably choose, judging by the hidden state in `layer`."""
        self._guessed = set()
        address = self._hidden.pop(layer, None)
        guess = self.ahead.guess(after, read_floats(address)) if self.ahead and address is not None else None
        if guess is None:
            return
        # The surer half: a wrong guess costs as much of the disk's time as a right one saves.
        sure: list[int] = np.unique(guess[:, : max(1, guess.shape[1] // 2)]).tolist()
        self._guessed = set(sure)
        self._known[after] = self.experts.look_at(after, sure)
        self.counters.guesses += len(sure)
        self.experts.fetch(after, sure, guessed=True)

    def start(self, options: LoadOptions) -> None:
        """Decide where the experts are kept, and say what is not as it should be. Reads nothing of the model.

        What lies on a GPU is left out: the file's bytes are of no use any more.

        Raises:
            ReadError: a file of the model cannot be opened.
        """
        self.ranges = self.ranges.on_processor(options)
        self.experts = AdvisedExperts(self.ranges, self.files)
        self._next = {layer: layer + 1 for layer in self.ranges.stacks if layer + 1 in self.ranges.stacks}
        self.files.find_mappings()
        if self.ranges.dense_bytes > available_memory():
            self.files.notices.append(
                f"memory is too small even for the {self.ranges.dense_bytes / 1e9:.1f} GB that every token reads:"
                " expect seconds a token"
            )
            self.keep_dense = False
        self._dense = (*self.ranges.dense, *self._start_store())

    def _bring_in_dense(self) -> None:
        """At the first decode: read what every token reads, which takes as long as it would take the decode itself."""
        self._brought_in = True
        if self.keep_dense and not self.files.lock(self._dense):
            self._watch_dense = True
            self._renew()

    def _start_store(self) -> Sequence[Range]:
        """Own memory for the experts if there can be, else the page cache."""
        if self.expert_memory != 0 and self.keep_dense and self.ranges.stacks:
            cache = ExpertCache(self.ranges, self.files, self.expert_memory)
            try:
                shared = cache.start(self.ranges.dense_bytes)
                self.experts = cache
                if not cache.reads_directly:
                    self.files.notices.append(
                        "this file system has no direct reads: experts come through the system's file cache, "
                        "which is slower"
                    )
                return shared
            except NotCacheable as reason:
                cache.close()
                self.files.notices.append(f"experts are kept in the system's file cache, which is slower: {reason}")
        return self.experts.start(self.ranges.dense_bytes)

    def finish(self) -> None:
        """At the end of a decode: read again what has fallen out of memory of the dense tensors.

        Raises:
            HookError: this llama.cpp names its nodes in another way.
        """
        if self._half_used:
            raise HookError(
                "experts were computed with before they were read: the answer would be wrong",
                hint="this version of llama.cpp is not known; a model that fits into memory works",
            )
        self.counters.decodes += 1
        self.abandon()
        if self._watch_dense:
            self._renew()

    def abandon(self) -> None:
        """Forget the decode. What it has read is kept, and no longer in use."""
        self._half_used.clear()
        self._hidden.clear()
        self._known.clear()
        self._guessed.clear()
        self.experts.tokens_passed(self._tokens)
        self._tokens = 0

    def _renew(self) -> None:
        self.counters.dense_bytes_renewed += self.files.will_need(self.files.missing(self._dense))

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self.experts.close()
        self.files.close()
        if self.ahead:
            self.ahead.close()


def larger_than_memory(path: Path, header: GgufHeader, expert_memory: int | None = None) -> list[ExpertPrefetch]:
    """The taps for a model whose files exceed the memory that can cache them. They go last in the engine's list.

    Args:
        path: the model's file, the first part where it is split.
        header: of that file.
        expert_memory: as :class:`ExpertPrefetch` takes it.

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
    ahead = RouterAhead(ranges, config_of(header))
    return [ExpertPrefetch(ranges, ModelFiles(ranges.files), ahead, expert_memory=expert_memory)]


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
