"""ggml's own number crunching, through ctypes: the library ``libggml-base`` that llama-cpp-python ships.

What is here gives the very bytes that llama.cpp gives, because it is the same code. Every call releases the GIL, so
threads run in parallel. `llama_cpp` itself is not imported: that loads the whole engine and takes a second.

Arrays are C-contiguous numpy arrays; sizes are counted in elements unless a name says bytes.
"""

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.block_types import BlockType
from quant.errors import CoderError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class GgmlError(CoderError):
    """The native library is missing, or refused its input."""


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits`` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def library_path() -> Path:
    """Where ``libggml-base`` lies.

    The file that carries the library's own name (``.so.0``) goes first: it is the one that libllama asks the linker
    for, so that a process which also runs the engine has one copy and not two.

    Raises:
        GgmlError: llama-cpp-python is not installed, or has no such library.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise GgmlError("llama-cpp-python is not installed", hint="pip install llama-cpp-python")
    folder = Path(spec.origin).parent / "lib"
    patterns = {
        "darwin": ("libggml-base.[0-9].dylib", "libggml-base.dylib"),
        "win32": ("ggml-base.dll", "libggml-base.dll"),
    }.get(sys.platform, ("libggml-base.so.[0-9]", "libggml-base.so"))
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            return path
    raise GgmlError(f"no {patterns[-1]} in {folder}", hint="reinstall llama-cpp-python")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with the signatures that this module uses.

    Raises:
        GgmlError: it cannot be loaded, or lacks a function that is needed.
    """
    path = library_path()
    pointer, size, count = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_quantize_chunk": (size, [ctypes.c_int, pointer, pointer, count, count, count, pointer]),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, [ctypes.c_int]),
        "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), [ctypes.c_int]),
        "ggml_bf16_to_fp32_row": (None, [pointer, pointer, count]),
        "ggml_fp16_to_fp32_row": (None, [pointer, pointer, count]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, size, size]),
        "ggml_backend_tensor_set": (None, [pointer, pointer, size, size]),
    }
    try:
        lib = ctypes.CDLL(str(path))
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as e:
        raise GgmlError(f"cannot use {path.name}: {e}", hint="install the version this project asks for") from None
    return lib


def quantize(
    values: Floats, block_type: BlockType, out: Bytes | None = None, *, importance: Floats | None = None
) -> Bytes:
    """Quantize rows with ggml's quantizer.

    Args:
        values: float32, shape (rows, columns); columns a multiple of the type's block.
        block_type: the type to write; also F32, F16, BF16.
        out: where to put the bytes, shape (rows · row bytes,); a new array if not given.
        importance: a weight for each column, shape (columns,); ggml's default without.

    Returns:
        `out`.

    Raises:
        GgmlError: shapes, contiguity or sizes do not fit.
    """
    rows, columns = values.shape
    need = rows * block_type.row_bytes(columns)
    if out is None:
        out = np.empty(need, dtype=np.uint8)
    if values.dtype != np.float32 or not values.flags.c_contiguous or not out.flags.c_contiguous:
        raise GgmlError("quantize needs C-contiguous float32 rows and a C-contiguous output")
    if out.nbytes != need:
        raise GgmlError(f"quantizing {rows} × {columns} to {block_type.name} needs {need} bytes, got {out.nbytes}")
    weights = None
    if importance is not None:
        if importance.shape != (columns,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
            raise GgmlError(f"importance must be {columns} contiguous float32 values, got {importance.shape}")
        weights = importance.ctypes.data
    written = library().ggml_quantize_chunk(
        block_type.id, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights
    )
    if written != need:
        raise GgmlError(f"ggml wrote {written} bytes of {block_type.name} where {need} were expected")
    return out


def dequantize(raw: Bytes, block_type: BlockType, out: Floats | None = None) -> Floats:
    """Widen stored blocks to float32.

    Args:
        raw: whole blocks, shape (bytes,).
        block_type: their type; also F32, F16, BF16.
        out: where to put the values, shape (elements,); a new array if not given.

    Returns:
        `out`, shape (elements,).

    Raises:
        GgmlError: sizes do not fit, or the type cannot be widened.
    """
    blocks, rest = divmod(raw.nbytes, block_type.block_bytes)
    elements = blocks * block_type.block_size
    if rest or not raw.flags.c_contiguous:
        raise GgmlError(f"{raw.nbytes} bytes are not whole blocks of {block_type.name}")
    if out is None:
        out = np.empty(elements, dtype=np.float32)
    if out.size != elements or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise GgmlError(f"dequantizing needs {elements} contiguous float32 values, got {out.size}")
    lib = library()
    if block_type.name == "F32":
        np.copyto(out.reshape(-1), raw.view("<f4"))
    elif block_type.name == "BF16":
        lib.ggml_bf16_to_fp32_row(raw.ctypes.data, out.ctypes.data, elements)
    elif block_type.name == "F16":
        lib.ggml_fp16_to_fp32_row(raw.ctypes.data, out.ctypes.data, elements)
    else:
        traits = lib.ggml_get_type_traits(block_type.id).contents
        if traits.block_size != block_type.block_size or traits.type_size != block_type.block_bytes:
            raise GgmlError(f"this libggml-base lays {block_type.name} out differently", hint="update this project")
        if not traits.to_float:
            raise GgmlError(f"{block_type.name} cannot be widened to float32")
        traits.to_float(raw.ctypes.data, out.ctypes.data, elements)
    return out


def tensor_get(tensor: int, out: npt.NDArray[Any], offset: int = 0) -> None:
    """Copy ``out.nbytes`` bytes of a live tensor's data, from byte `offset` on, into `out` (any dtype, C-contiguous).

    `tensor` is the address of a ``struct ggml_tensor`` on any backend. ggml aborts the process on a read past the
    tensor's end: check against its shape first.
    """
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise GgmlError("tensor_get needs a writable C-contiguous array")
    library().ggml_backend_tensor_get(tensor, out.ctypes.data, offset, out.nbytes)


def tensor_set(tensor: int, values: npt.NDArray[Any], offset: int = 0) -> None:
    """Overwrite ``values.nbytes`` bytes of a live tensor's data from byte `offset` on; as `tensor_get` otherwise."""
    if not values.flags.c_contiguous:
        raise GgmlError("tensor_set needs a C-contiguous array")
    library().ggml_backend_tensor_set(tensor, values.ctypes.data, offset, values.nbytes)
