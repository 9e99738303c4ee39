"""How a model's experts are grouped: from its file's keys or, where they are missing, from what it is known to be.

DeepSeek-V2 (236B) has 8 groups of experts, of which a token uses 3 (paper, section 3.1.2); Lite has one. Files made in
2024 carry no keys for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from converters.config import ModelConfig
from converters.gguf_header import GgufError
from converters.metadata import ARCHITECTURE

Origin = Literal["keys", "name", "shape", "nothing"]

COUNT, USED = f"{ARCHITECTURE}.expert_group_count", f"{ARCHITECTURE}.expert_group_used_count"
GROUPED = "group_limited_greedy"
LARGE, LITE = (8, 3), (1, 1)
_BY_SHAPE = {(60, 160): LARGE, (27, 64): LITE}
"""(layers, routed experts) of the published models."""
_EXPERTS = {LARGE: 160, LITE: 64}
_PUBLISHED = re.compile(r"deepseek-(?:coder-)?v2(?:\.5|-|\b)(?P<rest>.*)", re.IGNORECASE)
_NAME_KEYS = (
    "coder.convert.repository",
    "coder.convert.source",
    "general.source.repo_url",
    "general.source.url",
    "general.base_model.0.repo_url",
    "general.base_model.0.name",
    "general.name",
    "general.basename",
)
"""Where a file says what it was made from: our converter's own keys first."""


@dataclass(frozen=True)
class Grouping:
    """Groups of experts, and how that is known."""

    groups: int
    used: int
    """Groups that a token may use."""
    origin: Origin
    """`keys`: the file says so. `name`: it names a published model as what it was made from. `shape`: it has the shape
    of one. `nothing`: nothing tells, and no groups are what is taken."""

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{self.used} of {self.groups} groups by their best expert" if self.groups > 1 else "no groups"


def grouping(metadata: Mapping[str, Any]) -> Grouping:
    """How the experts are grouped, by a file's metadata.

    Raises:
        GgufError: there are keys, but with values that cannot be.
    """
    groups, used = metadata.get(COUNT, 0), metadata.get(USED, 0)
    if type(groups) is not int or type(used) is not int or groups < 0 or (groups > 1 and not 0 < used <= groups):
        raise GgufError(f"{COUNT} is {groups!r:.40} and {USED} {used!r:.40}: experts cannot be grouped like that")
    if groups:
        return Grouping(groups, used if groups > 1 else 1, "keys")
    layers, experts = (metadata.get(f"{ARCHITECTURE}.{key}") for key in ("block_count", "expert_count"))
    for key in _NAME_KEYS:
        known = _named(metadata.get(key))
        if known is not None and _EXPERTS[known] == experts:
            return Grouping(*known, "name")
    if type(layers) is int and type(experts) is int and (layers, experts) in _BY_SHAPE:
        return Grouping(*_BY_SHAPE[layers, experts], "shape")
    return Grouping(1, 1, "nothing")


def grouping_of(c: ModelConfig) -> Grouping:
    """How the experts are grouped by a config: only one that routes by groups makes use of them."""
    return Grouping(c.n_groups, c.n_groups_used, "keys") if c.topk_method == GROUPED else Grouping(1, 1, "keys")


def fits(c: ModelConfig, g: Grouping) -> bool:
    """Can the experts of this config be grouped like that?"""
    return c.n_routed_experts % g.groups == 0 and c.n_experts_per_token <= c.n_routed_experts // g.groups * g.used


def with_grouping(c: ModelConfig, g: Grouping) -> ModelConfig:
    """The config with its experts grouped like that."""
    return replace(c, n_groups=g.groups, n_groups_used=g.used, topk_method=GROUPED if g.groups > 1 else "greedy")


def _named(text: object) -> tuple[int, int] | None:
    """The grouping of the published model that a name or address tells of."""
    found = _PUBLISHED.search(text) if isinstance(text, str) and len(text) < 1000 else None
    if found is None:
        return None
    return LITE if "lite" in found["rest"].lower() else LARGE
