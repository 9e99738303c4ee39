"""`coder serve` with many clients for minutes: errors, memory, and how long each client waits for its first token.

    python tools/bench/serve_soak.py [--minutes 5] [--clients 32]

A quarter of the clients are editors (/infill), the others conversations that are streamed, one in ten of which the
client gives up after a few tokens. Memory is the server's resident memory, and of it what the evaluated states take
that it keeps: they come to their bound in the first minute or two. Exits with 1 where one of these is not met, and
says which: no errors; the rest of the memory grows by at most `GROWTH` MiB from the middle third of the time to the
last; no client's median wait for its first token is more than `UNFAIR` times the median of its kind of clients, and
each client has `FEWEST` answers at least.
"""

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from serve import free_port, post, wait_for  # noqa: E402  (beside this file)

GROWTH = 4.0  # MiB
UNFAIR = 2.0
FEWEST = 3
Memory = tuple[float, float]  # MiB: resident, and in kept states


class Clients:
    """What the clients met."""

    def __init__(self, address: str, end: float) -> None:
        self.address, self.end = address, end
        self.waits: dict[int, list[float]] = {}
        self.failures: list[str] = []

    def run(self, n: int) -> None:
        """One client until the end."""
        chance, waits = random.Random(n), self.waits.setdefault(n, [])
        while time.monotonic() < self.end:
            began = time.perf_counter()
            try:
                if is_editor(n):
                    post(self.address, "/infill", {"input_prefix": f"def f_{n}_{len(waits) % 5}(x):\n", "n_predict": 8})
                    waits.append(time.perf_counter() - began)
                else:
                    waits.append(self.converse(n, chance, began))
            except Exception as error:
                self.failures.append(f"client {n}: {error!r}")

    def converse(self, n: int, chance: random.Random, began: float) -> float:
        """One streamed answer; the seconds until its first token."""
        gives_up = chance.random() < 0.1
        question = f"Question {n}: " + "why is it so? " * chance.randint(1, 20)
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "stream": True}
        request = urllib.request.Request(
            f"{self.address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        first = None
        with urllib.request.urlopen(request, timeout=300) as response:
            for line in response:
                if b'"error"' in line:
                    self.failures.append(f"client {n}: {line!r}")
                if line.startswith(b"data: {") and first is None:
                    first = time.perf_counter() - began
                    if gives_up:
                        break
        if first is None:
            raise RuntimeError("an answer without an event")
        return first


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "serve", "--port", str(port), "--threads", "1"],
            env=dict(os.environ, CODER_HOME=home, PYTHONPATH=str(ROOT)),
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        address = f"http://127.0.0.1:{port}"
        wait_for(address)
        clients = Clients(address, time.monotonic() + options.minutes * 60)
        threads = [threading.Thread(target=clients.run, args=(n,)) for n in range(options.clients)]
        for thread in threads:
            thread.start()
        memory = [memory_of(process.pid, address)]
        while any(thread.is_alive() for thread in threads):
            time.sleep(5)
            memory.append(memory_of(process.pid, address))
    report(clients, memory)
    faults = judge(clients.waits, clients.failures, memory)
    print(*faults or ["all criteria are met"], sep="\n")
    sys.exit(bool(faults))


def memory_of(process: int, address: str) -> Memory:
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as response:
        found = re.search(rb"^coder_kept_states_bytes (\S+)", response.read(), re.MULTILINE)
    assert found
    return psutil.Process(process).memory_info().rss / 2**20, float(found[1]) / 2**20


def is_editor(client: int) -> bool:
    return client % 4 == 0


def thirds(memory: list[Memory]) -> dict[str, Memory]:
    """Medians of the memory, resident and in kept states, over parts of the time."""
    third = max(len(memory) // 3, 1)
    rows = {"at first": memory[:1], "middle third": memory[third : 2 * third], "last third": memory[2 * third :]}
    return {
        name: (statistics.median(m[0] for m in row), statistics.median(m[1] for m in row))
        for name, row in rows.items()
        if row
    }


def judge(waits: dict[int, list[float]], failures: list[str], memory: list[Memory]) -> list[str]:
    """What is not as it should be, a line each, with its figure and its bound.

    Args:
        waits: of each client, seconds until the first token of each answer.
        memory: in the order of time.
    """
    faults = [f"errors: {len(failures)}, at most 0"] if failures else []
    found = thirds(memory)
    if len(found) < 3:
        return [*faults, f"memory was looked at {len(memory)} times: too short a run to judge"]
    growth = found["last third"][0] - found["last third"][1] - (found["middle third"][0] - found["middle third"][1])
    if growth > GROWTH:
        faults.append(f"memory grew by {growth:.1f} MiB, at most {GROWTH:g}")
    for name, chosen in (("infill", True), ("chat", False)):
        group = {n: times for n, times in waits.items() if is_editor(n) == chosen}
        poor = [n for n, times in group.items() if len(times) < FEWEST]
        if poor:
            faults.append(f"{name}: client {poor[0]} had {len(group[poor[0]])} answers, at least {FEWEST}")
            continue
        medians = {n: statistics.median(times) for n, times in group.items()}
        if not medians:
            continue
        worst, usual = max(medians, key=lambda n: medians[n]), statistics.median(medians.values())
        if medians[worst] > UNFAIR * usual:
            ratio = medians[worst] / usual
            faults.append(f"{name}: client {worst} waits {ratio:.2f} times the median, at most {UNFAIR:g}")
    return faults


def report(clients: Clients, memory: list[Memory]) -> None:
    """Print what came out."""
    total = sum(map(len, clients.waits.values()))
    print(f"{total} requests, {len(clients.failures)} errors", *clients.failures[:3], sep="\n  ")
    for name, (resident, kept) in thirds(memory).items():
        rest = resident - kept
        print(f"memory, {name:12}  {resident:6.1f} MiB, of these in kept states {kept:6.1f}, the rest {rest:6.1f}")
    for name, chosen in (("infill", True), ("chat", False)):
        of_each = [waits for n, waits in clients.waits.items() if is_editor(n) == chosen and waits]
        if not of_each:
            continue
        medians = [statistics.median(waits) for waits in of_each]
        longest = max(max(waits) for waits in of_each)
        usual = statistics.median(medians)
        print(
            f"{name}: seconds to the first token, median {usual:.3f}, between clients {min(medians):.3f} to "
            f"{max(medians):.3f} ({max(medians) / usual:.2f} times), longest {longest:.3f}; requests of a client "
            f"{min(map(len, of_each))} to {max(map(len, of_each))}"
        )


if __name__ == "__main__":
    main()
