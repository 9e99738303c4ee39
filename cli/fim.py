"""`coder fim`: print what belongs at a place in a file."""

import sys
from typing import Annotated

import typer

from cli.options import ContextOption, ModelOption, SeedOption, StockRoutingOption, TemperatureOption, ThreadsOption


def fim(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE:LINE[:COL]", help="Where to fill in: the end of LINE, or before COL. FILE:A-B replaces lines."
        ),
    ],
    model: ModelOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest middle, in tokens.")] = 128,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    context: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Fill in code at a place in a file: print the middle, and nothing else, to stdout.

    The file is not changed. Example: coder fim app.py:42
    """
    from coderv2_local.backend import LocalBackend
    from coderv2_local.fim import fill, hole_at, parse_target, read_source
    from coderv2_local.models import find_model
    from coderv2_local.sampling import SamplingOptions

    place = parse_target(target)
    hole = hole_at(read_source(place.path), place)
    options = SamplingOptions(temperature=temperature, seed=seed)
    with LocalBackend(
        find_model(model).path, n_ctx=context, n_threads=threads, exact_routing=not stock_routing
    ) as backend:
        middle = fill(hole, backend, options, max_tokens).text
    sys.stdout.write(middle + ("\n" if sys.stdout.isatty() else ""))
