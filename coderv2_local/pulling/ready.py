"""A GGUF file that somebody has published: its parts found, fetched, looked at, and entered under the user's name."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from coderv2_local import installed
from coderv2_local.installed import Installed
from coderv2_local.model_facts import entry_of
from coderv2_local.pulling.nearest import nearest
from coderv2_local.pulling.wanted import Wanted
from converters.hub import remote_files
from converters.hub_errors import HubError, ask
from converters.hub_file import RemoteFile, bytes_here, fetch, is_right
from quant.errors import CoderError, InputError

_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_PART_ENDING = re.compile(r"(-\d{5}-of-\d{5})\.gguf$")
MARGIN = 64 << 20
"""Bytes that a disk must have left."""

Report = Callable[[int], None]


def look_up(repo: str) -> Any:
    """What the Hub says of a repository: huggingface-hub's ModelInfo.

    Raises:
        HubError: there is none, no access to it, or no connection.
    """
    from huggingface_hub import HfApi

    return ask(f"model {repo}", lambda: HfApi().model_info(repo, files_metadata=True))


def parts_of(wanted: Wanted, info: Any) -> list[RemoteFile]:
    """The files to fetch, in order.

    Raises:
        HubError: the repository does not have them.
    """
    assert wanted.ready is not None
    files: Mapping[str, RemoteFile] = remote_files(wanted.repo, info)
    found = _PART.fullmatch(wanted.ready.file)
    count = int(found[2]) if found else 1
    if count < 1:
        raise HubError(f"{wanted.ready.file} calls itself part 1 of none", hint="no model's file has such a name")
    names = [f"{found[1]}-{n:05d}-of-{found[2]}.gguf" for n in range(1, count + 1)] if found else [wanted.ready.file]
    for name in names:
        if name not in files:
            raise HubError(
                f"{wanted.repo} has no {name}", hint=nearest(name, [f for f in files if f.endswith(".gguf")])
            )
    return [files[name] for name in names]


def check_room(folder: Path, needed: int, what: str) -> None:
    """Is there room for so many bytes more?

    Raises:
        CoderError: there is not.
    """
    free = shutil.disk_usage(folder).free
    if needed + MARGIN > free:
        raise CoderError(
            f"{folder} has {free / 1e9:.1f} GB free; {what} needs {(needed + MARGIN) / 1e9:.1f} GB more",
            hint="free some space, or set CODER_HOME to a folder on a larger disk",
        )


def bytes_to_fetch(wanted: Wanted, parts: list[RemoteFile]) -> int:
    """How much is not here yet."""
    return sum(max(0, (p.size or 0) - bytes_here(p, wanted.download)) for p in parts)


def get(wanted: Wanted, parts: list[RemoteFile], report: Report) -> Installed:
    """Fetch the parts, look at what they are, give them their place, and enter them.

    Raises:
        HubError: they cannot be had, or are damaged; what can be gone on with stays.
        InputError: they are no model that this program runs; nothing of them stays. Or another file is in their place.
        CoderError: they cannot be written.
    """
    wanted.download.mkdir(mode=0o700, parents=True, exist_ok=True)
    _take_back(wanted, parts)
    before, paths = 0, []
    for part in parts:
        start = before
        paths.append(fetch(part, wanted.download, lambda here, start=start: report(start + here)))  # type: ignore[misc]
        before += paths[-1].stat().st_size
    source = f"{wanted.repo}/{parts[0].name}@{parts[0].revision[:12]}"
    try:
        entry = entry_of(paths[0], wanted.name, recipe=wanted.recipe, roles=wanted.roles, source=source)
    except InputError as error:
        shutil.rmtree(wanted.download, ignore_errors=True)
        error.message = f"{parts[0].name} of {wanted.repo} is no model to run: {error.message}"
        raise
    names: list[str] = []
    for path in reversed(paths):  # the first part, which is what is loaded, last
        names.insert(0, _name_here(wanted, path.name, len(paths)))
        path.replace(installed.folder() / names[0])
    shutil.rmtree(wanted.download, ignore_errors=True)
    entry = replace(entry, files=tuple(names))
    installed.write(entry)
    return entry


def _name_here(wanted: Wanted, name: str, count: int) -> str:
    """What one of `count` parts is called once it has its place."""
    ending = _PART_ENDING.search(name) if count > 1 else None
    return f"{wanted.key}{ending[1] if ending else ''}.gguf"


def _take_back(wanted: Wanted, parts: list[RemoteFile]) -> None:
    """Fetch nothing twice that a pull gave its place just before it was killed, and replace nothing else.

    Raises:
        InputError: a file that belongs to no entry is in the place of a part, and is not it.
    """
    claimed = {path for entry in installed.installed() for path in entry.paths}
    for part in parts:
        path = installed.folder() / _name_here(wanted, part.local_name, len(parts))
        if path in claimed or not os.path.lexists(path):
            continue
        if not (part.sha256 and path.is_file() and is_right(part, path)):
            raise InputError(
                f"{path} exists, and is not what `coder pull` would put there",
                hint=f"`coder rm {wanted.name}:{wanted.recipe}` removes it; then pull again",
            )
        path.replace(wanted.download / part.local_name)
