"""What lies where a ready file is to go: it is never replaced unseen, and `coder rm` finds it."""

from pathlib import Path

import pytest
from hub_server import Hub
from test_convert_source import REPO, hub

from coderv2_local import leftovers
from coderv2_local.models import find_model
from coderv2_local.pulling import ready
from coderv2_local.pulling.wanted import Wanted
from coderv2_local.registry import ReadyFile
from quant.errors import InputError

__all__ = ["hub"]


@pytest.fixture
def wanted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A file on the Hub, to be fetched into an empty home."""
    (hub.repos[REPO] / "m.gguf").symlink_to(find_model("tiny").path)
    monkeypatch.setenv("CODER_HOME", str(hub.work))
    (hub.work / "models").mkdir()
    return Wanted("mine", REPO, "q8_0", ReadyFile(REPO, "m.gguf", "q8_0"))


def get(wanted: Wanted) -> Path:
    return ready.get(wanted, ready.parts_of(wanted, ready.look_up(REPO)), lambda here: None).path


def test_a_file_without_an_entry_is_not_replaced(hub: Hub, wanted: Wanted) -> None:
    place = hub.work / "models" / "mine-q8_0.gguf"
    place.write_bytes(b"my own work")
    with pytest.raises(InputError, match="exists") as found:
        get(wanted)
    assert "coder rm mine:q8_0" in found.value.hint
    assert place.read_bytes() == b"my own work"
    assert hub.whole == []


def test_what_a_killed_pull_had_given_its_place_is_not_fetched_again(hub: Hub, wanted: Wanted) -> None:
    path = get(wanted)
    (hub.work / "models" / "mine-q8_0.json").unlink()
    assert hub.whole == ["m.gguf"]
    assert get(wanted) == path
    assert hub.whole == ["m.gguf"]


def test_parts_without_an_entry_are_left_over(wanted: Wanted) -> None:
    folder = wanted.destination.parent
    for n in (1, 2):
        (folder / f"lite-q4_k_m-0000{n}-of-00002.gguf").touch()
    (folder / "lite-q4_k_m-1-of-2.gguf").touch()
    found = leftovers.leftovers("lite")
    assert [p.name for p in found] == [f"lite-q4_k_m-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert leftovers.leftovers("lite:q4_k_m") == found
    assert {leftovers.key_of_leftover(p) for p in found} == {"lite-q4_k_m"}
