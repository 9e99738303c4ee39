"""`coder verify`: does a GGUF file compute what the model's paper, and its weights, say?"""

import json
import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from cli.model_file import model_file
from cli.verify_report import show
from quant.errors import InputError, VerdictError

if TYPE_CHECKING:
    from coderv2_local.verify.verdict import Verdict

MAX_TEXT = 4 << 20
MAX_IDS = 1 << 20


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
    side: Annotated[Side | None, typer.Option(help="Whose logits --dump writes; engine.", show_default=False)] = None,
) -> None:
    """Check that a model file computes what its weights and the model's paper say.

    The engine runs the file; a plain numpy forward pass runs the weights it was made from (--against), or its own.

    With --against every tensor is compared as well.

    Exit code 1: the verdict is against the file.

    Example: coder verify lite.gguf --against ./DeepSeek-Coder-V2-Lite-Instruct
    """
    from coderv2_local.verify.judge import verify as check
    from quant.cores import usable_cores

    path = model_file(model)
    threads = threads or usable_cores()
    if (ids is None) != (dump is None):
        raise InputError("--ids and --dump go together", hint="--ids IDS.npy --dump LOGITS.npy --side reference")
    if side is not None and dump is None:
        raise InputError("--side is for --dump", hint=f"--ids IDS.npy --dump LOGITS.npy --side {side.value}")
    if ids is not None and dump is not None:
        write_logits(path, ids, dump, side or Side.engine, against, stock_routing, threads)
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
        raise VerdictError(f"{model} is not what it should be: {verdict.reasons[0]}", hint=advice(verdict))


def advice(verdict: "Verdict") -> str:
    """What to do about a verdict against the file."""
    t = verdict.tensors
    if verdict.stock_routing:
        return "this is llama.cpp's own routing; leave --stock-routing away"
    if t is not None and len(t.bad) + len(t.missing) + len(t.extra) > t.identical:
        return "most tensors differ: was the file made from another checkpoint?"
    return "convert it again"


def show_progress(progress: Progress, task: TaskID, what: str, done: int, total: int) -> None:
    """One line that says what goes on."""
    progress.update(task, description=f"{what}: {done} of {total}" if total > 1 else what)


def write_logits(
    model: Path, ids: Path, dump: Path, side: Side, against: Path | None, stock_routing: bool, threads: int
) -> None:
    """Write the raw logits of one side for the ids of a .npy file: float32, (tokens, vocabulary)."""
    import numpy as np

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


def finite(value: object) -> object:
    """The same with NaN and infinity as null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
