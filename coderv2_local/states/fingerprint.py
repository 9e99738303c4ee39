"""A short name for the contents of a model file, whatever it is called and wherever it lies."""

import hashlib
from contextlib import ExitStack

from converters.gguf_header import GgufHeader
from converters.gguf_model import open_gguf
from quant.errors import InputError

SAMPLES = 64  # places in the weights that are looked at
SAMPLE_BYTES = 256


def model_fingerprint(header: GgufHeader) -> str:
    """Hash of the file's header, its size, and bytes from the middle of up to 64 tensors: 64 hexadecimal digits.

    It tells models and quantizations apart, not every changed byte: it is meant to take milliseconds, not minutes. Of a
    split file, all parts are looked at.

    Raises:
        InputError: the file cannot be read (any more).
    """
    found = hashlib.sha256()
    if header.metadata.get("split.count", 1) in (0, 1):
        tensors = [(header.path, info) for info in header.tensors.values()]
    else:
        folder = header.path.parent
        tensors = [(folder / part, info) for part, info in open_gguf(header.path).tensors.values()]
    step = max(1, len(tensors) // SAMPLES)
    try:
        with ExitStack() as stack:
            files = {path: stack.enter_context(open(path, "rb", 0)) for path in {header.path, *(p for p, _ in tensors)}}
            found.update(files[header.path].read(header.data_offset))
            found.update(str([header.file_size, [(info.name, info.nbytes) for _, info in tensors]]).encode())
            for path, info in tensors[::step]:
                files[path].seek(info.offset + info.nbytes // 2)
                found.update(files[path].read(min(SAMPLE_BYTES, info.nbytes - info.nbytes // 2)))
    except OSError as error:
        raise InputError(f"cannot read {header.path}: {error.strerror or error}") from None
    return found.hexdigest()
