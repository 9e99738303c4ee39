"""Options that several commands share."""

from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A name from `coder models`, a .gguf file, or a server's http address."
    ),
]
ContextOption = Annotated[
    int,
    typer.Option("--ctx", min=0, metavar="N", help="Context in tokens; 0: what suits model and memory, up to 32768."),
]
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
