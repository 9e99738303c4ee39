"""Fence names, file endings and lexers of the 338 languages."""

from collections import Counter
from pathlib import Path

import pytest

from coderv2_local.languages import fence_name, find_language, languages

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "supported_langs.txt"


def test_the_table_holds_the_official_list():
    if not OFFICIAL.exists():
        pytest.skip("the official list is not on this machine")
    names = [language.name for language in languages() if language.is_official]
    assert names == OFFICIAL.read_text().split("\n")[: len(names)]
    assert len(names) == 338


def test_no_spelling_and_no_ending_stands_for_two_languages():
    spellings = Counter(s for language in languages() for s in {language.fence, *language.other_names})
    files = Counter(file for language in languages() for file in language.files)
    assert [s for s, n in (spellings + files).items() if n > 1 and (spellings[s] > 1 or files[s] > 1)] == []


def test_every_spelling_can_be_found():
    for language in languages():
        for spelling in (language.name, language.fence, *language.other_names):
            assert spelling == spelling.strip()
        for spelling in (language.fence, *language.other_names):
            assert spelling == spelling.lower()
            assert find_language(spelling) is language, spelling


def test_every_fence_name_is_one_word_and_every_lexer_exists():
    from pygments.lexers import find_lexer_class_by_name

    for language in languages():
        assert language.fence, language
        assert not set(language.fence) & set(" `~{}"), language
        if language.lexer:
            find_lexer_class_by_name(language.lexer)
    assert sum(language.lexer is not None for language in languages() if language.is_official) > 280


@pytest.mark.parametrize(
    ("info", "lexer"),
    [
        ("py", "python"), ("python3", "python"), ("Python", "python"), ("C++", "cpp"), ("cpp", "cpp"), ("c#", "csharp"),
        ("objective-c", "objective-c"), ("Objective-C", "objective-c"), ("visual-basic", "vb.net"),
        ("jsx", "javascript"),
        ("Visual Basic", "vb.net"), ("tsx", "typescript"), ("sh", "bash"), ("golang", "go"), ("F#", "fsharp"),
        ("rust,ignore", "rust"), ("ts:src/app.ts", "typescript"), ("{.rust}", "rust"),
        ('python title="a.py"', "python"),
        ("python{1,3}", "python"), ("html+django", "html"), ("dockerfile", "docker"), ("Common Lisp", "common-lisp"),
    ],
)  # fmt: skip
def test_info_strings_find_their_lexer(info, lexer):
    language = find_language(info)
    assert language is not None
    assert language.lexer == lexer


@pytest.mark.parametrize("info", ["", " ", "no-such-language", "{", "```", "\u202e", "x" * 10_000, "+", ":", "{}"])
def test_unknown_info_strings_are_no_language(info):
    assert find_language(info) is None


@pytest.mark.parametrize(
    ("path", "fence"),
    [
        ("src/x.rs", "rust"), ("a.py", "python"), ("A.PY", "python"), ("Makefile", "makefile"),
        ("src/Dockerfile", "dockerfile"),
        ("x.tar.gz", ""), ("x", ""), ("a.d.ts", "typescript"), ("CMakeLists.txt", "cmake"), ("notes.txt", "text"),
        ("x.S", "gas"), ("x.jsx", "jsx"), ("x.yml", "yaml"), ("x.hpp", "cpp"), ("x.h", "c"),
        (".gitignore", "gitignore"),
        ("x.ipynb", "ipynb"), ("App.vue", "vue"), ("x.m", "objectivec"), (".bashrc", "bash"), ("", ""), (".", ""),
    ],
)  # fmt: skip
def test_files_find_their_fence_name(path, fence):
    assert fence_name(path) == fence
    assert fence_name(Path("some") / "folder" / path) == fence
