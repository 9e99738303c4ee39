"""`coder models`, `coder rm`, the first run, and docs/models.md."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from conftest import ROOT, Coder, assert_refused
from terminal import Terminal
from test_models import TINY, home, put

from coderv2_local import installed
from coderv2_local.models import find_model
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.preferences import TABLES, Preferences
from coderv2_local.recommend import model_to_get
from coderv2_local.registry import LICENCES
from coderv2_local.registry import known_models as published
from quant.errors import InputError

__all__ = ["home"]
GIB = 1 << 30


# --- the list ------------------------------------------------------------------------------------------------------


def test_the_list_has_everything(home: Path, coder: Coder, tmp_path: Path) -> None:
    put("lite", added=time.time() - 100)
    put("lite-base", "moe-8", ("fim",)).path.unlink()
    (home / "config.toml").write_text(
        f'[models.mine]\npath = "{TINY}"\nfim = true\n[models.lost]\npath = "{tmp_path}/lost.gguf"\n'
        '[servers.office]\nurl = "http://office:8000/v1"\n'
    )
    rows = {r["name"]: r for r in json.loads(coder("models", "--json").stdout)["models"]}
    assert set(rows) == {"tiny", "lite", "lite-base", "mine", "lost", "office"}
    assert rows["lite"]["default_for"] == ["chat", "fim"]
    assert (rows["tiny"]["context"], rows["tiny"]["default_for"]) == (2048, [])
    assert rows["lite-base"]["trouble"].endswith("lite-base-moe-8.gguf is gone")
    assert rows["lost"]["trouble"]
    assert rows["mine"]["roles"] == ["chat", "fim"]
    assert rows["office"]["where"] == "http://office:8000/v1"
    done = coder("models")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words = done.stdout.split()
    assert "chat*, fim*" in done.stdout
    assert "missing" in words
    assert str(home / "models" / "lite-moe-4.gguf") in words  # no path is cut where nobody reads on a screen
    assert "lite-base-moe-8.gguf is gone; `coder rm lite-base` forgets it" in done.stdout
    for name in ("236b", "236b-base", "236b-0724"):
        assert name in words


def test_what_can_be_had_is_shown_with_sizes_that_the_recipes_give(coder: Coder) -> None:
    report = json.loads(coder("models", "--json").stdout)["available"]
    assert [m["name"] for m in report] == list(published())
    sizes = {m["name"]: m["bytes"]["moe-4"] / 1e9 for m in report}
    assert 9.5 < sizes["lite"] < 10.5
    assert 130 < sizes["236b"] < 145
    assert sizes["lite"] == sizes["lite-base"]


def test_nothing_in_a_name_or_a_path_reaches_the_terminal(home: Path, coder: Coder) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[models."\\u001b[31mred"]\npath = "/\\u001b]0;title\\u0007.gguf"\n')
    done = coder("models")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_a_broken_settings_file_is_named_with_its_line_and_stays(home: Path, coder: Coder) -> None:
    home.mkdir()
    text = '[models.mine]\npath = "x"\n[models.broken\n'
    (home / "config.toml").write_text(text)
    for arguments in (("models",), ("pull", "lite"), ("rm", "zzz"), ("models", "add", TINY, "--name", "x")):
        assert_refused(coder(*arguments), "config.toml, line 3")
    assert (home / "config.toml").read_text() == text


# --- adding --------------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_is_added_and_forgotten(home: Path, coder: Coder, tmp_path: Path) -> None:
    path = Path(shutil.copy(TINY, tmp_path / "my model.gguf"))
    done = coder("models", "add", "my model.gguf")
    assert done.returncode == 0, done.stderr
    assert "coder chat -m my-model" in done.stderr
    (entry,) = installed.installed()
    assert (entry.name, entry.recipe, entry.owned, entry.path) == ("my-model", "q8_0", False, path)
    assert coder("models", "add", path, "--name", "lite").returncode == 0
    assert find_model("lite").path == path
    assert coder("rm", "my-model", "--yes").returncode == 0
    assert path.exists()
    path.unlink()
    gone = coder("chat", "-m", "lite", "-p", "x")
    assert_refused(gone, "my model.gguf, which is gone", "coder rm lite")
    assert coder("rm", "lite", "--yes").returncode == 0
    assert installed.entries() == []


def test_a_file_whose_entry_was_lost_is_taken_back(home: Path, coder: Coder) -> None:
    entry = put("lite", "q8_0")
    (home / "models" / "lite-q8_0.json").unlink()
    assert coder("models", "add", entry.path).returncode == 0
    (back,) = installed.installed()
    assert (back.name, back.files, back.owned) == ("lite", entry.files, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.gguf"], ["missing.gguf"]),
        (["text.gguf"], ["not a GGUF file"]),
        (["."], ["folder", "coder convert"]),
        (["good.gguf", "--name", "tiny"], ["means something else"]),
        (["good.gguf", "--name", "../x"], ["cannot be a model's name"]),
        (["good.gguf", "--name", ""], ["not on"]),
        (["cut.gguf"], ["cut.gguf"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_added(home: Path, coder: Coder, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    shutil.copy(TINY, tmp_path / "good.gguf")
    (tmp_path / "cut.gguf").write_bytes(TINY.read_bytes()[:5_000_000])
    if arguments[-1] == "":
        assert coder("models", "add", *arguments).returncode == 0  # no name: the file's
        return
    assert_refused(coder("models", "add", *arguments), *words)
    assert installed.entries() == []


def test_a_name_is_not_taken_from_another_file(home: Path, coder: Coder, tmp_path: Path) -> None:
    kept = put("lite", "q8_0")
    shutil.copy(TINY, tmp_path / "lite.gguf")
    assert_refused(coder("models", "add", "lite.gguf"), "another lite:q8_0 already", "--name")
    assert installed.installed() == [kept]


# --- removing ------------------------------------------------------------------------------------------------------


def test_rm_asks_and_deletes_only_what_was_meant(home: Path, tmp_path: Path) -> None:
    put("lite", "moe-4")
    other = put("lite", "moe-8")
    (home / "models" / "lite-moe-4.notes").write_text("mine")
    with Terminal("rm", "lite:moe-4", cwd=tmp_path, home=home) as terminal:
        terminal.until("Delete lite-moe-4.gguf (11.7 MB)?")
        terminal.send("n\r")
        assert terminal.wait() == 1
        assert "nothing was removed" in terminal.text()
    assert len(installed.installed()) == 2
    with Terminal("rm", "lite:moe-4", cwd=tmp_path, home=home) as terminal:
        terminal.until("?")
        terminal.send("y\r")
        assert terminal.wait() == 0
    assert installed.installed() == [other]
    left = sorted(p.name for p in (home / "models").iterdir() if p.suffix != ".lock")
    assert left == ["lite-moe-4.notes", "lite-moe-8.gguf", "lite-moe-8.json"]


def test_rm_drops_what_an_interrupted_pull_left(home: Path, coder: Coder) -> None:
    kept = put("lite-base", "moe-4")
    folder = home / "models"
    (folder / "lite-moe-4.gguf.partial").write_bytes(bytes(1000))
    (folder / "lite-moe-4.gguf.journal").write_bytes(b"")
    (folder / "lite-moe-4.gguf.download").mkdir()
    (folder / "lite-moe-4.gguf.download" / "x.incomplete").write_bytes(bytes(1000))
    done = coder("rm", "lite", "--yes")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == [*kept.files, "lite-base-moe-4.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lite"], ["2 times", "lite:moe-4, lite:moe-8", "coder rm lite:"]),
        (["lite:moe-4"], ["nobody to ask", "--yes"]),
        (["tiny", "--yes"], ["stays"]),
        (["mine", "--yes"], ["settings", "config.toml"]),
        (["lit:moe-9", "--yes"], ["there is no model named"]),
        (["../x", "--yes"], ["there is no model named"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_removed(home: Path, coder: Coder, arguments: list[str], words: list[str]) -> None:
    put("lite", "moe-4")
    put("lite", "moe-8")
    (home / "config.toml").write_text(f'[models.mine]\npath = "{TINY}"\n')
    assert_refused(coder("rm", *arguments), *words)
    assert len(installed.installed()) == 2


# --- the first run -------------------------------------------------------------------------------------------------


def test_the_first_run_names_the_command_for_this_machine(tmp_path: Path) -> None:
    with Terminal("chat", cwd=tmp_path, home=tmp_path / "home", columns=120) as terminal:
        shown = " ".join(terminal.ready().split())
        assert "tiny is a toy" in shown
        assert re.search("Nothing better is installed: coder (pull (lite|236b-0724) gets what suits|plan says)", shown)
    with Terminal("chat", "-m", "tiny", cwd=tmp_path, home=tmp_path / "home", columns=120) as terminal:
        assert "Nothing better" not in terminal.ready()  # it was asked for


def test_once_something_is_installed_it_answers(home: Path, tmp_path: Path) -> None:
    put("lite")
    with Terminal("chat", cwd=tmp_path, home=home, columns=120) as terminal:
        shown = terminal.ready()
        assert shown.strip().startswith("lite")
        assert "Nothing better" not in shown


def laptop(ram: int, vram: int = 0) -> Machine:
    gpus = (Gpu("GPU0", "a GPU", vram * GIB, vram * GIB),) if vram else ()
    return Machine(8, 16, (), ram * GIB, max(1, ram - 3) * GIB, gpus)


@pytest.mark.parametrize(
    ("machine", "name"),
    [(laptop(16), "lite"), (laptop(32, 24), "lite"), (laptop(192), "236b-0724"), (laptop(2), None)],
    ids=["16 GB", "32 GB, GPU", "192 GB", "2 GB"],
)
def test_the_model_to_get(machine: Machine, name: str | None) -> None:
    row = model_to_get(machine)
    assert (row.model if row else None) == name


def test_the_greeting_neither_measures_nor_plans_for_what_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from coderv2_local.placement import disk_speed, family_plan, speed

    def never(*args: object, **more: object) -> None:
        raise AssertionError("the first run measures nothing")

    planned = []
    real = family_plan.memory_of_recipe
    monkeypatch.setattr(speed, "measure_rates", never)
    monkeypatch.setattr(disk_speed, "read_speed", never)
    monkeypatch.setattr(family_plan, "memory_of_recipe", lambda c, r: planned.append(c.n_layers) or real(c, r))
    assert model_to_get(replace(laptop(24), cores=2)) is not None
    assert planned == [published()["lite"].shape().n_layers]


def test_a_checkpoint_folder_is_no_model(home: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    with pytest.raises(InputError, match="is a folder"):
        find_model(str(folder))
    assert os.listdir(tmp_path) == ["in"]


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_lists_the_registry_with_sizes_from_the_recipes() -> None:
    from cli.inspect import readable
    from cli.models import FIM_WORDS
    from coderv2_local.model_list import available

    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = available(Preferences(), ["moe-4", "moe-8"])
    assert len(rows) == len(published())
    for row in rows:
        m = row.model
        sizes = [readable(n) for n in row.sizes.values()]
        cells = [f"`{m.name}`", m.purpose, FIM_WORDS[m.fim], *sizes, f"`{m.repo}`"]
        assert f"| {' | '.join(cells)} |" in page
    assert all(address in page for address in LICENCES.values())
    (tables,) = [v for k, v in TABLES.items() if k == "models"]
    example = page.split("```toml\n")[1].split("```")[0]
    assert {line.split(" = ")[0] for line in example.splitlines() if " = " in line} == set(tables)
