"""`coder convert`: published weights, or a GGUF file → a GGUF file."""

import json
from pathlib import Path
from typing import Annotated

import typer
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
from quant.recipes import RECIPES

NOTICES_SHOWN = 12


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A checkpoint folder, a Hub repo id, or a GGUF file.", show_default=False),
    ],
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DST.gguf]", help="The file to write.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-q", help=f"{', '.join(RECIPES)}. Default: moe-4; a GGUF keeps its types."),
    ] = None,
    experts: Annotated[str | None, typer.Option(help="A type for the routed experts, over the recipe's.")] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Importance weights from llama-imatrix.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repo.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; all cores by default.")] = None,
    split_size: Annotated[str | None, typer.Option(help="Start a new file after so much, for example 4G.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DST if another file is there.")] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Convert weights that are NaN or infinite, too.")
    ] = False,
    as_json_text: Annotated[bool, typer.Option("--json", help="The plan or the result as JSON on stdout.")] = False,
) -> None:
    """Convert published weights to a GGUF file, in one pass; or requantize or upgrade a GGUF file.

    An interrupted run goes on where it stopped when the same command is given again.

    Example:  coder convert ./DeepSeek-Coder-V2-Lite-Instruct lite.gguf -q moe-4
    """
    screen = Console(stderr=True, highlight=False)
    options = Options(recipe, experts, imatrix, parse_size(split_size) if split_size else None)
    destination = destination or _default_destination(source, recipe)
    workers = threads or usable_cores()
    with closing(_plan(source, revision, destination, options, dry_run)) as job:
        plan = job.plan
        if dry_run:
            _show_plan(plan, workers, as_json_text)
            job.store.discard()
            return
        there = not force and existing_output(plan)
        if there:
            screen.print(f"{destination} is there already, complete and made by this very plan.", soft_wrap=True)
        else:
            check_room(plan)
            _show_notices(plan, screen)
            _write(job, screen, workers, fresh=fresh, allow_nonfinite=allow_nonfinite)
            screen.print(
                f"{plan.files[0].path}: {_size(plan.total_bytes)}, {plan.bits_a_weight:.2f} bits a weight.",
                soft_wrap=True,
            )
        if as_json_text:
            files = [str(f.path) for f in plan.files]
            result = {"files": files, "bytes": plan.total_bytes, "already_there": there, "notices": list(plan.notices)}
            typer.echo(json.dumps(result, ensure_ascii=False))


def _plan(source: str, revision: str | None, destination: Path, options: Options, dry_run: bool) -> Job:
    if not Path(source).exists() and is_repo_id(source):
        return plan_hub(source, revision, destination, options, only_look=dry_run)
    return plan_source(Path(source), destination, options, only_look=dry_run)


def _default_destination(source: str, recipe: str | None) -> Path:
    """The source's name with the recipe, in the current folder."""
    path = Path(source)
    stem = path.stem if path.is_file() else path.resolve().name
    return Path(f"{stem}-{recipe or ('upgraded' if path.is_file() else 'moe-4')}.gguf")


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
        typer.echo(json.dumps(as_json(plan, threads, bytes_on_disk(plan)), ensure_ascii=False, indent=2))
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
