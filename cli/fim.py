"""`coder fim`: print what belongs at a place in a file, or write it there."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.options import ContextOption, ModelOption, SeedOption, StockRoutingOption, TemperatureOption, ThreadsOption
from cli.piped import piped_text
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from coderv2_local.fim.fill import Filling, FillOptions
    from coderv2_local.fim.hole import Hole
    from coderv2_local.placement.load_wishes import LoadWishes

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest middle, in tokens.")]
MaxMsOption = Annotated[
    int | None,
    typer.Option("--max-ms", min=1, metavar="MS", help="Answer after so long with what there is; loading counts."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Use a model that was not trained to fill in.")]


def fim(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE:LINE[:COL]]",
            help="Where to fill in: the end of LINE, or before COL. FILE:A-B replaces lines. Without it: interactive.",
        ),
    ] = None,
    model: ModelOption = None,
    max_tokens: MaxTokensOption = 128,
    max_ms: MaxMsOption = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the middle into FILE and show the diff.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back what the last --apply wrote.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read FILE's text, an unsaved buffer, from stdin.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the middle, its range, counts and times as JSON.")
    ] = False,
    context: Annotated[
        list[Path] | None, typer.Option("--context", metavar="FILE", help="Show the model this file, too; repeatable.")
    ] = None,
    no_context: Annotated[bool, typer.Option("--no-context", help="Show the model no other file.")] = False,
    prefix_tokens: Annotated[
        int | None, typer.Option("--prefix-tokens", min=1, metavar="N", help="Longest text before the cursor.")
    ] = None,
    suffix_tokens: Annotated[
        int | None, typer.Option("--suffix-tokens", min=0, metavar="N", help="Longest text after the cursor.")
    ] = None,
    force: ForceOption = False,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    n_ctx: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Fill in code at a place in a file: print the middle, and nothing else, to stdout.

    On a terminal it is shown in its place. The file is changed with --apply only, and --undo takes that back.
    Examples: coder fim app.py:42, or for an editor: coder fim app.py:42:9 --stdin --json
    """
    if undo:
        if target or apply or stdin:
            raise InputError("--undo takes back the last --apply: it goes with no FILE and no other of these options")
        take_back_last()
        return
    if stdin and apply:
        raise InputError("--stdin is a text that is not saved: --apply has no file to write", hint="leave one out")

    from cli.fim_backend import infill_backend
    from coderv2_local import preferences
    from coderv2_local.load_settings import load_wishes
    from coderv2_local.sampling.sampler import SamplingOptions

    sampling = SamplingOptions(temperature=temperature, seed=seed or 0)
    load = load_wishes(preferences.read(), n_ctx=n_ctx, n_threads=threads)
    began = time.monotonic()
    if target is None:
        start_repl(model, load, exact_routing=not stock_routing, force=force)
        return

    from coderv2_local.fim.fill import fill
    from coderv2_local.fim.source import read_source
    from coderv2_local.fim.states import keep_state, state_name
    from coderv2_local.fim.target import hole_at, parse_target

    place = parse_target(target)
    text = piped_text() if stdin else read_source(place.path).text
    hole = hole_at(text, place)
    options = fill_options(place.path, text, max_tokens, context or [], no_context, prefix_tokens, suffix_tokens)
    with infill_backend(model, load, notice, exact_routing=not stock_routing, force=force) as backend:
        if said := backend.restore_state(state_name(place.path)):
            notice(said)
        loaded = time.monotonic()
        if max_ms:  # loading counts
            options = replace(options, max_seconds=max(began + max_ms / 1000 - loaded, 0.0))
        filling = fill(hole, backend, sampling, options)
        filled = time.monotonic()
        diff = ""
        if apply and filling.text:
            from cli.fim_edits import write_middle

            _, diff = write_middle(place.path, text, hole, filling.text)
        if as_json:
            report = as_report(text, hole, filling, load_seconds=loaded - began, fill_seconds=filled - loaded)
            print(json.dumps(report | ({"applied": bool(diff)} if apply else {}), ensure_ascii=False))
        elif apply:
            show_applied(diff, filling)
        else:
            show_filling(hole, filling)
        sys.stdout.flush()
        try:
            keep_state(backend, place.path, filling)
        except CoderError as error:  # the answer is out: this only makes the next one slower
            notice(error.message)


def fill_options(
    path: Path,
    text: str,
    max_tokens: int,
    named: list[Path],
    no_context: bool,
    prefix_tokens: int | None,
    suffix_tokens: int | None,
) -> "FillOptions":
    """The options of one filling, with the other files that the model is shown."""
    from coderv2_local.edits.refusal import EditRefused
    from coderv2_local.fim.fill import FillOptions
    from coderv2_local.fim.related import label_of, named_snippets, related_snippets
    from coderv2_local.fim.window import USUAL, Budgets

    budgets = Budgets(
        USUAL.prefix if prefix_tokens is None else prefix_tokens,
        USUAL.suffix if suffix_tokens is None else suffix_tokens,
        USUAL.context,
    )
    try:
        snippets = named_snippets(named, path)
    except EditRefused as error:
        raise InputError(error.message, hint=error.hint) from None
    if not no_context and not named:
        snippets = related_snippets(path, text)
    return FillOptions(
        max_tokens, budgets=budgets, snippets=tuple(snippets), asked_for_context=bool(named), label=label_of(path)
    )


def as_report(
    text: str, hole: "Hole", filling: "Filling", *, load_seconds: float, fill_seconds: float
) -> dict[str, object]:
    """What `--json` prints. Lines and columns count from 1; a column is a number of characters."""
    from coderv2_local.fim.target import replaced_range

    start, end = replaced_range(text, hole)
    return {
        "text": filling.text,
        "reason": filling.reason,
        "range": {"start": start, "end": end},
        "prompt_tokens": filling.prompt_tokens,
        "reused_tokens": filling.reused_tokens,
        "suffix_tokens": filling.suffix_tokens,
        "tokens": filling.tokens,
        "load_seconds": round(load_seconds, 3),
        "fill_seconds": round(fill_seconds, 3),
        "first_token_seconds": round(filling.prompt_seconds, 3),
    }


def show_filling(hole: "Hole", filling: "Filling") -> None:
    """The middle: in its place on a terminal, alone in a pipe."""
    from cli.fim_screen import in_place, summary

    if not sys.stdout.isatty():
        sys.stdout.write(filling.text)
        return
    Console(highlight=False).print(in_place(hole, filling.text), soft_wrap=True)
    if not filling.text:
        notice("the model suggests nothing here")
    Console(stderr=True, highlight=False).print(Text(summary(filling), "dim"), soft_wrap=True)


def show_applied(diff: str, filling: "Filling") -> None:
    from cli.edit_screen import show_diff

    if not diff:
        notice(f"nothing was written: the model suggests nothing here (ended by: {filling.reason})")
        return
    show_diff(diff, Console(highlight=False))
    notice("written; `coder fim --undo` takes it back")


def take_back_last() -> None:
    """Undo what the last --apply wrote."""
    from cli.fim_edits import take_back

    change = take_back()
    for file in change.files:
        notice(f"{change.root / file.path} is as it was before")


def start_repl(model: str | None, load: "LoadWishes", *, exact_routing: bool, force: bool) -> None:
    from cli.fim_backend import infill_backend
    from cli.fim_repl import fim_repl

    if not sys.stdin.isatty():
        raise InputError("without FILE:LINE, `coder fim` is interactive and needs a terminal", hint="give FILE:LINE")
    screen = Console(stderr=True, highlight=False)
    with infill_backend(model, load, notice, exact_routing=exact_routing, force=force) as backend:
        fim_repl(backend, [], screen)


def notice(text: str) -> None:
    """A remark on stderr, beside the data."""
    from coderv2_local.stream import printable

    Console(stderr=True, highlight=False).print(Text(printable(text), "yellow"), soft_wrap=True)
