"""`coder verify`: does a GGUF file compute what the model's paper, and its weights, say?"""

import json
import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from quant.errors import InputError, VerdictError

if TYPE_CHECKING:
    from coderv2_local.verify.judge import Verdict

MAX_TEXT = 4 << 20
MAX_IDS = 1 << 20
SHOWN = 20
BARS = "▁▂▃▄▅▆▇█"
CHART_WIDTH = 64


class Side(str, Enum):
    """Whose logits are dumped."""

    engine = "engine"
    reference = "reference"


def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL.gguf", help="The file to check; `tiny` is the embedded model.")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="SRC", help="What it was made from: a checkpoint folder or a GGUF.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Evaluate this text instead of the built-in code.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, max=MAX_IDS, help="Evaluate at most so many tokens of the text.")] = 256,
    stock_routing: Annotated[
        bool, typer.Option("--stock-routing", help="Leave the choice of experts to llama.cpp, for comparison.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, max=1024, help="CPU threads; all by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    ids: Annotated[Path | None, typer.Option(metavar="IDS.npy", help="Token ids for --dump.")] = None,
    dump: Annotated[
        Path | None, typer.Option(metavar="LOGITS.npy", help="Write one side's raw logits, and stop.")
    ] = None,
    side: Annotated[Side, typer.Option(help="Whose logits --dump writes.")] = Side.engine,
) -> None:
    """Check that a model file computes what its weights and the model's paper say.

    The engine runs the file; a plain numpy forward pass runs the weights it was made from (--against), or its own. With
    --against every tensor is compared as well. Exit code 1: the verdict is against the file.

    Example: coder verify lite.gguf --against ./DeepSeek-Coder-V2-Lite-Instruct
    """
    from coderv2_local.models import find_model
    from coderv2_local.verify.judge import verify as check
    from quant.cores import usable_cores

    path = find_model(model).path
    threads = threads or usable_cores()
    if (ids is None) != (dump is None):
        raise InputError("--ids and --dump go together", hint="--ids IDS.npy --dump LOGITS.npy --side reference")
    if ids is not None and dump is not None:
        write_logits(path, ids, dump, side, against, stock_routing, threads)
        return
    prompt = read_text(text) if text else None
    with Progress(TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading")
        verdict = check(
            path,
            against=against,
            text=prompt,
            max_tokens=tokens,
            stock_routing=stock_routing,
            threads=threads,
            on_progress=lambda what, done, total: show_progress(progress, task, what, done, total),
        )
    if as_json:
        typer.echo(json.dumps(finite(verdict.to_json()), indent=2))
    else:
        show(verdict)
    if not verdict.good:
        raise VerdictError(
            f"{model} is not what it should be: {verdict.reasons[0]}",
            hint="this is llama.cpp's own routing; leave --stock-routing away" if stock_routing else "convert it again",
        )


def show_progress(progress: Progress, task: TaskID, what: str, done: int, total: int) -> None:
    """One line that says what goes on."""
    progress.update(task, description=f"{what}: {done} of {total}" if total > 1 else what)


def write_logits(
    model: Path, ids: Path, dump: Path, side: Side, against: Path | None, stock_routing: bool, threads: int
) -> None:
    """Write the raw logits of one side for the ids of a .npy file: float32, (tokens, vocabulary)."""
    from coderv2_local.verify.judge import raw_logits

    try:
        loaded = np.load(ids, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read token ids from {ids}: {error}", hint="a .npy file with one row of integers"
        ) from None
    if not isinstance(loaded, np.ndarray) or loaded.size > MAX_IDS:
        raise InputError(f"{ids} is no .npy file with one row of at most {MAX_IDS} ids")
    logits = raw_logits(
        model, np.array(loaded), side.value, against=against, stock_routing=stock_routing, threads=threads
    )
    try:
        with open(dump, "wb") as file:
            np.save(file, logits)
    except OSError as error:
        raise InputError(f"cannot write {dump}: {error.strerror or error}") from None


def read_text(path: Path) -> str:
    """The text to evaluate."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TEXT).decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def show(verdict: "Verdict") -> None:
    """The report, on stdout."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    a = verdict.agreement
    out.print(f"{verdict.model} in the engine, against {verdict.against} in the reference, {verdict.tokens} tokens")
    if verdict.stock_routing:
        out.print("experts chosen by llama.cpp's own rule (--stock-routing)")
    out.print()
    out.print(f"divergence (KL, nats)   mean {a.mean_kl:.2e}   99 % {a.p99_kl:.2e}   max {a.max_kl:.2e}")
    out.print(f"same most probable token   {a.top1:.1%}")
    out.print(f"perplexity   engine {a.engine_perplexity:.4f}   reference {a.reference_perplexity:.4f}")
    out.print()
    out.print(f"divergence by position, {chart_scale(a.kl)}")
    out.print("  " + chart(a.kl))
    for stage in dict.fromkeys(d.stage for d in verdict.stages):
        values = [d.difference for d in verdict.stages if d.stage == stage]
        worst = next(d for d in verdict.largest if d.stage == stage)
        where = f" in layer {worst.layer}" if worst.layer >= 0 else ""
        unit = "choices that differ" if stage == "router" else "relative difference"
        out.print(f"{stage:<10} {unit}, largest {worst.difference:.1e}{where}")
        if len(values) > 1:
            out.print("  " + chart(values))
    if verdict.tensors is not None:
        t = verdict.tensors
        out.print(f"tensors    {t.parts} parts compared, {t.identical} identical to the source, {len(t.bad)} off")
    for remark in verdict.remarks:
        out.print(f"note: {remark}")
    out.print()
    for reason in verdict.reasons[:SHOWN]:
        out.print(f"✗ {reason}")
    if len(verdict.reasons) > SHOWN:
        out.print(f"✗ … and {len(verdict.reasons) - SHOWN} more (--json has all)")
    bound = f"mean divergence at most {verdict.threshold.mean_kl:g}, for {verdict.threshold.coarsest}"
    out.print(f"verdict: {'good' if verdict.good else 'against the file'} ({bound})")


def chart(values: "tuple[float, ...] | list[float]") -> str:
    """A line of bars on a logarithmic scale, the largest of its stretch each: at most 64 wide.

    Doctest:
        >>> chart([1e-3, 1e-2, 1e-1])
        '▁▅█'
    """
    step = max(1, math.ceil(len(values) / CHART_WIDTH))
    peaks = [max(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = log_range(peaks)
    spread = high - low or 1.0
    levels = (min(max((log10(v) - low) / spread, 0.0), 1.0) for v in peaks)
    return "".join(BARS[round(level * (len(BARS) - 1))] for level in levels)


def chart_scale(values: "tuple[float, ...] | list[float]") -> str:
    """What the lowest and the highest bar stand for."""
    low, high = log_range(list(values))
    return f"from 1e{low:.1f} to 1e{high:.1f}"


def log10(value: float) -> float:
    """log₁₀ that has a floor and a ceiling."""
    if not value < 1e30:
        return 30.0
    return math.log10(max(value, 1e-18))


def log_range(values: list[float]) -> tuple[float, float]:
    """The lowest and highest log₁₀."""
    logs = [log10(v) for v in values]
    return min(logs), max(logs)


def finite(value: object) -> object:
    """The same with NaN and infinity as null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
