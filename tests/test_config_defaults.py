"""`coder config` says what holds where nothing is set."""

from pathlib import Path

import pytest
from test_models import home
from typer.testing import CliRunner

from cli.chat_wishes import Wishes
from cli.config import defaults
from cli.main import app
from cli.serve import PORT
from coderv2_local.models import find_model
from coderv2_local.preferences import KEYS, Preferences

__all__ = ["home"]


def config(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["config", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def test_an_unset_key_is_told_with_its_default_and_not_on_stdout(home: Path) -> None:
    assert config("serve.port") == ("", f"serve.port is not set: {PORT}\n")
    config("serve.port", "9000")
    assert config("serve.port") == ("9000\n", "")


def test_the_list_shows_every_default_but_of_what_is_set(home: Path) -> None:
    assert defaults().keys() == KEYS.keys()
    assert f"({PORT})" in config()[0]
    config("serve.port", "9000")
    shown = config()[0]
    assert f"({PORT})" not in shown
    assert "9000" in shown


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "temperature", "repeat_penalty"])
def test_what_is_said_is_what_holds(home: Path, name: str) -> None:
    used = Wishes(Preferences()).sampling(find_model("tiny"))
    assert f"{getattr(used, name):g}" in defaults()[f"chat.{name}"]
