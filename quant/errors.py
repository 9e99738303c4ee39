"""The one error that reaches a user: what went wrong, where, and what to do.

The packages above subclass it; `cli` alone turns it into a line on stderr, a ``hint:`` line and an exit code::

    CoderError
    ├── InputError     wrong input: a file, an option, a line number           exit code 2
    └── VerdictError   the work was done and its verdict is against the file   exit code 1
"""


class CoderError(Exception):
    """A failure with a message for the user.

    Args:
        message: what went wrong and where, one line, no trailing period needed.
        hint: what to do about it, one line; "" when there is nothing to suggest.
        exit_code: the process's exit code: 1 failed, 2 wrong input.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class InputError(CoderError):
    """The user's input cannot be used: a missing file, a foreign format, a bad option."""

    exit_code = 2


class VerdictError(CoderError):
    """The work was done and its verdict is against the file."""

    exit_code = 1
