"""The limits that a container or service manager sets on this process: memory and processor time, cgroup v1 and v2."""

from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2⁶³ where there is no limit."""


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """The tightest memory limit on this process and what is left under it, in bytes; None without a limit.

    Page cache counts as left: the kernel takes it back when a process asks for memory.

    Args:
        root: where ``proc`` and ``sys`` are, to look at another tree.
    """
    found = []
    for folder in _folders(root, "memory"):
        for limit_name, usage_name, cache in (
            ("memory.max", "memory.current", ("active_file", "inactive_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None and limit < UNLIMITED:
                stat = _fields(folder / "memory.stat")
                cached = sum(stat.get(name, 0) for name in cache)
                found.append((limit, max(0, limit - max(0, usage - cached))))
    if not found:
        return None
    return min(limit for limit, _ in found), min(left for _, left in found)


def cpu_limit(root: Path = Path("/")) -> float | None:
    """How many processors' time this process may use, such as 1.5; None without a limit."""
    found = []
    for folder in _folders(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and all(w.isdigit() for w in words):
            found.append(int(words[0]) / int(words[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of the groups above it, in every hierarchy that has the controller.

    In a container the path that ``/proc/self/cgroup`` names may lie outside what is mounted: then its top is the group.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller]
        else:
            continue
        parts = [p for p in path.split("/") if p and p != ".."]
        for mount in mounts:
            yield from (mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
