"""`coder pull`: from a name to a model that answers, over a local server; the real command as a process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import convert, read_tensors
from conftest import ROOT, assert_refused
from hub_server import Hub, serving, sha256
from terminal import Terminal

from coderv2_local.models import find_model
from coderv2_local.registry import known_models
from converters.gguf_header import read_header

LITE, BASE = known_models()["lite"], known_models()["lite-base"]
READY_REPO, READY = "someone/some-gguf", "small.Q8_0.gguf"
SETTINGS = f"""
[models.mine]
repo = "{READY_REPO}"
file = "{READY}"
purpose = "to test with"
"""
Done = subprocess.CompletedProcess[str]


@dataclass
class Place:
    """A user's machine: a home, and a Hub that can be reached."""

    hub: Hub
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        return self.hub.environment(**{"CODER_HOME": str(self.home)} | more)

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env=self.environment(**more),
            cwd=self.home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def coder(self, *arguments: str, **more: str) -> Done:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=100)
        return Done(process.args, process.returncode, out, err)

    def models(self) -> dict[str, Any]:
        rows = json.loads(self.coder("models", "--json").stdout)["models"]
        return {row["name"]: row for row in rows}

    def files(self) -> list[str]:
        """What lies in the folder of models, but for locks."""
        folder = self.home / "models"
        return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    served, home = tmp_path / "served", tmp_path / "coder-home"
    served.mkdir()
    home.mkdir()
    shutil.copy(str(find_model("tiny").path), served / READY)
    (home / "config.toml").write_text(SETTINGS)
    checkpoint = ROOT / "models" / "tiny"
    with serving({READY_REPO: served, LITE.repo: checkpoint, BASE.repo: checkpoint}, home) as hub:
        yield Place(hub, home)


# --- it works ------------------------------------------------------------------------------------------------------


def test_a_ready_file_is_fetched_checked_entered_and_answers(place: Place) -> None:
    done = place.coder("pull", "mine", "--json")
    assert done.returncode == 0, done.stderr
    assert f"https://huggingface.co/{READY_REPO}" in done.stderr  # where its licence is
    assert done.stderr.endswith("Try it: coder chat -m mine\n")
    path = place.home / "models" / "mine-q8_0.gguf"
    assert json.loads(done.stdout) == {
        "name": "mine",
        "recipe": "q8_0",
        "path": str(path),
        "bytes": path.stat().st_size,
    }
    assert sha256(path) == sha256(find_model("tiny").path)
    assert place.files() == ["mine-q8_0.gguf", "mine-q8_0.json"]
    row = place.models()["mine"]
    assert (row["type"], row["context"], row["default_for"], row["used"]) == ("q8_0", 2048, ["chat", "fim"], 0.0)
    answer = place.coder("chat", "-m", "mine", "-p", "hello", "-n", "4", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["model"] == "mine"
    assert place.models()["mine"]["used"] > 0
    again = place.coder("pull", "mine")
    assert again.returncode == 0
    assert "here already" in again.stderr
    assert len(place.hub.starts) == 1


def test_published_weights_are_built_and_become_the_default(place: Place, tmp_path: Path) -> None:
    done = place.coder("pull", "lite", "-q", "Q8_0", "--accept-licence")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.endswith("Try it: coder chat -m lite\n")
    assert place.files() == ["lite-q8_0.gguf", "lite-q8_0.json"]
    assert 1 <= place.hub.most_shards <= 2
    path = place.home / "models" / "lite-q8_0.gguf"
    assert read_tensors(path) == read_tensors(convert(ROOT / "models" / "tiny", tmp_path / "local.gguf", "q8_0"))
    assert read_header(path).metadata["coder.convert.repository"] == LITE.repo
    answer = place.coder("chat", "-p", "hello", "-n", "4", "--json")
    assert json.loads(answer.stdout)["model"] == "lite"
    assert place.coder("inspect", "lite").returncode == 0


def test_without_a_recipe_it_takes_what_plan_recommends(place: Place) -> None:
    done = place.coder("pull", "lite", "--accept-licence")
    assert done.returncode == 0, done.stderr
    (entry,) = (n for n in place.files() if n.endswith(".json"))
    recipe = entry.removeprefix("lite-").removesuffix(".json")
    assert recipe in ("moe-4", "moe-8")
    assert f"lite at {recipe[-1]} bits runs here: " in done.stderr


def test_the_command_that_plan_recommends_works(place: Place) -> None:
    report = json.loads(place.coder("plan", "lite-base", "--json").stdout)
    command = report["command"].split()
    assert command[:3] == ["coder", "pull", "lite-base"]
    done = place.coder(*command[1:], "--accept-licence")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("Try it: coder fim FILE:LINE -m lite-base\n")
    assert place.models()["lite-base"]["default_for"] == ["fim"]
    (place.home.parent / "a.py").write_text("def is_even(n):\n    return n \n")
    filled = place.coder("fim", "a.py:2:14")
    assert filled.returncode == 0, filled.stderr
    assert filled.stdout


def test_two_recipes_of_a_model_live_side_by_side(place: Place) -> None:
    for recipe in ("q8_0", "moe-4"):
        assert place.coder("pull", "lite", "-q", recipe, "--accept-licence").returncode == 0
    models = place.models()
    assert (models["lite"]["type"], models["lite:q8_0"]["type"]) == ("moe-4", "q8_0")
    assert models["lite"]["default_for"] == ["chat", "fim"]
    assert json.loads(place.coder("inspect", "lite:q8_0", "--json").stdout)["path"].endswith("lite-q8_0.gguf")


def test_a_split_file_comes_whole(place: Place, tmp_path: Path) -> None:
    served = place.hub.repos[READY_REPO]
    made = tmp_path / "parts"
    made.mkdir()
    first = convert(ROOT / "models" / "tiny", made / "x.gguf", "q8_0", split_bytes=4_000_000)
    for part in made.glob("*.gguf"):
        shutil.copy(part, served)
    (place.home / "config.toml").write_text(SETTINGS.replace(READY, first.name))
    done = place.coder("pull", "mine")
    assert done.returncode == 0, done.stderr
    count = len(list(made.glob("*.gguf")))
    assert count >= 3
    assert place.files()[:-1] == [f"mine-file-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    assert place.coder("chat", "-p", "hello", "-n", "2").returncode == 0
    assert place.coder("rm", "mine", "--yes").returncode == 0
    assert place.files() == []


def test_an_old_ready_file_is_taken_on_request_and_named_as_such(place: Place, tmp_path: Path) -> None:
    from small_models import write_gguf

    old = LITE.ggufs[0]
    (tmp_path / "old").mkdir()
    write_gguf(ROOT / "models" / "tiny", tmp_path / "old" / old.file, split_mla=False, group_keys=False)
    place.hub.repos[old.repo] = tmp_path / "old"
    done = place.coder("pull", "lite", "--ready", "--accept-licence")
    assert done.returncode == 0, done.stderr
    assert "made before the MLA split" in done.stderr
    better = next(line for line in done.stderr.splitlines() if "makes a better one" in line).split("`")[1]
    assert place.coder(*better.split()[1:]).returncode == 0
    assert not any("attn_kv_b" in name for name in read_header(place.home.parent / "lite.gguf").tensors)


# --- the licence ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_the_licence_must_be_accepted_by_option(place: Place) -> None:
    done = place.coder("pull", "lite", "-q", "q8_0")
    assert_refused(done, LITE.licence, "LICENSE-MODEL", "--accept-licence")
    assert place.hub.starts == []
    assert place.files() == []


def test_on_a_terminal_it_is_shown_once(place: Place) -> None:
    def pull(name: str) -> Terminal:
        variables = place.environment()
        return Terminal("pull", name, "-q", "q8_0", cwd=place.home.parent, home=place.home, **variables)

    with pull("lite") as terminal:
        shown = terminal.until("Do you accept it?")
        assert LITE.licence in shown
        assert LITE.purpose in shown
        terminal.send("n\r")
        assert terminal.wait() == 1
        assert "nothing was downloaded" in terminal.text()
    assert place.hub.starts == []
    with pull("lite") as terminal:
        terminal.until("Do you accept it?")
        terminal.send("y\r")
        terminal.until("Try it: coder chat -m lite")
        assert terminal.wait() == 0
    with pull("lite-base") as terminal:
        assert terminal.wait() == 0
        assert "accept" not in terminal.text()


# --- what a user can get wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lit"], ["'lit'", "did you mean lite?"]),
        (["zzz"], ["'zzz'", "known are lite, lite-base", "mine"]),
        (["tiny"], ["comes with this program"]),
        (["someone/some-model"], ["coder convert someone/some-model"]),
        (["lite", "-q", "q9"], ["'q9'", "moe-4"]),
        (["lite", "--build", "--ready"], ["exclude"]),
        (["236b", "--ready"], ["no ready file of 236b"]),
        (["lite", "--ready", "-q", "moe-4"], ["no ready file of lite", "q4_k_m"]),
        (["mine", "-q", "moe-4"], ["one ready file", "--build"]),
        (["\x1b[31m"], ["there is no model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_refused_before_the_hub_is_asked(place: Place, arguments: list[str], words: list[str]) -> None:
    done = place.coder("pull", *arguments)
    assert_refused(done, *words)
    assert "\x1b" not in done.stderr
    assert place.hub.tokens == set()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[models.mine]\nrepo = 7\n", ["config.toml, line 2", "text"]),
        ("[models.mine\n", ["config.toml, line 1"]),
        ('[models.mine]\nrepo = "nothing"\n', ["'nothing'", "OWNER/NAME"]),
        ('[models.mine]\nrepo = "a/b"\nfile = "x.bin"\n', ["'x.bin'"]),
        ('[models.mine]\npath = "x.gguf"\n', ["x.gguf", "nothing to get"]),
        ('[models."../mine"]\nrepo = "a/b"\n', []),
    ],
)
def test_settings_that_cannot_be_used_are_named_and_left_alone(place: Place, settings: str, words: list[str]) -> None:
    (place.home / "config.toml").write_text(settings)
    done = place.coder("pull", "../mine" if ".." in settings else "mine")
    assert_refused(done, *words)
    assert (place.home / "config.toml").read_text() == settings
    assert place.files() == []


def test_a_file_that_is_not_in_the_repository(place: Place) -> None:
    (place.home / "config.toml").write_text(SETTINGS.replace(READY, "smal.Q8_0.gguf"))
    done = place.coder("pull", "mine")
    assert done.returncode == 2
    assert "has no smal.Q8_0.gguf" in done.stderr
    assert f"did you mean {READY}?" in done.stderr
    assert place.files() == []


def test_what_is_no_model_does_not_stay(place: Place) -> None:
    (place.hub.repos[READY_REPO] / READY).write_bytes(b"GGUF" + bytes(200_000))
    done = place.coder("pull", "mine")
    assert done.returncode == 2
    assert "is no model to run" in done.stderr
    assert "Traceback" not in done.stderr
    assert place.files() == []


def test_another_file_at_the_place_is_not_overwritten(place: Place) -> None:
    there = place.home / "models" / "lite-q8_0.gguf"
    there.parent.mkdir()
    there.write_bytes(b"precious")
    done = place.coder("pull", "lite", "-q", "q8_0", "--accept-licence")
    assert done.returncode == 2
    assert "coder rm lite:q8_0" in done.stderr
    assert there.read_bytes() == b"precious"
    assert place.coder("rm", "lite:q8_0", "--yes").returncode == 0
    assert place.coder("pull", "lite", "-q", "q8_0").returncode == 0


def test_a_disk_without_room_is_named_before_anything_comes(place: Place) -> None:
    place.hub.faults.said[READY] = (10**15, "0" * 64)
    done = place.coder("pull", "mine")
    assert done.returncode == 1
    assert "GB free" in done.stderr
    assert "CODER_HOME" in done.stderr
    assert place.hub.starts == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_home_that_cannot_be_written(place: Place) -> None:
    home = place.home.parent / "no-home"
    home.write_text("a file")
    done = place.coder("pull", "lite", "-q", "q8_0", "--accept-licence", CODER_HOME=str(home))
    assert done.returncode in (1, 2)
    assert str(home) in done.stderr
    assert "Traceback" not in done.stderr
    assert place.hub.starts == []
