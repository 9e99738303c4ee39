"""ggml's quantizers against gguf-py's own, where it has them, and the bounds that the wrapper keeps."""

import gguf
import numpy as np
import pytest

from quant import ggml
from quant.block_types import WRITABLE, block_type
from quant.errors import InputError
from quant.scales import overflows

VALUES = np.random.default_rng(7).standard_normal((12, 512), dtype=np.float32)


@pytest.mark.parametrize("name", [n for n in WRITABLE if "_K" not in n and "IQ4" not in n])
def test_the_bytes_are_those_of_gguf_py(name: str) -> None:
    expected = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType[name])
    assert ggml.quantize(VALUES, block_type(name)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", WRITABLE)
def test_widening_agrees_with_gguf_py_and_is_close_to_the_original(name: str) -> None:
    kind = block_type(name)
    raw = ggml.quantize(VALUES, kind)
    stored = raw.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8)).reshape(12, -1)
    widened = ggml.dequantize(raw, kind).reshape(VALUES.shape)
    np.testing.assert_array_equal(widened, gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name]))
    error = np.sqrt(((widened - VALUES) ** 2).mean())
    assert error < 0.4 * 2.0 ** -(min(kind.bits, 8.5) - 3)  # each bit halves the error; BF16 has eight of them


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [n for n in WRITABLE if not block_type(n).is_float])
def test_a_weight_that_its_type_cannot_hold_is_noticed(name: str, weighted: bool) -> None:
    kind, importance = block_type(name), np.ones(512, dtype=np.float32) if weighted else None
    found = set()
    for exponent in (0, *range(5, 39)):
        for at, sign in ((0, 1), (511, -1)):
            values = VALUES.copy()
            values[7, at] = sign * 10.0**exponent
            raw = ggml.quantize(values, kind, importance=importance)
            widened = ggml.dequantize(raw, kind).reshape(VALUES.shape)
            held = np.isfinite(widened).all() and abs(widened[7, at] / values[7, at] - 1) < 0.25
            assert overflows(values, raw, kind) != held
            found.add(bool(held))
    assert found == {True, False}


def test_importance_moves_the_error_to_where_it_matters_less() -> None:
    kind = block_type("Q4_K")
    importance = np.where(np.arange(512) % 4 == 0, 100.0, 0.01).astype(np.float32)

    def error(raw: ggml.Bytes) -> float:
        off = ggml.dequantize(raw, kind).reshape(VALUES.shape) - VALUES
        return float((off[:, ::4] ** 2).sum())

    assert error(ggml.quantize(VALUES, kind, importance=importance)) < 0.8 * error(ggml.quantize(VALUES, kind))


def test_wrong_sizes_never_reach_the_library() -> None:
    q4 = block_type("Q4_K")
    with pytest.raises(InputError, match="whole blocks"):
        ggml.quantize(VALUES[:, :100].copy(), q4)
    with pytest.raises(ggml.GgmlError, match="contiguous"):
        ggml.quantize(VALUES[:, ::2], q4)
    with pytest.raises(ggml.GgmlError, match="needs"):
        ggml.quantize(VALUES, q4, np.empty(10, dtype=np.uint8))
    with pytest.raises(ggml.GgmlError, match="importance"):
        ggml.quantize(VALUES, q4, importance=np.ones(8, dtype=np.float32))
    with pytest.raises(ggml.GgmlError, match="whole blocks"):
        ggml.dequantize(np.zeros(143, dtype=np.uint8), q4)


def test_the_library_is_the_one_that_the_engine_links() -> None:
    assert ggml.library_path().parent.name == "lib"
    assert "llama_cpp" in str(ggml.library_path())
