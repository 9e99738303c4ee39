"""`coder eval fim`: how well a model fills holes in code that it has not seen."""

import json
import statistics
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.fim import ForceOption
from cli.fim_output import notice
from cli.options import ContextOption, ModelOption, StockRoutingOption, ThreadsOption, loading_options
from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.evaluation.infilling import Figures, Outcome

BAR = 30  # characters of the chart


class What(str, Enum):
    """What can be evaluated."""

    FIM = "fim"


class KindOption(str, Enum):
    """Kinds of holes."""

    LINE = "line"
    REST = "rest"
    WITHIN = "within"
    LINES = "lines"
    SPAN = "span"


def evaluate(
    what: Annotated[What, typer.Argument(help="fim: infilling.")],
    sources: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders or files of source code, in any language.")
    ],
    model: ModelOption = None,
    kinds: Annotated[
        list[KindOption] | None,
        typer.Option("--kind", "-k", help="Kinds of holes; repeatable. Default: all.", show_default=False),
    ] = None,
    holes: Annotated[int, typer.Option("--holes", min=1, help="Holes of each kind.")] = 100,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest answer, in tokens.")] = 128,
    raw: Annotated[bool, typer.Option("--raw", help="Show the answers before the rules as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    force: ForceOption = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, metavar="N", help="Chooses where the holes are.")
    ] = 0,
    n_ctx: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Make holes in source code, let the model fill them, and compare with what stood there.

    Exact match is after trimming; similarity is 2·LCS/(both lengths).

    "parses", asked of Python files, is the share of answers that are not empty and with which the file parses.

    The holes follow from the seed. The files should be none that the model was trained on.

    Example: coder eval fim my_project --holes 50
    """
    from rich.progress import Progress

    from cli.fim_backend import infill_backend
    from coderv2_local import preferences
    from coderv2_local.evaluation.documents import read_documents
    from coderv2_local.evaluation.holes import KINDS, draw_holes
    from coderv2_local.evaluation.infilling import evaluate as fill_and_judge
    from coderv2_local.load_settings import load_wishes

    assert what is What.FIM
    documents = read_documents(sources)
    wanted = [kind for kind in KINDS if not kinds or KindOption(kind) in kinds]
    samples = [sample for kind in wanted for sample in draw_holes(documents, kind, holes, seed)]
    if not samples:
        raise InputError("the files are too short to make holes in", hint="give larger ones, or a folder of them")
    load = load_wishes(preferences.read(), n_ctx=n_ctx, n_threads=threads)
    given = loading_options(n_ctx=n_ctx, threads=threads, stock_routing=stock_routing)
    screen = Console(stderr=True, highlight=False)
    with (
        infill_backend(model, load, notice, given, exact_routing=not stock_routing, force=force) as backend,
        Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress,
    ):
        name = backend.name
        outcomes = list(
            progress.track(fill_and_judge(samples, backend, max_tokens), total=len(samples), description="filling")
        )
    if as_json:
        print(json.dumps({"model": name, "seed": seed, **as_report(outcomes)}, ensure_ascii=False))
    else:
        show(outcomes, name, raw=raw)


def as_report(outcomes: "list[Outcome]") -> dict[str, object]:
    """What `--json` prints: figures for each kind and for each language, raw and after the rules."""
    from dataclasses import asdict

    from coderv2_local.evaluation.infilling import reasons

    def group(chosen: "list[Outcome]") -> dict[str, object]:
        kept, before = both(chosen)
        return {
            **asdict(kept),
            "raw": {key: value for key, value in asdict(before).items() if key != "holes"},
            "reasons": reasons(chosen),
            "median_first_token_seconds": round(statistics.median(o.first_token_seconds for o in chosen), 4),
            "median_seconds": round(statistics.median(o.seconds for o in chosen), 4),
            "longest_rule_seconds": round(max(o.rule_seconds for o in chosen), 6),
        }

    return {
        "kinds": {kind: group(chosen) for kind, chosen in by_kind(outcomes).items()},
        "languages": {language: group(chosen) for language, chosen in by_language(outcomes).items()},
    }


def show(outcomes: "list[Outcome]", name: str, *, raw: bool) -> None:
    """A table with a bar for exact matches; where there are several languages, a second one by language."""
    from rich.table import Table

    from coderv2_local.evaluation.holes import KINDS

    console = Console(highlight=False)
    kinds, languages = by_kind(outcomes), by_language(outcomes)
    for heading, groups in (("holes", kinds), ("language", languages)):
        if heading == "language" and len(languages) < 2:
            continue
        table = Table(title=f"{name}: infilling" if groups is kinds else None, title_justify="left", box=None)
        table.add_column(heading, no_wrap=True)
        for column in ("number", "exact", "similarity", "parses"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("exact match", no_wrap=True)
        for label, chosen in groups.items():
            kept, before = both(chosen)
            table.add_row(label, *cells(kept), bar(kept.exact))
            if raw:
                table.add_row("  raw", *cells(before), bar(before.exact), style="dim")
        console.print(table)
        console.print()
    for kind, meaning in KINDS.items():
        if kind in kinds:
            console.print(f"{kind}: {meaning}", style="dim", markup=False)
    if raw:
        console.print("raw: the same answers, before the rules that end and trim them", style="dim", markup=False)


def cells(figures: "Figures") -> tuple[str, str, str, str]:
    parsed = "–" if figures.parses is None else f"{figures.parses:.1%}"
    return str(figures.holes), f"{figures.exact:.1%}", f"{figures.similarity:.3f}", parsed


def bar(share: float) -> str:
    """A bar for a share between 0 and 1; ASCII where the terminal's encoding has no blocks."""
    full, rest = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", ".")
    n = round(share * BAR)
    return full * n + rest * (BAR - n)


def both(outcomes: "list[Outcome]") -> "tuple[Figures, Figures]":
    """Figures after the rules, and before them."""
    from coderv2_local.evaluation.infilling import figures

    return figures(o.score for o in outcomes), figures(o.raw_score for o in outcomes)


def by_kind(outcomes: "list[Outcome]") -> "dict[str, list[Outcome]]":
    """In the order in which they were filled."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.sample.kind, []).append(outcome)
    return groups


def by_language(outcomes: "list[Outcome]") -> "dict[str, list[Outcome]]":
    groups: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.sample.document.language):
        groups.setdefault(outcome.sample.document.language, []).append(outcome)
    return groups
