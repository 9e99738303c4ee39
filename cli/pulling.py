"""What `coder pull` does, on the screen: the licence, the recipe, the progress, and the command to type next."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cli.converting import StatusColumn
from cli.inspect import readable
from cli.models import command_to_try
from coderv2_local import installed, leftovers, preferences
from coderv2_local.inspection import inspect, load_notices
from coderv2_local.installed import Installed
from coderv2_local.model_facts import entry_of
from coderv2_local.pulling import licences, ready
from coderv2_local.pulling.wanted import Wanted, resolve
from coderv2_local.registry import LICENCES, known_models
from coderv2_local.stream import printable
from converters.gguf_header import read_header
from converters.hub import HubStore
from converters.job import DEFAULT_RECIPE, Options, closing, plan_hub
from converters.store import Store
from converters.writer import bytes_on_disk, carry_out, existing_output
from quant.cores import usable_cores
from quant.errors import CoderError, InputError


@dataclass(frozen=True)
class Request:
    """The options of `coder pull`, as given."""

    name: str
    recipe: str | None = None
    build: bool = False
    ready: bool = False
    accept_licence: bool = False
    fresh: bool = False
    threads: int | None = None


def run(request: Request) -> Installed:
    """Get the model. Raises CoderError."""
    screen = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    wanted = resolve(request.name, preferences.read(), request.recipe, build=request.build, ready=request.ready)
    if there := _here(wanted):
        return _say_it_is_here(there, screen)
    info = ready.look_up(wanted.repo)  # first of all: offline, nothing else is worth while
    _accept_licence(wanted, request.accept_licence, screen)
    if not wanted.recipe:
        begun = [] if request.fresh else leftovers.begun(wanted.name)
        if len(begun) == 1:
            screen.print(f"Going on with {begun[0]}, which was begun.")
        wanted = wanted.with_recipe(begun[0] if len(begun) == 1 else choose_recipe(wanted, screen))
    with installed.locked(wanted.key), _saying_how_to_go_on(wanted, screen):
        if there := _here(wanted):
            return _say_it_is_here(there, screen)
        there = _download(wanted, info, request, screen) if wanted.ready else _build(wanted, request, screen)
    screen.print(f"{wanted.name} is here: {readable(there.size)}, {there.path}")
    _say_next(there, screen)
    return there


def choose_recipe(wanted: Wanted, screen: Console) -> str:
    """The recipe that `coder plan NAME` recommends.

    Raises:
        InputError: the model does not fit this machine in any.
    """
    from cli.plan import measure
    from coderv2_local.placement.family_plan import OURS, best, best_first, candidates, plan_row, sentence
    from coderv2_local.placement.machine import this_machine

    known = known_models().get(wanted.name)
    if known is None or known.repo != wanted.repo:
        screen.print(f"No recipe was named: {DEFAULT_RECIPE}.")
        return DEFAULT_RECIPE
    machine = this_machine()
    options = candidates([known], OURS)
    rates, _ = measure(options, machine, None)
    rows = [plan_row(c, machine, rates) for c in options]
    chosen = best(rows, "chat") or best(rows, "fim") or best_first(rows)[0]
    if chosen.placement is None:
        raise InputError(
            f"{wanted.name} does not fit this machine: {chosen.refusal}",
            hint=f"`coder plan` names the model for it; `-q {chosen.recipe}` gets this one all the same",
        )
    screen.print(sentence(chosen, of_all=False))
    return chosen.recipe


def _here(wanted: Wanted) -> Installed | None:
    name = f"{wanted.name}:{wanted.recipe}" if wanted.recipe else wanted.name
    there = installed.find(name)
    return there if there and not there.missing else None


def _say_it_is_here(there: Installed, screen: Console) -> Installed:
    screen.print(f"{there.name} is here already, as {there.recipe}: {there.path}")
    _say_next(there, screen)
    return there


def _accept_licence(wanted: Wanted, accepted: bool, screen: Console) -> None:
    if not wanted.licence:
        screen.print(f"Its licence is on its page: https://huggingface.co/{wanted.repo}")
        return
    if licences.accepted(wanted.licence):
        return
    address = LICENCES[wanted.licence]
    if not accepted:
        if not sys.stdin.isatty():
            raise InputError(
                f"{wanted.name} comes under the {wanted.licence}, which must be accepted first: {address}",
                hint="add --accept-licence once you have read it",
            )
        screen.print(f"{wanted.name}: {wanted.purpose}")
        screen.print(f"It comes under the {wanted.licence}. Commercial use is allowed, some uses are not: its")
        screen.print(f"Attachment A lists them. The text: {address}")
        if not typer.confirm("Do you accept it?", err=True):
            raise CoderError("the licence was not accepted: nothing was downloaded")
    licences.accept(wanted.licence)


def _download(wanted: Wanted, info: Any, request: Request, screen: Console) -> Installed:
    if request.fresh:
        shutil.rmtree(wanted.download, ignore_errors=True)
    parts = ready.parts_of(wanted, info)
    total = sum(p.size or 0 for p in parts)
    ready.check_room(installed.folder(), ready.bytes_to_fetch(wanted, parts), wanted.name)
    if not all(p.sha256 for p in parts):
        screen.print("note: the Hub gives no checksum for this file")
    screen.print(f"Fetching {readable(total)} from {wanted.repo}")
    with _progress(screen) as progress:
        task = progress.add_task(escape(printable(parts[0].local_name)), total=total or None)
        entry = ready.get(wanted, parts, lambda here: progress.update(task, completed=here))
    _say_health(entry, screen)
    return entry


def _build(wanted: Wanted, request: Request, screen: Console) -> Installed:
    destination = wanted.destination
    if request.fresh:
        shutil.rmtree(destination.with_name(destination.name + ".download"), ignore_errors=True)
    with closing(plan_hub(wanted.repo, None, destination, Options(wanted.recipe))) as job:
        assert isinstance(job.store, HubStore)
        model, plan = job.store.model, job.plan
        if _is_there(job.plan, wanted):
            job.store.discard()
        else:
            needed = max(0, plan.total_bytes - bytes_on_disk(plan)) + model.bytes_at_once
            ready.check_room(destination.parent, needed, f"{wanted.name} as {wanted.recipe}")
            if job.begun:
                screen.print(f"note: {job.begun.notice}")
            screen.print(
                f"Building {readable(plan.total_bytes)} from {readable(model.total_bytes)} of {wanted.repo}, "
                "which are converted as they come: at no time are more than two of its shards on the disk"
            )
            _carry_out(job.plan, job.store, request, screen)
        source = f"{wanted.repo}@{model.revision[:12]}"
    entry = entry_of(destination, wanted.name, recipe=wanted.recipe, roles=wanted.roles, source=source, owned=True)
    installed.write(entry)
    return entry


def _is_there(plan: Any, wanted: Wanted) -> bool:
    try:
        return existing_output(plan)
    except InputError as error:
        error.hint = f"`coder rm {wanted.name}:{wanted.recipe}` removes it; then pull again"
        raise


def _carry_out(plan: Any, store: Store, request: Request, screen: Console) -> None:
    with _progress(screen, StatusColumn(store)) as progress:
        task = progress.add_task(plan.files[0].path.name, total=plan.total_bytes)
        threads = request.threads or usable_cores()
        if carry_out(plan, store, threads=threads, fresh=request.fresh, report=lambda n: progress.advance(task, n)):
            screen.print("Went on from an interrupted run.")


def _progress(screen: Console, *more: Any) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        *columns, TimeRemainingColumn(), *more, console=screen, transient=True, disable=not screen.is_terminal
    )


@contextmanager
def _saying_how_to_go_on(wanted: Wanted, screen: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        dropping = f"coder rm {wanted.name}:{wanted.recipe}"
        screen.print(f"Stopped. `{wanted.command}` goes on from here; `{dropping}` drops what is here.")
        raise


def _say_health(entry: Installed, screen: Console) -> None:
    """What `coder inspect` would, of a file that others made."""
    header = read_header(entry.path)
    found = inspect(entry.path)
    for notice in load_notices(header, found.config):
        screen.print(f"note: {printable(notice)}")
    if any(name.endswith(".attn_kv_b.weight") for name in header.tensors):
        screen.print(f"note: `coder convert {entry.path} {entry.name}.gguf` makes a better one of it")


def _say_next(entry: Installed, screen: Console) -> None:
    name = entry.name if installed.find(entry.name) == entry else entry.full_name
    screen.print(f"Try it: {command_to_try(entry, name)}")
