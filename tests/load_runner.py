"""Loads damaged copies of the embedded model, each in a process of its own, and prints how those ended.

Arguments: a folder to write in, a seed, how many. Output: a JSON list of [what was changed, wait status] pairs.
"""

import contextlib
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from converters.gguf_header import read_header
from quant.errors import CoderError

SECONDS, MEMORY = 20, 4 << 30
DONE, REFUSED, WRONG = range(3)


def damaged(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Copies with changed bytes in the header: anywhere in it, among the numbers, in the tokens, in the shapes."""
    path, random_ = find_model("tiny").path, random.Random(seed)
    whole, end = path.read_bytes(), read_header(path).data_offset
    tokens, merges, types = (
        whole.index(f"tokenizer.ggml.{key}".encode()) for key in ("tokens", "merges", "token_type")
    )
    after = min(at for at in (merges, types, end) if at > tokens)
    shapes = whole.index(b"output_norm.weight")
    places = [(4, end), (4, tokens), (tokens + 40, after), (tokens + 40, after), (min(shapes, end - 4000), end)]
    for n in range(count):
        data, changed = bytearray(whole), []
        begin, stop = places[n % len(places)]
        for _ in range(random_.choice([1, 1, 1, 3])):
            at = random_.randrange(begin, stop)
            data[at] = random_.choice([0, 0, 1, 0x7F, 0xFF, data[at] ^ (1 << random_.randrange(8))])
            changed.append(f"{at}: {data[at]}")
        yield ", ".join(changed), bytes(data)


def load(path: Path) -> int:
    """Load a file and write a few tokens."""
    try:
        with LocalBackend(path, LoadOptions(n_ctx=256, n_threads=1)) as backend:
            ids = backend.vocabulary.encode("def f(x):\n    return")
            list(backend.engine.generate(ids, SamplingOptions(), 2))
    except CoderError:
        return REFUSED
    except BaseException:
        return WRONG
    return DONE


def ends(path: Path) -> int:
    """The wait status of a process that loads `path`."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        for stream in (1, 2):  # an abort prints where it was
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(load(path))
    return os.waitpid(child, 0)[1]


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    found = []
    for changed, data in damaged(seed, count):
        path = folder / "m.gguf"
        path.write_bytes(data)
        found.append((changed, ends(path)))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
