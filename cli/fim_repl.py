"""Filling in by hand: the loop that reads a line and has the desk obey it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cli.fim_desk import Desk
from coderv2_local.stream import printable
from quant.errors import InputError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    from cli.fim_wishes import FimWishes
    from coderv2_local.backend import Backend


def start_repl(wishes: "FimWishes", model: str | None, notify: Callable[[str], None]) -> None:
    """`coder fim` without a place: open the model, and fill in by hand.

    Raises:
        InputError: there is no terminal, or a file that was named cannot be read.
    """
    if not sys.stdin.isatty():
        raise InputError("without FILE:LINE, `coder fim` is interactive and needs a terminal", hint="give FILE:LINE")
    wishes.named(Path())  # said now, not at the first suggestion
    with wishes.backend(model, notify) as backend:
        fim_repl(backend, wishes, [], Console(stderr=True, highlight=False))


def fim_repl(backend: "Backend", wishes: "FimWishes", words: list[str], screen: Console) -> None:
    """Fill in by hand until the user leaves. The backend stays open.

    Args:
        words: a file to begin with, as FILE or FILE:LINE[:COL], or nothing. If it cannot be opened, that is the end.
        screen: where everything is shown.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML

    desk = Desk(backend, wishes, screen)
    screen.print(Text(f"filling in with {printable(backend.name)} · ? for help, Ctrl-D to leave", "bold"))
    if words:
        desk.obey("open " + " ".join(words))
        if desk.target is None:
            return
    keyboard: PromptSession[str] = PromptSession(completer=_completer())
    while True:
        try:
            line = keyboard.prompt(HTML(f"<ansigreen>fim{_escaped(desk.where())}&gt;</ansigreen> ")).strip()
            if line in ("q", "quit", "exit", "/exit", "/quit"):
                return
            desk.obey(line)
        except KeyboardInterrupt:  # at the prompt, or between a suggestion and the next prompt
            continue
        except EOFError:
            return


def _completer() -> "Completer":
    from prompt_toolkit import completion
    from prompt_toolkit import document as documents

    paths = completion.PathCompleter(expanduser=True)

    class AfterOpen(completion.Completer):
        """Completes paths after `open`."""

        def get_completions(self, document: "Document", complete_event: "CompleteEvent") -> "Iterator[Completion]":
            before = document.text_before_cursor
            if before.startswith("open "):
                yield from paths.get_completions(documents.Document(before.removeprefix("open ")), complete_event)

    return AfterOpen()


def _escaped(text: str) -> str:
    from prompt_toolkit.formatted_text.html import html_escape

    return str(html_escape(printable(text)))
