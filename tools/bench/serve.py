r"""`coder serve` beside llama.cpp's own server (package xllamacpp): the same file, threads and context, in turn.

    python tools/bench/serve.py [MODEL.gguf] [--threads 2] [--ctx 2048] [--rounds 5] [--file-tokens 1300] [--decode 150]
        [--turns 2] [--no-warm-up] [--flash-attention on|off]

Prints, as medians over the rounds and as ratios within this run: tokens a second while an answer is streamed; the time
to the first token of the second infill in a file, and what of it each server says that it spent on evaluating; the same
with two files in turn. Both servers are up all the time; only one works at a time.

Of a large model choose files like those that people write, and few rounds: at 30 tokens a second one of 1000 tokens
takes half a minute, and the server that does not keep it evaluates it again at every turn:

    python tools/bench/serve.py lite-q4_k_m.gguf --ctx 4096 --file-tokens 1000 --rounds 1 --turns 1 \
        --decode 24 --no-warm-up
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LLAMA_SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.n_ctx = 1, int(sys.argv[4])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
params.no_extra_bufts = True  # weights are not repacked, as here
if sys.argv[5] == "off":  # else it is on: llama-server's own choice
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(params)
sys.stdin.read()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default=str(ROOT / "coderv2_local" / "data" / "tiny.gguf"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file-tokens", type=int, default=1300)
    parser.add_argument("--decode", type=int, default=150)
    parser.add_argument("--turns", type=int, default=2, help="how often each of two files is gone back to")
    parser.add_argument("--no-warm-up", action="store_true", help="count the first round, too")
    parser.add_argument("--plain", action="store_true", help="for a file without infill: completions instead")
    parser.add_argument("--flash-attention", choices=("on", "off"), default="on", help="on is what both servers choose")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, servers(options, home) as (ours, theirs):
        end = end_token(ours)
        found: dict[str, dict[str, list[float]]] = {"ours": {}, "theirs": {}}
        for n in range(options.no_warm_up, options.rounds + 1):
            order = (("ours", ours), ("theirs", theirs)) if n % 2 else (("theirs", theirs), ("ours", ours))
            for name, address in order:
                for figure, value in round_of(address, n, options, end).items():
                    if n:  # the first warms up
                        found[name].setdefault(figure, []).append(value)
    for figure in found["ours"]:
        mine, other = (statistics.median(found[name][figure]) for name in ("ours", "theirs"))
        print(f"{figure:42} ours {mine:9.4g}   llama-server {other:9.4g}   ratio {mine / other:.3f}")


@contextlib.contextmanager
def servers(options: argparse.Namespace, home: str) -> Iterator[tuple[str, str]]:
    """Both servers, and their addresses."""
    ports = [free_port(), free_port()]
    theirs = [sys.executable, "-c", LLAMA_SERVER, options.model, ports[1], options.threads, options.ctx]
    ours = [sys.executable, "-m", "cli", "serve", "-m", options.model, "--port", ports[0]]
    ours += ["--threads", options.threads, "--ctx", options.ctx]
    environment = dict(os.environ, CODER_HOME=home, PYTHONPATH=str(ROOT))
    theirs.append(options.flash_attention)
    if options.flash_attention == "off":
        Path(home, "config.toml").write_text("[load]\nflash_attention = false\n")
    with contextlib.ExitStack() as stack:
        for command in (ours, theirs):
            process = subprocess.Popen(
                list(map(str, command)),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        for address in addresses:
            wait_for(address)
        yield addresses[0], addresses[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(address: str) -> None:
    """Until the server has loaded its model."""
    for _ in range(1200):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.1)
    sys.exit(f"{address} does not start")


def post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def end_token(address: str) -> int:
    """The id that ends an answer, to be banned: both servers then generate as much."""
    name = "<｜end▁of▁sentence｜>"
    return int(post(address, "/tokenize", {"content": name, "parse_special": True})["tokens"][0])


def round_of(address: str, n: int, options: argparse.Namespace, end: int) -> dict[str, float]:
    """All figures once."""
    left, right = (file_text(f"{side}{n}", options.file_tokens) for side in ("left", "right"))
    first_token(address, left, options.plain)
    second, evaluating = first_token(address, left + "def more(value):\n    return ", options.plain)
    first_token(address, right, options.plain)
    turns = []
    for k in range(options.turns):
        for text in (left, right):
            turns.append(first_token(address, text + f"def again_{k}(value):\n    return ", options.plain)[0])
    return {
        "decode, streamed, tokens a second": decode_speed(address, n, options.decode, end),
        "second infill in a file, seconds": second,
        "  of these, evaluating": evaluating,
        "two files in turn, seconds": statistics.median(turns),
    }


def file_text(name: str, tokens: int) -> str:
    """A file of about so many tokens, unlike any other."""
    lines, size = [], 0
    while size < tokens:
        line = f"def {name}_{len(lines)}(value):\n    return value + {len(lines)}\n"
        lines.append(line)
        size += 18
    return "".join(lines)


def first_token(address: str, prefix: str, plain: bool) -> tuple[float, float]:
    """An infill of one token, or a completion of one where the file has no infill.

    Returns:
        Seconds until it is answered, and of these, what the server says that evaluating the prompt took.
    """
    body = {"input_prefix": prefix, "input_suffix": "\n\n", "n_predict": 1, "temperature": 0, "cache_prompt": True}
    if plain:
        body = {"prompt": prefix, "max_tokens": 1, "temperature": 0, "cache_prompt": True}
    began = time.perf_counter()
    answer = post(address, "/v1/completions" if plain else "/infill", body)
    return time.perf_counter() - began, answer["timings"]["prompt_ms"] / 1000


def decode_speed(address: str, n: int, tokens: int, end: int) -> float:
    """Tokens a second between the first piece of a streamed answer and the last."""
    body = {
        "prompt": f"# program {n}\n",
        "max_tokens": tokens,
        "temperature": 0,
        "repeat_penalty": 1,
        "logit_bias": {str(end): -100},
        "stream": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    times = []
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("text"):
                times.append(time.perf_counter())
    return (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    main()
