"""The type of every tensor: a recipe, its overrides, and what an importance matrix has to say about it."""

import re
from collections.abc import Sequence

from converters.config import ModelConfig
from converters.imatrix import TOO_MANY_UNHIT, Imatrix
from converters.tensor_table import Wanted
from quant.block_types import BlockType
from quant.ggml import Floats
from quant.recipes import Choice, ModelShape, Recipe, choose, is_expert

_LAYER = re.compile(r"blk\.(\d+)\.")


class TypeChoice:
    """Chooses types and importance weights for the tensors of one conversion."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        experts: BlockType | None,
        imatrix: Imatrix | None,
        table: Sequence[Wanted],
    ) -> None:
        self.recipe, self.experts, self.imatrix = recipe, experts, imatrix
        self.notices: list[str] = []
        """What the importance matrix lacks, a line for each layer."""
        self.model = ModelShape(
            config.n_layers, config.n_routed_experts, config.tie_word_embeddings, has_imatrix=imatrix is not None
        )
        self._raised = self._layers_to_raise(table) if imatrix else set()

    def choice(self, wanted: Wanted) -> Choice:
        """The tensor's type."""
        raised = is_expert(wanted.name) and _layer(wanted.name) in self._raised
        return choose(self.recipe, wanted.name, wanted.shape, self.model, experts=self.experts, raise_experts=raised)

    def importance(self, wanted: Wanted) -> Floats | None:
        """The tensor's importance weights, (slices, columns), or None."""
        found = self.imatrix.find(wanted) if self.imatrix else None
        return found.values if found else None

    def _layers_to_raise(self, table: Sequence[Wanted]) -> set[int]:
        assert self.imatrix is not None
        unhit: dict[int, set[int]] = {}
        sizes: dict[int, int] = {}
        missing = 0
        for wanted in table:
            if not is_expert(wanted.name):
                continue
            layer, found = _layer(wanted.name), self.imatrix.find(wanted)
            sizes[layer] = len(wanted.parts)
            if found is None:
                missing += 1
            elif len(found.unhit) == len(wanted.parts):
                unhit.setdefault(layer, set()).update(int(e) for e in found.unhit.nonzero()[0])
        if missing:
            self.notices.append(f"the importance file has nothing for {missing} expert tensors")
        raised = set()
        for layer, experts in sorted(unhit.items()):
            if not experts:
                continue
            line = f"layer {layer}: {len(experts)} of {sizes[layer]} experts without calibration, uniform weights"
            if len(experts) > TOO_MANY_UNHIT * sizes[layer]:
                raised.add(layer)
                line += "; its expert tensors go up one type"
            self.notices.append(line)
        return raised


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found.group(1)) if found else -1
