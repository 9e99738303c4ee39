"""Evaluated states in memory: for a server that goes back and forth between conversations and files."""

from collections.abc import Sequence

from coderv2_local.states.state_file import State
from coderv2_local.token_engine import TokenEngine, shared_prefix

MAX_BYTES = 1 << 30
MOST = 128  # each is compared with every prompt; those of a small model are too small for the bytes to bound them
WORTH = 64  # tokens: fewer are evaluated again as fast as a state is copied


class KeptStates:
    """Copies of evaluated states of one engine, the least recently used of which give way to new ones.

    Args:
        max_bytes: of all copies together.
        most: how many there may be.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, most: int = MOST) -> None:
        self.max_bytes, self.most = max_bytes, most
        self._states: list[State] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._states)

    @property
    def nbytes(self) -> int:
        """Bytes of all copies."""
        return sum(state.data.nbytes for state in tuple(self._states))

    def switch(self, engine: TokenEngine, ids: Sequence[int]) -> int:
        """Call this before `ids` are evaluated: brings back the kept state that saves the most work.

        What `engine` holds now is kept first, where evaluating `ids` would lose a good part of it.

        Returns:
            How many leading ids are evaluated already.
        """
        here = shared_prefix(engine.tokens, ids)
        if len(engine.tokens) - here >= WORTH:
            self.keep(engine)
        best = self.best_match(ids)
        if best is None or shared_prefix(best.tokens, ids) < here + WORTH:
            return here
        self._states.remove(best)
        self._states.append(best)
        engine.set_state(best.tokens, best.data)
        return shared_prefix(best.tokens, ids)

    def best_match(self, ids: Sequence[int]) -> State | None:
        """The kept state that shares the longest prefix with `ids`; None where none shares any."""
        lengths = [(shared_prefix(state.tokens, ids), i) for i, state in enumerate(self._states)]
        length, i = max(lengths, default=(0, 0))
        return self._states[i] if length else None

    def keep(self, engine: TokenEngine) -> None:
        """Copy what `engine` holds, in place of copies of its beginnings. One that goes further makes it needless."""
        tokens = list(engine.tokens)
        for state in self._states:
            if shared_prefix(state.tokens, tokens) == len(tokens):
                self._states.remove(state)
                self._states.append(state)
                return
        self._states = [s for s in self._states if shared_prefix(s.tokens, tokens) < len(s.tokens)]
        self._states.append(State(tokens, engine.state()))
        while self._states and (len(self) > self.most or self.nbytes > self.max_bytes):
            del self._states[0]

    def clear(self) -> None:
        """Forget all copies."""
        self._states.clear()
