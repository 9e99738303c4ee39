"""`coder plan`: what this machine can run, how fast, and the command that gets it."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ThreadsOption
from coderv2_local.stream import printable
from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.placement.family_plan import Candidate, Row
    from coderv2_local.placement.machine import Machine
    from coderv2_local.placement.speed import Rates
BUSY = 0.5
"""Load for each processor from which measurements are called disturbed."""


def plan(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A .gguf file or a model's name; none: the whole family.")
    ] = None,
    context: Annotated[
        int, typer.Option("--ctx", min=0, metavar="N", help="Context in tokens; 0: what suits the memory.")
    ] = 0,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what this machine can run: memory by class, where it goes, the speed to expect, and the command to type.

    Nothing is downloaded or loaded; measuring takes about a second.

    Examples: coder plan, coder plan lite --ctx 32768
    """
    from coderv2_local import preferences
    from coderv2_local.load_settings import load_wishes
    from coderv2_local.placement.family_plan import CONTEXTS, OURS, RECIPES, best, best_first, candidates, plan_row
    from coderv2_local.placement.machine import this_machine
    from coderv2_local.registry import known_models

    path = file_of(model)
    if path:
        wanted = [candidate_of(path, model or "")]
        contexts: list[int | None] = [context] if context else [None, CONTEXTS[-1]]
    elif model:
        wanted = candidates([_known(model)], RECIPES)
        contexts = [context] if context else [None, CONTEXTS[-1]]
    else:
        wanted = candidates(known_models().values(), OURS)
        contexts = [context or None]
    longest = wanted[0].memory.config.max_context
    contexts = [n for n in contexts if context or n is None or n < longest]
    machine, wishes = this_machine(), load_wishes(preferences.read(), n_threads=threads)
    rates, remarks = measure(wanted, machine, path, wishes.n_threads)
    rows = [plan_row(c, machine, rates, n, wishes) for c in wanted for n in contexts]
    chosen = rows[0] if path else best(rows, "chat") or best(rows, "fim") or (best_first(rows)[0] if model else None)
    if not model:
        rows = best_first(rows)
    command = command_for(chosen, path, context, threads)
    if as_json:
        print(json.dumps(report(machine, rates, remarks, rows, chosen, command), indent=2, ensure_ascii=False))
    else:
        from cli.plan_screen import show

        show(machine, rates, remarks, rows, chosen, command, of_all=model is None)


def file_of(model: str | None) -> Path | None:
    """The file that `model` means: a path, or a name that has a file already; None for a published model's name.

    Raises:
        InputError: no such file, or a server.
    """
    from coderv2_local import models
    from coderv2_local.registry import known_models

    if model is None:
        return None
    path = Path(model).expanduser()
    is_file = path.exists() or path.suffix == ".gguf" or len(path.parts) > 1
    if model in known_models() or not (is_file or model in models.known_models()):
        return None
    found = models.find_model(model)
    if found.path is None:
        raise InputError(f"{model} is a server: what it runs on is not known here")
    return found.path


def _known(name: str) -> Any:
    from coderv2_local.registry import known_model

    try:
        return known_model(name)
    except InputError as error:
        if not error.hint.startswith("did you mean"):
            error.hint += ", tiny; or give the path of a .gguf file"
        raise


def candidate_of(path: Path, name: str) -> "Candidate":
    """What the file at `path` holds."""
    from coderv2_local.placement.family_plan import Candidate
    from coderv2_local.placement.memory_classes import memory_of_file
    from converters.gguf_header import read_header

    return Candidate(name, memory_of_file(read_header(path)))


def measure(
    wanted: "list[Candidate]", machine: "Machine", path: Path | None, threads: int | None = None
) -> "tuple[Rates | None, list[str]]":
    """How fast this machine is at what the candidates need, and what could not be measured."""
    from coderv2_local.home import home
    from coderv2_local.placement.disk_speed import DiskUnmeasuredError, disk_under
    from coderv2_local.placement.family_plan import types_read
    from coderv2_local.placement.speed import measure_rates
    from quant.ggml import GgmlError

    remarks = list(machine.remarks)
    disk = None
    try:
        disk = disk_under(path, [Path.cwd(), home() / "models"])
    except DiskUnmeasuredError as error:
        remarks.append(f"the disk was not measured: {error.message}")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > machine.threads * BUSY:
        remarks.append(f"other programs keep the processor busy (load {load:.1f}): on an idle machine it is faster")
    try:
        return measure_rates(types_read(wanted), threads or machine.cores, disk), remarks
    except GgmlError as error:
        return None, [*remarks, f"speeds were not measured: {error.message}"]


def command_for(row: "Row | None", path: Path | None, context: int, threads: int | None = None) -> str | None:
    """What to type next."""
    if row is None:
        return "coder chat"
    if row.placement is None:
        return "coder plan" if path or row.recipe else None
    if path:
        size = f" --ctx {context}" if context else ""
        return f"coder chat -m {row.model}{size}" + (f" --threads {threads}" if threads else "")
    return f"coder pull {row.model} -q {row.recipe}"


def report(
    machine: "Machine",
    rates: "Rates | None",
    remarks: list[str],
    rows: "list[Row]",
    chosen: "Row | None",
    command: str | None,
) -> dict[str, Any]:
    """Everything, for programs."""
    from dataclasses import asdict

    return {
        "machine": asdict(machine) | {"remarks": remarks},
        "measured": asdict(rates) if rates else None,
        "best": chosen.to_json() if chosen else None,
        "command": printable(command or "") or None,
        "plans": [r.to_json() for r in rows],
    }
