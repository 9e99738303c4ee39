"""`coder fim` measured: what a second suggestion costs, what the rules cost, and a thousand suggestions in a row.

    python tools/bench/fim.py [MODEL.gguf] [--source FILE] [--moves 4] [--suggestions 1000] [--tokens 16]
        [--suffix-share 0.05] [--start 0.5] [--prompt N]

Each figure is a ratio or a count of one run:

- the cursor moves down by a line in the same file, the window staying where it begins: tokens evaluated again beyond
  those of the suffix (at most 64), and time to the first token against the cold call before, where the suffix is
  `--suffix-share` of the prompt; and how seldom the window moves;
- the same between processes: the state is saved to disk and restored into a fresh context;
- consecutive suggestions at many places: failures, and growth of the process's memory from the first quarter to the
  last;
- the rules: the longest that any suggestion spent on them, by the clock and in processor time (without what
  the machine did meanwhile), and the time for middles of 1, 10 and 100 kB fed a token at a time, which has to grow with
  their length, not with its square.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import coderv2_local.fim.fill
from coderv2_local.fim.duty import before_hole, duty
from coderv2_local.fim.fill import Filling, FillOptions, fill
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.source import read_source
from coderv2_local.fim.stops import Watch
from coderv2_local.fim.trims import trimmed
from coderv2_local.fim.window import Budgets, counter, prefix_start
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.states.prefix_states import PrefixStates
from coderv2_local.vocabulary import FimIds

HERE = Path(__file__)
ALLOWED = 64  # tokens beyond the suffix
USUAL = 3  # characters of code in a token


def line_ends(text: str) -> list[int]:
    return [i for i, c in enumerate(text) if c == "\n"]


def hole(text: str, at: int) -> Hole:
    return Hole(text[:at], text[at:])


def moving(backend: LocalBackend, text: str, moves: int, budgets: Budgets, start: int) -> None:
    """Suggestions at one line after the other: the first cold, the others from what the one before evaluated."""
    options = FillOptions(max_tokens=4, budgets=budgets)
    ends = line_ends(text)
    first = next(n for n, end in enumerate(ends) if backend.count(text[:end]) >= start)
    backend.engine.truncate(0)
    cold, *warm = (fill(hole(text, at), backend, None, options) for at in ends[first : first + moves + 1])
    again = [f.prompt_tokens - f.reused_tokens - f.suffix_tokens for f in warm]
    ratios = [f.prompt_seconds / cold.prompt_seconds for f in warm]
    share = statistics.mean(f.suffix_tokens / f.prompt_tokens for f in warm)
    print(f"moving by a line, {moves} times: prompts of {cold.prompt_tokens} tokens and more, suffix {share:.1%}")
    print(f"  evaluated again beyond the suffix: at most {max(again)} tokens (allowed: {ALLOWED})")
    print(
        f"  time to first token, warm / cold: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}",
        flush=True,
    )


def restarting(path: Path, load: LoadWishes, text: str, budgets: Budgets, start: int) -> None:
    """The state goes to disk and comes back into a fresh context, as between two calls of the command."""
    options = FillOptions(max_tokens=4, budgets=budgets)
    with tempfile.TemporaryDirectory() as folder:
        states = PrefixStates(Path(folder))
        fillings: list[Filling] = []
        restore_seconds = 0.0
        for move in range(2):
            with opened(path, load, states) as backend:
                ends = line_ends(text)
                at = next(n for n, end in enumerate(ends) if backend.count(text[:end]) >= start)
                began = time.perf_counter()
                backend.restore_state("bench")
                restore_seconds = time.perf_counter() - began
                fillings.append(fill(hole(text, ends[at + move]), backend, None, options))
                if move == 0:
                    backend.save_state("bench")
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
    cold, warm = fillings
    again = warm.prompt_tokens - warm.reused_tokens - warm.suffix_tokens
    first, restore = warm.prompt_seconds / cold.prompt_seconds, restore_seconds / cold.prompt_seconds
    print(f"state on disk, {size / 1e6:.1f} MB, in a fresh context: {again} tokens evaluated beyond the suffix")
    print(f"  time to first token, warm / cold: {first:.3f}, and to restore the state {restore:.3f}", flush=True)


def opened(path: Path, load: LoadWishes, states: PrefixStates | None = None) -> LocalBackend:
    """The model. A synthetic one may have no FIM ids: its weights are random, so other ids cost the same."""
    backend = LocalBackend(path, load, states=states)
    if str(backend.engine.header.metadata.get("general.name")).startswith("synthetic"):
        backend.capabilities = replace(backend.capabilities, infill=True)
        backend.vocabulary.fim = lambda: FimIds(begin=100_003, hole=100_002, end=100_004)  # type: ignore[method-assign]
    return backend


def memory() -> int:
    """Anonymous memory of this process in bytes."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))


def many(backend: LocalBackend, text: str, number: int, options: FillOptions) -> None:
    """Consecutive suggestions at places all over a file."""
    ends = line_ends(text)
    used, rules, computing = [], [], []
    for n in range(number):
        around = hole(text, max(ends[(n * 7919) % len(ends)] - n % 3, 0))
        rules.append(1e3 * fill(around, backend, None, options).rule_seconds)
        before_hole.cache_clear()
        duty.cache_clear()
        with patch.object(coderv2_local.fim.fill, "time", SimpleNamespace(perf_counter=time.thread_time)):
            computing.append(1e3 * fill(around, backend, None, options).rule_seconds)
        used.append(memory())
    early, late = statistics.median(used[number // 4 : number // 2]), statistics.median(used[-number // 4 :])
    print(f"{number} suggestions: none failed; anonymous memory {early / 1e6:.1f} → {late / 1e6:.1f} MB")
    print(
        f"  the rules took {max(rules):.2f} ms of a suggestion at most, {statistics.median(rules):.2f} in the median; "
        f"in processor time {max(computing):.2f} and {statistics.median(computing):.2f}"
    )


def same_window(backend: LocalBackend, text: str, budgets: Budgets) -> None:
    """How seldom the window's start moves, line by line through a file."""
    starts = [prefix_start(text[: end + 1], counter(backend), budgets.prefix) for end in line_ends(text)]
    stays = statistics.mean(a == b for a, b in pairwise(starts))
    print(f"the prefix window begins where it did before in {stays:.1%} of moves by a line")


def rules() -> None:
    """The rules alone, on middles of growing length."""
    piece = "    value = compute(first, [x for x in range(n)])  # see https://example.org/a\n"
    seconds = []
    for size in (1_000, 10_000, 100_000):
        middle = "".join(piece.replace("n", str(i)) for i in range(size // len(piece)))
        around = Hole("def f(first):\n" * 200, "\n    return value\n" * 200)
        best = []
        for _ in range(5):
            began = time.perf_counter()
            watch = Watch(around)
            for at in range(0, len(middle), 4):
                if watch.feed(middle[at : at + 4]):
                    break
            read = watch.text
            watch.finish()
            trimmed(read, around)
            best.append(time.perf_counter() - began)
        assert read == middle
        seconds.append(min(best))
    print(
        "rules alone: " + ", ".join(f"{1e3 * s:.2f} ms for {k} kB" for s, k in zip(seconds, (1, 10, 100), strict=True))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--source", type=Path, help="a long source file; several files of this program by default")
    parser.add_argument("--moves", type=int, default=4)
    parser.add_argument("--suggestions", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=16, help="of each of these suggestions, at most")
    parser.add_argument("--suffix-share", type=float, default=0.05)
    parser.add_argument("--start", type=float, default=0.5, help="how full the prefix window is at first")
    parser.add_argument("--prompt", type=int, help="tokens; by default what the model's context allows, up to 1536")
    args = parser.parse_args()
    model = find_model(args.model)
    sources = [args.source] if args.source else sorted((HERE.parents[2] / "coderv2_local" / "fim").glob("*.py"))
    text = "".join(read_source(path).text for path in sources)
    load = LoadWishes(n_ctx=None if model.is_toy else 2048, infill=True)  # as `coder fim` loads it
    with opened(model.path, load) as backend:
        prompt = args.prompt or min(backend.n_ctx * 3 // 4, 1536)
        if backend.count(text) > len(text) // 2:
            # A synthetic vocabulary has a token for each character. A line is to have as many as it usually has.
            text = "\n".join(line[: -(-len(line) // USUAL)] for line in text.split("\n"))
        start = int(prompt * args.start)
        budgets = Budgets(prefix=prompt, suffix=int(start * args.suffix_share))
        print(
            f"{backend.name}, context {backend.n_ctx}, prompt {prompt}, threads {backend.engine.n_threads}", flush=True
        )
        fill(Hole("warm = ", "\n"), backend, None, FillOptions(max_tokens=4))
        moving(backend, text, args.moves, budgets, start)
        same_window(backend, text, budgets)
        if args.suggestions:
            many(backend, text, args.suggestions, FillOptions(max_tokens=args.tokens, budgets=budgets))
    restarting(model.path, load, text, budgets, start)
    rules()


if __name__ == "__main__":
    main()
