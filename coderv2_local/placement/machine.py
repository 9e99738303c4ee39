"""What this machine has for a model: cores, instruction sets, memory, GPUs. Nothing is measured here, only asked."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from coderv2_local.placement.cgroups import cpu_limit, memory_limit
from quant import ggml, ggml_cpu
from quant.cores import usable_cores
from quant.errors import CoderError

_GPU, _INTEGRATED_GPU = 1, 2  # ggml_backend_dev_type; 0 is a processor, 3 an accelerator beside it


@dataclass(frozen=True)
class Gpu:
    """A device that ggml can put layers on.

    Attributes:
        name: ggml's, such as "CUDA0".
        description: the product's name.
        free, total: bytes of its memory.
        shared: its memory is the main memory, as on Apple's chips and in integrated GPUs.
    """

    name: str
    description: str
    free: int
    total: int
    shared: bool = False


@dataclass(frozen=True)
class Machine:
    """What there is to place a model on.

    Attributes:
        cores: physical cores that this process may use, processor-time limits included.
        threads: logical ones.
        features: instruction sets that ggml uses here.
        memory: bytes of main memory, or the limit that is set on this process.
        available: bytes of it that can be had; what the page cache holds counts, since it gives way.
        gpus: that this build of ggml can use.
        remarks: what could not be found out, in words.
    """

    cores: int
    threads: int
    features: tuple[str, ...]
    memory: int
    available: int
    gpus: tuple[Gpu, ...] = ()
    remarks: tuple[str, ...] = ()


def this_machine(root: Path = Path("/")) -> Machine:
    """Ask the system. Takes a few milliseconds, a GPU driver's start excepted.

    Args:
        root: where ``proc`` and ``sys`` are, to look at another tree.
    """
    remarks = []
    threads = usable_cores()
    cores = physical_cores(root)
    if (quota := cpu_limit(root)) is not None:
        cores = max(1, min(cores, int(quota + 0.5)))
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    if (limit := memory_limit(root)) is not None:
        total, available = min(total, limit[0]), min(available, limit[1])
    try:
        features = tuple(ggml_cpu.features())
    except CoderError:
        features = ()
        remarks.append("ggml does not say which instruction sets it uses")
    try:
        gpus = list_gpus()
    except CoderError as e:
        gpus = ()
        remarks.append(f"GPUs could not be listed: {e.message}")
    return Machine(cores, threads, features, total, available, gpus, tuple(remarks))


def physical_cores(root: Path = Path("/")) -> int:
    """Physical cores among those this process may run on: two threads of one core share its arithmetic."""
    if hasattr(os, "sched_getaffinity"):
        cores = set()
        for number in os.sched_getaffinity(0):
            topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
            try:
                cores.add(tuple((topology / name).read_text() for name in ("physical_package_id", "core_id")))
            except OSError:
                break
        else:
            return max(1, len(cores))
    return min(usable_cores(), psutil.cpu_count(logical=False) or usable_cores())


class _Caps(ctypes.Structure):
    """``struct ggml_backend_dev_caps``."""

    _fields_ = tuple(
        (n, ctypes.c_bool) for n in ("async_", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support")
    )


class _Props(ctypes.Structure):
    """``struct ggml_backend_dev_props`` of ggml-backend.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", _Caps),
        ("later_fields", ctypes.c_char * 64),  # room, should a newer ggml write more
    )


def list_gpus() -> tuple[Gpu, ...]:
    """The GPUs in ggml's own device list: those that the installed build can use, in its order.

    Raises:
        GgmlError: the library is missing or lacks the functions.
    """
    base = ggml.library()
    path = ggml.library_path()
    beside = path.with_name(path.name.replace("ggml-base", "ggml"))
    try:
        lib = ctypes.CDLL(str(beside))
        lib.ggml_backend_dev_count.restype = ctypes.c_size_t
        lib.ggml_backend_dev_get.restype = ctypes.c_void_p
        lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        base.ggml_backend_dev_get_props.restype = None
        base.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Props)]
        found = []
        for i in range(lib.ggml_backend_dev_count()):
            props = _Props()
            base.ggml_backend_dev_get_props(lib.ggml_backend_dev_get(i), ctypes.byref(props))
            if props.type in (_GPU, _INTEGRATED_GPU):
                name, description = (
                    (text or b"").decode("utf-8", "replace") for text in (props.name, props.description)
                )
                found.append(Gpu(name, description, props.memory_free, props.memory_total))
    except (OSError, AttributeError) as e:
        raise ggml.GgmlError(f"cannot use {beside.name}: {e}") from None
    return tuple(found)
