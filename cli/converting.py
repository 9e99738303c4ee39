"""What `coder convert` does, on the screen: the plan, the progress, the result."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from converters.hub import is_repo_id
from converters.job import Job, Options, closing, parse_size, plan_hub, plan_source
from converters.plan import Plan
from converters.store import Store
from converters.summary import as_json, expected_seconds, rows
from converters.writer import bytes_on_disk, carry_out, check_room, existing_output
from quant.cores import usable_cores

NOTICES_SHOWN = 12


@dataclass(frozen=True)
class Request:
    """The options of `coder convert`, as given."""

    source: str
    destination: Path | None = None
    recipe: str | None = None
    experts: str | None = None
    imatrix: Path | None = None
    revision: str | None = None
    threads: int | None = None
    split_size: str | None = None
    dry_run: bool = False
    fresh: bool = False
    force: bool = False
    allow_nonfinite: bool = False
    as_json: bool = False


def run(request: Request) -> None:
    """Convert, or show the plan. Raises CoderError."""
    screen = Console(stderr=True, highlight=False)
    split_size = parse_size(request.split_size) if request.split_size else None
    options = Options(request.recipe, request.experts, request.imatrix, split_size)
    destination = request.destination or _default_destination(request.source, request.recipe)
    workers = request.threads or usable_cores()
    with closing(_plan(request, destination, options)) as job:
        plan = job.plan
        if request.dry_run:
            _show_plan(plan, workers, request.as_json)
            job.store.discard()
            return
        there = not request.force and existing_output(plan)
        if there:
            job.store.discard()
            screen.print(f"{destination} is there already, complete and made by this very plan.", soft_wrap=True)
            newer = job.sources.newer_than(plan.files[0].path) if job.sources else []
            if newer:
                screen.print(
                    f"note: {newer[0]} is newer than it: if it has other weights now, --force converts it again",
                    soft_wrap=True,
                    markup=False,
                )
        else:
            check_room(plan)
            _show_notices(plan, screen)
            _write(job, screen, workers, fresh=request.fresh, allow_nonfinite=request.allow_nonfinite)
            screen.print(
                f"{plan.files[0].path}: {_size(plan.total_bytes)}, {plan.bits_a_weight:.2f} bits a weight.",
                soft_wrap=True,
            )
        if request.as_json:
            files = [str(f.path) for f in plan.files]
            result = {"files": files, "bytes": plan.total_bytes, "already_there": there, "notices": list(plan.notices)}
            print(json.dumps(result, ensure_ascii=False))


def _plan(request: Request, destination: Path, options: Options) -> Job:
    if not os.path.exists(request.source) and is_repo_id(request.source):
        look, fresh = request.dry_run, request.fresh
        return plan_hub(request.source, request.revision, destination, options, only_look=look, fresh=fresh)
    return plan_source(Path(request.source), destination, options, only_look=request.dry_run)


def _default_destination(source: str, recipe: str | None) -> Path:
    """The source's name with the recipe, in the current folder."""
    path = Path(source)
    is_file = os.path.isfile(path)  # no error, where the name is too long
    stem = path.stem if is_file else path.resolve().name
    return Path(f"{stem}-{recipe or ('upgraded' if is_file else 'moe-4')}.gguf")


def _write(job: Job, screen: Console, threads: int, *, fresh: bool, allow_nonfinite: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    more = (TimeRemainingColumn(), StatusColumn(job.store))
    with Progress(*columns, *more, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(job.plan.files[0].path.name, total=job.plan.total_bytes)
        try:
            resumed = carry_out(
                job.plan,
                job.store,
                threads=threads,
                fresh=fresh,
                allow_nonfinite=allow_nonfinite,
                report=lambda n: progress.advance(task, n),
            )
        except KeyboardInterrupt:
            screen.print("Stopped. The same command goes on from here.")
            raise
    if resumed:
        screen.print("Went on from an interrupted run.")


class StatusColumn(ProgressColumn):
    """What the source is busy with, asked for at each refresh of the screen."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def render(self, task: Task) -> Text:
        """The store's words."""
        return Text(self.store.status())


def _show_notices(plan: Plan, screen: Console) -> None:
    for notice in plan.notices[:NOTICES_SHOWN]:
        screen.print(f"note: {notice}", soft_wrap=True, markup=False)
    if len(plan.notices) > NOTICES_SHOWN:
        screen.print(f"note: … and {len(plan.notices) - NOTICES_SHOWN} more; --dry-run --json lists them all")


def _show_plan(plan: Plan, threads: int, json_wanted: bool) -> None:
    if json_wanted:
        print(json.dumps(as_json(plan, threads, bytes_on_disk(plan)), ensure_ascii=False, indent=2))
        return
    out = Console(highlight=False)
    table = Table(box=None, header_style="bold")
    table.add_column("tensors")
    table.add_column("count", justify="right")
    table.add_column("type")
    table.add_column("size", justify="right")
    table.add_column("bits", justify="right")
    table.add_column("note", overflow="fold")
    for row in rows(plan):
        bits = f"{row.bits_a_weight:.2f}"
        table.add_row(row.tensors, str(row.count), row.type, _size(row.bytes), bits, row.note)
    out.print(table)
    missing = max(0, plan.total_bytes - bytes_on_disk(plan))
    seconds = expected_seconds(plan, threads)
    out.print(
        f"{plan.weights / 1e9:.2f} billion weights, {plan.bits_a_weight:.2f} bits each: {_size(plan.total_bytes)} in "
        f"{len(plan.files)} file{'s' if len(plan.files) > 1 else ''}. Disk needed: {_size(missing)}. "
        f"Expected time: {_duration(seconds)} with {threads} threads, if the disk keeps up.",
        soft_wrap=True,
    )
    for notice in plan.notices:
        out.print(f"note: {notice}", soft_wrap=True, markup=False)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
