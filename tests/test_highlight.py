"""Code coloured line by line looks as if it had been coloured as a whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name

from cli.highlight import MAX_HELD_CHARACTERS, MAX_HELD_LINES, CodeLines, style_of
from cli.wrapping import split_lines
from coderv2_local.languages import languages

SAMPLES = {
    "python": 'class A:\n    """Doc\n    it\'s "here".\n    """\n    x = f"{1!r}" # c\'\ny = \'\'\'a\n'
    "b'''\n@d\ndef f(): ...\n",
    "c": '/* a\n * b "x\n */\nint main(void) { char *s = "x\\\n y"; size_t n; } // it\'s\n'
    "#define X \\\n 1\nstruct a { int b; };\n",
    "cpp": 'std::cout << x\n  << y;\n/* a */ int f(); /* b\n c */ int g();\nauto s = R"(a\n"b")";\n',
    "bash": "cat <<EOF\nhello $x\nEOF\necho \"a\nb\"\nfor i in 1 2; do echo 'x\n y'; done\n# it's\necho $(ls)\n",
    "html": "<html><!-- a\nb --><script>\nlet x = `a\n${b}`; /* c\n d */\n</script><style>\n"
    "a { color: red; }\n</style></html>\n",
    "javascript": "let x = `a\n${b}`; /* c\n d */ function f(a) { return a/2/3; }\nclass A { }\nf(/'/)\n",
    "yaml": 'a: |\n  x: y\n  z\nb:\n  - c: "d\n    e"\n',
    "sql": "select 'a\nb' from t; /* x\n y */ -- it's\nselect 1;\n",
    "json": '{"a": [1, 2],\n "b": "c"}\n',
    "delphi": "{ a\n b }\nprogram x;\nbegin end.\n",
    "common-lisp": '(defun a (x)\n "doc\n string"\n (car x)) #| c\n d |#\n',
    "haskell": '{- a\n b -}\nmain = putStrLn "x"\n',
    "rust": "fn f<'a>(x: &'a str) -> i32 { /* a\n /* b */ c */ 1 }\nlet s = \"a\nb\";\n",
    "sml": "(* a\n b *)\nval x = 1\nfun f x = x\n",
    "racket": "(define (f x) 12.5)\n#| a\n b|#\n",
    "go": "package main\nvar x = `a\nb`\n/* c\n*/\nfunc main() {}\n",
    "lua": "--[[ a\n b ]]\nlocal x = [[ a\n b]]\nfunction f() end\n",
    "markdown": "# a\n```python\nx = 1\n```\nb\n",
    "ruby": "x = <<~EOS\n a\n b\nEOS\nlist << item\n=begin\nfoo\n=end\ndef f; end\n",
    "php": '<?php\n/* a\n b */\nfunction f($x) { return "a\nb"; }\n',
    "perl": 'my $x = <<EOF;\n a\nEOF\nprint "a\nb";\n',
    "java": "/** a\n * b */\npublic class A { int x = 1; }\n",
    "diff": "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z\n",
    "css": "a { color: red; /* x\n y */ }\n@media x { b { c: d } }\n",
    "basemake": "all: x\n\techo $(X)\nX = 1\n",
    "toml": '[a]\nb = """\nc\n"""\n',
    "docker": 'FROM x\nRUN a && b\nCMD ["c"]\n',
}


def merged(line):
    """A line's runs, neighbours of one style joined."""
    out = []
    for text, style in line:
        if text and out and out[-1][1] == style:
            out[-1] = (out[-1][0] + text, style)
        elif text:
            out.append((text, style))
    return out


def at_once(lexer, code):
    tokens = get_lexer_by_name(lexer).get_tokens_unprocessed(code)
    return [merged(line) for line in split_lines([(text, style_of(kind)) for _, kind, text in tokens])][:-1]


def line_by_line(info, code):
    lines, out = CodeLines(info), []
    for line in code.removesuffix("\n").split("\n"):
        out += lines.add(line)
    return [merged(line) for line in out + lines.finish()]


def plain(lines):
    return ["".join(text for text, _ in line) for line in lines]


@pytest.mark.parametrize("lexer", SAMPLES)
def test_line_by_line_is_as_at_once(lexer):
    assert line_by_line(lexer, SAMPLES[lexer]) == at_once(lexer, SAMPLES[lexer])


@pytest.mark.parametrize("lexer", SAMPLES)
def test_trying_what_the_next_line_would_be_changes_nothing(lexer):
    lines, out = CodeLines(lexer), []
    for line in SAMPLES[lexer].removesuffix("\n").split("\n"):
        for end in range(0, len(line), 3):
            lines.copy().add(line[:end])
            lines.copy().finish()
        out += lines.add(line)
    assert [merged(line) for line in out + lines.finish()] == at_once(lexer, SAMPLES[lexer])


def test_lines_come_out_as_soon_as_they_are_certain():
    lines = CodeLines("python")
    assert [len(lines.add(line)) for line in ("x = 1", 'y = """', "z", '"""', "w = 2")] == [1, 1, 1, 1, 1]
    lines = CodeLines("c")
    assert [len(lines.add(line)) for line in ("int x;", "/* a", " b", " c */", "int y;")] == [1, 0, 0, 3, 1]


def test_an_opener_that_nothing_closes_holds_back_a_bounded_text():
    lines = CodeLines("c")
    came = sum(len(lines.add(line)) for line in ["/*", *["x"] * (3 * MAX_HELD_LINES)])
    assert came >= 2 * MAX_HELD_LINES
    lines = CodeLines("c")
    assert sum(len(lines.add("/*" + "x" * 900)) for _ in range(30)) * 900 > 27_000 - 2 * MAX_HELD_CHARACTERS


def test_php_is_coloured_without_its_opening_tag():
    assert line_by_line("php", "function f($x) {}\n") == at_once("php", "<?php\nfunction f($x) {}\n")[1:]


ALPHABET = st.sampled_from(
    ["/*", "*/", '"', "'", "`", '"""', "<<A", "A", "{", "}", "<script>", "</script>", "x", " ", "\n", "#", "--"]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([x.fence for x in languages()]), st.lists(ALPHABET, max_size=40).map("".join))
def test_no_language_loses_a_character(fence, code):
    assert plain(line_by_line(fence, code)) == code.removesuffix("\n").split("\n")


@pytest.mark.parametrize("language", [x for x in languages() if x.lexer], ids=lambda x: x.fence)
def test_every_lexer_runs_line_by_line(language):
    code = 'int f(x) { return "a" + 1; } // b\nif x then y = 12.5 end\n(define z #t)\n<a href="b">c</a>\n'
    assert plain(line_by_line(language.fence, code)) == code.splitlines()
