"""`coder convert`: published weights → GGUF."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A checkpoint folder, a Hub repo id, or a GGUF file.", show_default=False),
    ],
    destination: Annotated[
        Path | None, typer.Argument(metavar="DST.gguf", help="The file to write.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-q",
            help="moe-4, moe-8, q4_0, q4_k_s, q4_k_m, q5_k_m, q6_k, q8_0, f16, bf16, f32. "
            "Default: moe-4; a GGUF keeps its types.",
        ),
    ] = None,
    experts: Annotated[str | None, typer.Option(help="A type for the routed experts, over the recipe's.")] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Importance weights from llama-imatrix.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repo.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; all cores by default.")] = None,
    split_size: Annotated[str | None, typer.Option(help="Start a new file after so much, for example 4G.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DST if another file is there.")] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Convert weights that are NaN or infinite, too.")
    ] = False,
    as_json_text: Annotated[bool, typer.Option("--json", help="The plan or the result as JSON on stdout.")] = False,
) -> None:
    """Convert published weights to a GGUF file, in one pass; or requantize or upgrade a GGUF file.

    An interrupted run goes on where it stopped when the same command is given again.

    Example:  coder convert ./DeepSeek-Coder-V2-Lite-Instruct lite.gguf -q moe-4
    """
    from cli.converting import Request, run

    request = Request(
        source,
        destination,
        recipe=recipe,
        experts=experts,
        imatrix=imatrix,
        revision=revision,
        threads=threads,
        split_size=split_size,
        dry_run=dry_run,
        fresh=fresh,
        force=force,
        allow_nonfinite=allow_nonfinite,
        as_json=as_json_text,
    )
    run(request)
