"""The evaluated state of a file's last prompt, kept on disk between calls."""

import hashlib
import os
from pathlib import Path

from coderv2_local.backend import Backend
from coderv2_local.fim.fill import Filling

WORTH_SAVING = 128  # tokens evaluated anew, beyond what every call evaluates, before a state is written again


def state_name(path: Path) -> str:
    """The name under which a file's state is kept."""
    return "fim-" + hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]


def keep_state(backend: Backend, path: Path, filling: Filling) -> None:
    """Save the state, unless the saved one is nearly as good: it can be many megabytes."""
    if filling.prompt_tokens is None or not backend.capabilities.saved_state:
        return
    anew = filling.prompt_tokens - filling.reused_tokens - filling.suffix_tokens
    if anew > WORTH_SAVING or not filling.reused_tokens:
        backend.save_state(state_name(path))
