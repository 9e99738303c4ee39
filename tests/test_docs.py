"""What the documents say about commands and options is true of the program."""

import re

import click
import pytest
import typer
from conftest import ROOT

from cli.main import app

DOCUMENTS = [
    p
    for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*/README.md")]
    if p.name != "CHANGELOG.md"
]
COMMAND = re.compile(r"(?<![\w/.-])coder ((?:[a-z]+)\b[^`\n|#]*)")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-zA-Z])(?![\w-])")


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(app)
    return dict(group.commands)


def mentions():
    """Every `coder …` in code spans and code blocks of the documents."""
    for document in DOCUMENTS:
        text = document.read_text()
        spans = re.findall(r"```[a-z]*\n(.*?)```", text, re.S) + re.findall(r"`([^`\n]+)`", text)
        for span in spans:
            for match in COMMAND.finditer(span):
                yield document.name, match[1]


def test_commands_and_options_that_the_documents_name_exist():
    known = commands()
    found = list(mentions())
    assert len(found) > 5
    for document, line in found:
        name = line.split()[0]
        assert name in known, f"{document}: coder {line}"
        options = {o for p in known[name].params for o in [*p.opts, *p.secondary_opts]} | {"--help", "-h"}
        for option in OPTION.findall(re.sub(r'"[^"]*"', "", line)):
            assert option in options, f"{document}: coder {line}: {option}"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_in_the_readme_and_has_an_example(name):
    assert f"coder {name}" in (ROOT / "README.md").read_text()
    assert f"coder {name}" in (commands()[name].help or "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_chat_page_lists_every_command_and_setting():
    from cli.chat_commands import COMMANDS
    from coderv2_local.preferences import KEYS

    text = (ROOT / "docs" / "chat.md").read_text()
    listed = re.findall(r"^\| `/(\w+)[^`]*` \| ([^|]+) \|$", text, re.M)
    assert {name for name, _ in listed} == set(COMMANDS)
    for name, meaning in re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| ([^|]+) \|", text, re.M):
        assert KEYS[name].meaning == meaning.strip(), name
    assert {name for name, _ in re.findall(r"^\| `([a-z]+\.[a-z_]+)` (\|)", text, re.M)} == set(KEYS)


def test_the_help_of_convert_lists_every_recipe():
    from quant.recipes import RECIPES

    (recipe,) = (p for p in commands()["convert"].params if p.name == "recipe")
    assert recipe.help.split(". ")[0].split(", ") == list(RECIPES)
