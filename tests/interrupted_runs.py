"""Conversions within this process, stopped where a test wants it."""

import hashlib
from pathlib import Path

import pytest

from converters import writer
from converters.job import Options, closing, plan_source
from converters.plan import Plan


def plan_of(source: Path, destination: Path, recipe: str = "q8_0", split: int | None = None) -> Plan:
    with closing(plan_source(source, destination, Options(recipe, split_bytes=split))) as job:
        return job.plan


def run(
    source: Path,
    destination: Path,
    *,
    recipe: str = "q8_0",
    split: int | None = None,
    stop_after: int = 0,
    **more: bool,
) -> tuple[bool, list[int]]:
    """Convert with one thread; with `stop_after`, Ctrl-C after so many pieces. Was it resumed; what was reported?"""
    reported: list[int] = []

    def report(count: int) -> None:
        reported.append(count)
        if len(reported) == stop_after:
            raise KeyboardInterrupt

    with closing(plan_source(source, destination, Options(recipe, split_bytes=split))) as job:
        return writer.carry_out(job.plan, job.store, threads=1, report=report, **more), reported


def interrupt(source: Path, destination: Path, *, split: int | None = None, recipe: str = "q8_0", **more: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, destination, split=split, recipe=recipe, stop_after=20, **more)


def sha(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def whole(source: Path, folder: Path, split: int | None = None) -> dict[str, str]:
    """What a run without faults leaves."""
    folder.mkdir()
    run(source, folder / "x.gguf", split=split)
    return sha(folder)
