"""The one door to llama.cpp: the low-level functions of llama-cpp-python, with its log kept instead of printed.

The high-level ``llama_cpp.Llama`` is not used: it cannot set what this model needs (no repacking, eval callbacks),
and its infill has the prefix, suffix and middle ids hard-coded to 0.
"""

import ctypes
from collections import deque
from typing import Any

import llama_cpp.llama_cpp

llama: Any = llama_cpp.llama_cpp
"""The low-level functions and structs; untyped, since they are made by ctypes when imported."""

LOG_LINES = 400
WARNING = 3  # ggml_log_level: 2 info, 3 warning, 4 error, 5 continues the line before

_log: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)


def _keep(level: int, text: bytes, _: Any) -> None:
    _log.append((level, text.decode("utf-8", "replace")))


_keep_callback = llama.llama_log_callback(_keep)  # C holds only its address: it must live as long as the process
_started = False


def start() -> None:
    """Initialise llama.cpp's backends once in a process and take over its log."""
    global _started
    if not _started:
        llama.llama_log_set(_keep_callback, ctypes.c_void_p(0))
        llama.llama_backend_init()
        _started = True


def version() -> str:
    """Of llama.cpp, and of the package that brings it."""
    return f"{llama.llama_version().decode()} in llama-cpp-python {llama_cpp.__version__}"


def complaints() -> str:
    """The warnings and errors of llama.cpp since the last :func:`forget_log`, in one line."""
    lines, keep = [], False
    for level, text in _log:
        keep = level in (WARNING, WARNING + 1) if level != WARNING + 2 else keep
        if keep:
            lines.append(text)
    return "; ".join("".join(lines).split("\n")).strip("; ")


def forget_log() -> None:
    _log.clear()
