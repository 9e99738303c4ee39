"""The published models by the names that users type: what each is for, where it comes from, and its shape.

The table is ``data/models.json``; the configs beside it are the published ones, so that a model can be planned for
before anything is downloaded.
"""

import functools
import json
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, Literal

from converters.config import ModelConfig
from quant.errors import InputError

Fim = Literal["yes", "incidental", "no", "reported"]
"""Can it fill in the middle: it was trained to; it does by chance; it was not; others report that it does."""

CHAT_ORDER = ("236b-0724", "236b", "lite", "236b-base", "lite-base")
"""The order in which one would chat with them, were speed and memory no matter."""
LICENCES = {
    "DeepSeek License Agreement 1.0": "https://github.com/deepseek-ai/DeepSeek-Coder-V2/blob/main/LICENSE-MODEL"
}
"""Where a licence can be read."""


@dataclass(frozen=True)
class ReadyFile:
    """A GGUF file that somebody has made and published.

    Attributes:
        repo, file: where it lies on the Hub; of a split file, the first part.
        recipe: llama.cpp's name for its types.
        remark: what is wrong with it; "" where it is as this program would make it.
    """

    repo: str
    file: str
    recipe: str
    remark: str = ""


@dataclass(frozen=True)
class KnownModel:
    """A published model.

    Attributes:
        name: what users type.
        purpose: what it is for, in words.
        repo: its checkpoint on the Hugging Face Hub.
        config: name of its config; models of one shape share it.
        roles: which commands it suits: "chat", "fim".
        fim: whether it fills in the middle.
        licence: of the weights.
        ggufs: ready files that are known, the best first.
    """

    name: str
    purpose: str
    repo: str
    config: str
    roles: tuple[str, ...]
    fim: Fim
    licence: str
    ggufs: tuple[ReadyFile, ...] = ()

    def shape(self) -> ModelConfig:
        """The numbers of its architecture."""
        return ModelConfig.from_dict(_read(f"configs/{self.config}.json"), f"the config of {self.name}")


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """All published models, by name."""
    rows = (
        row | {"roles": tuple(row["roles"]), "ggufs": tuple(ReadyFile(**g) for g in row["ggufs"])}
        for row in _read("models.json")
    )
    return {row["name"]: KnownModel(**row) for row in rows}


def known_model(name: str) -> KnownModel:
    """The published model called `name`.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    models = known_models()
    if name in models:
        return models[name]
    close = get_close_matches(name.lower(), models, 1, cutoff=0.4)
    raise InputError(
        f"there is no model named {name!r:.80}",
        hint=f"did you mean {close[0]}?" if close else f"known are {', '.join(models)}",
    )


def _read(name: str) -> Any:
    return json.loads((files("coderv2_local") / "data" / name).read_text(encoding="utf-8"))
