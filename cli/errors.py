"""How an error reaches the user: one line for what went wrong, one for what to do about it, on stderr."""

import sys

from rich.console import Console
from rich.markup import escape

from coderv2_local.stream import printable
from quant.errors import CoderError


def remarks() -> Console:
    """stderr. A terminal gets lines that end between words; in a pipe or a file a line stays one."""
    return Console(stderr=True, highlight=False, soft_wrap=not (sys.stderr and sys.stderr.isatty()))


def show_error(error: CoderError) -> None:
    """One line for what went wrong, one for what to do about it."""
    console = remarks()
    console.print(f"[bold red]error:[/] {escape(printable(error.message))}")
    if error.hint:
        console.print(f"[bold cyan]hint:[/] {escape(printable(error.hint))}")
