"""What reuse of an evaluated prefix saves: the start of a second question, and of a conversation opened again.

    python tools/bench/prefix_reuse.py [MODEL.gguf] [--tokens 4000] [--runs 5] [--json]

A conversation of `--tokens` tokens is evaluated. Then, all within one run, the time to the first token after a question
of `--question` tokens more is taken, with the conversation still there and with nothing there; and the time until the
conversation is there again, by evaluating it and from a state on disk (reading, checking and loading it included; the
states lie in a temporary folder, in the page cache). Figures are medians over `--runs`.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from coderv2_local.engine import Engine
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.states.kept_states import KeptStates
from coderv2_local.states.prefix_states import PrefixStates
from converters.gguf_header import read_header

TEXT = (
    "def add(a, b):\n    return a + b\n\n\nclass Stack:\n    def push(self, item):\n        self.items.append(item)\n"
)


def first_token_seconds(engine: Engine, ids: list[int]) -> float:
    """From the prompt's ids to the first generated id."""
    began = time.perf_counter()
    tokens = engine.generate(ids, SamplingOptions(banned=[engine.vocabulary.eos]), 1)
    next(tokens)
    tokens.close()
    return time.perf_counter() - began


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(engine: Engine, length: int, question: int, states: PrefixStates) -> dict[str, float]:
    """One round: seconds of each way, and bytes of the state."""
    vocabulary = engine.vocabulary
    text = vocabulary.encode(TEXT * (length // 20 + 1))
    talk = [vocabulary.bos, *text[: length - 1]]
    following = [*talk, *vocabulary.encode("\n\nUser: Why is that so?\n\nAssistant:")]
    following += text[: max(0, question - (len(following) - length))]
    engine.truncate(0)
    found = {"without reuse": first_token_seconds(engine, following)}
    engine.truncate(0)
    engine.evaluate(talk)
    found["with reuse"] = first_token_seconds(engine, following)
    engine.truncate(length)
    found["saving"] = timed(lambda: states.save(engine, "bench"))
    found["state bytes"] = sum(path.stat().st_size for path in states.folder.glob("*.state"))
    kept = KeptStates()
    found["copying"] = timed(lambda: kept.keep(engine))
    engine.truncate(0)
    found["evaluating again"] = timed(lambda: engine.evaluate(talk))
    engine.truncate(0)
    notice: list[str | None] = []
    found["reading"] = timed(lambda: notice.append(states.restore(engine, "bench")))
    if notice != [None] or engine.tokens != talk:
        raise SystemExit(f"the state was not restored: {notice[0]}")
    # the last token is evaluated again, for its logits
    found["reopening"] = found["reading"] + timed(lambda: engine.evaluate(talk))
    engine.truncate(0)
    found["from memory"] = timed(lambda: kept.switch(engine, following))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--tokens", type=int, default=4000, help="length of the conversation")
    parser.add_argument("--question", type=int, default=24, help="tokens of the second question")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    path = find_model(arguments.model).path
    options = LoadOptions(n_ctx=arguments.tokens + 512, n_threads=arguments.threads)
    header = read_header(path)
    rounds = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(path, options, taps=install_taps(header.metadata), header=header) as engine,
    ):
        for _ in range(arguments.runs):
            rounds.append(measure(engine, arguments.tokens, arguments.question, PrefixStates(Path(folder) / "states")))
    median = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    ratios = {
        "second question, without reuse / with": statistics.median(
            r["without reuse"] / r["with reuse"] for r in rounds
        ),
        "reopening, evaluating again / from disk": statistics.median(
            r["evaluating again"] / r["reopening"] for r in rounds
        ),
    }
    if arguments.json:
        print(json.dumps({"tokens": arguments.tokens, "runs": arguments.runs, "median": median, "ratios": ratios}))
        return
    print(f"{path.name}: a conversation of {arguments.tokens} tokens, median of {arguments.runs}")
    for key, value in median.items():
        print(f"  {key:<20}" + (f"{value / 1e6:9.1f} MB" if key == "state bytes" else f"{value * 1000:9.1f} ms"))
    for key, value in ratios.items():
        print(f"  {key}: {value:.1f}x")


if __name__ == "__main__":
    main()
