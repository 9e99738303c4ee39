"""`coder fim`: print what belongs at a place in a file, or write it there."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.fim_usage import check_usage
from cli.options import (
    ContextOverSettingOption,
    ModelOption,
    SeedOption,
    StockRoutingOption,
    TemperatureOption,
    ThreadsOption,
)
from quant.errors import CoderError

if TYPE_CHECKING:
    from cli.fim_wishes import FimWishes
    from coderv2_local.fim.fill import Filling
    from coderv2_local.fim.hole import Hole

MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest middle, in tokens; 128.")
]
MaxMsOption = Annotated[
    int | None,
    typer.Option("--max-ms", min=1, metavar="MS", help="Answer after so long with what there is; loading counts."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Use a model that was not trained to fill in.")]


def fim(
    ctx: typer.Context,
    places: Annotated[  # one; more than one is told apart from a forgotten --context
        list[str] | None,
        typer.Argument(
            metavar="FILE:LINE[:COL]",
            help="Where to fill in: the end of LINE, or before COL. FILE:A-B replaces lines. Without it: interactive.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    max_tokens: MaxTokensOption = None,
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
    n_ctx: ContextOverSettingOption = None,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Load the model here, even where a `coder serve` runs it already.")
    ] = False,
) -> None:
    """Fill in code at a place in a file: print the middle, and nothing else, to stdout.

    On a terminal it is shown in its place. The file is changed with --apply only, and --undo takes that back.
    Examples: coder fim app.py:42, or for an editor: coder fim app.py:42:9 --stdin --json
    """
    began = time.monotonic()
    check_usage(places or (), options_given(ctx))
    if undo:
        take_back_last()
        return

    from cli.fim_wishes import FimWishes
    from coderv2_local import preferences

    wishes = FimWishes(
        preferences.read(),
        max_tokens=max_tokens,
        max_ms=max_ms,
        context=context or (),
        no_context=no_context,
        prefix_tokens=prefix_tokens,
        suffix_tokens=suffix_tokens,
        temperature=temperature,
        seed=seed,
        n_ctx=n_ctx,
        threads=threads,
        exact_routing=not stock_routing,
        force=force,
        server=not no_server,
    )
    wishes.sampling()  # refused before the model is loaded, which takes longer
    if places:
        fill_in(wishes, model, places[0], stdin=stdin, apply=apply, as_json=as_json, began=began)
        return
    from cli.fim_repl import start_repl

    start_repl(wishes, model, notice)


def options_given(ctx: typer.Context) -> set[str]:
    """The options on the command line, by their long names."""
    options = {p.name: p.opts[0] for p in ctx.command.params if p.name and p.param_type_name == "option"}
    sources = {name: ctx.get_parameter_source(name) for name in options}
    return {options[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def fill_in(
    wishes: "FimWishes", model: str | None, target: str, *, stdin: bool, apply: bool, as_json: bool, began: float
) -> None:
    """One suggestion, given as it was asked for.

    Args:
        target: FILE:LINE or the like.
        began: when the command did, in seconds of the monotonic clock: loading counts.
    """
    from cli.fim_buffer import source_text
    from coderv2_local.fim.states import keep_state, restore_state
    from coderv2_local.fim.target import hole_at, parse_target

    place = parse_target(target)
    path, text = place.path, source_text(place, stdin=stdin, notify=notice)
    hole = hole_at(text, place)
    wishes.named(path)
    with wishes.backend(model, notice) as backend:
        if said := restore_state(backend, path):
            notice(said)
        loaded = time.monotonic()
        filling = wishes.fill(hole, backend, path, text, spent=loaded - began)
        filled = time.monotonic()
        if said := wishes.left_out(filling):
            notice(said)
        diff = ""
        if apply and filling.text:
            from cli.fim_edits import write_middle

            _, diff = write_middle(path, text, hole, filling.text)
        if as_json:
            report = as_report(text, hole, filling, load_seconds=loaded - began, fill_seconds=filled - loaded)
            print(json.dumps(report | ({"applied": bool(diff)} if apply else {}), ensure_ascii=False))
        elif apply:
            show_applied(diff, filling)
        else:
            show_filling(text, hole, filling, path)
        sys.stdout.flush()
        try:
            keep_state(backend, path, filling)
        except CoderError as error:  # the answer is out: this only makes the next one slower
            notice(error.message)


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


def show_filling(text: str, hole: "Hole", filling: "Filling", path: Path) -> None:
    """The middle: in its place on a terminal, alone in a pipe."""
    from cli.fim_screen import in_place, summary

    if not sys.stdout.isatty():
        sys.stdout.write(filling.text)
        return
    replaced = text[len(hole.prefix) : len(text) - len(hole.suffix)]
    Console(highlight=False).print(in_place(hole, filling.text, replaced=replaced, path=path), soft_wrap=True)
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


def notice(text: str) -> None:
    """A remark on stderr, beside the data."""
    from coderv2_local.stream import printable

    Console(stderr=True, highlight=False).print(Text(printable(text), "yellow"), soft_wrap=True)
