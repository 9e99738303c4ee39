"""Where a file comes from, written into it: never a time or a path, so that equal inputs give equal bytes."""

import hashlib
from collections.abc import Iterable
from importlib import metadata as installed
from pathlib import Path

from converters.metadata import Metadata, text

SAMPLES = 16
SAMPLE_BYTES = 4096


def provenance(recipe: str, fingerprint: str, **more: str) -> Metadata:
    """The keys ``coder.convert.*``: this tool's version, the recipe, the source's fingerprint, and `more` if not ""."""
    try:
        version = installed.version("coderv2-local")
    except installed.PackageNotFoundError:
        version = "unknown"
    said = {"version": version, "recipe": recipe, "source_fingerprint": fingerprint, **more}
    return {f"coder.convert.{key}": text(value) for key, value in said.items() if value}


def fingerprint_files(files: Iterable[tuple[Path, int]]) -> str:
    """A digest of files: their names, sizes, headers, and samples of their data.

    Sixteen samples a file tell a retrained model from its predecessor without reading all of it.

    Args:
        files: paths, each with the length of its header in bytes.
    """
    h = hashlib.sha256()
    for path, header_bytes in files:
        size = path.stat().st_size
        h.update(f"{path.name} {size} ".encode(errors="surrogateescape"))
        with open(path, "rb") as f:
            h.update(f.read(header_bytes))
            for i in range(SAMPLES):
                f.seek(header_bytes + (size - header_bytes) * i // SAMPLES)
                h.update(f.read(SAMPLE_BYTES))
    return h.hexdigest()
