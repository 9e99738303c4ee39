"""Machines that are not at hand, and what the published models take."""

import dataclasses

from coderv2_local.models import find_model
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.placement.memory_classes import ModelMemory, memory_of_recipe
from coderv2_local.registry import known_model

GIB = 1 << 30
TINY = find_model("tiny").path


def machine(ram: int, vram: int = 0, *, cores: int = 8) -> Machine:
    """`ram` and `vram` in GiB; 4 and 0.5 of them taken by other programs."""
    gpus = (Gpu("GPU0", "a GPU", int((vram - 0.5) * GIB), vram * GIB),) if vram else ()
    return Machine(cores, 2 * cores, (), ram * GIB, (ram - 4) * GIB, gpus)


def model(name: str, recipe_name: str = "moe-4", *, mla: bool = True) -> ModelMemory:
    return dataclasses.replace(memory_of_recipe(known_model(name).shape(), recipe_name), mla=mla)
