"""What can go wrong in the engine."""

from quant.errors import CoderError


class EngineError(CoderError):
    """llama.cpp could not load or evaluate."""


class Cancelled(EngineError):
    """:meth:`Engine.cancel` was called."""


class ContextFull(EngineError):
    """More tokens than the context holds. Nothing was cut: the caller decides what to leave out."""
