"""`--help`: whole sentences, the options that are there, and no bracket twice."""

import click
import pytest
import typer
from typer.testing import CliRunner

from cli.main import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def option(command: str, name: str) -> click.Parameter:
    return next(p for p in COMMANDS[command].params if name in p.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_ends_within_a_paragraph(name: str) -> None:
    """Typer keeps line ends: what is broken for the source is broken again for the terminal."""
    assert [p for p in (COMMANDS[name].help or "").strip().split("\n\n") if "\n" in p] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_what_may_be_left_out_has_one_pair_of_brackets(name: str) -> None:
    assert "[[" not in COMMANDS[name].get_usage(click.Context(COMMANDS[name]))


def test_the_seed_of_eval_chooses_holes_and_has_an_end() -> None:
    assert "holes" in option("eval", "--seed").help
    refused = CliRunner().invoke(app, ["eval", "fim", "x", "--seed", "5000000000"])
    assert refused.exit_code == 2
    assert "4294967295" in refused.stderr


def test_serve_offers_no_server() -> None:
    assert "http" not in option("serve", "--model").help
