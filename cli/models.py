"""`coder models`: what is on this machine, and what can be had."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.installed import Installed
    from coderv2_local.model_list import Available, Listed, OwnAvailable

SIZED = ("moe-4", "moe-8")
"""The recipes whose sizes are shown; `coder plan NAME` shows more."""
FIM_WORDS = {"yes": "trained for it", "incidental": "by the way", "no": "no", "reported": "reported"}
NEVER = {"pulled": "never", "added": "never"}
"""What is said of a model that was not used yet; of the others it is not recorded."""
WIDE = 200
"""Columns where nobody reads on a screen: no path is cut for a program."""

app = typer.Typer(no_args_is_help=False)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Show the models on this machine and those that can be had; `coder models add PATH` makes a file one of them.

    Examples: coder models, coder models add ~/downloads/my-model.gguf
    """
    if context.invoked_subcommand:
        return
    from coderv2_local import preferences
    from coderv2_local.model_list import available, listed, own_available

    settings = preferences.read()
    here, own, more = listed(settings), own_available(settings), available(settings, SIZED)
    if as_json:
        to_get = [*map(own_json, own), *map(available_json, more)]
        report = {"models": [row.to_json() for row in here], "available": to_get}
        print(json.dumps(report, ensure_ascii=False, indent=2))
        return
    out = Console(highlight=False)
    whole = not out.is_terminal
    if whole:
        out = Console(highlight=False, width=WIDE)
    out.print(table_of(here))
    for row in here:
        if row.trouble:
            out.print(f"[yellow]{_safe(row.name)}: {_safe(row.trouble)}; {_safe(row.remedy)}[/]", soft_wrap=whole)
    if own or more:
        out.print()
        out.print(table_to_get(own, more))
        for its in own:
            if its.trouble:
                where = f"models.{its.name} in {preferences.path()}"
                out.print(f"[yellow]{_safe(its.trouble)}; mend {_safe(where)}[/]", soft_wrap=whole)
        out.print("\n[dim]`coder pull NAME` gets one; `coder plan` says which suits this machine[/]")


@app.command()
def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .gguf file; of a split one, the first part.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; default: the file's name.")] = None,
) -> None:
    """Make a model file one that can be named. It stays where it is.

    Example: coder models add ~/downloads/my-model.gguf
    """
    from cli.inspect import readable

    entry = enter(path.expanduser().absolute(), name)
    screen = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    screen.print(f"{entry.name}: {entry.recipe}, {readable(entry.size)}. Try it: {command_to_try(entry, entry.name)}")


def command_to_try(entry: "Installed", name: str) -> str:
    """The command that a model suits: a base model does not chat."""
    return f"coder chat -m {name}" if "chat" in entry.roles else f"coder fim FILE:LINE -m {name}"


def enter(path: Path, name: str | None) -> "Installed":
    """The entry of the file at `path`, written.

    Raises:
        InputError: no model, a name that cannot be, or one that means something else already.
    """
    from coderv2_local import installed, preferences
    from coderv2_local.model_facts import entry_of
    from coderv2_local.models import TINY

    if path.is_dir():
        raise InputError(
            f"{path} is a folder", hint="convert a checkpoint folder first: `coder convert FOLDER MODEL.gguf`"
        )
    stem = re.sub(r"-00001-of-\d{5}$", "", path.stem)
    chosen = name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    installed.check_name(chosen)
    settings = preferences.read()
    if chosen == TINY or chosen in settings.models or chosen in settings.servers:
        raise InputError(f"the name {chosen} means something else already", hint="choose another: --name NAME")
    entry = entry_of(path, chosen)
    if path.parent == installed.folder() and path.stem.endswith(f"-{entry.recipe}") and not name:
        # its entry was lost
        entry = entry_of(path, path.stem.removesuffix(f"-{entry.recipe}"), owned=True)
    with installed.locked(entry.key):
        there = installed.find(entry.full_name)
        if there and not there.missing and there.path != entry.path:
            raise InputError(
                f"there is another {entry.full_name} already: {there.path}", hint="choose another name: --name NAME"
            )
        installed.write(entry)
    return entry


def table_of(rows: "list[Listed]") -> Table:
    """What is here; a default is marked at its role."""
    from cli.inspect import readable
    from cli.plan_screen import tokens

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("name", "type", "size", "context", "for", "last used", "path"):
        right = heading in ("size", "context")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "path", overflow="fold")
    for row in rows:
        roles = ", ".join(f"{r}*" if r in row.default_for else r for r in dict.fromkeys(row.roles + row.default_for))
        table.add_row(
            f"[bold]{_safe(row.name)}[/]",
            "[red]missing[/]" if row.trouble and row.kind != "damaged" else _safe(row.type) or row.kind,
            readable(row.size) if row.size is not None else "",
            tokens(row.context) if row.context else "",
            roles,
            datetime.fromtimestamp(row.used).strftime("%d %b %H:%M") if row.used else NEVER.get(row.kind, ""),
            "(comes with the program)" if row.kind == "embedded" else _safe(_short(row.where)),
        )
    table.caption = "* used without -m"
    table.caption_justify = "left"
    return table


def table_to_get(own: "list[OwnAvailable]", rows: "list[Available]") -> Table:
    """What can be had: what the settings name, and what is published. The size of the former is not known here."""
    from cli.inspect import readable

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("to get", *SIZED, "fills in", "purpose"):
        table.add_column(heading, justify="right" if heading in SIZED else "left", no_wrap=heading != "purpose")
    for its in own:
        where = "/".join(part for part in (its.repo, its.file) if part)
        fills = "" if not its.roles else FIM_WORDS["yes" if "fim" in its.roles else "no"]
        purpose = ": ".join(part for part in (its.purpose, where) if part)
        table.add_row(f"[bold]{_safe(its.name)}[/]", *("" for _ in SIZED), fills, _safe(purpose))
    for row in rows:
        m = row.model
        sizes = (readable(row.sizes[recipe]) for recipe in SIZED)
        table.add_row(f"[bold]{m.name}[/]", *sizes, FIM_WORDS[m.fim], m.purpose)
    return table


def available_json(row: "Available") -> dict[str, object]:
    """A published model, for programs."""
    m = row.model
    return {
        "name": m.name,
        "purpose": m.purpose,
        "repo": m.repo,
        "licence": m.licence,
        "roles": list(m.roles),
        "fim": m.fim,
        "bytes": row.sizes,
        "ready_files": [{"repo": g.repo, "file": g.file, "recipe": g.recipe, "remark": g.remark} for g in m.ggufs],
    }


def own_json(its: "OwnAvailable") -> dict[str, object]:
    """A model of the settings, for programs: with the keys of a published one, and what is wrong with it."""
    ready = {"repo": its.repo, "file": its.file, "recipe": its.type, "remark": ""}
    return {
        "name": its.name,
        "purpose": its.purpose,
        "repo": its.repo,
        "licence": "",
        "roles": list(its.roles),
        "fim": None if not its.roles else "yes" if "fim" in its.roles else "no",
        "bytes": {},
        "ready_files": [ready] if its.file else [],
        "trouble": its.trouble,
    }


def _short(where: str) -> str:
    home = str(Path.home())
    return "~" + where[len(home) :] if where.startswith(home + "/") else where


def _safe(text: str) -> str:
    from rich.markup import escape

    from coderv2_local.stream import printable

    return escape(printable(text))
