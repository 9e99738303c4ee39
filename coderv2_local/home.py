"""Where this program keeps what it must remember: sessions, evaluated states, models, the undo journal, settings."""

import os
from pathlib import Path

from platformdirs import user_data_path

from quant.errors import CoderError

VARIABLE = "CODER_HOME"


def home() -> Path:
    """The folder of all state: ``$CODER_HOME``, or the platform's user data folder. It need not exist yet."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else user_data_path("coder", appauthor=False)


def home_folder(name: str) -> Path:
    """The folder `name` under :func:`home`, made if need be, readable by its owner alone: it holds what a user typed.

    Raises:
        CoderError: it cannot be made.
    """
    folder = home() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CoderError(
            f"{folder}: {(error.strerror or str(error)).lower()}",
            hint=f"set {VARIABLE} to a folder that you can write to",
        ) from None
    return folder
