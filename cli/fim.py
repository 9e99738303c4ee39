"""`coder fim`: print what belongs at a place in a file, or write it there."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.fim_output import as_report, notice, show_applied, show_filling, write_utf8
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

MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest middle, in tokens; 128.")
]
MaxMsOption = Annotated[
    int | None,
    typer.Option(
        "--max-ms",
        min=1,
        metavar="MS",
        help="Answer with what there is so long after the start. Loading counts, and is not interrupted.",
    ),
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
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back what was written last: by --apply, by hand, or by /fim in a chat.")
    ] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read FILE's text, an unsaved buffer, from stdin.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the middle, its range, counts and times as JSON.")
    ] = False,
    context: Annotated[
        list[Path] | None, typer.Option("--context", metavar="FILE", help="Show the model this file, too; repeatable.")
    ] = None,
    no_context: Annotated[bool, typer.Option("--no-context", help="Show the model no other file.")] = False,
    prefix_tokens: Annotated[
        int | None,
        typer.Option(
            "--prefix-tokens", min=1, metavar="N", help="Longest text before the cursor; 1536, cut to the context."
        ),
    ] = None,
    suffix_tokens: Annotated[
        int | None,
        typer.Option(
            "--suffix-tokens", min=0, metavar="N", help="Longest text after the cursor; 256, cut to the context."
        ),
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
    from cli.fim_screen import why_nothing
    from coderv2_local.fim.states import keep_state, restore_state
    from coderv2_local.fim.target import hole_at, parse_target

    write_utf8()
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
        written = None
        if apply and filling.text:
            from cli.fim_edits import write_middle

            written = write_middle(path, text, hole, filling.text)
        is_local = backend.capabilities.ids
        nothing = why_nothing(filling, wishes.max_ms, load_seconds=loaded - began if is_local else 0.0)
        if as_json:
            report = as_report(text, hole, filling, load_seconds=loaded - began, fill_seconds=filled - loaded)
            print(json.dumps(report | ({"applied": bool(written)} if apply else {}), ensure_ascii=False))
        elif apply:
            show_applied(written[1] if written else "", filling, nothing)
        else:
            show_filling(text, hole, filling, path, nothing)
        sys.stdout.flush()
        if wishes.max_ms and time.monotonic() - began > wishes.max_ms / 1000:
            return  # whoever waits for the end waits no longer; the next call evaluates it anew
        try:
            keep_state(backend, path, filling)
        except CoderError as error:  # the answer is out: this only makes the next one slower
            notice(error.message)


def take_back_last() -> None:
    """Undo what was written last, by whichever command."""
    from cli.fim_edits import take_back

    change = take_back()
    for file in change.files:
        notice(f"{change.root / file.path} is as it was before")
