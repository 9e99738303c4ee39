"""Evaluated states on disk: a conversation or a file that is opened again need not be evaluated again."""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from coderv2_local.engine_errors import EngineError
from coderv2_local.routing import ExactRouting
from coderv2_local.states.fingerprint import model_fingerprint
from coderv2_local.states.state_file import TEMPORARY, State, UnusableState, file_size, read_state, write_state
from coderv2_local.token_engine import TokenEngine
from quant.errors import CoderError

MAX_BYTES = 4 << 30
SUFFIX = ".state"
ABANDONED_SECONDS = 24 * 3600  # a temporary file of this age belongs to a process that has died


_FINGERPRINTS: WeakKeyDictionary[TokenEngine, str] = WeakKeyDictionary()  # of the loaded files


class StateError(CoderError):
    """A state could not be kept on disk."""


class PrefixStates:
    """A folder of states, the least recently used of which give way to new ones.

    Several processes may use one folder: files appear whole and are never changed, only replaced or removed.

    Args:
        folder: made when it is first needed, for its owner alone: states hold what a user typed.
        max_bytes: of all states together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def save(self, engine: TokenEngine, name: str) -> None:
        """Keep what `engine` has evaluated under `name`. Nothing evaluated: nothing is kept.

        Raises:
            StateError: the disk is full, the folder cannot be written, or the state alone is larger than all may be.
            EngineError: llama.cpp could not copy its state.
        """
        if not engine.tokens:
            return
        belongs_to = state_owner(engine)
        state = State(list(engine.tokens), engine.state())
        size = file_size(state, belongs_to)
        if size > self.max_bytes:
            raise StateError(f"the state of {len(state.tokens)} tokens takes {size >> 20} MiB: it was not kept")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size, self._path(name))
            write_state(self._path(name), state, belongs_to)
        except OSError as error:
            raise StateError(
                f"{self.folder}: the state of {len(state.tokens)} tokens was not kept: {error.strerror or error}",
                hint="the next start evaluates the conversation again",
            ) from None

    def restore(self, engine: TokenEngine, name: str) -> str | None:
        """Make what was kept under `name` the evaluated sequence of `engine`.

        Returns:
            None where it was restored or nothing was there (`engine.tokens` tells which), else a notice, why what was
            there could not be used: damaged, of another model or other settings, longer than the context. The engine
            is then as it was, or empty.
        """
        path = self._path(name)
        try:
            state = read_state(path, state_owner(engine), engine.n_ctx)
            if min(state.tokens) < 0 or max(state.tokens) >= engine.vocabulary.size:
                raise UnusableState("damaged")
            engine.set_state(state.tokens, state.data)
        except FileNotFoundError:
            return None
        except (UnusableState, EngineError) as error:
            return f"what was evaluated before cannot be used and is evaluated again: the saved state is {error}"
        with suppress(OSError):
            os.utime(path)  # used just now
        return None

    def remove(self, name: str) -> None:
        """Forget what was kept under `name`."""
        with suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        """Names are hashed: they may be paths, of any length, with any character."""
        return self.folder / (hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40] + SUFFIX)

    def _make_room(self, size: int, replaced: Path) -> None:
        """Remove the least recently used states until `size` more bytes fit, and what dead processes left."""
        found = []
        for entry in os.scandir(self.folder):
            with suppress(OSError):  # another process may have removed it
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(SUFFIX) and entry.name != replaced.name:
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
                elif entry.name.endswith(TEMPORARY) and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    os.unlink(entry.path)
        total = size + sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if total <= self.max_bytes:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= bytes_


def loaded_fingerprint(engine: TokenEngine) -> str:
    """The :func:`model_fingerprint` of the file that `engine` has loaded, which is looked at once for each engine.

    Raises:
        InputError: it cannot be read any more.
    """
    if engine not in _FINGERPRINTS:
        _FINGERPRINTS[engine] = model_fingerprint(engine.header)
    return _FINGERPRINTS[engine]


def state_owner(engine: TokenEngine) -> Mapping[str, Any]:
    """What a state belongs to: with any of it different, its numbers would be others, or mean something else.

    Raises:
        InputError: as :func:`loaded_fingerprint`.
    """
    return {
        "model": loaded_fingerprint(engine),
        "KV cache type": engine.options.kv_type,
        "flash attention setting": engine.options.flash_attention,
        "routing": any(isinstance(tap, ExactRouting) for tap in engine.taps),
        "llama.cpp": engine.version,
    }
