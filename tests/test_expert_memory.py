"""Memory for experts: places of whole pages, and free pages that are moved there."""

import contextlib
import mmap

import numpy as np
import pytest

from coderv2_local.larger_than_memory.expert_memory import PAGE, FreePages, covered
from coderv2_local.larger_than_memory.residency import SUPPORTED, Mapping
from coderv2_local.larger_than_memory.weight_ranges import Stack

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="experts are read ahead on Linux only")


@pytest.mark.parametrize(
    "mappings",
    [
        [],
        [Mapping(1 << 30, 60_000, 0)],  # ends within the stack
        [Mapping(1 << 30, 40_960, 0), Mapping(1 << 31, 1 << 20, 40_960)],
        [Mapping(1 << 30, 1 << 20, 0), Mapping(1 << 31, 1 << 20, 0)],
    ],
)
def test_only_a_stack_in_one_single_mapping_can_be_covered(mappings):
    assert covered(Stack(0, 5_000, 30_000, 4), mappings) is None


def test_the_places_of_experts_are_whole_pages_of_the_file():
    stack = Stack(0, 5_000, 30_000, 4)
    found = covered(stack, [Mapping(1 << 30, 1 << 20, 0)])
    assert found is not None
    assert [(r.start, r.end) for r in found.shared_pages()] == [(5_000, 8_192), (122_880, 125_000)]
    for e in range(4):
        place, begin = found.place(e), 5_000 + 30_000 * e
        assert place.whole.start % PAGE == place.whole.end % PAGE == place.own % PAGE == place.own_bytes % PAGE == 0
        assert place.address - (1 << 30) == place.whole.start
        left_out = [range(r.start, r.end) for r in found.shared_pages()]
        for byte in (begin, begin + 15_000, begin + 29_999):  # each is read, or stays in the file's mapping
            assert place.whole.start <= byte < place.whole.end or any(byte in r for r in left_out)
        assert begin <= place.own - (1 << 30)
        assert place.own - (1 << 30) + place.own_bytes <= begin + 30_000


def test_free_pages_keep_count():
    free = FreePages()
    assert free.move(1 << 40, PAGE) == 0
    free.add(1 << 40, 0)
    assert free.bytes == 0


@contextlib.contextmanager
def pages(n):
    """`n` pages of private memory, each filled with its number; their address, and the bytes as they are then."""
    memory = mmap.mmap(-1, n * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = np.frombuffer(memory, np.uint8).reshape(n, PAGE)
    view[:] = np.arange(n)[:, None]
    yield view.ctypes.data, view


def test_the_run_that_lies_there_is_taken_then_the_next_longer_then_the_longest():
    with pages(16) as (start, view):
        free = FreePages()
        for at, length in ((0, 3), (4, 1), (6, 2)):
            free.add(start + at * PAGE, length * PAGE)
        assert free.bytes == 6 * PAGE
        assert free.move(start + 6 * PAGE, 2 * PAGE) == 2 * PAGE
        assert view[6:8, 0].tolist() == [6, 7]
        assert free.move(start + 8 * PAGE, 2 * PAGE) == 2 * PAGE
        assert view[8:10, 0].tolist() == [0, 1]
        assert not view[0:3].any()  # moved away, and what was left of it freed
        assert free.move(start + 10 * PAGE, 2 * PAGE) == PAGE
        assert view[10:12, 0].tolist() == [4, 11]
        assert free.bytes == 0
        free.add(start + 12 * PAGE, PAGE)
        free.add(start + 13 * PAGE, 2 * PAGE)
        free.drop(PAGE)
        assert view[12:16, 0].tolist() == [12, 0, 0, 15]
