"""The [load] settings: what they say reaches `coder plan` and the loaded model, in real processes."""

import json
import sys
from pathlib import Path

import pytest
from conftest import Coder, assert_refused
from serve_process import serving
from synthetic_models import LITE, small_model
from test_models import TINY, home

from coderv2_local.load_settings import load_wishes, unmet
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.preferences import Preferences

__all__ = ["home"]


def write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def test_without_settings_placement_decides() -> None:
    assert load_wishes(Preferences()) == LoadWishes()
    assert load_wishes(Preferences(), n_ctx=0, n_threads=3) == LoadWishes(n_threads=3)


def test_every_decision_has_a_setting_and_the_command_line_goes_first() -> None:
    values = {
        "load.threads": 5,
        "load.batch": 256,
        "load.ubatch": 64,
        "load.cpu_expert_layers": 3,
        "load.gpu_layers": 20,
        "load.kv_type": "f32",
        "load.flash_attention": False,
    }
    wishes = load_wishes(Preferences(values))
    assert wishes == LoadWishes(
        n_threads=5,
        n_batch=256,
        n_ubatch=64,
        cpu_expert_layers=(0, 1, 2),
        n_gpu_layers=20,
        kv_type="f32",
        flash_attention=False,
    )
    assert load_wishes(Preferences(values), n_threads=2).n_threads == 2
    assert load_wishes(Preferences({"load.cpu_expert_layers": 0})).cpu_expert_layers == ()


def test_a_type_of_the_cache_that_is_none_is_refused_with_its_line(home: Path, coder: Coder) -> None:
    write(home, '[load]\nthreads = 1\nkv_type = "q4_0"\n')
    assert_refused(coder("plan", str(TINY)), "line 3", "load.kv_type is 'q4_0': it must be f16 or f32")


def test_what_is_typed_as_false_is_false(home: Path, coder: Coder) -> None:
    for typed, kept in (("false", "False"), ("True", "True")):
        assert coder("config", "load.repack", typed).returncode == 0
        assert coder("config", "load.repack").stdout.strip() == kept
    assert_refused(coder("config", "load.repack", "no"), "load.repack is 'no': it must be true or false")


def test_threads_of_plan_are_measured_taken_and_handed_on(home: Path, coder: Coder) -> None:
    write(home, '[load]\nthreads = 3\nkv_type = "f32"\nubatch = 32\n')
    best = json.loads(coder("plan", str(TINY), "--ctx", "256", "--json").stdout)["best"]["options"]
    assert (best["n_threads"], best["kv_type"], best["n_ubatch"]) == (3, "f32", 32)
    told = json.loads(coder("plan", str(TINY), "--threads", "2", "--json").stdout)
    assert told["best"]["options"]["n_threads"] == 2
    assert "threads: 2, as asked for" in told["best"]["reasons"]
    assert told["command"].endswith("--threads 2")


def test_settings_without_effect_are_told_by_plan(home: Path, coder: Coder) -> None:
    write(home, "[load]\ngpu_layers = 4\nexpert_memory = 2\n")
    reasons = " ".join(json.loads(coder("plan", str(TINY), "--json").stdout)["best"]["reasons"])
    assert "the memory asked for them is not used" in reasons
    assert "has no effect" in reasons or "as asked for" in reasons  # the latter where there is a GPU


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


NO_ROOM = "[load]\nstream_experts = true\nexpert_memory = 0.000001\n"
NOTICE = "experts are kept in the system's file cache, which is slower: 0.0 GB for experts is less than one layer's"


@pytest.mark.skipif(sys.platform != "linux", reason="experts are read ahead on Linux only")
def test_what_cannot_be_had_is_said_before_the_answer(home: Path, coder: Coder) -> None:
    write(home, NO_ROOM)
    (home / "a.py").write_text("def f():\n    \n")
    asked = coder("chat", "-p", "hi", "-n", "3")
    filled = coder("fim", "a.py:2", "-n", "3", cwd=home)
    assert (asked.returncode, filled.returncode) == (0, 0)
    assert f"note: {NOTICE}" in asked.stderr.splitlines()
    assert NOTICE in filled.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="experts are read ahead on Linux only")
def test_a_server_says_it_when_it_starts_and_to_whom_it_answers(home: Path, coder: Coder) -> None:
    write(home, NO_ROOM)
    with serving(home) as served:
        assert NOTICE + "\n" in served.log
        write(home, "")
        asked = coder("chat", "-p", "hi", "-n", "3")
    assert served.address in asked.stderr
    assert f"note: {NOTICE}" in asked.stderr.splitlines()


def test_layers_for_a_gpu_that_is_not_there_are_a_notice(home: Path, coder: Coder) -> None:
    write(home, "[load]\ngpu_layers = 3\n")
    if json.loads(coder("plan", str(TINY), "--json").stdout)["machine"]["gpus"]:
        pytest.skip("there is a GPU")
    assert "load.gpu_layers has no effect" in coder("chat", "-p", "hi", "-n", "3").stderr
    write(home, "[load]\ngpu_layers = 0\n")
    assert coder("chat", "-p", "hi", "-n", "3").stderr == ""


def test_a_copy_that_is_refused_is_a_notice() -> None:
    assert any("load.repack" in said for said in unmet(LoadWishes(repack=True), LoadOptions()))
    assert unmet(LoadWishes(repack=True, n_gpu_layers=2), LoadOptions(repack=True, n_gpu_layers=2)) == []


def test_impossible_values_are_refused_with_their_line(home: Path, coder: Coder) -> None:
    write(home, "[load]\nexpert_memory = -1\n")
    assert_refused(coder("plan", str(TINY)), "config.toml, line 2")
