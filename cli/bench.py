"""`coder bench`: how fast a model starts and goes here, beside llama.cpp alone in the same run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.model_file import model_file
from cli.options import ContextOption, StockRoutingOption, ThreadsOption
from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.benchmark.measure import Report, Wanted
    from coderv2_local.placement.load_wishes import LoadWishes


def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A .gguf file or a model's name; none: the one chat uses.")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="N,N…", help="Lengths of prompts to measure, in tokens.")
    ] = "64,256",
    tokens: Annotated[
        int, typer.Option("--tokens", "-n", min=1, metavar="N", help="Tokens decoded after each prompt.")
    ] = 32,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, metavar="N", help="How often each is repeated, both by turns.")
    ] = 5,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Take the file out of memory first, to see it start from the disk.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, each run by itself.")] = False,
    n_ctx: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Measure a model here: its start, prompt and answer speed, memory, and bytes read; beside llama.cpp alone.

    llama.cpp does the same work with the same settings in a process of its own, by turns.

    Keep the machine idle meanwhile. --stock-routing adds the engine with llama.cpp's choice of experts.

    Examples: coder bench, coder bench lite.gguf --prompt 128 --tokens 64 --pairs 10
    """
    from coderv2_local import preferences
    from coderv2_local.benchmark.measure import Wanted
    from coderv2_local.load_settings import load_wishes
    from coderv2_local.models import find_model

    path = model_file(model or find_model(None).reference)
    wanted = Wanted(lengths(prompt), tokens, pairs, stock_routing, cold)
    report = measure(path, wanted, load_wishes(preferences.read(), n_ctx=n_ctx, n_threads=threads))
    if as_json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        from cli.bench_screen import show

        show(report)


def lengths(text: str) -> list[int]:
    """The lengths in `--prompt`.

    Raises:
        InputError: they are no numbers.

    Doctest:
        >>> lengths("64, 256")
        [64, 256]
    """
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < sys.maxsize for part in found):
        raise InputError(f"--prompt is {text!r}: numbers of tokens were expected", hint="for example --prompt 64,256")
    return sorted({int(part) for part in found})


def measure(path: Path, wanted: "Wanted", wishes: "LoadWishes") -> "Report":
    """Measure, and say on a terminal what is being done."""
    from rich.console import Console

    from coderv2_local.benchmark.measure import benchmark

    screen = Console(stderr=True, highlight=False)
    if not screen.is_terminal:
        return benchmark(path, wanted, wishes)
    # drawn once a second: a spinner would take a core's time from what is measured
    with screen.status("", spinner="simpleDots", refresh_per_second=1) as status:
        return benchmark(path, wanted, wishes, lambda step: status.update(step))
