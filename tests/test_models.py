"""What is on this machine: entries and what can be wrong with them, names, and which model is the default."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Coder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coderv2_local import installed
from coderv2_local.default_model import default_model
from coderv2_local.installed import Damaged, Installed
from coderv2_local.leftovers import leftovers
from coderv2_local.models import find_model, known_models
from coderv2_local.preferences import Preferences
from coderv2_local.registry import CHAT_ORDER, LICENCES
from coderv2_local.registry import known_models as published
from quant.errors import CoderError, InputError
from quant.recipes import RECIPES

TINY = find_model("tiny").path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(name: str, recipe: str = "moe-4", roles: tuple[str, ...] = ("chat",), added: float = 1000.0) -> Installed:
    """An installed model, whose file is `tiny`'s."""
    entry = Installed(name, recipe, (f"{name}-{recipe}.gguf",), TINY.stat().st_size, 2048, roles, "a test", added)
    installed.write(entry)
    shutil.copy(TINY, entry.path)
    return entry


# --- the registry --------------------------------------------------------------------------------------------------


def test_the_registry_holds_together() -> None:
    models = published()
    assert set(models) == {"lite", "lite-base", "236b", "236b-base", "236b-0724"} == set(CHAT_ORDER)
    for model in models.values():
        assert model.licence in LICENCES
        assert model.repo.startswith("deepseek-ai/DeepSeek-Coder-V2-")
        assert ("fim" in model.roles) == (model.fim == "yes")
        for ready in model.ggufs:
            assert ready.recipe in RECIPES
            assert ready.file.lower().endswith(f"{ready.recipe}.gguf")
            assert model.repo.split("/")[1] in ready.repo
    assert models["lite-base"].fim == "yes"
    assert models["236b"].fim == models["236b-base"].fim == "no"


# --- entries -------------------------------------------------------------------------------------------------------


def test_an_entry_comes_back_as_it_was(home: Path) -> None:
    entry = put("lite", added=time.time() - 100)
    assert installed.installed() == [entry]
    assert installed.installed()[0].used == 0
    assert installed.find("lite") == installed.find("lite:moe-4") == entry
    assert installed.find("lite:moe-8") is None
    installed.note_use(entry.path)
    assert abs(installed.installed()[0].used - time.time()) < 60
    installed.note_use(TINY)  # has no entry: nothing happens


def test_the_newest_of_a_name_is_meant_unless_its_file_is_gone(home: Path) -> None:
    old, new = put("lite", "moe-4", added=1000), put("lite", "moe-8", added=2000)
    assert installed.find("lite") == new
    new.path.unlink()
    assert installed.find("lite") == old
    assert find_model("lite").path == old.path
    assert find_model("lite:moe-4").path == old.path
    with pytest.raises(InputError, match="is gone") as raised:
        find_model("lite:moe-8")
    assert raised.value.hint == "`coder pull lite` gets it again"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"version": 2}',
        b'{"version": 1, "name": "x"}',
        b" " * 200_000,
    ],
)
def test_a_damaged_entry_harms_no_other(home: Path, coder: Coder, content: bytes) -> None:
    put("lite")
    (home / "models" / "other-moe-4.json").write_bytes(content)
    (damaged,) = (e for e in installed.entries() if isinstance(e, Damaged))
    assert damaged.path.name == "other-moe-4.json"
    assert find_model("lite").name == "lite"
    if content in (b"{", b"[" * 50_000):
        listed = coder("models")
        assert listed.returncode == 0, listed.stderr
        assert "other-moe-4" in listed.stdout
        assert coder("rm", "other", "--yes").returncode == 0
        assert len(installed.entries()) == 1


def change(home: Path, **fields: Any) -> Installed | Damaged:
    """The entry of lite, with some of its fields changed by hand."""
    path = home / "models" / "lite-moe-4.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    (entry,) = installed.entries()
    return entry


@pytest.mark.parametrize(
    "fields",
    [
        {"files": ["../../precious.gguf"]},
        {"files": [".."]},
        {"files": ["a/b.gguf"]},
        {"files": ["/precious\0.gguf"]},
        {"files": []},
        {"files": "x.gguf"},
        {"files": [7]},
        {"files": ["lite-moe-4.json"]},
        {"name": "other"},
        {"name": "../lite"},
        {"recipe": ""},
        {"roles": None},
        {"size": -1},
        {"size": "1"},
        {"size": True},
        {"added": 1e400},
        {"context": None},
        {"version": "1"},
    ],
    ids=str,
)
def test_an_entry_that_was_tampered_with_is_damaged(home: Path, fields: dict[str, Any]) -> None:
    put("lite")
    assert isinstance(change(home, **fields), Damaged)
    assert find_model(None).name == "tiny"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(["version", "name", "recipe", "files", "size", "context", "roles", "added"]), value=JSON)
def test_no_entry_crashes_or_reaches_outside(home: Path, field: str, value: Any) -> None:
    if not (home / "models").exists():
        put("lite")
    original = (home / "models" / "lite-moe-4.json").read_text()
    entry = change(home, **{field: value})
    if isinstance(entry, Installed) and entry.owned:
        assert all(p.parent == home / "models" for p in entry.paths)
    (home / "models" / "lite-moe-4.json").write_text(original)


def test_without_a_home_nothing_is_installed(home: Path) -> None:
    assert installed.entries() == []
    assert leftovers("lite") == []
    assert find_model(None).name == "tiny"
    home.write_text("a file")
    assert installed.entries() == []
    with pytest.raises(CoderError):
        put("lite")


# --- names and defaults --------------------------------------------------------------------------------------------


def test_a_published_model_that_is_not_here_says_how_to_get_it(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").mkdir()  # a folder of that name changes nothing
    for name, command in (("lite", "lite"), ("lite:moe-8", "lite -q moe-8"), ("lite:no-such", "lite")):
        with pytest.raises(InputError, match="not on this machine yet") as raised:
            find_model(name)
        assert raised.value.hint == f"`coder pull {command}` gets it"
    with pytest.raises(InputError) as raised:
        find_model("lite-bass")
    assert raised.value.hint == "did you mean lite-base?"


@pytest.mark.parametrize("role", ["chat", "fim", "serve"])
def test_a_setting_that_names_no_model_is_named(home: Path, role: str) -> None:
    with pytest.raises(InputError) as raised:
        find_model(None, Preferences({f"{role}.model": "lite-bass"}), role=role)
    assert raised.value.message == f"{role}.model: there is no model named 'lite-bass'"
    assert raised.value.hint.startswith(f"did you mean lite-base?; `coder config {role}.model NAME` sets another model")
    with pytest.raises(InputError, match="name is empty"):
        find_model("", Preferences({f"{role}.model": "tiny"}), role=role)


def test_names_that_can_be_given(home: Path) -> None:
    put("lite", "moe-4")
    put("mine")
    assert known_models(Preferences()) == ["lite", "mine", "tiny"]
    put("lite", "moe-8")
    assert known_models(Preferences()) == ["lite", "lite:moe-4", "lite:moe-8", "mine", "tiny"]


@pytest.mark.parametrize(
    ("role", "here", "best"),
    [
        ("chat", [], None),
        ("chat", ["lite-base"], None),
        ("chat", ["lite", "lite-base"], "lite"),
        ("chat", ["mine", "lite"], "lite"),
        ("chat", ["mine"], "mine"),
        ("chat", ["lite", "236b", "236b-0724"], "236b-0724"),
        ("serve", [], None),
        ("serve", ["lite", "lite-base"], "lite"),
        ("serve", ["lite-base"], "lite-base"),
        ("fim", ["lite"], "lite"),
        ("fim", ["lite", "lite-base"], "lite-base"),
        ("fim", ["236b"], None),
        ("fim", ["236b-0724", "lite"], "lite"),
        ("fim", ["236b-0724"], "236b-0724"),
        ("fim", ["lite", "my-fim"], "my-fim"),
    ],
)
def test_the_default_for_a_role(home: Path, role: str, here: list[str], best: str | None) -> None:
    entries = []
    for name in here:
        known = published().get(name)
        entries.append(put(name, roles=known.roles if known else ("chat", "fim") if "fim" in name else ("chat",)))
    chosen = default_model(role, entries)
    assert (chosen.name if chosen else None) == best
    assert find_model(None, Preferences(), role=role).name == (best or "tiny")
    assert find_model(None, Preferences({f"{role}.model": "tiny"}), role=role).name == "tiny"
    for entry in entries:
        entry.path.unlink()
    assert find_model(None, Preferences(), role=role).name == "tiny"
