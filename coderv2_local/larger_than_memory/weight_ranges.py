"""Where in a model's files the weights lie: the stacks of routed experts, and what every token reads.

An expert is one contiguous range of bytes in each stack of its layer: gate, up and down, or gate-and-up and down.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.placement.load_options import LoadOptions
from converters.gguf_header import GgufHeader, TensorInfo
from converters.gguf_model import open_gguf
from quant.recipes import is_expert

_LAYER = re.compile(r"blk\.(\d+)\.")
_STACK = re.compile(r"blk\.(\d+)\.ffn_(gate|up|gate_up|down)_exps\.weight")
_USED_LAST = "down"  # the order of use is: gate, up (or both fused), then down


@dataclass(frozen=True, order=True)
class Range:
    """Bytes `start` up to, not including, `end` of one file of the model."""

    file: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Stack:
    """The experts of one layer and one projection: expert e begins at ``start + e · expert_bytes``."""

    file: int
    start: int
    expert_bytes: int
    n_experts: int

    def ranges(self, experts: Iterable[int]) -> list[Range]:
        """The bytes of `experts` (ascending ids), neighbours joined."""
        found: list[Range] = []
        for e in experts:
            start = self.start + e * self.expert_bytes
            if found and found[-1].end == start:
                start = found.pop().start
            found.append(Range(self.file, start, self.start + (e + 1) * self.expert_bytes))
        return found


@dataclass(frozen=True)
class WeightRanges:
    """The weights of a model by how they are read.

    Attributes:
        files: the model's file, or all parts of a split one.
        stacks: layer → its stacks, in the order in which a layer uses them.
        dense: what every token reads, ascending, neighbours joined. Not the embedding: a token reads one row of it.
        tensors: every tensor and the file it is in.
    """

    files: tuple[Path, ...]
    stacks: Mapping[int, tuple[Stack, ...]]
    dense: tuple[Range, ...]
    tensors: Mapping[str, tuple[int, TensorInfo]]

    @property
    def expert_bytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(s.expert_bytes * s.n_experts for stacks in self.stacks.values() for s in stacks)

    @property
    def dense_bytes(self) -> int:
        """Bytes that every token reads."""
        return sum(r.length for r in self.dense)

    def on_processor(self, options: LoadOptions) -> "WeightRanges":
        """What of them the processor reads where `options` puts layers on GPUs: the last ones, the output being one.

        Of those, the experts of some layers stay in main memory.
        """
        if not options.n_gpu_layers:
            return self
        layers = {name: int(match[1]) for name in self.tensors if (match := _LAYER.match(name))}
        first = max(layers.values()) + 2 - options.n_gpu_layers

        def stays(name: str) -> bool:
            if name not in layers:
                return name == "token_embd.weight"
            return layers[name] < first or (is_expert(name) and layers[name] in options.cpu_expert_layers)

        return _ranges(self.files, self.tensors, stays)


def weight_ranges(path: Path) -> WeightRanges:
    """Find the weights of the model at `path`, the first part where it is split.

    Raises:
        GgufError: a part is missing or damaged.
    """
    model = open_gguf(path)
    names = sorted({file for file, _ in model.tensors.values()} | {path.name})
    number = {name: i for i, name in enumerate(names)}
    tensors = {name: (number[file], info) for name, (file, info) in model.tensors.items()}
    return _ranges(tuple(path.with_name(n) for n in names), tensors, lambda _: True)


def _ranges(
    files: tuple[Path, ...], tensors: Mapping[str, tuple[int, TensorInfo]], wanted: Callable[[str], bool]
) -> WeightRanges:
    """The ranges of the tensors whose names are wanted."""
    stacks: dict[int, list[tuple[str, Stack]]] = {}
    for name, (file, info) in tensors.items():
        match = _STACK.fullmatch(name)
        if match and len(info.shape) == 3 and wanted(name):
            n_experts = info.shape[0]
            stack = Stack(file, info.offset, info.nbytes // n_experts, n_experts)
            stacks.setdefault(int(match[1]), []).append((match[2], stack))
    in_order = {
        layer: tuple(s for _, s in sorted(found, key=lambda entry: entry[0] == _USED_LAST))
        for layer, found in sorted(stacks.items())
    }
    dense = _joined(
        Range(f, t.offset, t.offset + t.nbytes)
        for f, t in tensors.values()
        if _every_token(t.name, tensors) and wanted(t.name)
    )
    return WeightRanges(files, in_order, dense, tensors)


def dense_bytes(header: GgufHeader) -> int:
    """Bytes that every token reads: all but the routed experts and the embedding.

    Args:
        header: of the file; of a split model, with the tensors of all parts.
    """
    return sum(t.nbytes for t in header.tensors.values() if _every_token(t.name, header.tensors))


def _every_token(name: str, tensors: Mapping[str, object]) -> bool:
    return not is_expert(name) and (name != "token_embd.weight" or "output.weight" not in tensors)


def _joined(ranges: Iterable[Range], gap: int = 4096) -> tuple[Range, ...]:
    """Ranges in the order of the files; those less than `gap` bytes apart become one."""
    found: list[Range] = []
    for r in sorted(ranges):
        if found and found[-1].file == r.file and r.start - found[-1].end < gap:
            r = Range(r.file, found.pop().start, r.end)
        found.append(r)
    return tuple(found)
