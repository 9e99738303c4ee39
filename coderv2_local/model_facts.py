"""What the list of models shows of a file, read from its header: recipe or type, size, context, what it suits."""

import re
import time
from collections import Counter
from pathlib import Path

from coderv2_local.fim.trained import NAME_KEYS, fim_training
from coderv2_local.installed import NAME, Installed
from coderv2_local.loadable import check_loadable
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import open_gguf

RECIPE_KEY = "coder.convert.recipe"


def entry_of(
    path: Path, name: str, *, recipe: str = "", roles: tuple[str, ...] = (), source: str = "", owned: bool = False
) -> Installed:
    """The entry of the model in a file, checked to be one that can be run.

    Args:
        path: of the file, or of the first part.
        name: what users will call it.
        recipe, roles: where they are known; read from the header otherwise.
        source: where it came from.
        owned: it lies in this program's folder, and belongs to it.

    Raises:
        InputError: no model, damaged, of another architecture, or a part is missing.
    """
    model = open_gguf(path)
    check_loadable(model.whole, path)
    files = [p.path for p in model.parts]
    return Installed(
        name=name,
        recipe=recipe or recipe_of(model.whole),
        files=tuple(f.name if owned else str(f.absolute()) for f in files),
        size=sum(f.stat().st_size for f in files),
        context=config_of(model.whole).max_context,
        roles=roles or roles_of(model.whole, name),
        source=source,
        added=time.time(),
    )


def recipe_of(header: GgufHeader) -> str:
    """The recipe that a file was made with; where it does not say, the type that most of its bytes have."""
    said = header.metadata.get(RECIPE_KEY)
    if isinstance(said, str) and NAME.fullmatch(said) and said != "upgrade":
        return said
    types: Counter[str] = Counter()
    for tensor in header.tensors.values():
        types[tensor.type.name.lower()] += tensor.nbytes
    return types.most_common(1)[0][0] if types else "empty"


def roles_of(header: GgufHeader, name: str) -> tuple[str, ...]:
    """What a file suits, by which model it says it is: a base model does not chat."""
    said = " ".join(str(header.metadata[key]) for keys in NAME_KEYS for key in keys if key in header.metadata)
    base = re.search(r"(?:^|[\W_])base(?:$|[\W_])", f"{said} {name}".lower())
    training = fim_training(name, header.metadata)
    fim = not (training.refusal or training.notice)
    return ("chat",) * (not base) + ("fim",) * fim
