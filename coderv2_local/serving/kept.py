"""Evaluated states that outlive the server: saved when it ends, brought back when it starts."""

from collections.abc import Iterator

from coderv2_local.engine_errors import EngineError
from coderv2_local.states.kept_states import WORTH, KeptStates
from coderv2_local.states.prefix_states import PrefixStates, StateError
from coderv2_local.states.state_file import State
from coderv2_local.token_engine import TokenEngine
from quant.errors import InputError

MOST_SAVED = 8


class ServedStates(KeptStates):
    """The states of one server, newest last."""

    def __iter__(self) -> Iterator[State]:
        return iter(list(self._states))

    def keep_if_worth(self, engine: TokenEngine) -> None:
        """Copy what `engine` holds, unless that is evaluated again as fast."""
        if len(engine.tokens) >= WORTH:
            self.keep(engine)

    def save(self, engine: TokenEngine, folder: PrefixStates, name: str) -> str | None:
        """Write the newest states to disk; `engine` holds one of them afterwards.

        Returns:
            A notice where that failed.
        """
        try:
            self.keep_if_worth(engine)
            for n in range(MOST_SAVED):
                folder.remove(_name(name, n))
            for n, state in enumerate(list(self)[-MOST_SAVED:]):
                engine.set_state(state.tokens, state.data)
                folder.save(engine, _name(name, n))
        except (EngineError, StateError, InputError) as error:
            return error.message
        return None

    def restore(self, engine: TokenEngine, folder: PrefixStates, name: str) -> str | None:
        """Bring back what :meth:`save` wrote. Returns a notice where something was there but cannot be used."""
        notice = None
        for n in range(MOST_SAVED):
            engine.truncate(0)
            notice = folder.restore(engine, _name(name, n)) or notice
            if engine.tokens:
                self.keep(engine)
        return notice


def _name(name: str, n: int) -> str:
    return f"serve-{name}-{n}"
