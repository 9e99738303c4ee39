"""The [load] settings: what they say reaches `coder plan` and the loaded model, in real processes."""

import json
from pathlib import Path

import pytest
from conftest import Coder, assert_refused
from synthetic_models import LITE, small_model
from test_models import TINY, home

from coderv2_local.load_settings import load_wishes
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.preferences import Preferences

__all__ = ["home"]


def write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def test_without_settings_placement_decides() -> None:
    assert load_wishes(Preferences()) == LoadWishes()
    assert load_wishes(Preferences(), n_ctx=0, n_threads=3) == LoadWishes(n_threads=3)


def test_settings_and_command_line_come_together(home: Path, coder: Coder) -> None:
    write(home, "[load]\nbatch = 64\nrepack = true\nstream_experts = false\ngpu_layers = 0\nexpert_memory = 1.5\n")
    row = json.loads(coder("plan", str(TINY), "--ctx", "256", "--json").stdout)["best"]
    options = row["options"]
    assert (options["n_ctx"], options["n_batch"], options["n_ubatch"]) == (256, 64, 64)
    assert options["repack"]
    assert not options["stream_experts"]
    reasons = " ".join(row["reasons"])
    assert "batch: 64 tokens" in reasons
    assert "as asked for" in reasons


@pytest.mark.parametrize(("memory", "said"), [("0", "left to the system's file cache"), ("0.25", "at most 0.25 GB")])
def test_memory_for_experts_is_said_by_plan_and_taken_by_bench(
    home: Path, coder: Coder, tmp_path: Path, memory: str, said: str
) -> None:
    path = small_model(tmp_path / "m.gguf", LITE)
    write(home, f"[load]\nstream_experts = true\nexpert_memory = {memory}\n")
    plan = json.loads(coder("plan", str(path), "--json").stdout)["best"]
    assert any(said in r for r in plan["reasons"]), plan["reasons"]
    done = coder("bench", str(path), "--pairs", "1", "--prompt", "8", "--tokens", "2", "--no-cold", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["prefetched"]
    assert report["chosen"] > 0
    if memory == "0":
        assert report["held_bytes"] == 0
    else:
        assert 0 < report["held_bytes"] <= 250_000_000, report["notices"]


def test_impossible_values_are_refused_with_their_line(home: Path, coder: Coder) -> None:
    write(home, "[load]\nexpert_memory = -1\n")
    assert_refused(coder("plan", str(TINY)), "config.toml, line 2")
