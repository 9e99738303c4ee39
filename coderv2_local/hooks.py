"""Hooks on the engine's eval callback: named taps that look at, or overwrite, tensors while a graph is computed.

llama.cpp calls ``cb_eval`` twice for a node of the graph. First it *asks*: does anybody want this tensor? On a yes it
computes up to and including that node, and then calls again to *hand over* the finished tensor. Two things are wrong
to do in there: let an exception out (ctypes prints it and goes on), or return false from a hand-over (ggml stops
half-way and the decode reports success all the same). So the dispatcher stores the first exception, lets the graph run
to its end, and :meth:`Dispatcher.raise_pending`, which the engine calls after each decode, raises it.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from coderv2_local.placement.load_options import LoadOptions
from quant.errors import CoderError

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
"""The C type of ``llama_context_params.cb_eval``: (tensor, ask, user data) → bool."""


class HookError(CoderError):
    """A hook could not do its work, so what was decoded must not be trusted."""


@runtime_checkable
class Tap(Protocol):
    """Something that wants certain nodes of the graph.

    Every wanted node costs a stop of the engine's threads, so want few.
    """

    name: str
    """For messages: which tap failed."""

    def wants(self, node_name: str) -> bool:
        """Is the tensor called `node_name` wanted? Asked once for each name; the answer is remembered."""

    def __call__(self, node_name: str, tensor: int) -> None:
        """Take the computed tensor at address `tensor` (a ``struct ggml_tensor *``): read or overwrite it."""


@runtime_checkable
class Noting(Protocol):
    """What a tap may also have: the address of a node without a stop.

    The address is told before the node is computed. Its data are there at a later stop of the same graph, as long as a
    node after that stop still uses them.
    """

    def notes(self, node_name: str) -> bool:
        """Is the address of `node_name` wanted? Asked once for each name."""

    def note(self, node_name: str, tensor: int) -> None:
        """Take the address of a node that will be computed."""


@runtime_checkable
class Starting(Protocol):
    """What a tap may also have: something to do before the first decode."""

    def start(self, options: LoadOptions) -> None:
        """The model is mapped, placed as `options` say, and nothing is computed yet."""


@runtime_checkable
class Finishing(Protocol):
    """What a tap may also have: a check at the end of each decode."""

    def finish(self) -> None:
        """Raise when the decode lacked what the tap is there for."""


@runtime_checkable
class Abandoning(Protocol):
    """What a tap that remembers something of a decode must also have."""

    def abandon(self) -> None:
        """The decode was stopped or failed, at any node: the next one must not find what this one left."""


@runtime_checkable
class Closing(Protocol):
    """What a tap may also have: something to release together with the context."""

    def close(self) -> None:
        """Called after the last decode, perhaps twice."""


class TensorHead(ctypes.Structure):
    """The fields of ``struct ggml_tensor`` (ggml.h) up to its name, on a 64-bit machine."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


NAME_OFFSET: int = TensorHead.name.offset


def close_taps(taps: Sequence[Tap]) -> None:
    """Close the taps that have something to release: for whoever made them, where no engine came to take them."""
    for tap in taps:
        if isinstance(tap, Closing):
            tap.close()


@dataclass(frozen=True)
class _Plan:
    """What to do with one node name: whom to tell its address, whom to hand the tensor."""

    node_name: str
    noters: tuple[Noting, ...]
    takers: tuple[Tap, ...]


class Dispatcher:
    """One C callback for any number of taps.

    Keep the dispatcher alive as long as the context that uses :attr:`callback`.

    Attributes:
        taps: the taps, called in this order.
        callback: goes into ``llama_context_params.cb_eval``.
    """

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._plans: dict[bytes, _Plan | None] = {}
        self._error: BaseException | None = None
        self._where = ""
        self._owed = 0  # nodes that were asked for and not yet handed over
        self.callback = EvalCallback(self._make_callback())

    def start(self, options: LoadOptions) -> None:
        """Tell the taps that the model is mapped, and how it is placed. Raises what they raise."""
        for tap in self.taps:
            if isinstance(tap, Starting):
                tap.start(options)

    def abandon(self) -> None:
        """End a decode that was stopped or failed: what it owes is not the next one's debt."""
        self._error, self._where, self._owed = None, "", 0
        for tap in self.taps:
            if isinstance(tap, Abandoning):
                tap.abandon()

    def raise_pending(self) -> None:
        """End a decode: raise what went wrong in a hook during it. The engine calls this after every decode that ran to
        its end, and :meth:`abandon` after what this raises.

        Raises:
            HookError: an exception was raised in a tap (it is the cause), or the graph stopped before its end.
            BaseException: an exception that is no ``Exception`` (KeyboardInterrupt), and a CoderError, as they are.
        """
        error, where, owed = self._error, self._where, self._owed
        self._error, self._where, self._owed = None, "", 0
        if error is None and owed == 0:
            for tap in self.taps:
                if isinstance(tap, Finishing):
                    tap.finish()
            return
        if error is None:
            raise HookError("the engine stopped half-way through a decode: its result was dropped")
        if isinstance(error, CoderError) or not isinstance(error, Exception):
            raise error
        raise HookError(f"{where} failed: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the taps."""
        close_taps(self.taps)

    def _plan(self, raw: bytes) -> _Plan | None:
        """Ask the taps, once, what they want of the node called `raw`."""
        node = raw.decode("utf-8", "replace")
        takers = tuple(t for t in self.taps if t.wants(node))
        noters = tuple(t for t in self.taps if isinstance(t, Noting) and t.notes(node))
        plan = _Plan(node, noters, takers) if takers or noters else None
        self._plans[raw] = plan
        return plan

    def _make_callback(self) -> Callable[[int, bool, Any], bool]:
        """The Python side of the callback. It runs for every node of every graph: the common case is three steps."""
        string_at, plans = ctypes.string_at, self._plans

        def callback(tensor: int, ask: bool, _: Any) -> bool:
            try:
                raw = string_at(tensor + NAME_OFFSET)
                plan = plans[raw] if raw in plans else self._plan(raw)
                if plan is None:
                    return not ask
                return self._act(plan, tensor, ask)
            except BaseException as error:  # whatever it is, it must not cross into C
                self._store(error, "a hook")
                return not ask

        return callback

    def _act(self, plan: _Plan, tensor: int, ask: bool) -> bool:
        tap: Any = None
        try:
            if not ask:
                self._owed -= 1
                if self._error is None:
                    for tap in plan.takers:
                        tap(plan.node_name, tensor)
                return True
            if self._error is not None:
                return False
            for tap in plan.noters:
                tap.note(plan.node_name, tensor)
            if plan.takers:
                self._owed += 1
            return bool(plan.takers)
        except BaseException as error:
            self._store(error, f"{getattr(tap, 'name', 'a hook')} at {plan.node_name}")
            return not ask

    def _store(self, error: BaseException, where: str) -> None:
        if self._error is None:
            self._error, self._where = error, where
