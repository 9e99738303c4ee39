"""Mutated headers, indexes and importance files: an InputError or a result, never a crash, a hang or much memory."""

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import LITE, convert, random_tensors, shard_bytes, shard_up, tokenizer_json, write_checkpoint

from converters.config import read_config
from converters.gguf_header import read_header
from converters.imatrix import Imatrix
from converters.safetensors_shards import Checkpoint, parse_shard_header, read_index
from converters.tokenizer import read_tokenizer
from quant.errors import InputError

EACH = 600
SECONDS = 20.0
MEMORY = 64 << 20
NUMBERS = [0, 1, 2, 3, 7, 8, 127, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


def mutations(seed: bytes, count: int, hot: int) -> Iterator[bytes]:
    """Flip, overwrite, insert, delete, repeat and cut; mostly in the first `hot` bytes."""
    rng = random.Random(20261121)
    for _ in range(count):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(hot, len(data)) if rng.random() < 0.9 else len(data)) if data else 0
            kind = rng.randrange(7)
            if kind == 0 and data:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
            elif kind == 2:
                data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
            elif kind == 3:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            elif kind == 4:
                del data[at : at + rng.randint(1, 40)]
            elif kind == 5:
                data[at:at] = data[at : at + rng.randint(1, 60)]
            else:
                del data[at:]
        yield bytes(data)


def token_mutations(seed: str, count: int) -> Iterator[bytes]:
    """JSON-aware: numbers, strings and brackets become other ones."""
    rng = random.Random(7)
    values = ["-1", "1e999", "null", "true", "[]", "{}", '"x"', "NaN", str(2**70), "0.5", '"../a.safetensors"', "[[[["]
    for _ in range(count):
        text = seed
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            end = min(len(text), at + rng.randint(1, 25))
            cut = text[at:end]
            stripped = cut.strip(' ,:{}[]"')
            text = text[:at] + cut.replace(stripped or cut, rng.choice(values), 1) + text[end:]
        yield text.encode()


def survive(cases: Iterator[bytes], use: Callable[[bytes], object]) -> tuple[int, int]:
    """Feed every case to `use`; returns how many were refused and how many accepted."""
    refused = accepted = 0
    tracemalloc.start()
    began = time.monotonic()
    for data in cases:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            use(data)
            accepted += 1
        except InputError as e:
            if not 0 < len(e.message) < 2000:
                raise AssertionError(f"a message of {len(e.message)} characters") from e
            refused += 1
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak < MEMORY, f"{peak} bytes for an input of {len(data)}"
    tracemalloc.stop()
    assert time.monotonic() - began < SECONDS
    return refused, accepted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("in"), n_shards=1)


def test_shard_headers(folder: Path) -> None:
    tensors = dict(list(next(iter(shard_up(random_tensors(LITE), 1).values())).items())[:6])
    raw = shard_bytes(tensors)
    (n,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + n]
    assert len(parse_shard_header("s", header, len(raw))) == 6
    size = len(raw) - len(header)
    use = lambda data: parse_shard_header("s", data, size + len(data))  # noqa: E731
    refused, _ = survive(mutations(header, EACH, len(header)), use)
    assert refused > EACH / 2
    refused, _ = survive(token_mutations(header.decode(), EACH), use)
    assert refused > EACH / 3


def test_whole_checkpoints(folder: Path) -> None:
    path = folder / "model-00001-of-000001.safetensors"
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])

    def use(data: bytes) -> None:
        path.write_bytes(data)
        Checkpoint.open(folder)

    try:
        refused, _ = survive(mutations(raw[: 8 + n], 200, 64), use)  # as good as no data: truncated, and more
    finally:
        path.write_bytes(raw)
    assert refused > 150


def test_indexes(folder: Path, tmp_path: Path) -> None:
    text = (folder / "model.safetensors.index.json").read_text()
    path = tmp_path / "index.json"

    def use(data: bytes) -> None:
        path.write_bytes(data)
        read_index(path)

    survive(mutations(text.encode(), EACH, len(text)), use)
    survive(token_mutations(text, EACH), use)


def test_configs_and_tokenizers(folder: Path, tmp_path: Path) -> None:
    config = read_config(folder)

    def use_config(data: bytes) -> None:
        (tmp_path / "config.json").write_bytes(data)
        read_config(tmp_path)

    survive(token_mutations(json.dumps(LITE), EACH), use_config)

    def use_tokenizer(data: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(data)
        read_tokenizer(tmp_path, config)

    survive(token_mutations(json.dumps(tokenizer_json()), EACH), use_tokenizer)


def test_gguf_headers(folder: Path, tmp_path: Path) -> None:
    raw = convert(folder, tmp_path / "whole.gguf", "q4_0").read_bytes()
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    end = read_header(path).data_offset

    def use(data: bytes) -> None:
        path.write_bytes(data)
        read_header(path)

    refused, _ = survive(mutations(raw[: end + 4096], EACH, end), use)
    assert refused > EACH / 2
    survive(mutations(raw, EACH // 3, 1500), use)


def test_importance_files(tmp_path: Path) -> None:
    entries = b"".join(
        struct.pack("<i", len(n)) + n + struct.pack("<ii", 2, 64) + struct.pack("<64f", *range(64))
        for n in (b"blk.1.ffn_down_exps.weight", b"blk.1.attn_output.weight")
    )
    path = tmp_path / "x.dat"

    def use(data: bytes) -> None:
        path.write_bytes(data)
        Imatrix.read(path)

    refused, _ = survive(mutations(struct.pack("<i", 2) + entries, EACH, 60), use)
    assert refused > EACH / 3
