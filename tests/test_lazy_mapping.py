"""Loading without reading: mappings that a thread makes are not populated, everything else is as it was."""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_models import small_model

from coderv2_local import mapped_model
from coderv2_local.engine import Engine
from coderv2_local.larger_than_memory import lazy_mapping
from coderv2_local.larger_than_memory.lazy_mapping import MAP_POPULATE, without_populating
from coderv2_local.llama_library import llama
from coderv2_local.placement.load_options import LoadOptions

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in lazy_mapping._ARCHITECTURES, reason="seccomp is Linux's"
)


@pytest.fixture
def cold(tmp_path):
    """A file of 32 MB that is not in memory."""
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(1 << 20) * 32)
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path):
        pytest.skip("this file system is in memory itself")
    return path


def resident(path: Path) -> bool:
    """Is the file's last page in memory?"""
    with open(path, "rb") as f:
        try:
            return os.preadv(f.fileno(), [bytearray(1)], path.stat().st_size - 1, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
FAILED = ctypes.c_void_p(-1).value


def populate(path: Path) -> bytes:
    """Map the file as llama.cpp does; returns its first bytes."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_POPULATE, f.fileno(), 0)
    assert at != FAILED
    first = ctypes.string_at(at, 16)
    libc.munmap(at, size)
    return first


def test_a_populated_mapping_reads_the_file_and_here_it_does_not(cold):
    first, refusal = without_populating(lambda: populate(cold))
    if refusal:
        pytest.skip(refusal)
    assert first == cold.read_bytes()[:16]  # reading it warms it up:
    with open(cold, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    without_populating(lambda: populate(cold))
    assert not resident(cold)
    populate(cold)
    assert resident(cold)


def test_the_errors_of_the_system_call_come_through():
    def fail() -> tuple[int | None, int]:
        found = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED | MAP_POPULATE, -5, 0)
        return found, ctypes.get_errno()

    (found, code), _ = without_populating(fail)
    assert found == FAILED
    assert code == errno.EBADF


def test_an_exception_comes_out_and_the_threads_end():
    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            without_populating(fail)
    ours = [t for t in threading.enumerate() if t.name in ("mmap", "load")]
    for thread in ours:
        thread.join(10)
    assert not [t for t in ours if t.is_alive()]


def test_no_thread_stays_under_the_filter():
    without_populating(lambda: None)
    deadline = time.monotonic() + 10
    while _filtered_threads() and not _outer_filters():  # a thread that was joined may still be on its way out
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _filtered_threads() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            status = (task / "status").read_text()
            if "Seccomp_filters" in status and "Seccomp_filters:\t0" not in status:
                found.append(task.name)
    return found


def _outer_filters() -> int:
    """Filters that this process was started under, as in a container."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("Seccomp_filters:")[1].split()[0]) if "Seccomp_filters" in status else 0


def test_where_the_system_forbids_filters_the_work_is_done_and_the_reason_told(monkeypatch):
    monkeypatch.setattr(lazy_mapping, "_ARCHITECTURES", {})
    result, refusal = without_populating(lambda: 7)
    assert result == 7
    assert "no way known" in refusal


LOAD = """
import sys
from pathlib import Path
from coderv2_local.engine import Engine
from coderv2_local.placement.load_options import LoadOptions

def read() -> int:
    return int(Path("/proc/self/io").read_text().split("\\nread_bytes: ")[1].split()[0])

before = read()
with Engine(Path(sys.argv[1]), LoadOptions(n_ctx=64, n_threads=1, stream_experts=sys.argv[2] == "1")) as engine:
    print(read() - before, *engine.notices)
"""


def test_an_engine_loads_without_reading_the_experts(tmp_path):
    path = small_model(tmp_path / "m.gguf")
    with open(path, "ab") as f:  # beyond the last tensor: what only a whole read would read
        f.write(os.urandom(1 << 20) * 64)
        f.flush()
        os.fsync(f.fileno())
    counts = []
    for stream in ("0", "1"):
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if resident(path):
            pytest.skip("this file system is in memory itself")
        done = subprocess.run(
            [sys.executable, "-c", LOAD, path, stream], capture_output=True, text=True, check=True, cwd=ROOT
        )
        count, *notices = done.stdout.split(maxsplit=1)
        if notices:
            pytest.skip(notices[0])
        counts.append(int(count))
    assert counts[0] > 60 << 20
    assert counts[1] < 30 << 20


def mapped_in(path: Path) -> int:
    """Bytes of the file that are entered into this process's mappings of it."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if "-" in key:
            ours = rest.endswith(str(path))
        elif ours and key == "Rss:":
            found += int(rest.split()[0]) << 10
    return found


@pytest.fixture
def warm(tmp_path):
    """A model of which all is in memory, and more of it than is touched while it is loaded."""
    path = small_model(tmp_path / "m.gguf")
    with open(path, "ab") as f:
        f.write(bytes(32 << 20))
    assert path.read_bytes()
    return path


def test_a_file_that_is_in_memory_is_entered_as_it_is_touched(warm, monkeypatch):
    mapped = []
    for large in (1 << 30, 1 << 20):
        monkeypatch.setattr(mapped_model, "LARGE", large)
        with Engine(warm, LoadOptions(n_ctx=64, n_threads=1)) as engine:
            mapped.append(mapped_in(warm))
            assert engine.notices == []
            assert engine.evaluate([390, 1, 2, 3]).shape == (engine.vocabulary.size,)
    if mapped[1] == mapped[0]:
        pytest.skip("mappings are populated here, or all of a small file is entered at once")
    assert mapped[1] < mapped[0] - (8 << 20)


@pytest.mark.parametrize("options", [{"repack": True}, {"n_gpu_layers": 1}], ids=str)
def test_where_all_is_read_or_a_gpu_is_used_files_are_populated(warm, monkeypatch, options):
    monkeypatch.setattr(mapped_model, "LARGE", 0)
    monkeypatch.setattr(mapped_model, "without_populating", lambda load: pytest.fail("the filter was used"))
    with Engine(warm, LoadOptions(n_ctx=64, n_threads=1, **options)) as engine:
        assert engine.evaluate([390, 1]).shape == (engine.vocabulary.size,)


def test_a_file_on_disk_is_populated(cold, monkeypatch):
    monkeypatch.setattr(mapped_model, "LARGE", 0)
    assert not mapped_model._populating_is_waste(cold, LoadOptions())
    assert cold.read_bytes()
    assert mapped_model._populating_is_waste(cold, LoadOptions()) or llama.llama_supports_gpu_offload()
    with open(cold, "rb") as f:  # one piece of several megabytes is missing: sampling sees it
        os.posix_fadvise(f.fileno(), 8 << 20, 4 << 20, os.POSIX_FADV_DONTNEED)
    assert not mapped_model._populating_is_waste(cold, LoadOptions())


def test_a_filter_that_is_forbidden_costs_a_warm_start_nothing_but_time(warm, monkeypatch):
    monkeypatch.setattr(mapped_model, "LARGE", 0)
    monkeypatch.setattr(lazy_mapping, "_ARCHITECTURES", {})
    with Engine(warm, LoadOptions(n_ctx=64, n_threads=1)) as engine:
        assert engine.notices == []
        assert engine.evaluate([390, 1]).shape == (engine.vocabulary.size,)


def test_the_mapped_model_computes_the_same(tmp_path):
    path = small_model(tmp_path / "m.gguf")
    rows = []
    for stream in (False, True):
        with Engine(path, LoadOptions(n_ctx=64, n_threads=1, stream_experts=stream)) as engine:
            rows.append(engine.evaluate([390, 1, 2, 3]))
    np.testing.assert_array_equal(rows[0], rows[1])
