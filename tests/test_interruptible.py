"""Calls that Ctrl-C can end, and calls from other threads: one at a time, each to its end."""

import threading
import time

import pytest

from coderv2_local.interruptible import InterruptibleThread, StopFlag, is_stopped


@pytest.fixture
def thread():
    thread = InterruptibleThread()
    yield thread
    thread.close()


def elsewhere(work):
    """The result of `work` on another thread."""
    found = []
    other = threading.Thread(target=lambda: found.append(work()))
    other.start()
    other.join()
    return found[0]


def test_c_code_reads_the_flag_without_python():
    flag = StopFlag()
    assert not flag
    assert is_stopped(flag.address) is False
    flag.set(True)
    assert flag
    assert is_stopped(flag.address) is True
    flag.set(False)
    assert is_stopped(flag.address) is False


def test_the_main_thread_s_calls_run_where_ctrl_c_cannot_fall_into_them(thread):
    assert thread.run(threading.current_thread) is not threading.main_thread()


def test_another_thread_s_calls_run_where_they_are(thread):
    assert elsewhere(lambda: thread.run(threading.get_ident) == threading.get_ident())


def test_one_call_at_a_time_from_any_thread(thread):
    inside, most = [0], [0]

    def call():
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.0005)
        inside[0] -= 1

    others = [threading.Thread(target=lambda: [thread.run(call) for _ in range(50)]) for _ in range(3)]
    for other in others:
        other.start()
    for _ in range(50):
        thread.run(call)
    for other in others:
        other.join()
    assert most == [1]


def test_what_a_call_raises_reaches_its_caller(thread):
    def fail():
        raise ValueError("no")

    def caught():
        with pytest.raises(ValueError, match="no"):
            thread.run(fail)
        return thread.run(lambda: 5)

    assert caught() == 5
    assert elsewhere(caught) == 5


def test_nothing_runs_after_the_end(thread):
    def refused():
        with pytest.raises(RuntimeError, match="closed"):
            thread.run(lambda: 1)
        return True

    thread.close()
    assert refused()
    assert elsewhere(refused)


def test_the_end_waits_for_a_call_that_runs(thread):
    began, ended = threading.Event(), threading.Event()

    def long():
        began.set()
        time.sleep(0.2)
        ended.set()

    other = threading.Thread(target=lambda: thread.run(long))
    other.start()
    assert began.wait(5)
    thread.close()
    assert ended.is_set()
    other.join()
