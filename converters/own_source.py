"""A conversion never writes over what it reads: not even where it was told to replace what is there."""

from collections.abc import Iterable
from pathlib import Path

from converters.plan import Plan
from quant.errors import InputError


def refuse_own_source(plan: Plan, source: Iterable[Path]) -> None:
    """Refuse a plan whose output would replace a file of its source, under whatever name or link.

    Args:
        source: the files that it is made from.

    Raises:
        InputError: it would.
    """
    outputs = [file.path for file in plan.files if file.path.exists()]
    if not outputs:
        return
    own = {_identity(path) for path in source if path.is_file()}
    for path in outputs:
        if _identity(path) in own:
            raise InputError(f"{path} belongs to the source", hint="choose another name")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
