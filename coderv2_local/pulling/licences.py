"""The licences that a user has accepted: a line for each, in a file that lasts."""

from contextlib import suppress

from coderv2_local.atomic_file import write_atomically
from coderv2_local.home import home, home_folder
from quant.errors import CoderError

FILE_NAME = "accepted-licences"


def accepted(licence: str) -> bool:
    """Has the user accepted it?"""
    return licence in _lines()


def accept(licence: str) -> None:
    """Remember that the user has accepted it.

    Raises:
        CoderError: that cannot be written.
    """
    path = home_folder("") / FILE_NAME
    try:
        write_atomically(path, "".join(f"{line}\n" for line in [*_lines(), licence]).encode())
    except OSError as error:
        raise CoderError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _lines() -> list[str]:
    with suppress(OSError, UnicodeDecodeError):  # what cannot be read is asked again
        return (home() / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return []
