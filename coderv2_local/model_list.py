"""Every model that can be named here: the embedded one, installed ones, the user's own, servers; and what to get."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coderv2_local import installed, preferences
from coderv2_local.default_model import default_model
from coderv2_local.installed import Damaged, Installed
from coderv2_local.model_facts import entry_of
from coderv2_local.models import TINY, find_model
from coderv2_local.placement.memory_classes import memory_of_recipe
from coderv2_local.preferences import Preferences
from coderv2_local.pulling.wanted import resolve
from coderv2_local.registry import KnownModel, known_models
from quant.errors import InputError

ROLES = ("chat", "fim")


@dataclass(frozen=True)
class Listed:
    """A row of the list.

    Attributes:
        name: what -m takes.
        kind: "embedded", "pulled", "added", "settings", "server" or "damaged".
        where: its file or address.
        type: recipe or block type; "" where it is not known.
        size: bytes; None where it is not known.
        context: in tokens; None where it is not known.
        roles: which commands it suits.
        default_for: which commands use it without -m.
        used: when it was last used, in seconds since 1970; 0 for never.
        trouble: what is wrong with it, or "".
        remedy: what mends that, or "".
    """

    name: str
    kind: str
    where: str
    type: str = ""
    size: int | None = None
    context: int | None = None
    roles: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    used: float = 0.0
    trouble: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Available:
    """A published model that is not here.

    Attributes:
        sizes: recipe → bytes of the weights.
    """

    model: KnownModel
    sizes: dict[str, int]


@dataclass(frozen=True)
class OwnAvailable:
    """A model of the user's settings that is not here, and that `coder pull` gets.

    Attributes:
        repo: on the Hub.
        file: the ready file there; "" where the model is built from the weights in `repo`.
        type: of a ready file, from its name; "" without one.
        roles: which commands it suits; () where the settings do not say.
        trouble: why it cannot be had as the settings say it, or "".
    """

    name: str
    repo: str
    file: str = ""
    type: str = ""
    purpose: str = ""
    roles: tuple[str, ...] = ()
    trouble: str = ""


def listed(settings: Preferences) -> list[Listed]:
    """What is here."""
    entries = installed.entries()
    here = [e for e in entries if isinstance(e, Installed)]
    defaults = {role: _default(role, settings, here) for role in ROLES}
    rows = [_tiny(), *map(_of_entry, _newest_first(here), [here] * len(here))]
    damaged = [(d, d.path.stem) for d in entries if isinstance(d, Damaged)]
    rows += [Listed(name, "damaged", str(d.path), trouble=d.why, remedy=_forget(name)) for d, name in damaged]
    rows += _of_settings(settings)
    return [_with_defaults(row, defaults) for row in rows]


def available(settings: Preferences, recipes: Sequence[str]) -> list[Available]:
    """The published models that are not here, with their sizes by recipe."""
    here = {e.name for e in installed.installed()} | set(settings.models)
    wanted = [m for m in known_models().values() if m.name not in here]
    shapes = {m.config: m.shape() for m in wanted}
    totals = {(c, r): memory_of_recipe(shape, r).total for c, shape in shapes.items() for r in recipes}
    return [Available(m, {r: totals[m.config, r] for r in recipes}) for m in wanted]


def own_available(settings: Preferences) -> list[OwnAvailable]:
    """The models of the settings that have no file on this machine."""
    here = {e.name for e in installed.installed()}
    return [_own(name, settings) for name, row in settings.models.items() if "path" not in row and name not in here]


def _own(name: str, settings: Preferences) -> OwnAvailable:
    row = settings.models[name]
    repo, file, purpose = (str(row.get(key, "")) for key in ("repo", "file", "purpose"))
    try:
        wanted = resolve(name, settings)
    except InputError as error:
        return OwnAvailable(name, repo, file, purpose=purpose, trouble=error.message)
    return OwnAvailable(name, repo, file, wanted.recipe, purpose, wanted.roles)


def _tiny() -> Listed:
    path = find_model(TINY).path
    assert path is not None
    entry = entry_of(path, TINY)
    return Listed(TINY, "embedded", str(path), entry.recipe, entry.size, entry.context, ROLES)


def _newest_first(here: Sequence[Installed]) -> list[Installed]:
    return sorted(here, key=lambda e: (e.name, -e.added))


def _of_entry(e: Installed, here: Sequence[Installed]) -> Listed:
    plain = installed.find(e.name, _newest_first(here)) == e
    lost = next((p for p in e.paths if not p.is_file()), None)
    return Listed(
        name=e.name if plain else e.full_name,
        kind="pulled" if e.owned else "added",
        where=str(e.path),
        type=e.recipe,
        size=e.size,
        context=e.context,
        roles=e.roles,
        used=e.used,
        trouble=f"{lost} is gone" if lost else "",
        remedy=_forget(e.name if plain else e.full_name) if lost else "",
    )


def _forget(name: str) -> str:
    return f"`coder rm {name}` forgets it"


def _of_settings(settings: Preferences) -> Iterator[Listed]:
    for name, row in settings.models.items():
        if "path" in row:
            path = Path(row["path"]).expanduser()
            size = path.stat().st_size if path.is_file() else None
            roles = ("chat",) + ("fim",) * bool(row.get("fim"))
            trouble = "" if size is not None else f"{path} is gone"
            remedy = f"mend or remove models.{name} in {preferences.path()}" if trouble else ""
            yield Listed(name, "settings", str(path), "", size, None, roles, trouble=trouble, remedy=remedy)
    for name, row in settings.servers.items():
        trouble = "" if "url" in row else f"{preferences.path()}: servers.{name} has no url"
        remedy = "give it one there, or remove it" if trouble else ""
        yield Listed(name, "server", row.get("url", ""), "server", trouble=trouble, remedy=remedy)


def _default(role: str, settings: Preferences, here: Sequence[Installed]) -> str:
    said: str | None = settings.get(f"{role}.model", None)
    if said:
        return said
    best = default_model(role, here)
    return best.full_name if best else TINY


def _with_defaults(row: Listed, defaults: dict[str, str]) -> Listed:
    names = {row.name, f"{row.name}:{row.type}", row.where}
    roles = tuple(role for role, name in defaults.items() if name in names)
    return Listed(**{**asdict(row), "roles": row.roles, "default_for": roles})
