"""Model names → files."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from quant.errors import InputError

TINY = "tiny"


@dataclass(frozen=True)
class Model:
    """A model that can be run.

    Attributes:
        name: to show.
        is_toy: made for trying things out.
        repeat_penalty: what its answers need where the user does not say; a very small model repeats itself.
    """

    name: str
    path: Path
    is_toy: bool = False
    repeat_penalty: float = 1.0


def find_model(name: str | None) -> Model:
    """The model that `name` means: `tiny`, which is embedded, or the path of a .gguf file. None means `tiny`.

    Raises:
        InputError: no such file, or a name that is not known.
    """
    if name is None or name == TINY:
        return Model(TINY, Path(str(files("coderv2_local") / "data" / "tiny.gguf")), is_toy=True, repeat_penalty=1.2)
    path = Path(name).expanduser()
    if path.is_dir():
        raise InputError(
            f"{name} is a folder", hint="convert a checkpoint folder first: `coder convert FOLDER MODEL.gguf`"
        )
    if path.exists():
        return Model(path.name, path)
    if path.suffix == ".gguf" or len(path.parts) > 1:
        raise InputError(f"{name}: no such file", hint="`-m tiny` runs the embedded model")
    raise InputError(f"there is no model named {name!r}", hint="give the path of a .gguf file, or `tiny`")
