"""The `coder` command: its subcommands, and how an error becomes a line, a hint and an exit code."""

import sys
from typing import Annotated

import typer

from cli.bench import bench
from cli.chat import chat
from cli.config import config
from cli.convert import convert
from cli.errors import show_error
from cli.eval import evaluate
from cli.fim import fim
from cli.inspect import inspect
from cli.models import app as models
from cli.plan import plan
from cli.pull import pull
from cli.rm import rm
from cli.serve import serve
from cli.sessions import sessions
from cli.stdout import checked_stdout
from cli.verify import verify
from coderv2_local import __version__
from quant.errors import CoderError

INTERRUPTED = 130  # the shell's convention for a program that Ctrl-C ended

app = typer.Typer(
    name="coder",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat)
app.command()(fim)
app.command("eval")(evaluate)
app.command()(convert)
app.command()(verify)
app.command()(inspect)
app.command()(plan)
app.command()(pull)
app.add_typer(models, name="models")
app.command()(rm)
app.command()(bench)
app.command()(serve)
app.command()(sessions)
app.command()(config)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"coder {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """DeepSeek-Coder-V2 on your own machine: chat, fill in code, convert the published weights, prove the result.

    Start with: coder chat
    """


def main() -> None:
    """Run `coder`. Data goes to stdout, everything else to stderr."""
    try:
        with checked_stdout():
            app(prog_name="coder")
    except CoderError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
