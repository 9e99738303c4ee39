"""What `coder pull NAME` means: which repository, a ready file or a conversion, and where the result goes."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from coderv2_local.installed import check_name, folder, key_of
from coderv2_local.leftovers import UNKNOWN_TYPE
from coderv2_local.preferences import Preferences
from coderv2_local.registry import ReadyFile, known_models
from converters.hub import is_repo_id
from quant.errors import InputError
from quant.recipes import recipe

TINY = "tiny"
_TYPE = re.compile(r"(?:^|[-._])((?:I?Q\d|BF16|F16|F32|MXFP4)\w*)(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """A model to get.

    Attributes:
        name: what it will be called.
        repo: on the Hub: of the ready file, or of the published weights.
        recipe: to build with; "" while it is not chosen. Of a ready file, its types.
        ready: the file; None to build.
        licence: of the weights; "" where this program does not know it.
        roles: which commands it suits; () to read that from the file.
        purpose: in words.
    """

    name: str
    repo: str
    recipe: str
    ready: ReadyFile | None = None
    licence: str = ""
    roles: tuple[str, ...] = ()
    purpose: str = ""

    @property
    def key(self) -> str:
        """The stem of its files here."""
        return key_of(self.name, self.recipe)

    @property
    def destination(self) -> Path:
        """The file to build."""
        return folder() / f"{self.key}.gguf"

    @property
    def download(self) -> Path:
        """Where a ready file lies until it is complete."""
        return folder() / f"{self.key}.download"

    @property
    def command(self) -> str:
        """What gets it, or goes on getting it."""
        if self.ready is None:
            return f"coder pull {self.name}" + (f" -q {self.recipe}" if self.recipe else "")
        known = self.name in known_models() and self.ready in known_models()[self.name].ggufs
        return f"coder pull {self.name}" + (f" -q {self.recipe} --ready" if known else "")

    def with_recipe(self, name: str) -> "Wanted":
        """The same, built with this recipe."""
        return replace(self, recipe=recipe(name).name)


def resolve(
    name: str, settings: Preferences, wanted_recipe: str | None = None, *, build: bool = False, ready: bool = False
) -> Wanted:
    """What a name means.

    A ready file is taken where one is known to be right. Those that others made in 2024 are known, too, but lack what
    this program needs to be fast: they are taken only where `ready` asks for them.

    Args:
        name: from the registry, or from the settings' ``[models.NAME]``.
        settings: of the user; they go before the registry.
        wanted_recipe: what was asked for, if anything was.
        build: convert the weights even where there is a ready file.
        ready: take a ready file even where it is not as this program would make it.

    Raises:
        InputError: an unknown name or recipe, or what cannot be had together.
    """
    if wanted_recipe is not None:
        wanted_recipe = recipe(wanted_recipe).name
    if build and ready:
        raise InputError("--build and --ready exclude each other", hint="leave one out")
    if name in settings.models:
        return _from_settings(name, settings, wanted_recipe, build=build)
    if name == TINY:
        raise InputError("tiny comes with this program: there is nothing to get", hint="`coder chat -m tiny` runs it")
    known = known_models().get(name)
    if known is None:
        names = [*known_models(), *settings.models]
        close = get_close_matches(name.lower(), names, 1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
        if is_repo_id(name):
            hint = f"`coder convert {name} MODEL.gguf` converts any repository of this family"
        raise InputError(f"there is no model named {name!r:.80}", hint=hint)
    wanted = Wanted(name, known.repo, wanted_recipe or "", None, known.licence, known.roles, known.purpose)
    fitting = [g for g in known.ggufs if wanted_recipe in (None, g.recipe) and (ready or not g.remark)]
    if ready and not fitting:
        there = ", ".join(g.recipe for g in known.ggufs)
        hint = f"ready ones are known in {there}" if there else f"`coder pull {name}` builds it"
        raise InputError(f"no ready file of {name} is known" + (f" in {wanted_recipe}" if there else ""), hint=hint)
    if fitting and not build:
        return replace(wanted, repo=fitting[0].repo, recipe=fitting[0].recipe, ready=fitting[0])
    return wanted


def _from_settings(name: str, settings: Preferences, wanted_recipe: str | None, *, build: bool) -> Wanted:
    check_name(name)
    row = settings.models[name]
    repo, file, purpose = (str(row.get(key, "")) for key in ("repo", "file", "purpose"))
    roles = ("chat",) + ("fim",) * bool(row["fim"]) if "fim" in row else ()
    if not repo:
        said = f"is the file {row['path']}" if "path" in row else "has no repo"
        raise InputError(f"{name} {said}, by your settings: there is nothing to get", hint="`coder models` lists them")
    if not is_repo_id(repo):
        raise InputError(f"models.{name}.repo is {repo!r:.80}: that is no repository's name", hint="OWNER/NAME")
    if not file or build:
        return Wanted(name, repo, wanted_recipe or "", roles=roles, purpose=purpose)
    if not file.endswith(".gguf"):
        raise InputError(f"models.{name}.file is {file!r:.80}: that is no .gguf file")
    if wanted_recipe is not None:
        raise InputError(f"{name} is one ready file, by your settings: -q does not apply", hint="or add --build")
    found = _TYPE.search(file)
    label = found[1].lower() if found else UNKNOWN_TYPE
    ready = ReadyFile(repo, file, label)
    return Wanted(name, repo, label, ready, roles=roles, purpose=purpose)
