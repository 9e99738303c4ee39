"""The line of the settings file that an error names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local import preferences
from coderv2_local.toml_line import line_of
from quant.errors import InputError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODER_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["[chat]", "context = 1", "[fim]", 'context = "x"'], 4, "fim.context"),
        (["[fim]", "context = 'x'", "[chat]", "context = 1"], 2, "fim.context"),
        (["[chat]", "model = 'a'", "", "[serve] # serve", "  model = 5"], 5, "serve.model"),
        (["[chat]", "contxt = 5", "[fim]", "context = 5"], 2, "chat.contxt"),
        (["chat.context = 5", "fim.context = 'x'"], 2, "fim.context"),
        (["chat = {context = 5}", "fim = {context = 'x'}"], 2, "fim.context"),
        (["[chat]", "context = 5", '["fim"]', '"context" = false'], 4, "fim.context"),
        (["[servers.a]", "url = 'http://a'", "[servers.b]", "url = 5"], 4, "servers.b.url"),
        (["[servers]", "a.url = 'http://a'", "b.url = 5"], 3, "servers.b.url"),
        (["[servers]", "a = {url = 'http://a'}", "b = {url = 5}"], 3, "servers.b.url"),
        (["[servers.a]", "url = 'http://a'", "[ servers . 'b.c' ]", "url = 5"], 4, "servers.b.c.url"),
        (["[servers]", "url = 'http://a'"], 2, "servers.url must be a table"),
        (["[chat]", 'system = """', "[fim]", "context = 5", '"""', "[fim]", "context = 'x'"], 7, "fim.context"),
        (["[chat]", "system = '''", "context = 5", "'''", "context = 'x'"], 5, "chat.context"),
        (["[chat]", "context = 5", "[[fim]]", "context = 5"], 3, "fim"),
        (["model = 'x'", "[chat]", "model = 'x'"], 1, "model stands outside a table"),
        (["# [fim]", "# context = 1", "[chat]", "model = 'fim'", "[fim]", "context = 'x'"], 6, "fim.context"),
        (["[load]", "kv_type = 'f16'", "[chat]", "[chat.context]", "x = 1"], 4, "chat.context"),
    ],
)
def test_an_error_names_the_line_of_its_own_table(home: Path, lines: list[str], line: int, words: str) -> None:
    (home / "config.toml").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"config\.toml, line {line}: ") as caught:
        preferences.read()
    assert words in caught.value.message


@given(st.permutations(["chat", "fim", "serve", "load"]), st.sampled_from(["chat", "fim"]), st.integers(0, 3))
def test_the_line_is_right_whatever_the_order(tables: list[str], wrong: str, gap: int) -> None:
    keys = {"chat": "context", "fim": "context", "serve": "port", "load": "threads"}
    values = {wrong: "'x'"}
    text = "".join(f"[{t}]\n" + "\n" * gap + f"{keys[t]} = {values.get(t, 5)}\n" for t in tables)
    right = (gap + 2) * (tables.index(wrong) + 1)
    assert line_of(text, (wrong, "context")) == right


@pytest.mark.parametrize("key", ["chat.model", "fim.model", "serve.model"])
def test_an_empty_name_is_refused_and_how_to_take_the_setting_away_is_said(home: Path, key: str) -> None:
    with pytest.raises(InputError) as caught:
        preferences.change(key, "")
    assert (caught.value.message, caught.value.hint) == (
        f"{key} is empty",
        f"`coder config {key} --unset` takes the setting away",
    )
    assert not list(home.iterdir())
    group, name = key.split(".")
    (home / "config.toml").write_text(f"[{group}]\n{name} = ''\n")
    with pytest.raises(InputError, match=f"line 2: {key} is empty"):
        preferences.read()


def test_an_empty_system_prompt_is_one(home: Path) -> None:
    assert preferences.change("chat.system", "") == ""
    assert preferences.read().get("chat.system", None) == ""
