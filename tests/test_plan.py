"""`coder plan`: what it recommends, how it looks, what it refuses; and docs/hardware.md, which the same code writes."""

import dataclasses
import io
import json
import re
import sys

import pytest
from conftest import ROOT, assert_refused
from rich.console import Console

from cli.plan_screen import machine_line, table, tokens
from coderv2_local.placement.family_plan import (
    OURS,
    RECIPES,
    best,
    best_first,
    candidates,
    plan_row,
    sentence,
    types_read,
)
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.placement.memory_classes import memory_of_recipe
from coderv2_local.placement.place import place
from coderv2_local.placement.speed import Rates, bytes_a_token, expected_speed, measure_rates, types_of
from coderv2_local.registry import known_model, known_models

GIB = 1 << 30
TYPES = ("Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "BF16")
FAMILY = candidates(known_models().values(), OURS)


def rates(bandwidth: float, disk: float | None = 3e9) -> Rates:
    """A machine that multiplies `bandwidth` weights a second, of every type alike."""
    return Rates(dict.fromkeys(TYPES, bandwidth), dict.fromkeys(TYPES, 10 * bandwidth), disk)


def laptop(ram: int, vram: int = 0) -> Machine:
    gpus = (Gpu("GPU0", "a GPU", vram * GIB, vram * GIB),) if vram else ()
    return Machine(8, 16, ("avx2",), ram * GIB, (ram - 3) * GIB, gpus)


def family(machine: Machine, speed: Rates | None = None):
    return [plan_row(c, machine, speed) for c in FAMILY]


# --- what is recommended -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram", "vram", "weights_a_second", "model", "recipe"),
    [
        (16, 0, 60e9, "lite", "moe-4"),
        (32, 0, 20e9, "lite", "moe-4"),  # the finer recipe would be too slow
        (32, 0, 100e9, "lite", "moe-8"),
        (64, 24, 60e9, "lite", "moe-8"),
        (192, 0, 250e9, "236b-0724", "moe-4"),
        (192, 0, 60e9, "lite", "moe-8"),  # the large model fits, but nobody would wait for it
        (512, 0, 500e9, "236b-0724", "moe-8"),
    ],
)
def test_the_best_model_for_a_machine(ram, vram, weights_a_second, model, recipe):
    chosen = best(family(laptop(ram, vram), rates(weights_a_second)))
    assert (chosen.model, chosen.recipe) == (model, recipe)
    assert f"{model} at {recipe[-1]} bits" in sentence(chosen, of_all=True)


def test_the_sentence_promises_no_more_than_is_known():
    (small,) = candidates([known_model("lite")], ["moe-4"])
    text = sentence(plan_row(small, laptop(8), rates(60e9)), of_all=False)
    assert text.startswith("lite at 4 bits runs here: 10.1 GB, partly read from disk as it goes, at ")
    assert re.search(r"at [\d.]+ tokens a second or more\.$", text)
    assert "tokens" not in sentence(plan_row(small, laptop(8), rates(60e9, None)), of_all=False)


def test_where_nothing_is_measured_size_decides():
    assert best(family(laptop(16))).model == "lite"
    assert best(family(laptop(4))) is None


def test_for_infill_it_is_the_base_model():
    assert best(family(laptop(16), rates(60e9)), "fim").model == "lite-base"


def test_the_order_is_pleasant_then_slow_then_from_disk_then_impossible():
    rows = best_first(family(laptop(24), rates(20e9)))
    assert [(r.model, r.recipe) for r in rows[:2]] == [("lite", "moe-4"), ("lite-base", "moe-4")]
    places = [r.where for r in rows]
    order = {"in memory": 0, "from disk": 1, "no": 2}
    assert places == sorted(places, key=order.__getitem__)
    assert set(places) == set(order)


# --- the speed to expect -------------------------------------------------------------------------------------------


def test_a_token_reads_the_share_of_experts_that_it_uses():
    """2.45 and 20.85 billion weights a token, the embedding not counted."""
    for name, active in (("lite", 2.45e9), ("236b", 20.85e9)):
        memory = memory_of_recipe(known_model(name).shape(), "f16")
        read = sum(bytes_a_token(memory, w) for w in memory.weights if w.type == "F16") / 2
        assert read == pytest.approx(active, rel=0.01)


def test_speed_follows_memory_disk_and_placement():
    memory = memory_of_recipe(known_model("lite").shape(), "moe-4")
    at = {ram: place(memory, laptop(ram)) for ram in (8, 32)}
    on_gpu = place(memory, laptop(32, 24))
    slow, fast = (expected_speed(memory, at[32], rates(speed)) for speed in (20e9, 40e9))
    assert fast.decode == pytest.approx(2 * slow.decode, rel=0.05)
    assert fast.prompt == pytest.approx(2 * slow.prompt, rel=0.05)
    assert expected_speed(memory, on_gpu, rates(20e9)).decode > fast.decode
    assert "assumed" in expected_speed(memory, on_gpu, rates(20e9)).reasons[0]
    from_disk, quick_disk = (expected_speed(memory, at[8], rates(40e9, disk)) for disk in (1e9, 10e9))
    assert from_disk.decode < quick_disk.decode < fast.decode
    waiting = dataclasses.replace(at[8], options=dataclasses.replace(at[8].options, stream_experts=False))
    assert expected_speed(memory, waiting, rates(40e9, 1e9)).decode < from_disk.decode
    assert expected_speed(memory, at[8], rates(40e9, None)).decode is None


def test_the_types_that_matter_are_measured():
    assert types_read(candidates([known_model("lite")], ["moe-4"])) == ["Q4_K", "Q5_0", "Q8_0"]
    assert set(types_read(candidates(known_models().values(), RECIPES))) == set(TYPES)
    memory = memory_of_recipe(known_model("lite").shape(), "moe-8")
    measured = measure_rates(types_of(memory), 1, None)
    assert set(measured.decode) == set(measured.prompt) == types_of(memory)
    assert all(1e7 < rate < 1e14 for rate in (*measured.decode.values(), *measured.prompt.values()))


# --- the screen ----------------------------------------------------------------------------------------------------


def shown(what, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("vram", [0, 8])
def test_the_table_fits_80_columns_with_nothing_cut(width, vram):
    rows = [plan_row(c, laptop(32, vram), rates(60e9), n) for c in FAMILY for n in (None, 131_072)]
    lines = shown(table(rows), width)
    assert len(lines) == len(rows) + 1
    assert all("…" not in line and len(line) <= 80 for line in lines)
    assert lines[0].split() == [
        "model",
        "recipe",
        "context",
        "dense",
        "experts",
        "KV",
        "buffers",
        "runs",
        "prompt",
        "answer",
    ]


def test_the_table_of_one_model():
    rows = [plan_row(c, laptop(16), rates(60e9)) for c in candidates([known_model("lite")], ("moe-4", "f16"))]
    head, *lines = shown(table(rows), 80)
    assert head.split()[0] == "recipe"
    assert lines[0].split()[:5] == ["moe-4", "16K", "1.4", "8.7", "0.51"]
    assert "in memory" in lines[0]
    assert "from disk" in lines[1]


def test_the_machine_in_a_line():
    line = machine_line(laptop(16, 8), rates(1e9, 2.5e9))
    assert line == (
        "This machine: 8 cores (avx2) · 17.2 GB of memory, 14.0 GB free · a GPU, 8.6 GB free of 8.6 GB · disk 2.5 GB/s"
    )
    assert "no GPU" in machine_line(laptop(16), None)
    assert [tokens(n) for n in (512, 4096, 131_072, 163_840)] == ["512", "4K", "128K", "160K"]


def test_a_gpus_name_cannot_write_to_the_terminal():
    machine = dataclasses.replace(laptop(16), gpus=(Gpu("GPU0", "\x1b[31mred", GIB, GIB),))
    assert "\x1b" not in machine_line(machine, None)


# --- the command ---------------------------------------------------------------------------------------------------


def test_one_sentence_and_one_command(coder):
    done = coder("plan")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("This machine: ")
    assert lines[2].endswith(".")
    assert lines[3].startswith("    coder ")
    assert all(name in done.stdout for name in known_models())


def test_a_file_and_json(coder):
    done = coder("plan", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["command"] == "coder chat -m tiny"
    (found,) = report["plans"]
    assert found == report["best"]
    assert (found["context"], found["where"]) == (2048, "in memory")
    assert set(found["bytes"]) == {"dense", "experts", "embedding", "output", "kv", "compute", "runtime"}
    assert found["options"]["n_ctx"] == 2048
    assert found["answer_tokens_a_second"] > 0
    assert report["machine"]["cores"] >= 1
    shorter = json.loads(coder("plan", "tiny", "--ctx", "256", "--json").stdout)
    assert shorter["command"] == "coder chat -m tiny --ctx 256"
    assert shorter["plans"][0]["context"] == 256


def test_a_named_model_in_every_recipe(coder):
    done = coder("plan", "lite-base", "--ctx", "8192", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [p["recipe"] for p in report["plans"]] == list(RECIPES)
    assert {p["context"] for p in report["plans"]} == {8192}
    assert report["command"] is None or report["command"].startswith(("coder pull lite-base -q ", "coder plan"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["236"], ["'236'", "did you mean 236b?"]),
        (["zzz"], ["'zzz'", "known are lite, ", "tiny", ".gguf"]),
        (["missing.gguf"], ["missing.gguf", "no such file"]),
        (["."], ["folder", "coder convert"]),
        (["lite", "--ctx", "200000"], ["200000", "163840"]),
        (["tiny", "--ctx", "2049"], ["2049", "2048"]),
        (["not-a-model.gguf"], ["not a GGUF file"]),
        (["http://localhost:8012"], ["localhost", "server"]),
        (["--ctx", "-1"], ["--ctx"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_refused(coder, tmp_path, arguments, words):
    (tmp_path / "not-a-model.gguf").write_text("hello")
    done = coder("plan", *arguments)
    if arguments[0] == "--ctx":
        assert done.returncode == 2
        assert words[0] in done.stderr
    else:
        assert_refused(done, *words)


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_hardware_page_is_what_the_code_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import hardware_doc

    page = hardware_doc.PAGE.read_text(encoding="utf-8")
    assert hardware_doc.filled(page) == page, "run python tools/hardware_doc.py"
    assert page.count("<!-- table ") == len(hardware_doc.TABLES)
    for ram in (16, 32, 64, 192):
        assumed = rf"{ram} GB | {hardware_doc.CORES[ram]} | {hardware_doc.BANDWIDTH[ram] / 1e9:.0f} GB a second"
        assert assumed in page
    sys.modules.pop("hardware_doc")
