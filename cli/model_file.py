"""The file behind a model's name, for commands that look at files."""

from pathlib import Path

from quant.errors import InputError


def model_file(name: str) -> Path:
    """The path of the model called `name`.

    Raises:
        InputError: no such model, or it is a server's.
    """
    from coderv2_local.models import find_model

    path = find_model(name).path
    if path is None:
        raise InputError(f"{name} is a server: there is no file to look at", hint="give the path of a .gguf file")
    return path
