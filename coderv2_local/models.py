"""What a user calls a model → where it is: the embedded `tiny`, an installed model, a file, or a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from coderv2_local import installed, preferences, registry
from coderv2_local.default_model import default_model
from coderv2_local.preferences import Preferences
from quant.errors import InputError
from quant.recipes import RECIPES

TINY = "tiny"
ADDRESS = ("http://", "https://")


@dataclass(frozen=True)
class Model:
    """A model that can be run.

    Attributes:
        name: to show.
        path: of the file; None for a server.
        address: of the server; "" for a file.
        server: what else the settings say of the server: its model, the variable with its key.
        is_toy: made for trying things out.
        temperature, repeat_penalty: what its answers need where the user does not say. A very small model is best at
            its most probable tokens, and repeats itself.
    """

    name: str
    path: Path | None = None
    address: str = ""
    server: Mapping[str, Any] | None = None
    is_toy: bool = False
    temperature: float = 0.3
    repeat_penalty: float = 1.0

    @property
    def reference(self) -> str:
        """What finds this model again, from any folder."""
        return str(self.path.absolute()) if self.path and self.path.name == self.name else self.name


def find_model(name: str | None, settings: Preferences | None = None, *, role: str = "chat") -> Model:
    """The model that `name` means.

    Args:
        name: `tiny`, the name of an installed model (``lite``, ``lite:moe-8``), the path of a .gguf file, an http(s)
            address, or a name from the settings; None takes the default for the role: what the settings say, else the
            best of what is installed, else `tiny`.
        settings: read from the settings file where None.
        role: "chat", "fim" or "serve".

    Raises:
        InputError: no such file, a model that is not on this machine, or a name that is not known.
    """
    settings = settings or preferences.read()
    if name is None and (said := settings.get(f"{role}.model", None)) is not None:
        return _find_set(said, settings, f"{role}.model")
    if name == "":
        raise InputError("the model's name is empty", hint="`coder models` lists what is here")
    here = [] if name == TINY else installed.installed()
    if name is None:
        best = default_model(role, here)
        if best:
            return Model(best.name, best.path)
        name = TINY
    if name == TINY:
        path = Path(str(files("coderv2_local") / "data" / "tiny.gguf"))
        return Model(TINY, path, is_toy=True, temperature=0.0, repeat_penalty=1.2)
    if name.startswith(ADDRESS):
        return Model(name, address=name)
    if name in settings.servers:
        server = settings.servers[name]
        if "url" not in server:
            raise InputError(f"{preferences.path()}: servers.{name} has no url")
        return Model(name, address=server["url"], server=server)
    if name in settings.models and "path" in settings.models[name]:
        return _file(settings.models[name]["path"], name)
    if entry := installed.find(name, here):
        return _installed(entry, name)
    path = Path(name).expanduser()
    if name in settings.models or (name.split(":")[0] in registry.known_models() and not path.is_file()):
        raise InputError(f"{name} is not on this machine yet", hint=f"`{_pull(name)}` gets it")
    if path.exists() or path.suffix == ".gguf" or len(path.parts) > 1:
        return _file(name, path.name)
    close = get_close_matches(name, {*known_models(settings), *registry.known_models()}, 1)
    raise InputError(
        f"there is no model named {name!r:.80}",
        hint=f"did you mean {close[0]}?" if close else "`coder models` lists what is here; a .gguf file's path will do",
    )


def known_models(settings: Preferences | None = None) -> list[str]:
    """Every name that :func:`find_model` takes, besides paths and addresses."""
    settings = settings or preferences.read()
    here = installed.installed()
    several = [e.full_name for e in here if sum(o.name == e.name for o in here) > 1]
    return sorted({TINY, *settings.servers, *settings.models, *(e.name for e in here), *several})


def is_first_run(model: Model, name: str | None) -> bool:
    """Does the toy answer only because nothing else is installed? `name` is what the user asked for."""
    return model.is_toy and name is None and not installed.installed()


def _find_set(name: str, settings: Preferences, key: str) -> Model:
    """The model that a setting names. Raises InputError, which names the setting."""
    try:
        return find_model(name, settings)
    except InputError as error:
        change = f"`coder config {key} NAME` sets another model, `coder config {key} --unset` none"
        raise InputError(f"{key}: {error.message}", hint="; ".join(filter(None, [error.hint, change]))) from None


def _pull(name: str) -> str:
    """The command that gets a model, in the form that is asked for."""
    name, _, recipe = name.partition(":")
    return f"coder pull {name} -q {recipe}" if recipe in RECIPES else f"coder pull {name}"


def _installed(entry: installed.Installed, name: str) -> Model:
    if entry.missing:
        lost = next(p for p in entry.paths if not p.is_file())
        again = f"`coder pull {entry.name}` gets it again" if entry.owned else f"`coder rm {entry.name}` forgets it"
        raise InputError(f"{name} was in {lost}, which is gone", hint=again)
    return Model(name, entry.path)


def _file(where: str, name: str) -> Model:
    path = Path(where).expanduser()
    if path.is_dir():
        raise InputError(
            f"{where} is a folder", hint="convert a checkpoint folder first: `coder convert FOLDER MODEL.gguf`"
        )
    if not path.exists():
        raise InputError(f"{where}: no such file", hint="`coder models` lists what is here; `tiny` always is")
    return Model(name, path)
