"""What the machine has, and what a container's limits leave of it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from coderv2_local.placement.cgroups import cpu_limit, memory_limit
from coderv2_local.placement.disk_speed import DiskUnmeasuredError, disk_under, large_file, read_speed
from coderv2_local.placement.machine import list_gpus, physical_cores, this_machine
from quant import ggml_cpu
from quant.block_types import block_type
from quant.cores import usable_cores

GIB = 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc and /sys")


def tree(root: Path, files: dict[str, object]) -> Path:
    """A made-up /proc and /sys."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_this_machine_is_what_the_system_says():
    machine = this_machine()
    assert 1 <= machine.cores <= machine.threads == usable_cores()
    assert 0 < machine.available <= machine.memory <= psutil.virtual_memory().total
    assert machine.remarks == ()


@linux
def test_instruction_sets_are_among_the_processors():
    flags = Path("/proc/cpuinfo").read_text()
    found = ggml_cpu.features()
    assert found
    for name in {"avx2", "fma", "f16c"} & set(found):
        assert name in flags


def test_every_gpu_has_a_name_and_memory():
    """Passes with none, too; the layout of the struct is what can go wrong."""
    for gpu in list_gpus():
        assert gpu.name
        assert 0 <= gpu.free <= gpu.total < 1 << 44


def test_cgroup_v2_the_tightest_group_counts_and_cache_gives_way(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner",
            "sys/fs/cgroup/outer/memory.max": 8 * GIB,
            "sys/fs/cgroup/outer/memory.current": 6 * GIB,
            "sys/fs/cgroup/outer/memory.stat": f"anon {2 * GIB}\nactive_file {GIB}\ninactive_file {3 * GIB}",
            "sys/fs/cgroup/outer/inner/memory.max": "max",
            "sys/fs/cgroup/outer/inner/memory.current": GIB,
            "sys/fs/cgroup/outer/cpu.max": "150000 100000",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000",
        },
    )
    assert memory_limit(root) == (8 * GIB, 6 * GIB)
    assert cpu_limit(root) == 1.5


def test_cgroup_v1_with_the_controllers_apart(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 5 * GIB,
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": 4 * GIB,
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": 3 * GIB,
            "sys/fs/cgroup/memory/job/memory.stat": f"total_active_file 0\ntotal_inactive_file {2 * GIB}",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": 400000,
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        },
    )
    assert memory_limit(root) == (4 * GIB, 3 * GIB)
    assert cpu_limit(root) == 4.0


def test_in_a_container_the_groups_path_may_not_be_mounted(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../kubepods/pod1",
            "sys/fs/cgroup/memory.max": 2 * GIB,
            "sys/fs/cgroup/memory.current": GIB,
        },
    )
    assert memory_limit(root) == (2 * GIB, GIB)


def test_no_limits_and_no_cgroups(tmp_path):
    assert memory_limit(tmp_path) is None
    assert cpu_limit(tmp_path) is None


@linux
def test_a_limit_counts_for_the_machine(tmp_path):
    limits = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": GIB, "sys/fs/cgroup/memory.current": 0}
    machine = this_machine(tree(tmp_path, limits | {"sys/fs/cgroup/cpu.max": "100000 100000"}))
    assert (machine.memory, machine.available, machine.cores) == (GIB, GIB, 1)


@linux
def test_two_threads_of_a_core_count_once(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))
    files = {}
    for cpu in cpus:
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"] = 0
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/core_id"] = cpu // 2
    assert physical_cores(tree(tmp_path, files)) == len({cpu // 2 for cpu in cpus})


@linux
def test_a_real_memory_limit_is_seen(tmp_path):
    """In a memory cgroup of its own, where this user may make one."""
    parents = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    limit_name = {"memory": "memory.limit_in_bytes", "cgroup": "memory.max"}
    group = next((p / f"coder-test-{os.getpid()}" for p in parents if (p / "cgroup.procs").exists()), None)
    if group is None:
        pytest.skip("no memory cgroups")
    try:
        group.mkdir()
        (group / limit_name[group.parent.name]).write_text(str(3 * GIB))
    except OSError:
        if group.exists():
            group.rmdir()
        pytest.skip("no right to make a memory cgroup")
    try:
        code = (
            "from coderv2_local.placement.machine import this_machine; m = this_machine()\nprint(m.memory, m.available)"
        )
        script = f'echo $$ > {group}/cgroup.procs; exec "{sys.executable}" -c "{code}"'
        shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
        memory, available = map(int, shown.stdout.split())
        assert memory == 3 * GIB
        assert 2 * GIB < available < 3 * GIB
    finally:
        group.rmdir()


def test_small_files_and_missing_ones_tell_nothing_about_a_disk(tmp_path):
    small = tmp_path / "small.gguf"
    small.write_bytes(b"x" * 1000)
    assert read_speed(small) is None
    assert read_speed(tmp_path / "missing") is None
    assert large_file([tmp_path, tmp_path / "missing"]) is None


@linux
def test_why_a_disk_was_not_measured_is_said(tmp_path, monkeypatch):
    small, lost = tmp_path / "small.gguf", tmp_path / "lost.gguf"
    small.write_bytes(b"x" * 1000)
    with pytest.raises(DiskUnmeasuredError, match=r"takes a \.gguf or \.safetensors file of 268 MB or more"):
        disk_under(None, [tmp_path])
    with pytest.raises(DiskUnmeasuredError, match=r"small\.gguf is too small, that takes 268 MB"):
        disk_under(small, [])
    with pytest.raises(DiskUnmeasuredError, match=r"lost\.gguf: no such file"):
        disk_under(lost, [])
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DiskUnmeasuredError, match="takes Linux"):
        disk_under(None, [])


@linux
def test_a_disk_is_read_and_nothing_written(tmp_path):
    large = tmp_path / "large.gguf"
    with open(large, "wb") as f:
        f.write(os.urandom(1 << 22))
        f.truncate(300 << 20)  # mostly a hole, which must not be taken for a fast disk
    before = large.stat()
    assert large_file([tmp_path]) == large
    try:
        os.close(os.open(large, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct reads")
    speed = read_speed(large, seconds=0.1)
    assert speed is None or speed > 1e6
    after = large.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_blocks) == (after.st_size, after.st_mtime_ns, after.st_blocks)


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "BF16"])
def test_products_are_measured_for_every_type(name):
    rate = ggml_cpu.multiply_rate(block_type(name), 4, 1, nbytes=1 << 20, seconds=0.001)
    assert 1e7 < rate < 1e13
