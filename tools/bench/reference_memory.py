"""What the numpy reference needs for a model of a config's true shapes.

    python tools/bench/reference_memory.py CONFIG.json [--tokens 256]

Writes a sparse checkpoint of these shapes (31 GB for Lite, of which about 0.4 GB take up disk: embeddings, norms and
routers are random, all other weights are holes, that is zeros), runs the reference over it, and prints the time and the
peak of memory.
"""

import argparse
import json
import math
import resource
import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from coderv2_local.reference.checkpoint_weights import CheckpointWeights
from coderv2_local.reference.model import forward
from converters.config import read_config
from converters.tensor_table import stored_shapes, tensor_table

WRITTEN = ("norm", "embed", "mlp.gate.")


def write_sparse_checkpoint(folder: Path) -> int:
    """Write model.safetensors beside config.json; returns its size in bytes."""
    header, at = {}, 0
    for name, shape in stored_shapes(tensor_table(read_config(folder))).items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text, rng = json.dumps(header).encode(), np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        start = f.tell()
        f.truncate(start + at)
        for name, entry in header.items():
            if any(part in name for part in WRITTEN):
                f.seek(start + entry["data_offsets"][0])
                left = math.prod(entry["shape"])
                while left:  # a piece at a time, so that the peak is the reference's
                    piece = min(left, 1 << 20)
                    values = rng.normal("norm" in name, 0.05, piece).astype("<f4").view("<u4") >> 16
                    f.write(values.astype("<u2").tobytes())
                    left -= piece
    return start + at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(args.config.read_text())
        print(f"{write_sparse_checkpoint(folder) / 1e9:.1f} GB of weights")
        weights = CheckpointWeights.open(folder)
        ids = np.random.default_rng(1).integers(0, weights.config.vocab_size, args.tokens)
        start = time.monotonic()
        forward(weights, ids)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{args.tokens} tokens: {time.monotonic() - start:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
