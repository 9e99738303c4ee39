"""The lower seam: what the rooms above need of an engine. Token ids in, ids and logits out; it knows no text.

:class:`coderv2_local.engine.Engine` stands behind it with llama.cpp; another one is another class with these members,
handed to :class:`coderv2_local.local_backend.LocalBackend`.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from coderv2_local.hooks import Tap
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.sampling.options import SamplingOptions
from converters.gguf_header import GgufHeader

if TYPE_CHECKING:
    from coderv2_local.vocabulary import Vocabulary


class TokenEngine(Protocol):
    """A loaded model with one sequence of evaluated tokens. What each member does, and raises, `Engine` says."""

    @property
    def header(self) -> GgufHeader: ...
    @property
    def options(self) -> LoadOptions: ...
    @property
    def taps(self) -> Sequence[Tap]: ...
    @property
    def vocabulary(self) -> "Vocabulary": ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def notices(self) -> list[str]: ...
    @property
    def version(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...

    def evaluate(
        self, ids: Sequence[int], /, *, on_progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]: ...
    def generate(
        self,
        ids: Sequence[int],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Callable[[int, int], None] | None = None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> Generator[int, None, None]: ...
    def cancel(self) -> None: ...
    def resume(self) -> None: ...
    def truncate(self, length: int) -> None: ...
    def state(self) -> npt.NDArray[np.uint8]: ...
    def set_state(self, tokens: Sequence[int], data: npt.NDArray[np.uint8]) -> None: ...
    def close(self) -> None: ...


class MakeEngine(Protocol):
    """What loads a file: `Engine` itself, or another class or function."""

    def __call__(
        self, path: Path, options: LoadOptions, /, *, taps: Sequence[Tap], header: GgufHeader
    ) -> TokenEngine: ...


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
