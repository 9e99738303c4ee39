"""The languages known to the model: fence names, file endings, and the Pygments lexer where one exists."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

TABLE = Path(__file__).parent / "data" / "languages.tsv"


@dataclass(frozen=True)
class Language:
    """A row of ``data/languages.tsv``.

    Attributes:
        name: the name in the official list of 338 languages, or the common one.
        fence: what to write after ```` ``` ````.
        lexer: alias of a Pygments lexer; None where Pygments has none that fits.
        other_names: what else stands after ```` ``` ```` in the wild, in lower case.
        files: endings (``.rs``) and whole file names (``Makefile``).
        is_official: is it one of the 338 that the model was trained on?
    """

    name: str
    fence: str
    lexer: str | None
    other_names: tuple[str, ...]
    files: tuple[str, ...]
    is_official: bool


@cache
def languages() -> tuple[Language, ...]:
    """All rows: the 338 in the order of the official list, then others that are common in answers."""
    out: list[Language] = []
    comments = 0
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comments += 1
            continue
        name, fence, lexer, others, files = (line.split("\t") + [""] * 4)[:5]
        out.append(
            Language(name, fence, lexer or None, tuple(others.split()), tuple(files.split()), is_official=comments == 1)
        )
    return tuple(out)


def find_language(info: str) -> Language | None:
    """The language of a code block's info string: ``py``, ``C++``, ``visual basic``, ``{.rust}``, ``ts:src/app.ts``.

    None where the string is empty or names nothing known.
    """
    words = info.strip().lower().lstrip("{.").rstrip("}").split()
    if not words:
        return None
    first = words[0].split(",")[0]
    for spelling in ("-".join(words), first, first.split(":")[0], first.split("{")[0], first.split("+")[0]):
        if spelling in _by_name():
            return _by_name()[spelling]
    return None


def language_of_file(path: str | PurePath) -> Language | None:
    """The language of a file by its name or its longest known ending; None where that says nothing."""
    name = PurePath(path).name
    endings = [name[i:] for i, c in enumerate(name) if c == "."]
    for spelling in (name, *endings, *(ending.lower() for ending in endings)):
        if spelling in _by_file():
            return _by_file()[spelling]
    return None


def fence_name(path: str | PurePath) -> str:
    """What to write after ```` ``` ```` above the text of a file; "" where its name says nothing."""
    language = language_of_file(path)
    return language.fence if language else ""


@cache
def _by_name() -> dict[str, Language]:
    """Every spelling, in lower case. Fence names win over names, names over other spellings."""
    out: dict[str, Language] = {}
    for language in languages():
        out.setdefault(language.fence, language)
    for language in languages():
        out.setdefault(language.name.lower(), language)
        out.setdefault(language.name.lower().replace(" ", "-"), language)
    for language in languages():
        for name in language.other_names:
            out.setdefault(name, language)
    return out


@cache
def _by_file() -> dict[str, Language]:
    return {file: language for language in languages() for file in language.files}
