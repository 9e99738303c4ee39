"""Import lines → files: whatever is typed in them, in every language."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.fim.imports import FAMILIES, imported_files

ENDINGS = sorted({ending for family in FAMILIES for ending in family.files})
WORDS = (
    "import",
    "from",
    "require",
    "require_relative",
    "include",
    "#include",
    "source",
    "mod",
    "pub",
    "static",
    "a",
    "b",
)
PIECES = (*WORDS, "..", *"./~,;()'\"\\#*é \t\n\r\0\ud800")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Files a and b, in every language, beside each other."""
    root = tmp_path_factory.mktemp("project")
    for ending in ENDINGS:
        for name in "ab":
            (root / f"{name}{ending}").write_text("x\n")
    return root


def found(project, ending, text):
    return [path.name for path in imported_files(project / f"own{ending}", text, project)]


@given(st.sampled_from(ENDINGS), st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text())
def test_any_text_is_read_without_an_error(project, ending, text):
    for path in imported_files(project / f"own{ending}", text, project):
        assert path.is_file()


@pytest.mark.parametrize(
    "line", ["import{}", "from{}import{}", "mod{};", '#include "{}"', "require '{}'", "import '.{}'"]
)
@given(st.text(" \t,.(#ab\n", max_size=4))
def test_any_half_typed_line_is_read_without_an_error(project, line, gap):
    for ending in (".py", ".java", ".rs", ".js", ".c", ".rb"):
        found(project, ending, line.replace("{}", gap) + "\nx = 1\n")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import\t\t# x", []),
        ("import a,\t", ["a.py"]),
        ("import a, ,\t,b", ["a.py", "b.py"]),
        ("import a as x, b as y", ["a.py", "b.py"]),
        ("from . import a,\t", ["a.py"]),
        ("from . import \t, b", ["b.py"]),
        ("from .a import x as y", ["a.py"]),
    ],
)
def test_import_lines_of_python_that_are_being_typed(project, line, names):
    assert found(project, ".py", line + "\n") == names


def test_a_path_can_be_too_long_for_the_system(project):
    assert found(project, ".py", f"from {'.' * 20_000} import a\nimport {'b' * 5000}\nimport b\n") == ["b.py"]


def test_an_own_file_in_a_folder_that_does_not_exist(tmp_path):
    assert list(imported_files(tmp_path / "no" / "own.py", "import a\n", Path(tmp_path))) == []
