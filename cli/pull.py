"""`coder pull`: from a name to a model on this machine."""

import json
from typing import Annotated

import typer


def pull(
    name: Annotated[str, typer.Argument(help="lite, lite-base, 236b, 236b-base, 236b-0724, or a name of your own.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-q", help="moe-4, moe-8, q4_k_m, …; default: what suits this machine."),
    ] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Convert the published weights even where a ready file is known.")
    ] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="Take a file that others made, even if it is an old one: a third to fetch.")
    ] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the model's licence without being asked.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", "-t", min=1, max=1024, help="For converting.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Get a model: download a ready file, or fetch the published weights and convert them on the way.

    An interrupted run goes on where it stopped when the same command is given again.

    Examples: coder pull lite, coder pull lite-base -q moe-8
    """
    from cli.pulling import Request, run

    done = run(
        Request(
            name,
            recipe,
            build=build,
            ready=ready,
            accept_licence=accept_licence,
            fresh=fresh,
            threads=threads,
        )
    )
    if as_json:
        report = {"name": done.name, "recipe": done.recipe, "path": str(done.path), "bytes": done.size}
        print(json.dumps(report, ensure_ascii=False))
