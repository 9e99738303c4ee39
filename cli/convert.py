"""`coder convert`: a checkpoint → a GGUF file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from converters.job import Options, closing, default_threads, plan_folder
from converters.writer import carry_out, check_room, existing_output

EXAMPLE = "Example:  coder convert ./DeepSeek-Coder-V2-Lite-Instruct lite.gguf -q moe-4"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint folder.")],
    destination: Annotated[Path, typer.Argument(metavar="DST.gguf", help="The file to write.")],
    recipe: Annotated[str, typer.Option("--recipe", "-q", help="Which types the tensors take.")] = "moe-4",
    experts: Annotated[str | None, typer.Option(help="A type for the routed experts, over the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; all cores by default.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it is there.")] = False,
) -> None:
    """Convert a checkpoint to a GGUF file, in one pass.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    errors = Console(stderr=True)
    with closing(plan_folder(Path(source), destination, Options(recipe, experts))) as job:
        plan = job.plan
        if not force and existing_output(plan):
            errors.print(f"{destination} is there already, complete and made by this very plan.", highlight=False)
            return
        check_room(plan)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:
            task = progress.add_task(destination.name, total=plan.total_bytes)
            carry_out(
                plan,
                job.store,
                threads=threads or default_threads(),
                fresh=fresh,
                report=lambda n: progress.advance(task, n),
            )
    size = f"{plan.total_bytes / 1e9:.2f} GB" if plan.total_bytes >= 1e8 else f"{plan.total_bytes / 1e6:.1f} MB"
    errors.print(f"{destination}: {size}, {plan.bits_a_weight:.2f} bits a weight.", highlight=False)


convert.__doc__ = f"{convert.__doc__}\n    {EXAMPLE}\n"
