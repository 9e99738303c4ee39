"""`coder pull` when the network, the Hub, the disk or the user interferes: what is here is never lost or mistaken."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import ROOT
from hub_server import sha256
from test_pull import LITE, READY, READY_REPO, Place, place

from coderv2_local.models import find_model
from converters.hub_file import STEP

__all__ = ["place"]
SIZE = find_model("tiny").path.stat().st_size
BUILD = ("pull", "lite", "-q", "q8_0", "--accept-licence")


def finished(place: Place) -> bool:
    path = place.home / "models" / "mine-q8_0.gguf"
    return path.exists() and sha256(path) == sha256(find_model("tiny").path)


def until_some_is_here(place: Place, process: "subprocess.Popen[str]", least: int = 500_000) -> int:
    """Wait until so many bytes of a download are here. Returns how many."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for path in place.home.rglob("*.incomplete"):
            try:
                if path.stat().st_size >= least:
                    return path.stat().st_size
            except FileNotFoundError:
                pass
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


# --- the network ---------------------------------------------------------------------------------------------------


def test_cut_connections_are_gone_on_with(place: Place) -> None:
    place.hub.faults.cuts = 2
    place.hub.faults.cut_at = 300_000
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert finished(place)
    assert [start for _, start in place.hub.starts] == [0, STEP, 2 * STEP]


def test_a_server_that_fails_in_the_middle_is_named_and_the_next_run_goes_on(place: Place) -> None:
    place.hub.faults.cuts = 1
    place.hub.faults.cut_at = 12 * STEP
    place.hub.faults.statuses = [0, 503]
    broken = place.coder("pull", "mine")
    assert broken.returncode == 2, broken.stderr
    assert "HTTP 503" in broken.stderr
    assert not finished(place)
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert finished(place)
    assert [start for _, start in place.hub.starts] == [0, 12 * STEP, 12 * STEP]


def test_a_stalled_connection_is_given_up_and_gone_on_with(place: Place) -> None:
    place.hub.faults.stalls = 1
    place.hub.faults.cut_at = 4 * STEP
    done = place.coder("pull", "mine", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert done.returncode == 0, done.stderr
    assert finished(place)
    assert place.hub.starts == [(READY, 0), (READY, 4 * STEP)]


def test_slow_answers_are_only_slow(place: Place) -> None:
    place.hub.faults.pause = 0.01
    assert place.coder("pull", "mine").returncode == 0
    assert finished(place)


def test_a_server_without_ranges_sends_it_all_again(place: Place) -> None:
    place.hub.faults.cuts = 1
    place.hub.faults.cut_at = 300_000
    place.hub.faults.no_ranges = True
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert finished(place)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ["or it is private", "hf auth login"]),
        (403, ["terms accepted", "hf auth login"]),
        (404, [f"there is no model {READY_REPO}", "check the name"]),
        (429, ["too many requests", "wait"]),
        (500, ["HTTP 500", "later"]),
        (503, ["HTTP 503", "later"]),
    ],
)
@pytest.mark.parametrize("where", ["api", "file"])
def test_what_the_hub_refuses_is_said_in_words(place: Place, status: int, words: list[str], where: str) -> None:
    if where == "api":
        place.hub.faults.api_status = status
    elif status == 429:
        pytest.skip("the Hub's client waits and tries again: see the next test")
    else:
        place.hub.faults.statuses = [status] * 20
    done = place.coder("pull", "mine")
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word.replace("model " + READY_REPO, "") in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4


def test_too_many_requests_are_waited_out(place: Place) -> None:
    place.hub.faults.statuses = [429, 429]
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert finished(place)


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_offline_is_said_at_once(place: Place, variables: dict[str, str]) -> None:
    start = time.monotonic()
    for arguments in (("pull", "mine"), BUILD):
        done = place.coder(*arguments, **variables)
        assert done.returncode == 2
        assert "HF_HUB_OFFLINE is set" in done.stderr or "cannot reach http://127.0.0.1:9" in done.stderr
        assert "hint: " in done.stderr
    assert time.monotonic() - start < 60  # no waiting for a network that is not there
    assert place.files() == []


# --- what comes is not what was announced --------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused_and_fetched_anew(place: Place) -> None:
    place.hub.faults.said[READY] = (SIZE, hashlib.sha256(b"another").hexdigest())
    done = place.coder("pull", "mine")
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    assert "SHA-256" in done.stderr
    assert list(place.home.rglob("*.incomplete")) == []
    assert not finished(place)
    place.hub.faults.said.clear()
    assert place.coder("pull", "mine").returncode == 0
    assert finished(place)
    assert [start for _, start in place.hub.starts] == [0, 0]


@pytest.mark.parametrize("difference", [-1000, 1000])
def test_a_wrong_size_is_refused_and_does_not_stick(place: Place, difference: int) -> None:
    place.hub.faults.said[READY] = (SIZE + difference, hashlib.sha256(b"another").hexdigest())
    done = place.coder("pull", "mine")
    assert done.returncode == 2
    assert f"came with {SIZE} bytes, not {SIZE + difference}" in done.stderr
    assert not finished(place)
    assert place.coder("pull", "mine").returncode == 2
    assert [start for _, start in place.hub.starts] == [0, 0]  # what came is not gone on with
    place.hub.faults.said.clear()
    assert place.coder("pull", "mine").returncode == 0
    assert finished(place)


def test_a_hub_without_checksums_is_mentioned(place: Place) -> None:
    place.hub.faults.said[READY] = (SIZE, "")
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert "no checksum" in done.stderr


def test_a_shard_with_a_wrong_checksum_stops_the_conversion(place: Place) -> None:
    shard = min(p.name for p in place.hub.repos[LITE.repo].glob("*.safetensors"))
    size = (place.hub.repos[LITE.repo] / shard).stat().st_size
    place.hub.faults.said[shard] = (size, hashlib.sha256(b"another").hexdigest())
    done = place.coder(*BUILD)
    assert done.returncode == 2
    assert f"{shard} of {LITE.repo} is damaged" in done.stderr
    assert not any(name.endswith((".gguf", ".json")) for name in place.files())
    place.hub.faults.said.clear()
    done = place.coder(*BUILD)
    assert done.returncode == 0, done.stderr


# --- interruptions -------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(place: Place) -> Iterator[Place]:
    place.hub.faults.pause = 0.2
    yield place
    place.hub.faults.pause = 0.0


def test_a_killed_download_goes_on_where_it_was(slow: Place) -> None:
    process = slow.start("pull", "mine")
    until_some_is_here(slow, process)
    process.kill()
    process.communicate()
    slow.hub.faults.pause = 0.0
    here = next(slow.home.rglob("*.incomplete")).stat().st_size
    done = slow.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    assert finished(slow)
    assert here % STEP == 0
    assert slow.hub.starts[-1] == (READY, here)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [(("pull", "mine"), "coder pull mine"), (BUILD, "coder pull lite -q q8_0")],
)
def test_ctrl_c_says_how_to_go_on_and_how_to_drop_it(slow: Place, arguments: tuple[str, ...], command: str) -> None:
    process = slow.start(*arguments)
    until_some_is_here(slow, process)
    before = len(slow.hub.starts)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(slow.hub.starts) == before  # it does not wait for the shard that is on its way, and begins no other
    assert list(slow.home.rglob("*.incomplete"))
    assert f"Stopped. `{command}` goes on from here" in err
    dropping = err.split("`")[3]
    assert dropping.startswith("coder rm ")
    slow.hub.faults.pause = 0.0
    assert slow.coder(*dropping.split()[1:], "--yes").returncode == 0
    assert slow.files() == []
    done = slow.coder(*arguments)
    assert done.returncode == 0, done.stderr


def test_a_killed_build_goes_on_within_a_shard(slow: Place) -> None:
    process = slow.start(*BUILD)
    here = until_some_is_here(slow, process)
    process.kill()
    process.communicate()
    slow.hub.faults.pause = 0.0
    before = len(slow.hub.starts)
    done = slow.coder(*BUILD)
    assert done.returncode == 0, done.stderr
    assert slow.hub.starts[before][1] >= here
    assert slow.files() == ["lite-q8_0.gguf", "lite-q8_0.json"]


def test_a_begun_recipe_is_gone_on_with_whatever_the_machine_is_good_for_now(slow: Place) -> None:
    process = slow.start("pull", "lite", "-q", "q6_k", "--accept-licence")
    until_some_is_here(slow, process)
    process.kill()
    process.communicate()
    slow.hub.faults.pause = 0.0
    done = slow.coder("pull", "lite")
    assert done.returncode == 0, done.stderr
    assert "Going on with q6_k" in done.stderr
    assert slow.files() == ["lite-q6_k.gguf", "lite-q6_k.json"]


def test_the_second_of_two_pulls_says_so_and_harms_nothing(slow: Place) -> None:
    first = slow.start("pull", "mine")
    until_some_is_here(slow, first)
    second = slow.coder("pull", "mine")
    assert second.returncode == 1
    assert "another coder is busy with mine-q8_0" in second.stderr
    removing = slow.coder("rm", "mine", "--yes")
    assert removing.returncode in (1, 2)
    slow.hub.faults.pause = 0.0
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert finished(slow)
    assert len(slow.hub.starts) == 1


# --- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_takes_no_more_is_said_and_gone_on_with(place: Place) -> None:
    import resource

    limit = 2_000_000
    done = subprocess.run(
        [sys.executable, "-m", "cli", "pull", "mine"],
        env=place.environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    again = place.coder("pull", "mine")
    assert again.returncode == 0, again.stderr
    assert finished(place)
    assert place.hub.starts[-1][1] > limit // 2


def test_a_cache_folder_that_vanished_is_made_anew(place: Place) -> None:
    assert place.coder("pull", "mine").returncode == 0
    os.rename(place.home / "models", place.home.parent / "elsewhere")
    assert "mine" not in place.models() or place.models()["mine"]["trouble"]
    refused = place.coder("chat", "-m", "mine", "-p", "x")
    assert refused.returncode == 2
    assert "coder pull mine" in refused.stderr
    assert place.coder("pull", "mine").returncode == 0
    assert finished(place)
