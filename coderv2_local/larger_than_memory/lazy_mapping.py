"""Loading a model without reading all of it first.

llama.cpp maps a model's files with ``MAP_POPULATE``, which reads every byte before the first token, and offers no way
to say otherwise for this architecture. For a file larger than memory that is minutes of reading what is thrown away
again; for one that is in memory already it only enters each page before it is used. The flag is an argument of the
system call, so that is where it is taken off: the thread that loads runs under a seccomp filter which hands such calls,
and no others, to a second thread of this process. That one makes the same call without the flag and returns its result.
Filter and thread end with the load, and no privilege is needed.

seccomp_unotify(2); Linux 5.0 and later, on x86-64 and 64-bit ARM.
"""

import contextlib
import ctypes
import os
import platform
import select
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")
NONE = -1

MAP_POPULATE = 0x8000
_ARCHITECTURES = {"x86_64": (0xC000003E, 9, 317), "aarch64": (0xC00000B7, 222, 277)}
"""Machine → its number in seccomp's data, and the numbers of the system calls mmap and seccomp."""

_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _NEW_LISTENER = 38, 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls: SECCOMP_IOCTL_NOTIF_RECV, _SEND


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


class _Call(ctypes.Structure):
    """``struct seccomp_notif``: a system call that waits for its result."""

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("number", ctypes.c_int32),
        ("machine", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class _Answer(ctypes.Structure):
    """``struct seccomp_notif_resp``."""

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("value", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


def without_populating(work: Callable[[], Result]) -> tuple[Result, str]:
    """Run `work` in a thread of its own, in which no mapping is populated, that is read in full, when it is made.

    `work` maps from C code, through ctypes: a mapping made by Python itself would wait, holding the interpreter, for an
    answer that another thread of the interpreter has to give.

    Returns:
        What `work` returned, and "", or why mappings were populated after all.

    Raises:
        Whatever `work` raises.
    """
    results: list[Result] = []
    failures: list[BaseException] = []
    refusal = [""]
    listeners: SimpleQueue[int] = SimpleQueue()

    def run() -> None:
        listener = NONE
        try:
            listener, refusal[0] = _filter_this_thread()
            listeners.put(listener)
            results.append(work())
        except BaseException as e:  # it belongs to the caller's thread
            failures.append(e)
            listeners.put(NONE)

    # started here and not by the thread under the filter: threads inherit it
    threading.Thread(target=_serve, args=(listeners,), name="mmap", daemon=True).start()
    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        thread.join()  # llama.cpp cannot be stopped while it loads
        raise
    if failures:
        raise failures[0]
    return results[0], refusal[0]


def _filter_this_thread() -> tuple[int, str]:
    """From now on, calls of mmap with MAP_POPULATE in this thread wait for an answer.

    Returns:
        The file descriptor they are to be read from, or NONE and why not.
    """
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return NONE, f"there is no way known for {platform.system()} on {platform.machine()}"
    machine, mmap_number, seccomp_number = _ARCHITECTURES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    steps = (
        (_LOAD_WORD, 0, 0, _Call.machine.offset - _Call.number.offset),
        (_JUMP_EQUAL, 0, 5, machine),
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_EQUAL, 0, 3, mmap_number),
        (_LOAD_WORD, 0, 0, _Call.arguments.offset - _Call.number.offset + 3 * 8),  # flags, the lower half
        (_JUMP_BITS, 0, 1, MAP_POPULATE),
        (_RETURN, 0, 0, _NOTIFY),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(instructions), instructions)
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):  # of this thread; without it a filter needs privileges
        return NONE, f"prctl failed: {os.strerror(ctypes.get_errno())}"
    listener = libc.syscall(
        ctypes.c_long(seccomp_number), _SET_MODE_FILTER, ctypes.c_ulong(_NEW_LISTENER), ctypes.byref(program)
    )
    if listener < 0:
        return NONE, f"seccomp failed: {os.strerror(ctypes.get_errno())}"
    return int(listener), ""


def _serve(listeners: "SimpleQueue[int]") -> None:
    """Make the calls that the filter hands over, without MAP_POPULATE, until no thread is under the filter any more."""
    listener = listeners.get()
    if listener == NONE:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    with contextlib.closing(os.fdopen(listener, "rb", buffering=0)):
        while poll.poll()[0][1] & select.POLLIN:
            call = _Call()
            if libc.ioctl(listener, ctypes.c_ulong(_RECEIVE), ctypes.byref(call)):
                continue  # the thread is gone: the next poll says so
            address, length, protection, flags, fd, offset = call.arguments
            found = libc.mmap(address, length, protection, flags & ~MAP_POPULATE, ctypes.c_int(fd).value, offset)
            failed = found == ctypes.c_void_p(-1).value
            error = -ctypes.get_errno() if failed else 0
            answer = _Answer(call.id, 0 if failed else found or 0, error, 0)
            libc.ioctl(listener, ctypes.c_ulong(_SEND), ctypes.byref(answer))
