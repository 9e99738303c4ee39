"""How far stored blocks may be from their source. docs/verify.md has the measurements.

A quantizer is not told apart from another by its bytes: with importance weights it gives up whole columns for the sake
of others, and single blocks then err nine times as much as without. What no quantizer does is to make all values of a
part smaller or larger, to err twice as much on average, or to change one block among many that are byte for byte as
ggml makes them.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quant import ggml
from quant.block_types import WRITABLE, BlockType
from quant.errors import InputError

Floats = npt.NDArray[np.float32]

REQUANTIZED = frozenset([*WRITABLE, "Q2_K", "Q3_K", "TQ1_0", "TQ2_0", "MXFP4"])
"""Types whose source is quantized here again, to see what the type itself costs. ggml would need hours or days for
those of a whole model in the others (IQ1, IQ2, IQ3), which are judged by how large the error is."""
MANY_SAME = 0.75
"""Where this share of a part's blocks is byte for byte what ggml makes, the rest must be nearly so…"""
TIGHT = 1.5
"""…: an error (mean square of a block, and largest) at most so many times that of the block quantized here."""
ERROR_RATIO, ERROR_SHARE = 12.0, 0.75
"""Elsewhere a block may err so many times more than quantized here, but not by more than this share of its own size,
and no value by more than this share of the block's largest (types of 4 bits and more)."""
MEAN_RATIO = 2.0
"""The mean of error / error here over a part, at most."""
GAIN = ((8.0, 0.02), (5.5, 0.05), (3.0, 0.08), (0.0, 0.2))
"""By bits a weight: how far <stored, expected> / <expected, expected> of a part may be from that quantized here…"""
COARSE_GAIN = (0.5, 1.35)
"""…and within what it must be for types that are not."""
COARSE_SHARE, COARSE_PART = 1.25, 0.8
"""Types that are not quantized here: the error of a block, and of a part, as a share of its own size, at most. What
has nothing to do with its source is off by 1.4, zeros by 1."""
FLOOR, EXACT_FLOOR = 1e-4, 1e-5
"""Errors below this share of the values' size are never held against a block; the second for F32, F16 and BF16."""
MIN_BLOCK = 32


@dataclass
class PartErrors:
    """What is known of one part of a tensor after some of its rows."""

    kind: BlockType
    blocks: int = 0
    off: int = 0
    """Blocks over the wide bound."""
    off_tight: int = 0
    worst: float = 0.0
    """The largest error of a block that is off, by the wide bound and by the tight one."""
    worst_tight: float = 0.0
    telling: int = 0
    """Blocks that their type cannot hold exactly."""
    changed: int = 0
    """Of them, those whose bytes are not the ones that are made here."""
    same: bool = True
    ratios: float = 0.0
    """The sum over blocks of error / error here."""
    block: int = 1
    """Elements that errors are averaged over."""
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("ee", "se", "oe", "dd"), 0.0))
    """Inner products over the part: e expected, s stored, o quantized here, d their difference from the source."""

    def add(self, raw: npt.NDArray[np.uint8], expected: Floats) -> None:
        """Take some rows.

        Args:
            raw: their bytes in the file.
            expected: what they should be: (rows, columns).

        Raises:
            InputError: the type cannot be widened.
        """
        kind, flat = self.kind, expected.reshape(-1)
        block = self.block = block_elements(kind, expected.shape[-1])
        self.blocks += flat.size // block
        again = ggml.quantize(expected, kind) if kind.name in REQUANTIZED else None
        identical = again is not None and np.array_equal(again, raw)
        own = ggml.dequantize(again, kind) if again is not None else flat
        try:
            stored = own if identical else ggml.dequantize(raw, kind)
        except ggml.GgmlError as refused:
            raise InputError(f"cannot compare tensors of type {kind.name}: {refused.message}") from None
        with np.errstate(over="ignore", invalid="ignore"):
            for name, a, b in (("ee", flat, flat), ("se", stored, flat), ("oe", own, flat)):
                self.sums[name] += float(np.dot(a, b))
            limit = _rms(own - flat, block)
            telling = limit > 0 if again is not None else np.zeros(limit.size, bool)
            self.telling += int(telling.sum())
            if identical:
                self.ratios += limit.size
                return
            self.same = False
            error = stored - flat
            self.sums["dd"] += float(np.dot(error, error))
            self._judge(error, own - flat, flat, block, limit)
        if again is not None:
            a_block = kind.block_bytes * (block // kind.block_size)
            differs = (again.reshape(-1, a_block) != raw.reshape(-1, a_block)).any(axis=-1)
            self.changed += int((differs & telling).sum())

    def _judge(self, error: Floats, own: Floats, flat: Floats, block: int, limit: Floats) -> None:
        size, errors = _rms(flat, block), _rms(error, block)
        floor = (EXACT_FLOOR if self.kind.is_float else FLOOR) * float(np.sqrt(np.mean(np.square(size))))
        if self.kind.name in REQUANTIZED:
            largest, largest_own, values = (_largest(x, block) for x in (error, own, flat))
            allowed = np.minimum(ERROR_RATIO * limit, np.maximum(TIGHT * limit, ERROR_SHARE * size))
            wide = errors <= np.maximum(allowed, floor)
            if self.kind.bits >= 4:
                wide &= largest <= np.maximum(np.maximum(ERROR_SHARE * values, TIGHT * largest_own), 16 * floor)
            tight = (errors <= np.maximum(TIGHT * limit, floor)) & (
                largest <= np.maximum(TIGHT * largest_own, 16 * floor)
            )
            self.ratios += float(np.sum(errors / np.maximum(limit, max(floor, 1e-30))))
        else:
            wide = tight = errors <= np.maximum(COARSE_SHARE * size, floor)
        self.off, self.worst = self.off + int((~wide).sum()), max(self.worst, _worst(errors[~wide]))
        self.off_tight += int((~tight).sum())
        self.worst_tight = max(self.worst_tight, _worst(errors[~tight]))

    def bad_blocks(self) -> tuple[int, float]:
        """How many blocks are off, and the largest error of one as a share of the values' size."""
        tight = self.changed <= (1 - MANY_SAME) * self.telling
        off, worst = (self.off_tight, self.worst_tight) if self.telling and tight else (self.off, self.worst)
        return off, worst / self.size

    @property
    def size(self) -> float:
        """The root mean square of the values as they should be; 1 where they are all 0."""
        return float(np.sqrt(self.sums["ee"] / max(self.blocks * self.block, 1))) or 1.0

    @property
    def error(self) -> float:
        """The root mean square error, as a share of the values' size."""
        return float(np.sqrt(self.sums["dd"] / max(self.blocks * self.block, 1))) / self.size

    def fault(self) -> str:
        """What is wrong with the part as a whole, in words; "" if nothing is."""
        s = self.sums
        if self.same or not s["ee"] > 0:
            return ""
        if self.kind.name in REQUANTIZED:
            ratio, here = self.ratios / max(self.blocks, 1), s["oe"] / s["ee"]
            tolerance = next(t for bits, t in GAIN if self.kind.bits >= bits)
            if here > 0 and not abs(s["se"] / s["oe"] - 1) <= tolerance:
                return f"its values are {s['se'] / s['oe']:.3g} times as large as they should be"
            return "" if ratio <= MEAN_RATIO else f"its blocks err {ratio:.3g} times as much as {self.kind.name} makes"
        if not COARSE_GAIN[0] <= s["se"] / s["ee"] <= COARSE_GAIN[1]:
            return f"its values are {s['se'] / s['ee']:.3g} times as large as they should be"
        return "" if self.error <= COARSE_PART else f"it errs by {self.error:.3g} of the values' size"


def block_elements(kind: BlockType, columns: int) -> int:
    """Elements that errors are averaged over: the type's block; for types without blocks 32, or a row."""
    if kind.block_size > 1:
        return kind.block_size
    return MIN_BLOCK if columns % MIN_BLOCK == 0 else columns


def _rms(values: Floats, block: int) -> Floats:
    out: Floats = np.sqrt(np.mean(np.square(values.reshape(-1, block)), axis=-1))
    return out


def _largest(values: Floats, block: int) -> Floats:
    out: Floats = np.abs(values.reshape(-1, block)).max(axis=-1)
    return out


def _worst(errors: Floats) -> float:
    return float(np.nan_to_num(errors, nan=np.inf, posinf=np.inf).max()) if errors.size else 0.0
