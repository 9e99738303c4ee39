"""Guessing which experts a layer will choose, while the layer before it computes."""

import numpy as np
import numpy.typing as npt

from coderv2_local.larger_than_memory.weight_ranges import WeightRanges
from coderv2_local.reference.router import choose
from converters.config import ModelConfig
from converters.gguf_header import dequantize, open_data

Floats = npt.NDArray[np.float32]


class RouterAhead:
    """Guesses the experts of a layer from the hidden state that enters the experts of the layer before.

    What those experts and the next attention add to the state is not known yet. In a trained model it is a small part
    of the sum, so most of the best are among the guesses.

    Args:
        ranges: where the routers and norms lie.
        config: how experts are chosen.
    """

    def __init__(self, ranges: WeightRanges, config: ModelConfig) -> None:
        self.ranges, self.config = ranges, config
        self._files: list[npt.NDArray[np.uint8]] = []
        self._routers: dict[int, tuple[Floats, Floats] | None] = {}

    def guess(self, layer: int, hidden: Floats) -> npt.NDArray[np.intp] | None:
        """The experts that `layer` would choose for these states.

        Args:
            hidden: (T, hidden size), before normalisation.

        Returns:
            Ids (T, K), the best first; None for a layer without a router.
        """
        if layer not in self._routers:
            self._routers[layer] = self._router(layer)
        router = self._routers[layer]
        if router is None:
            return None
        weights, norm = router
        scale = np.sqrt(np.mean(hidden * hidden, axis=-1, keepdims=True) + self.config.rms_norm_eps)
        logits = (hidden / scale * norm) @ weights.T
        return choose(np.exp(logits - logits.max(axis=-1, keepdims=True)), self.config)

    def close(self) -> None:
        """Let go of the files."""
        self._routers.clear()
        self._files.clear()

    def _router(self, layer: int) -> tuple[Floats, Floats] | None:
        names = (f"blk.{layer}.ffn_gate_inp.weight", f"blk.{layer}.ffn_norm.weight")
        if any(n not in self.ranges.tensors for n in names):
            return None
        router, norm = (self._values(n) for n in names)
        return router, norm

    def _values(self, name: str) -> Floats:
        if not self._files:  # not before the first decode: until then what maps the files is llama.cpp alone
            self._files = [open_data(path) for path in self.ranges.files]
        file, info = self.ranges.tensors[name]
        if info.type.name != "F32":
            return dequantize(self._files[file], info)
        raw = self._files[file][info.offset : info.offset + info.nbytes]  # as it lies in the page cache: no copy
        return raw.view("<f4").reshape(info.shape)
