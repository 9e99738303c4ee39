"""The types a tensor can have in a GGUF file: name, number, and how many elements and bytes a block has.

The numbers come from gguf-py, which mirrors ``enum ggml_type``.
"""

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from quant.errors import InputError


@dataclass(frozen=True)
class BlockType:
    """A storage type. F32, F16 and BF16 are blocks of one element."""

    name: str
    id: int
    block_size: int
    """Elements a block."""
    block_bytes: int

    @property
    def bits(self) -> float:
        """Bits an element, scales included."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_float(self) -> bool:
        """Is it F32, F16 or BF16?"""
        return self.name in ("F32", "F16", "BF16")

    def fits(self, columns: int) -> bool:
        """Can a row of `columns` elements be stored in whole blocks?"""
        return columns % self.block_size == 0

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements.

        Raises:
            InputError: the row is not whole blocks.
        """
        if not self.fits(columns):
            raise InputError(f"a row of {columns} elements is not whole blocks of {self.block_size} ({self.name})")
        return columns // self.block_size * self.block_bytes


_ALL = {
    t.name: BlockType(t.name, int(t), GGML_QUANT_SIZES[t][0], GGML_QUANT_SIZES[t][1])
    for t in GGMLQuantizationType
    if t in GGML_QUANT_SIZES
}
_BY_ID = {t.id: t for t in _ALL.values()}

WRITABLE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
"""The types this project writes."""


def block_type(name: str) -> BlockType:
    """The type called `name`, in either case.

    Raises:
        InputError: there is none.
    """
    try:
        return _ALL[name.upper()]
    except KeyError:
        raise InputError(f"{name!r} is not a tensor type", hint=f"known are {' '.join(WRITABLE)}") from None


def block_type_by_id(number: int) -> BlockType | None:
    """The type with ggml's number `number`, or None."""
    return _BY_ID.get(number)


F32, F16, BF16, Q8_0 = (block_type(n) for n in ("F32", "F16", "BF16", "Q8_0"))
