"""One benchmark of one model, from beginning to end."""

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coderv2_local import llama_library
from coderv2_local.benchmark.bare_loop import BareLoop
from coderv2_local.benchmark.engine_loop import EngineLoop, Start, end_ids, stock_loop, timed_start
from coderv2_local.benchmark.expectation import Expectation, expectation
from coderv2_local.benchmark.loop_process import LoopProcess
from coderv2_local.benchmark.page_cache import drop
from coderv2_local.benchmark.process_counters import Memory, memory
from coderv2_local.benchmark.prompt_ids import code_prompts
from coderv2_local.benchmark.runs import Loop, Rounds, by_turns
from coderv2_local.engine import Engine
from coderv2_local.larger_than_memory.expert_prefetch import ExpertPrefetch, larger_than_memory
from coderv2_local.pages_in_memory import SUPPORTED
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.place import Placement, load_options_for
from coderv2_local.routing import install_taps
from converters.gguf_header import read_header
from converters.gguf_model import open_gguf
from quant.errors import InputError

CODER, BARE, STOCK = "coder", "llama.cpp", "coder, stock routing"
START_PROMPT = 4
"""Tokens of the prompt of a start."""
WARM_UP = 16, 2
"""Prompt and tokens of a run that is not counted, before the pairs."""
LEFT_IN_MEMORY = 0.05
"""Share of a file above which a start after dropping it is not called cold."""


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        prompts: lengths in tokens.
        tokens: decoded after each prompt.
        pairs: how often each is repeated.
        stock_routing: compare with llama.cpp's own choice of experts, too.
        cold: take the file out of the page cache once, to see it start from the disk.
    """

    prompts: Sequence[int] = (64, 256)
    tokens: int = 32
    pairs: int = 5
    stock_routing: bool = False
    cold: bool = True


@dataclass(frozen=True)
class Prefetched:
    """What reading experts ahead came to, over the engine's counted runs.

    Attributes:
        chosen: experts that the routers chose, once a layer and decode.
        in_memory: share of them that was in memory when first heard of.
        guessed: share of them that had been guessed a layer ahead.
        read_bytes: asked of the disk ahead of use.
        held_bytes: of this program's memory, at the end, for experts; 0 where they are in the file cache.
        locked_bytes: of dense tensors, locked into memory.
        notices: what the kernel refused.
    """

    chosen: int
    in_memory: float
    guessed: float
    read_bytes: int
    held_bytes: int
    locked_bytes: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        path, file_bytes: the model's file; of a split one the first, and all bytes.
        options: how it was loaded.
        cold, warm: starts from the disk and from the page cache; None for one that was not tried.
        memory: after the rounds, when all that they need has been touched, without the memory for experts
            from disk; None where the system does not tell.
        rounds: one for each length of prompt.
        expected: what `coder plan` says.
        prefetched: None for a model that fits memory.
        remarks: what could not be measured, or disturbs it, in words.
    """

    path: Path
    file_bytes: int
    options: LoadOptions
    cold: Start | None
    warm: Start
    memory: Memory | None
    rounds: tuple[Rounds, ...]
    expected: Expectation
    prefetched: Prefetched | None
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values; seconds and bytes."""
        return {
            "model": str(self.path),
            "file_bytes": self.file_bytes,
            "options": asdict(self.options),
            "start": {"cold": asdict(self.cold) if self.cold else None, "warm": asdict(self.warm)},
            "memory": asdict(self.memory) if self.memory else None,
            "rounds": [_round_json(r) for r in self.rounds],
            "expected": asdict(self.expected),
            "prefetched": asdict(self.prefetched) if self.prefetched else None,
            "remarks": list(self.remarks),
        }


def _round_json(r: Rounds) -> dict[str, Any]:
    others = [name for name in r.runs if name != CODER]
    return {
        "prompt": r.prompt,
        "tokens": r.tokens,
        "tokens_a_second": {name: {"prompt": r.prompt_speed(name), "decode": r.decode_speed(name)} for name in r.runs},
        "ratios": {
            name: {"prompt": asdict(r.prompt_ratio(CODER, name)), "decode": asdict(r.decode_ratio(CODER, name))}
            for name in others
        },
        "same_ids": {name: r.same_ids(CODER, name) for name in others},
        "bytes_read_a_token": r.bytes_a_token(CODER),
        "runs": {name: [asdict(run) for run in runs] for name, runs in r.runs.items()},
    }


def benchmark(
    path: Path, wanted: Wanted, wishes: LoadWishes, on_step: Callable[[str], None] = lambda _: None
) -> Report:
    """Measure a model.

    Args:
        path: of the GGUF, the first part of a split one.
        wanted: what to measure.
        wishes: how it is loaded, where placement is not to decide.
        on_step: told what is being done, in words.

    Raises:
        InputError: no such file; or it has no groups of experts, where stock routing is asked for; or the prompts do
            not fit the context.
        CoderError: what loading and evaluating raises.
    """
    header = read_header(path)
    placement = load_options_for(path, wishes, header=header)
    _check(path, wanted, placement, grouped=bool(install_taps(header.metadata)))
    files = [part.path for part in open_gguf(path).parts]
    remarks: list[str] = []
    on_step("asking coder plan")
    with ThreadPoolExecutor(1) as thread:  # its OpenMP threads end with it: see loop_process
        expected = thread.submit(expectation, path, header, placement).result()
    with ExitStack() as stack:
        llama_library.start()

        def open_engine() -> Engine:
            # what reads experts ahead is closed with its engine
            options = placement.options
            ahead = larger_than_memory(path, header, options.expert_memory) if options.stream_experts else []
            return Engine(path, options, taps=[*install_taps(header.metadata), *ahead], header=header)

        cold = _cold_start(files, open_engine, remarks, on_step) if wanted.cold else None
        on_step("starting")
        engine, warm = timed_start(open_engine, files, START_PROMPT)
        stack.enter_context(engine)
        loops = _loops(engine, wanted, stack, on_step)
        rounds = _rounds(engine, loops, wanted, on_step)
        used = _without_experts(memory(), engine)
        remarks += _about_disk(engine)
        return Report(
            path,
            sum(part.stat().st_size for part in files),
            _decided(engine),
            cold,
            warm,
            used,
            rounds,
            expected,
            next((_counted(tap) for tap in engine.taps if isinstance(tap, ExpertPrefetch)), None),
            tuple(remarks),
        )


def _check(path: Path, wanted: Wanted, placement: Placement, *, grouped: bool) -> None:
    if wanted.stock_routing and not grouped:
        raise InputError(
            f"{path.name}: its experts are in no groups, so both ways of routing are the same",
            hint="leave out --stock-routing",
        )
    longest, n_ctx = max(wanted.prompts), placement.options.n_ctx
    if longest + wanted.tokens + 1 > n_ctx:
        raise InputError(
            f"a prompt of {longest} and {wanted.tokens} tokens after it do not fit the context of {n_ctx}",
            hint="a larger --ctx, or less of either",
        )


def _about_disk(engine: Engine) -> list[str]:
    """What there is to know where experts come from the disk."""
    if not engine.options.stream_experts:
        return []
    said = [
        "the model is larger than memory: whoever comes second in a pair finds what the first has read; "
        "tools/bench/larger_than_memory.py measures each alone"
    ]
    if not any(isinstance(tap, ExpertPrefetch) for tap in engine.taps):
        said.append("nothing is read ahead on this system: page faults have to do")
    return said + engine.notices


def _cold_start(
    files: Sequence[Path], open_engine: Callable[[], Engine], remarks: list[str], on_step: Callable[[str], None]
) -> Start | None:
    if not SUPPORTED:
        remarks.append("a start from the disk was not measured: this system has no way to empty its file cache")
        return None
    on_step("starting from the disk")
    drop(files)
    engine, start = timed_start(open_engine, files, START_PROMPT)
    engine.close()
    del engine
    gc.collect()  # what it held must not count as the next one's
    if start.in_memory is None:
        remarks.append("whether the file was out of memory before the first start is not known: it is another user's")
    elif start.in_memory > LEFT_IN_MEMORY:
        remarks.append(
            f"{start.in_memory:.0%} of the file stayed in memory, so the first start was not cold: another program "
            "uses it, or its file system keeps it there"
        )
    return start


def _decided(engine: Engine) -> LoadOptions:
    """The engine's options, with what it decided itself."""
    return replace(engine.options, n_ctx=engine.n_ctx, n_threads=engine.n_threads, n_batch=engine.n_batch)


def _loops(engine: Engine, wanted: Wanted, stack: ExitStack, on_step: Callable[[str], None]) -> dict[str, Loop]:
    on_step("loading it once more, for llama.cpp alone")
    banned, options = end_ids(engine), _decided(engine)
    loops: dict[str, Loop] = {CODER: EngineLoop(engine, banned)}
    loops[BARE] = stack.enter_context(LoopProcess(BareLoop, engine.path, options, banned))
    if wanted.stock_routing:
        loops[STOCK] = stack.enter_context(LoopProcess(stock_loop, engine.path, options, banned))
    return loops


def _rounds(
    engine: Engine, loops: dict[str, Loop], wanted: Wanted, on_step: Callable[[str], None]
) -> tuple[Rounds, ...]:
    on_step("warming up")
    for loop in loops.values():
        loop.run(*_warm_up(engine))
    found = []
    for length in wanted.prompts:

        def tell(n: int, length: int = length) -> None:
            on_step(f"prompt of {length}: pair {n + 1} of {wanted.pairs}")

        found.append(by_turns(loops, code_prompts(engine.vocabulary, length, wanted.pairs), wanted.tokens, tell))
    return tuple(found)


def _warm_up(engine: Engine) -> tuple[list[int], int]:
    prompt, tokens = WARM_UP
    return code_prompts(engine.vocabulary, min(prompt, engine.n_ctx - tokens - 1), 1)[0], tokens


def _without_experts(used: Memory | None, engine: Engine) -> Memory | None:
    """The experts' memory grows as it can: what is foreseen is the rest."""
    held = sum(tap.experts.held for tap in engine.taps if isinstance(tap, ExpertPrefetch))
    return used and replace(used, anonymous=max(0, used.anonymous - held))


def _counted(prefetch: ExpertPrefetch) -> Prefetched:
    c, files = prefetch.counters, prefetch.files
    return Prefetched(
        c.chosen,
        c.cache_hit_rate,
        c.guess_hit_rate,
        prefetch.experts.bytes_read,
        prefetch.experts.held,
        files.locked_bytes,
        tuple(files.notices),
    )
