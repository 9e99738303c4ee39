"""The C library's calls on memory, with their types: mmap(2), mremap(2), madvise(2), mincore(2), mlock(2)."""

import ctypes
from functools import cache

FAILED = ctypes.c_void_p(-1).value
"""What mmap and mremap return then."""


@cache
def memory_calls() -> ctypes.CDLL:
    """The C library. After a call that failed, ``ctypes.get_errno()`` says why."""
    library = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_longlong]
    library.munmap.argtypes = library.mlock.argtypes = [pointer, size]
    library.madvise.argtypes = [pointer, size, number]
    library.mmap.restype = pointer
    if hasattr(library, "mremap"):  # Linux
        library.mremap.argtypes = [pointer, size, size, number, pointer]
        library.mremap.restype = pointer
    if hasattr(library, "mincore"):
        library.mincore.argtypes = [pointer, size, pointer]
    return library
