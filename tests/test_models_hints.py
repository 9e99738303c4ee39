"""What `coder models` and its neighbours say is true, and what they advise works."""

import json
import shutil
from pathlib import Path

import pytest
from test_models import TINY, home, put
from typer.testing import CliRunner

from cli.main import app
from cli.models import enter
from coderv2_local import installed
from coderv2_local.models import find_model
from coderv2_local.preferences import Preferences
from quant.errors import InputError

__all__ = ["home"]


def models(*options: str) -> str:
    done = CliRunner().invoke(app, ["models", *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def write_settings(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def test_a_lost_file_of_the_settings_is_forgotten_there_and_not_by_rm(home: Path, tmp_path: Path) -> None:
    write_settings(home, f'[models.shared]\npath = "{tmp_path}/gone.gguf"\n[servers.office]\nmodel = "x"\n')
    put("lite").path.unlink()
    shown = models()
    assert f"gone.gguf is gone; mend or remove models.shared in {home}/config.toml" in shown
    assert "coder rm shared" not in shown
    assert "coder rm office" not in shown
    assert "lite-moe-4.gguf is gone; `coder rm lite` forgets it" in shown


def test_what_the_settings_name_is_there_to_get(home: Path) -> None:
    write_settings(
        home,
        '[models.ours]\nrepo = "acme/ours-GGUF"\nfile = "ours-Q4_K_M.gguf"\npurpose = "our code"\nfim = true\n'
        '[models.tuned]\nrepo = "acme/tuned"\n[models.odd]\npurpose = "no place"\n[models.lite]\nrepo = "acme/lite"\n',
    )
    rows = {m["name"]: m for m in json.loads(models("--json"))["available"]}
    assert rows["ours"]["ready_files"] == [
        {"repo": "acme/ours-GGUF", "file": "ours-Q4_K_M.gguf", "recipe": "q4_k_m", "remark": ""}
    ]
    assert (rows["ours"]["fim"], rows["tuned"]["fim"], rows["lite"]["repo"]) == ("yes", None, "acme/lite")
    assert set(rows["ours"]) >= set(rows["236b"])
    shown = models()
    assert "our code: acme/ours-GGUF/ours-Q4_K_M.gguf" in shown
    assert "acme/tuned" in shown
    assert f"odd has no repo, by your settings: there is nothing to get; mend models.odd in {home}/config" in shown
    put("ours", "q4_k_m")
    assert "ours" not in [m["name"] for m in json.loads(models("--json"))["available"]]


def rm(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["rm", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stderr


def test_rm_asks_and_answers_in_sentences_that_are_true(home: Path, tmp_path: Path) -> None:
    entry = put("mine")
    mine = Path(shutil.copy(entry.path, tmp_path / "mine.gguf"))
    installed.remove(entry)
    enter(mine, "mine")
    with pytest.raises(InputError) as caught:
        rm("mine")
    assert caught.value.message == f"there is nobody to ask: forget mine, and leave {mine} where it is?"
    with pytest.raises(InputError) as caught:
        rm("zzz", "--yes")
    assert caught.value.hint == "there is only mine"
    mine.unlink()
    with pytest.raises(InputError) as caught:
        rm("mine")
    assert caught.value.message == f"there is nobody to ask: forget mine, of which {mine} is gone?"
    assert rm("mine", "--yes") == f"mine is forgotten; {mine} was gone already.\n"
    shutil.copy(TINY, mine)
    enter(mine, "mine")
    assert rm("mine", "--yes") == f"mine is forgotten; {mine} stays.\n"


def test_a_missing_file_is_answered_without_an_option_that_some_commands_lack(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        find_model(str(tmp_path / "none.gguf"), Preferences())
    assert "-m" not in caught.value.hint
    assert "tiny" in caught.value.hint
