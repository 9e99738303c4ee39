"""A model larger than memory: decode speed in a memory cgroup, plain mmap beside expert prefetch, in one run.

    sudo python tools/bench/larger_than_memory.py MODEL.gguf [--limits 0,5G,half] [--modes plain,own-memory,no-mlock]
        [--text FILE] [--tokens 32] [--warm-up 32] [--json FILE]

Each measurement is a process of its own, put into a new memory cgroup before it opens the file; the file's pages are
dropped from the cache first, since a page counts for the cgroup that read it. The same tokens, those of a text, are
decoded one by one in every mode, so the work is the same; a digest over all logits says whether the results are.
With --greedy the tokens are the model's own.
A limit of 0 means none: all in memory. Modes: plain (mmap and nothing else), own-memory, no-mlock (the same as a user
with the usual 8 MiB limit on locked memory), and to see what each part is worth: no-guess, page-cache.
Needs root for the cgroup, version 1 or 2.
"""

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

MODES = {
    "plain": "mmap alone",
    "own-memory": "chosen and guessed experts read into memory of the program, dense tensors locked",
    "no-mlock": "the same with 8 MiB of locked memory allowed",
    "no-guess": "the same as own-memory, but only chosen experts",
    "page-cache": "chosen and guessed experts advised, dense tensors locked",
}
PROMPT = 8  # tokens of the text before the model's own, with --greedy
USUAL_LIMIT = 8 << 20
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process, which is in its cgroup already."""
    import numpy as np

    from coderv2_local.engine import Engine
    from coderv2_local.larger_than_memory.expert_prefetch import larger_than_memory
    from coderv2_local.placement.load_options import LoadOptions
    from coderv2_local.routing import install_taps
    from converters.gguf_header import read_header

    path = Path(args.model)
    header = read_header(path)
    streams = larger_than_memory(path, header) if args.child != "plain" else []
    for tap in streams:
        tap.expert_memory = 0 if args.child == "page-cache" else None
        if args.child == "no-guess":
            tap.ahead = None
    taps = [*install_taps(header.metadata), *streams]
    options = LoadOptions(n_ctx=args.warm_up + args.tokens + 8, stream_experts=bool(streams))
    read, start = bytes_read(), time.perf_counter()
    engine = Engine(path, options, taps=taps, header=header)
    result: dict[str, Any] = {"load_s": time.perf_counter() - start, "load_read": bytes_read() - read}
    total = args.warm_up + args.tokens
    ids = engine.vocabulary.encode(Path(args.text).read_text("utf-8"))[: PROMPT if args.greedy else total]
    digest, times = hashlib.sha256(), []
    for n in range(1, total + 1):
        if n == args.warm_up + 1:
            read, processor = bytes_read(), os.times()
        start = time.perf_counter()
        logits = engine.evaluate(ids[:n])
        times.append(time.perf_counter() - start)
        digest.update(logits.tobytes())
        if n == len(ids) < total:
            ids.append(int(logits.argmax()))
    steady = times[args.warm_up :]
    result["first_token_s"] = result["load_s"] + times[0]
    result["tokens_per_s"] = len(steady) / sum(steady)
    result["median_ms"] = 1e3 * float(np.median(steady))
    result["read_per_token"] = (bytes_read() - read) / len(steady)
    now = os.times()
    result["user_ms"] = 1e3 * (now.user - processor.user) / len(steady)
    result["system_ms"] = 1e3 * (now.system - processor.system) / len(steady)
    result["digest"] = digest.hexdigest()[:16]
    result["anonymous"] = status_kb("RssAnon") << 10
    for tap in streams:
        c = tap.counters
        result |= {"cache_hit_rate": c.cache_hit_rate, "guess_hit_rate": c.guess_hit_rate}
        result |= {"guess_precision": c.guess_precision, "locked": tap.files.locked_bytes}
        result |= {"dense_renewed": c.dense_bytes_renewed, "notices": [*engine.notices, *tap.notices]}
    engine.close()
    return result


def bytes_read() -> int:
    """Bytes that this process has caused to be read from disks."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


def status_kb(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


class Cgroup:
    """A memory cgroup with a limit in bytes; 0 for none."""

    def __init__(self, limit: int) -> None:
        old = Path("/sys/fs/cgroup/memory")
        root, file = (old, "memory.limit_in_bytes") if old.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
        self.path = root / f"coder-bench-{os.getpid()}"
        self.path.mkdir()
        if limit:
            (self.path / file).write_text(str(limit))

    def join(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        force = self.path / "memory.force_empty"
        if force.exists():
            force.write_text("0")
        for _ in range(50):
            with suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.1)


def run_child(args: argparse.Namespace, mode: str, limit: int) -> dict[str, Any]:
    """One measurement in a process and cgroup of its own."""
    drop_from_cache(Path(args.model))
    group = Cgroup(limit)

    def enter() -> None:
        group.join()
        if mode == "no-mlock":
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (USUAL_LIMIT, USUAL_LIMIT))
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)

    command = [sys.executable, __file__, args.model, "--child", mode, "--text", args.text]
    command += ["--greedy"] * args.greedy + ["--tokens", str(args.tokens), "--warm-up", str(args.warm_up)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=enter, check=True)
    finally:
        group.remove()
    return dict(json.loads(done.stdout))


def drop_from_cache(path: Path) -> None:
    """Drop the file's pages; the whole page cache where another process has the file mapped."""
    from coderv2_local.larger_than_memory.residency import ModelFiles
    from coderv2_local.larger_than_memory.weight_ranges import Range

    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        files = ModelFiles([path])
        files.find_mappings()
        size = len(mapped)
        if sum(r.length for r in files.missing([Range(0, 0, size)])) < 0.99 * size:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("1")
        files.close()


def parse_limit(text: str, size: int) -> int:
    if text == "half":
        return size // 2
    return int(float(text.rstrip("G")) * (1 << 30)) if text.endswith("G") else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--limits", default="0,5G,half")
    parser.add_argument("--modes", default="plain,own-memory,no-mlock", help=", ".join(MODES))
    parser.add_argument(
        "--text", default=argparse.__file__, help="whose tokens are decoded (default: Python's argparse.py)"
    )
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--greedy", action="store_true", help="after 8 tokens, go on with the model's own best ones")
    parser.add_argument("--warm-up", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args)))
        return
    size, results, whole = os.stat(args.model).st_size, [], 0.0
    for text in args.limits.split(","):
        limit, plain = parse_limit(text, size), 0.0
        for mode in args.modes.split(",") if limit else ["plain"]:
            r = run_child(args, mode, limit) | {"limit": limit, "mode": mode}
            results.append(r)
            speed = r["tokens_per_s"]
            whole, plain = whole or speed * (not limit), plain or speed * (mode == "plain")
            line = f"{limit / (1 << 30):5.2f} GiB  {mode:9} {speed:5.2f} tok/s"
            line += f"  {speed / plain:5.2f}x plain" if plain else ""
            line += f"  {speed / whole:4.2f}x in memory" if whole else ""
            line += f"  {r['read_per_token'] / 1e6:4.0f} MB/token  cpu {r['user_ms']:.0f}+{r['system_ms']:.0f} ms"
            line += f"  load {r['load_s']:.1f} s, {r['load_read'] / 1e9:.2f} GB  first {r['first_token_s']:.1f} s"
            line += f"  anonymous {r['anonymous'] / 1e9:.2f} GB"
            line += f"  {r['digest']}"
            if "cache_hit_rate" in r:
                line += f"  in memory {r['cache_hit_rate']:.0%}, guessed {r['guess_hit_rate']:.0%}"
                line += f" ({r['guess_precision']:.0%} right)"
                line += f", locked {r['locked'] / 1e9:.2f} GB, renewed {r['dense_renewed'] / 1e9:.2f} GB"
                line += "".join(f"; {n}" for n in r["notices"])
            print(line, flush=True)
    same = len({r["digest"] for r in results}) == 1
    print("all logits are the same, bit for bit" if same else "THE LOGITS DIFFER")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(not same)


if __name__ == "__main__":
    main()
