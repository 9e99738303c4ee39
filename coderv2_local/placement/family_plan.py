"""Which model, in which recipe, with which context: what each would take here, how fast it would be, and the best.

A row is one answer to "what if". Rows are made from the published shapes or from a file's header; nothing is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from coderv2_local.placement.load_options import DEFAULT_BATCH
from coderv2_local.placement.load_wishes import NO_WISHES, LoadWishes
from coderv2_local.placement.machine import Machine
from coderv2_local.placement.memory_classes import Kind, ModelMemory, memory_of_recipe
from coderv2_local.placement.place import Placement, PlacementError, place
from coderv2_local.placement.reasons import gb
from coderv2_local.placement.speed import Rates, Speed, expected_speed, types_of
from coderv2_local.registry import KnownModel

RECIPES = ("moe-4", "moe-8", "q4_k_m", "q5_k_m", "q6_k", "q8_0")
"""The recipes that are planned for a model; the others are for checking and converting."""
OURS = ("moe-8", "moe-4")
"""Those that are recommended, the finer first."""
CONTEXTS = (16_384, 131_072)
WEIGHTS: tuple[Kind, ...] = ("dense", "embedding", "output", "experts")
SLOWEST = 3.0
"""Tokens a second of an answer below which nobody waits for it."""
FINE_ENOUGH = 10.0
"""Tokens a second that must be left for a finer recipe to be worth its bytes."""
BETTER_FIRST = ("236b-0724", "236b", "lite", "236b-base", "lite-base")
"""The order in which one would chat with them, were speed and memory no matter."""


@dataclass(frozen=True)
class Candidate:
    """A model that could be run.

    Attributes:
        model: its name, or a file's.
        memory: its bytes.
        recipe: "" for a file, which is what it is.
        roles: which commands it suits.
    """

    model: str
    memory: ModelMemory
    recipe: str = ""
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A candidate with a context, on a machine.

    Attributes:
        candidate: the model.
        n_ctx: context in tokens.
        classes: bytes by class: dense, embedding, output, experts, kv, compute, runtime.
        placement: None where it does not fit.
        refusal: why it does not.
        speed: None where it does not fit or nothing was measured.
    """

    candidate: Candidate
    n_ctx: int
    classes: dict[str, int]
    placement: Placement | None
    refusal: str = ""
    speed: Speed | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.candidate.model

    @property
    def recipe(self) -> str:
        """The recipe's name, or ""."""
        return self.candidate.recipe

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights, which is nearly the file's size."""
        return sum(self.classes[k] for k in WEIGHTS)

    @property
    def where(self) -> str:
        """Where it runs, in a word or two."""
        if self.placement is None:
            return "no"
        if self.placement.layout.uncached:
            return "from disk"
        options = self.placement.options
        if options.n_gpu_layers:
            return "GPU + CPU" if self.placement.layout.experts else "GPU"
        return "in memory"

    @property
    def decode(self) -> float | None:
        """Tokens a second of an answer, where they are known."""
        return self.speed.decode if self.speed else None

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        placed = self.placement
        return {
            "model": self.model,
            "recipe": self.recipe or None,
            "context": self.n_ctx,
            "bytes": self.classes,
            "where": self.where,
            "options": asdict(placed.options) if placed else None,
            "layout": asdict(placed.layout) if placed else None,
            "reasons": list(placed.reasons) if placed else [],
            "refusal": self.refusal or None,
            "prompt_tokens_a_second": self.speed.prompt if self.speed else None,
            "answer_tokens_a_second": self.speed.decode if self.speed else None,
            "speed_reasons": list(self.speed.reasons) if self.speed else [],
        }


def candidates(models: Iterable[KnownModel], recipes: Sequence[str] = RECIPES) -> list[Candidate]:
    """Every model in every recipe. Models of one shape share their numbers."""
    models = list(models)
    shapes = {m.config: m.shape() for m in models}
    memories = {(config, r): memory_of_recipe(shape, r) for config, shape in shapes.items() for r in recipes}
    return [Candidate(m.name, memories[m.config, r], r, m.roles) for m in models for r in recipes]


def types_read(wanted: Iterable[Candidate]) -> list[str]:
    """The block types whose speed decides theirs."""
    return sorted({t for c in wanted for t in types_of(c.memory)})


def plan_row(
    candidate: Candidate,
    machine: Machine,
    rates: Rates | None,
    n_ctx: int | None = None,
    wishes: LoadWishes = NO_WISHES,
) -> Row:
    """What a candidate comes to on a machine.

    Args:
        candidate: the model.
        machine: where it would run.
        rates: how fast that is; None leaves the speeds out.
        n_ctx: context; None takes what placement chooses.
        wishes: what the user has decided beside it.

    Raises:
        InputError: a context longer than the model's.
    """
    memory, placement, refusal, speed = candidate.memory, None, "", None
    try:
        placement = place(memory, machine, replace(wishes, n_ctx=n_ctx), name=candidate.model)
        if rates:
            speed = expected_speed(memory, placement, rates)
    except PlacementError as e:
        refusal = e.message
    context = placement.options.n_ctx if placement else n_ctx or min(CONTEXTS[0], memory.config.max_context)
    n_ubatch = placement.options.n_ubatch if placement else None
    flash_attention = placement.options.flash_attention if placement else wishes.flash_attention is not False
    classes: dict[str, int] = {kind: memory.nbytes(kind) for kind in WEIGHTS}
    classes["kv"] = memory.kv_bytes(context)
    classes["compute"] = memory.compute_bytes(context, n_ubatch or DEFAULT_BATCH, flash_attention=flash_attention)
    classes["runtime"] = memory.runtime_bytes
    return Row(candidate, context, classes, placement, refusal, speed)


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order in which one would choose."""
    return sorted(rows, key=_rank)


def best(rows: Iterable[Row], role: str = "chat") -> Row | None:
    """The row to recommend for a role, or None where none would be used."""
    fitting = [r for r in best_first(rows) if role in r.candidate.roles and r.recipe in OURS and r.placement]
    return fitting[0] if fitting else None


def _rank(r: Row) -> tuple[int, int, int, int]:
    """Whether it is pleasant to use; then the better model, or the smaller one where none is pleasant."""
    finer = OURS.index(r.recipe) if r.recipe in OURS else len(OURS)
    better = BETTER_FIRST.index(r.model) if r.model in BETTER_FIRST else len(BETTER_FIRST)
    if r.placement is None:
        return 3, r.file_bytes, better, finer
    if r.placement.layout.uncached:
        return 2, r.file_bytes, better, finer
    enough = FINE_ENOUGH if finer == 0 else SLOWEST
    if r.decode is None or r.decode >= enough:
        return 0, better, finer, r.n_ctx
    return 1, r.file_bytes, better, finer


def sentence(r: Row, *, of_all: bool) -> str:
    """What a row means, in a sentence; `of_all`: it is the best of the family."""
    bits = {"moe-4": " at 4 bits", "moe-8": " at 8 bits"}.get(r.recipe, f" as {r.recipe}" if r.recipe else "")
    places = {"in memory": "in memory", "GPU": "on the GPU", "GPU + CPU": "on GPU and processor together"}
    how = places.get(r.where, "partly read from disk as it goes")
    pace = ""
    if r.decode and r.where == "from disk":  # experts are not chosen as evenly as is assumed
        pace = f", at {pace_of(r.decode)} tokens a second or more"
    elif r.decode:
        pace = f", at about {pace_of(r.decode)} tokens a second"
    subject = f"The best model for this machine is {r.model}{bits}" if of_all else f"{r.model}{bits} runs here"
    return f"{subject}: {gb(r.file_bytes)}, {how}{pace}."


def pace_of(tokens_a_second: float) -> str:
    """A speed for people, in two digits at most where it is small."""
    return f"{tokens_a_second:.{0 if tokens_a_second >= 9.5 else 1 if tokens_a_second >= 0.95 else 2}f}"
