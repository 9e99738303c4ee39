"""How often the experts that a token needs are in memory already: what a cache of experts can reach at best.

    python tools/bench/expert_reuse.py MODEL.gguf [--text FILE] [--tokens 400] [--greedy] [--warm-up 64]
        [--shares 0.25,0.375,0.455,0.6]

The routers' choices are recorded while a text's tokens, or the model's own, are decoded. Then caches that hold a share
of all experts are replayed over them: one that drops what was used longest ago (LRU), that of
``coderv2_local/larger_than_memory/expert_cache.py`` (least used, older uses counting less), and one that knows the
future and drops what will be needed last, which no cache can beat. The first tokens fill the caches and do not count.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coderv2_local.engine import Engine
from coderv2_local.hooks import Tap
from coderv2_local.larger_than_memory.expert_cache import HALF_LIFE
from coderv2_local.larger_than_memory.expert_prefetch import read_ids
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps
from converters.gguf_header import read_header

NODE = "ffn_moe_topk-"
PROMPT = 8  # tokens of the text before the model's own, with --greedy
Choices = npt.NDArray[np.int64]
"""(tokens, layers, experts per token): numbers of experts, counted through all layers."""


class ChoiceRecorder:
    """A tap that keeps what the routers choose."""

    name = "choice recorder"

    def __init__(self) -> None:
        self.chosen: dict[int, list[npt.NDArray[np.int32]]] = {}

    def wants(self, node_name: str) -> bool:
        return node_name.startswith(NODE)

    def __call__(self, node_name: str, tensor: int) -> None:
        self.chosen.setdefault(int(node_name.removeprefix(NODE)), []).append(read_ids(tensor))


def record(path: Path, text: str, n_tokens: int, *, greedy: bool) -> tuple[Choices, int]:
    """The choices for `n_tokens` decoded one by one, and how many routed experts a layer has."""
    header, recorder = read_header(path), ChoiceRecorder()
    taps: list[Tap] = [*install_taps(header.metadata), recorder]
    with Engine(path, LoadOptions(n_ctx=n_tokens + 8), taps=taps, header=header) as engine:
        ids = engine.vocabulary.encode(text)[: PROMPT if greedy else n_tokens]
        for n in range(1, n_tokens + 1):
            logits = engine.evaluate(ids[:n])
            if n == len(ids) < n_tokens:
                ids.append(int(logits.argmax()))
    n_experts = int(header.metadata["deepseek2.expert_count"])
    layers = [np.concatenate(recorder.chosen[layer]) for layer in sorted(recorder.chosen)]
    return np.stack([ids + n * n_experts for n, ids in enumerate(layers)], axis=1).astype(np.int64), n_experts


Keep = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""(time, experts just used) → worth of keeping each expert."""


def longest_unused(choices: Choices, n: int) -> Keep:
    last = np.zeros(n)

    def keep(time: int, used: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        last[used] = time
        return last

    return keep


def least_used(choices: Choices, n: int) -> Keep:
    layers, score = choices.shape[1], np.zeros(n)

    def keep(time: int, used: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        score[used] += 2 ** (time / layers / HALF_LIFE)
        return score

    return keep


def clairvoyant(choices: Choices, n: int) -> Keep:
    uses: list[list[int]] = [[] for _ in range(n)]
    for time, used in reversed(list(enumerate(choices.reshape(-1, choices.shape[2])))):
        for expert in used:
            uses[expert].append(time)
    following = np.full(n, -np.inf)

    def keep(time: int, used: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        for expert in used:
            uses[expert].pop()
            following[expert] = -uses[expert][-1] if uses[expert] else -np.inf
        return following

    return keep


POLICIES = {"LRU": longest_unused, "as here": least_used, "clairvoyant": clairvoyant}


def hits(choices: Choices, n: int, share: float, policy: Callable[[Choices, int], Keep], warm_up: int) -> float:
    """The share of chosen experts that are in a cache of `share` of all `n`."""
    room, keep = int(share * n), policy(choices, n)
    present = np.zeros(n, bool)
    found = []
    for time, used in enumerate(choices.reshape(-1, choices.shape[2])):
        found.append(present[used].mean())
        worth = keep(time, used)
        present[used] = True
        excess = int(present.sum()) - room
        if excess > 0:
            others = np.setdiff1d(np.flatnonzero(present), used)
            present[others[np.argsort(worth[others], kind="stable")[:excess]]] = False
    return float(np.mean(found[warm_up * choices.shape[1] :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--text", type=Path, default=Path(argparse.__file__), help="default: Python's argparse.py")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--greedy", action="store_true", help="after 8 tokens, go on with the model's own best ones")
    parser.add_argument("--warm-up", type=int, default=64)
    parser.add_argument("--shares", default="0.25,0.375,0.455,0.6")
    args = parser.parse_args()
    if args.tokens <= args.warm_up:
        sys.exit("--tokens must be more than --warm-up")
    path = find_model(args.model).path
    if path is None:
        sys.exit(f"{args.model} is on a server: its routers cannot be watched")
    choices, n_experts = record(path, args.text.read_text("utf-8"), args.tokens, greedy=args.greedy)
    tokens, layers, per_token = choices.shape
    print(f"{tokens} tokens, {layers} layers, {per_token} of {n_experts} experts each")
    print(f"{'in memory':>10}" + "".join(f"{name:>13}" for name in POLICIES))
    for share in map(float, args.shares.split(",")):
        found = [hits(choices, layers * n_experts, share, policy, args.warm_up) for policy in POLICIES.values()]
        print(f"{share:10.1%}" + "".join(f"{value:13.1%}" for value in found), flush=True)


if __name__ == "__main__":
    main()
