"""The embedded model under the name of another one."""

from pathlib import Path

from coderv2_local.models import find_model
from converters.gguf_header import read_header


def named(name: str, path: Path) -> Path:
    """Write tiny's file to `path`, with another name in its metadata. Returns `path`."""
    source = find_model("tiny").path
    data = source.read_bytes()
    header = read_header(source)
    assert header.metadata["general.name"] == "tiny"
    key = b"general.name" + (8).to_bytes(4, "little") + (4).to_bytes(8, "little") + b"tiny"
    assert data.count(key) == 1
    spare = name.encode()
    end = data.index(key) + len(key)
    # the header grows by less than its padding, or by whole alignments: here the tensor data are moved along
    start = min(t.offset for t in header.tensors.values())
    head = data[: end - 12] + len(spare).to_bytes(8, "little") + spare + data[end:start].rstrip(b"\0")
    padded = head + b"\0" * (-len(head) % 32)
    path.write_bytes(padded + data[start:])
    assert read_header(path).metadata["general.name"] == name
    return path
