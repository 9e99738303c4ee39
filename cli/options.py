"""Options that several commands share."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from coderv2_local.models import Model

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A name from `coder models`, a .gguf file, or a server's http address."
    ),
]
_CONTEXT = typer.Option(
    "--ctx", min=0, metavar="N", help="Context in tokens; 0: what suits model and memory, up to 32768."
)
ContextOption = Annotated[int, _CONTEXT]
ContextOverSettingOption = Annotated[int | None, _CONTEXT]
"""Where a setting holds unless the option is given; then 0 goes before it, too."""
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, help="CPU threads; default: a physical core each, 1 for a small model."),
]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="0 always takes the most probable token.")]
RepeatPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--repeat-penalty", metavar="X", help="Divides the logits of recent tokens; 1 unless said, 1.2 for tiny."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Seed of the draw when the temperature is above 0.")
]
StockRoutingOption = Annotated[
    bool,
    typer.Option(
        "--stock-routing", help="Let llama.cpp choose experts by its own rule (wrong for the 236B): to compare."
    ),
]


def loading_options(
    *, n_ctx: int | None, threads: int | None, stock_routing: bool, no_server: bool = False
) -> Sequence[str]:
    """Those of the options about loading a model here that were given a value which wants something, by their names."""
    given = {"--ctx": n_ctx, "--threads": threads, "--stock-routing": stock_routing, "--no-server": no_server}
    return [name for name, value in given.items() if value]


def refuse_on_server(model: "Model", options: Sequence[str]) -> None:
    """Refuse options about loading a model here where the model is on a server that the user named.

    Raises:
        InputError: naming them.
    """
    if model.path is None and options:
        decide = "decides how a model is loaded here" if len(options) == 1 else "decide how a model is loaded here"
        raise InputError(
            f"{', '.join(options)} {decide}, and {model.name} is on a server",
            hint="leave out what a server decides where it is started, or name a file with -m",
        )


@contextmanager
def value_of_setting(key: str, option: str) -> Iterator[None]:
    """Meanwhile, an error whose hint advises another value for `option`, which nobody typed, names the setting instead.

    Raises:
        CoderError: the error, of the same kind.
    """
    try:
        yield
    except CoderError as error:
        if option in error.hint:
            error.message = f"{key}: {error.message}"
            error.hint = re.sub(rf"{option} (\d+)", rf"`coder config {key} \1`", error.hint).replace(option, key)
        raise
