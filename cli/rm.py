"""`coder rm`: a model leaves this machine."""

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from coderv2_local.installed import Damaged, Installed


def rm(
    name: Annotated[str, typer.Argument(help="As `coder models` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model that `coder pull` brought, or what an interrupted pull left; a file of your own is only forgotten.

    Examples: coder rm lite, coder rm lite:moe-8 --yes
    """
    from coderv2_local import installed
    from coderv2_local.leftovers import key_of_leftover, leftovers

    screen = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    entry, damaged = _find(name)
    with ExitStack() as stack:
        if entry:
            stack.enter_context(installed.locked(entry.key))
        rest = leftovers(entry.full_name if entry else name)
        for key in {key_of_leftover(p) for p in rest} - ({entry.key} if entry else set()):
            stack.enter_context(installed.locked(key))
        _ask(_what(entry, damaged, rest), yes)
        lost = _lost(entry)
        if entry:
            installed.remove(entry)
        if damaged:
            _delete(damaged.path)
        for path in rest:
            _delete(path)
    if entry and not entry.owned:
        screen.print(f"{entry.name} is forgotten; {f'{lost} was gone already' if lost else f'{entry.path} stays'}.")
    else:
        screen.print(f"{name} is gone.")


def _find(name: str) -> "tuple[Installed | None, Damaged | None]":
    """The entry that `name` means, or the damaged one.

    Raises:
        InputError: there is nothing of that name, it is not this program's, or it means several.
    """
    from coderv2_local import installed, preferences
    from coderv2_local.leftovers import leftovers
    from coderv2_local.pulling.nearest import nearest
    from coderv2_local.pulling.wanted import TINY
    from quant.recipes import RECIPES

    entries = installed.entries()
    here = [e for e in entries if isinstance(e, installed.Installed)]
    found = [e for e in here if name in (e.name, e.full_name)]
    if len(found) > 1:
        names = [e.full_name for e in found]
        raise InputError(
            f"{name} is here {len(found)} times: {', '.join(names)}", hint=f"say which: `coder rm {names[0]}`"
        )
    if found:
        return found[0], None
    wanted, _, recipe = name.partition(":")
    stems = {name, *(installed.key_of(wanted, r) for r in ([recipe] if recipe else RECIPES))}
    for e in entries:
        if isinstance(e, installed.Damaged) and e.path.stem in stems:
            return None, e
    if leftovers(name):
        return None, None
    if name == TINY:
        raise InputError("tiny comes with this program and stays")
    settings = preferences.read()
    if name in settings.models or name in settings.servers:
        raise InputError(f"{name} stands in your settings", hint=f"remove it there: {preferences.path()}")
    hint = nearest(name, [e.name for e in here]) if here else "`coder models` lists what is here"
    raise InputError(f"there is no model named {name!r:.80} here", hint=hint)


def _what(entry: "Installed | None", damaged: "Damaged | None", rest: list[Path]) -> str:
    """The question, without its mark."""
    from cli.inspect import readable

    if entry and not entry.owned:
        lost = _lost(entry)
        return f"Forget {entry.name}, {f'of which {lost} is gone' if lost else f'and leave {entry.path} where it is'}"
    size = (entry.size if entry and not entry.missing else 0) + sum(map(_size, rest))
    things = [*(entry.paths if entry else []), *([damaged.path] if damaged else []), *rest]
    return f"Delete {', '.join(p.name for p in things)} ({readable(size)})"


def _lost(entry: "Installed | None") -> Path | None:
    return next((p for p in entry.paths if not p.is_file()), None) if entry else None


def _ask(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"there is nobody to ask: {what[0].lower()}{what[1:]}?", hint="--yes does it without asking")
    if not typer.confirm(what + "?", err=True):
        raise CoderError("nothing was removed")


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CoderError(f"{path}: {(error.strerror or str(error)).lower()}") from None
