"""What the kernel counts of this process: its memory by kind, and the bytes it had read from disks. Linux alone."""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Bytes in use.

    Attributes:
        anonymous: the process's own: KV cache, buffers, Python; weights too where they were repacked.
        mapped: of files that are mapped, the model's above all. They are in the page cache, which others share and
            which gives way when memory is short.
    """

    anonymous: int
    mapped: int


def memory(proc: Path = PROC) -> Memory | None:
    """The memory of this process (``smaps_rollup``); None where the system does not say."""
    try:
        text = (proc / "smaps_rollup").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
        rss, anonymous = (int(fields[name].split()[0]) << 10 for name in ("Rss", "Anonymous"))
    except (OSError, KeyError, ValueError):
        return None
    return Memory(anonymous, rss - anonymous)


def bytes_read(proc: Path = PROC) -> int | None:
    """Bytes that this process has caused to be read from disks, by page faults too; None where it is not told."""
    try:
        fields = dict(line.split(": ") for line in (proc / "io").read_text().splitlines())
        return int(fields["read_bytes"])
    except (OSError, KeyError, ValueError):
        return None


def since(before: int | None) -> int | None:
    """Bytes read since :func:`bytes_read` said `before`."""
    now = bytes_read()
    return None if before is None or now is None else now - before
