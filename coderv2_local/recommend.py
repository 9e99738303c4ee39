"""The model for this machine in a few milliseconds: from memory alone, nothing measured.

`coder plan` measures the processor and the disk, too, and explains; this is for the greeting of the first run.
"""

from coderv2_local.placement.family_plan import Row, best, candidates, plan_row
from coderv2_local.placement.machine import Machine
from coderv2_local.registry import KnownModel, known_models

SMALLEST_RECIPE = "moe-4"
BITS = 4.5
"""Bits that an expert's weight takes at least in the recipes that are recommended."""


def model_to_get(machine: Machine, role: str = "chat") -> Row | None:
    """The best published model for a role that would run from memory, in its smaller recipe; else one that runs at all.

    None where none does.
    """
    able = [m for m in known_models().values() if role in m.roles and could_hold(machine, m)]
    rows = [plan_row(c, machine, None) for c in candidates(able, [SMALLEST_RECIPE])]
    return best(rows, role)


def could_hold(machine: Machine, model: KnownModel) -> bool:
    """Might its experts fit into this machine's memory?

    A bound that costs nothing: to plan a large model takes a tenth of a second. The small ones always pass.
    """
    c = model.shape()
    weights = (c.n_layers - c.n_dense_layers) * c.n_routed_experts * 3 * c.hidden_size * c.expert_ffn_size
    memory = machine.memory + sum(g.total for g in machine.gpus if not g.shared)
    return model.config == "lite" or weights * BITS / 8 <= memory
