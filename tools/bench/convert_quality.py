"""What each recipe costs in quality: mean KL divergence from the published weights and top-1 agreement, on Python text.

    python tools/bench/convert_quality.py CHECKPOINT [--tokens 1500]

Prints the table of docs/convert.md. The text is this repository's own code, which `tiny` was not trained on.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from coderv2_local.engine import Engine  # noqa: E402 - found once the path is set
from coderv2_local.placement.load_options import LoadOptions  # noqa: E402
from coderv2_local.routing import install_taps  # noqa: E402
from converters.gguf_header import read_header  # noqa: E402
from converters.job import Options, closing, plan_source  # noqa: E402
from converters.writer import carry_out  # noqa: E402
from quant.recipes import RECIPES  # noqa: E402

WINDOW = 250
"""Tokens evaluated together."""


def log_probabilities(path: Path, limit: int) -> np.ndarray:
    """Of the next token at each position, (tokens, vocabulary), without rounding in the KV cache."""
    taps = install_taps(read_header(path).metadata)
    rows = []
    with Engine(path, LoadOptions(n_ctx=512, n_threads=2, flash_attention=False, kv_type="f32"), taps=taps) as engine:
        text = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "converters").glob("*.py")))
        ids = engine.vocabulary.encode(text)[:limit]
        bos = engine.header.metadata["tokenizer.ggml.bos_token_id"]
        for start in range(0, len(ids), WINDOW):
            engine.truncate(0)
            logits = engine.evaluate([bos, *ids[start : start + WINDOW]], every_position=True).astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            rows.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return np.concatenate(rows)


def main() -> None:
    """Convert to every recipe, compare each with F32, which holds the BF16 weights and rounds nothing on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=1500)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exact: np.ndarray | None = None
        for recipe in ("f32", *(r for r in RECIPES if r != "f32")):
            path = Path(folder) / "x.gguf"
            with closing(plan_source(a.checkpoint, path, Options(recipe))) as job:
                carry_out(job.plan, job.store, threads=2, report=lambda n: None)
                bits = job.plan.bits_a_weight
            found = log_probabilities(path, a.tokens)
            path.unlink()
            exact = found if exact is None else exact
            kl = (np.exp(exact) * (exact - found)).sum(-1).mean()
            agree = (exact.argmax(-1) == found.argmax(-1)).mean()
            print(f"| `{recipe}` | {bits:.2f} | {kl:.2g} | {agree:.1%} |", flush=True)


if __name__ == "__main__":
    main()
