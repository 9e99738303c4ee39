"""A GGUF file with all its parts, if it is split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.gguf_header import GgufError, GgufHeader, TensorInfo, read_header
from converters.metadata import ARCHITECTURE

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class GgufModel:
    """The first file's header, and the tensors of all files.

    Attributes:
        path: of the first file.
        header: of the first file.
        parts: the headers of all files, in order.
    """

    path: Path
    header: GgufHeader
    tensors: dict[str, tuple[str, TensorInfo]]
    """Name → the file's name, and where in it the tensor lies."""
    parts: tuple[GgufHeader, ...]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The keys of the first file."""
        return self.header.metadata

    @property
    def whole(self) -> GgufHeader:
        """One header for all files: the first one's keys, all tensors (offsets in their own file), the total size."""
        tensors = {name: info for name, (_, info) in self.tensors.items()}
        return replace(self.header, tensors=tensors, file_size=sum(p.file_size for p in self.parts))

    def find(self, name: str) -> tuple[Path, TensorInfo]:
        """The file that a tensor is in, and where in it."""
        file, info = self.tensors[name]
        return self.path.with_name(file), info


def open_gguf(path: Path) -> GgufModel:
    """Read the header of `path`, and of the other parts when it is the first of a split model.

    Raises:
        GgufError: damaged, of another architecture, a part missing or not of this model, or a tensor in two parts.
    """
    first = read_header(path)
    headers = [first]
    count = first.metadata.get("split.count", 1)
    if type(count) is int and count > 1:
        found = _PART.fullmatch(path.name)
        if found is None or int(found.group(2)) != 1 or int(found.group(3)) != count:
            raise GgufError(
                f"{path} is a part of a split model", hint=f"name the first part, …-00001-of-{count:05d}.gguf"
            )
        names = [f"{found.group(1)}-{n:05d}-of-{count:05d}.gguf" for n in range(2, count + 1)]
        headers += [_read_part(path.with_name(name), no, count) for no, name in enumerate(names, 1)]
    if first.architecture != ARCHITECTURE:
        raise GgufError(
            f"{path}: the architecture is {first.architecture!r:.60}, not {ARCHITECTURE!r}",
            hint="this program knows DeepSeek-Coder-V2 and its relatives only",
        )
    tensors: dict[str, tuple[str, TensorInfo]] = {}
    for header in headers:
        for name, info in header.tensors.items():
            if name in tensors:
                raise GgufError(f"tensor {name} is in {tensors[name][0]} and in {header.path.name}")
            tensors[name] = (header.path.name, info)
    due = first.metadata.get("split.tensors.count", len(tensors))
    if len(headers) > 1 and due != len(tensors):
        raise GgufError(f"{path}: its parts hold {len(tensors)} tensors, not the {due!r:.40} that it speaks of")
    return GgufModel(path, first, tensors, tuple(headers))


def _read_part(path: Path, number: int, count: int) -> GgufHeader:
    """The header of a later part, counted from 0."""
    header = read_header(path)
    said = (header.metadata.get("split.no"), header.metadata.get("split.count"))
    if said != (number, count):
        raise GgufError(
            f"{path} calls itself part {said[0]!r:.40} of {said[1]!r:.40} (from 0), not {number} of {count}"
        )
    return header


def has_unsplit_attention(model: GgufModel) -> bool:
    """Does the file predate the split of ``kv_b`` that MLA needs?"""
    return any(name.endswith(".attn_kv_b.weight") for name in model.tensors)
