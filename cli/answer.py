"""An answer on its way to the screen: progress while the prompt is read, then the text as it comes."""

import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from cli.markdown_stream import MarkdownStream
from coderv2_local.backend import Generation
from quant.errors import CoderError


class Reading:
    """Progress of a long prompt, shown only when it takes a while, gone when the answer begins.

    Args:
        patience: seconds before anything is shown.
    """

    def __init__(self, screen: Console, patience: float = 1.0) -> None:
        self._screen = screen
        self._patience = patience
        self._began = time.monotonic()
        self._status: Status | None = None

    def progress(self, done: int, of: int) -> None:
        """Called after each part of the prompt."""
        elapsed = time.monotonic() - self._began
        if elapsed < self._patience or done >= of or not self._screen.is_terminal:
            return
        left = elapsed / done * (of - done)
        text = f"[dim]reading: {done} of {of} tokens, {left:.0f} s left[/]"
        if self._status is None:
            self._status = self._screen.status(text)
            self._status.start()
        self._status.update(text)

    def end(self) -> None:
        """Take it off the screen."""
        if self._status:
            self._status.stop()
            self._status = None

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def stream_answer(generation: Generation, console: Console, reading: Reading) -> tuple[str, bool, CoderError | None]:
    """Show an answer as it comes.

    Returns:
        Its text as far as it came, whether Ctrl-C stopped it, and the error that ended it.
    """
    text = ""
    try:
        with MarkdownStream(console) as stream:
            for chunk in generation:
                reading.end()
                text += chunk
                stream.feed(chunk)
    except KeyboardInterrupt:
        return text, True, None
    except CoderError as error:
        return text, True, error
    return text, False, None


def show_text(text: str, console: Console) -> None:
    """Show an answer that is there already."""
    with MarkdownStream(console) as stream:
        stream.feed(text)
