"""The conversation's keyboard: history, several lines, completion, the editor, and the status line below."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

BLOCK = '"""'

Words = Callable[[], Iterable[str]]
"""What may stand after a command, made when it is asked for."""


class CommandCompleter(Completer):
    """Completes slash commands, what may follow them, and paths in ordinary text.

    Args:
        commands: "/add" → its meaning.
        words: "/load" → what may follow it; None stands for paths.
    """

    def __init__(self, commands: Mapping[str, str], words: Mapping[str, Words | None]) -> None:
        self._commands = commands
        self._words = words
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """See prompt-toolkit."""
        line = document.text_before_cursor
        if line.startswith("/") and " " not in line:
            for name, meaning in self._commands.items():
                if name.startswith(line):
                    yield Completion(name, -len(line), display_meta=meaning)
            return
        command, _, rest = line.partition(" ")
        word = document.get_word_before_cursor(WORD=True)
        if command in self._words:
            words = self._words[command]
            if words is None:
                yield from self._paths.get_completions(Document(word), complete_event)
            else:
                yield from (Completion(w, -len(rest)) for w in words() if w.startswith(rest))
        elif "/" in word or (complete_event.completion_requested and word):
            yield from self._paths.get_completions(Document(word), complete_event)


def history(path: Path | None) -> History:
    """What was typed before, kept in `path`, which is readable by its owner alone; in memory where there is none."""
    if path is None:
        return InMemoryHistory()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def is_open_block(text: str) -> bool:
    """Does `text` begin with three quotation marks that have not been closed yet?"""
    text = text.strip()
    return text.startswith(BLOCK) and (len(text) < 2 * len(BLOCK) or not text.endswith(BLOCK))


def without_block(text: str) -> str:
    """What stands between the quotation marks of a block; other text as it is, without blank ends."""
    text = text.strip()
    if text.startswith(BLOCK) and not is_open_block(text):
        return text[len(BLOCK) : -len(BLOCK)].strip("\n")
    return text


def keys() -> KeyBindings:
    """Enter sends, Alt-Enter (or Enter within an open block) starts a line, Tab completes, Ctrl-G opens the editor."""
    bindings = KeyBindings()

    @Condition
    def in_block() -> bool:
        return is_open_block(get_app().current_buffer.text)

    @bindings.add("enter", filter=~in_block)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("tab")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state:
            buffer.complete_next()
        else:
            buffer.start_completion(select_first=True)

    @bindings.add("c-g")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return bindings


class Keyboard:
    """Asks for the next input.

    Args:
        status: the text of the status line, asked for at each redraw.
    """

    def __init__(self, past: History, completer: Completer, status: Callable[[], AnyFormattedText]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=past,
            completer=completer,
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            key_bindings=keys(),
            multiline=True,
            prompt_continuation=lambda width, _line, _wrapped: " " * width,
            bottom_toolbar=status,
            output=create_output(always_prefer_tty=True),
            tempfile_suffix=".md",
            reserve_space_for_menu=4,
        )

    def ask(self, *, editor: bool = False, text: str = "") -> str:
        """What the user typed next.

        Args:
            editor: begin in ``$EDITOR``; what comes back can be changed before it is sent.
            text: to begin with.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        return without_block(
            self._session.prompt([("bold ansigreen", "> ")], default=text, pre_run=_open_editor if editor else None)
        )


def _open_editor() -> None:
    get_app().current_buffer.open_in_editor()
