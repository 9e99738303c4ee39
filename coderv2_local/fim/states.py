"""The evaluated state of a file's last prompt, kept on disk between calls."""

import hashlib
import json
import os
from pathlib import Path

from coderv2_local.backend import Backend
from coderv2_local.fim.fill import Filling

WORTH_SAVING = 128  # tokens evaluated anew, beyond what every call evaluates, before a state is written again


def restore_state(backend: Backend, path: Path) -> str | None:
    """Bring back what this model has evaluated of a file. Returns a notice where that is damaged."""
    name = _state_name(backend, path)
    return backend.restore_state(name) if name else None


def keep_state(backend: Backend, path: Path, filling: Filling) -> None:
    """Save the state, unless the saved one is nearly as good: it can be many megabytes.

    Raises:
        StateError: it could not be written.
    """
    name = _state_name(backend, path)
    if filling.prompt_tokens is None or not name:
        return
    anew = filling.prompt_tokens - filling.reused_tokens - filling.suffix_tokens
    if anew > WORTH_SAVING or not filling.reused_tokens:
        backend.save_state(name)


def _state_name(backend: Backend, path: Path) -> str:
    """The name of a file's state: another one for each model and way to run it, none of which can use another's. So
    two of them, used by turns, do not overwrite each other's.

    "" where this backend keeps none on disk.
    """
    if not backend.capabilities.saved_state:
        return ""
    from coderv2_local.local_backend import LocalBackend
    from coderv2_local.states.prefix_states import state_owner

    owner = state_owner(backend.engine) if isinstance(backend, LocalBackend) else {}
    found = hashlib.sha256(json.dumps(owner, sort_keys=True).encode() + b"\0")
    found.update(os.fsencode(os.path.realpath(path)))
    return "fim-" + found.hexdigest()[:24]
