"""`coder fim`: print what belongs at a place in a file."""

import json
import sys
import time
from typing import Annotated

import typer

from cli.options import ContextOption, ModelOption, SeedOption, StockRoutingOption, TemperatureOption, ThreadsOption
from cli.piped import piped_text


def fim(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE:LINE[:COL]", help="Where to fill in: the end of LINE, or before COL. FILE:A-B replaces lines."
        ),
    ],
    model: ModelOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest middle, in tokens.")] = 128,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read FILE's text, an unsaved buffer, from stdin.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the middle, its range, counts and times as JSON.")
    ] = False,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    context: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Fill in code at a place in a file: print the middle, and nothing else, to stdout.

    The file is not changed. Examples: coder fim app.py:42, or for an editor: coder fim app.py:42:9 --stdin --json
    """
    from coderv2_local.backend import LocalBackend
    from coderv2_local.fim import fill, hole_at, parse_target, read_source, replaced_range
    from coderv2_local.load_options import LoadOptions
    from coderv2_local.models import find_model
    from coderv2_local.sampling import SamplingOptions

    began = time.monotonic()
    place = parse_target(target)
    text = piped_text() if stdin else read_source(place.path)
    hole = hole_at(text, place)
    options = SamplingOptions(temperature=temperature, seed=seed)
    load = LoadOptions(n_ctx=context, n_threads=threads)
    with LocalBackend(find_model(model).path, load, exact_routing=not stock_routing) as backend:
        loaded = time.monotonic()
        filling = fill(hole, backend, options, max_tokens)
    if as_json:
        start, end = replaced_range(text, hole)
        report = {
            "text": filling.text,
            "reason": filling.reason,
            "range": {"start": start, "end": end},
            "prompt_tokens": filling.prompt_tokens,
            "tokens": filling.tokens,
            "load_seconds": round(loaded - began, 3),
            "fill_seconds": round(time.monotonic() - loaded, 3),
        }
        print(json.dumps(report, ensure_ascii=False))
    else:
        sys.stdout.write(filling.text + ("\n" if sys.stdout.isatty() else ""))
