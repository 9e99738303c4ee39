"""stdout that cannot be written: an error of one line, whoever wrote, and also for what is written last."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from quant.errors import CoderError


@contextmanager
def checked_stdout() -> Iterator[None]:
    """Meanwhile, and for what is still buffered at the end, stdout is watched. A reader that has gone is no error.

    Raises:
        CoderError: stdout takes no more, or is closed.
        SystemExit: its reader has gone.
    """
    if sys.stdout is None:
        # closed before the start. The lowest number is taken, so that no file that is opened later becomes stdout.
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield
    except OSError:
        _flush("\n")  # was it stdout? Then one character more fails, too; in a run that has failed it harms nobody
        raise
    finally:
        _flush()


def _flush(more: str = "") -> None:
    """Write what is buffered, and `more`."""
    try:
        if more:
            sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or the interpreter's own last flush would fail, too
        os.close(nowhere)
        if error.errno == errno.EPIPE:
            sys.exit(1)
        raise CoderError(f"cannot write to stdout: {error.strerror or error}") from None
