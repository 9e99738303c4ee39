"""Comments by language: what they begin with, and how a path is written above a piece of another file."""

from pathlib import PurePath

MARKS = {
    "#": "py pyi pyx rb pl pm r sh bash zsh ksh fish yaml yml toml jl ex exs nim tcl cmake mk conf cfg properties awk "
    "tf ps1",
    "//": "c cc cpp cxx h hh hpp m mm java js jsx mjs cjs ts tsx mts cts go rs swift kt kts scala sc cs fs dart groovy "
    "gradle php proto zig v sv d jsonc json5 sol glsl hlsl wgsl cu cuh cl odin vala adoc",
    "--": "sql lua hs lhs elm ada adb ads vhd vhdl applescript purs idr agda",
    ";": "lisp lsp el clj cljs cljc edn scm ss rkt asm s ini",
    "%": "tex sty cls bib erl hrl pro matlab",
    "!": "f f90 f95 f03 f08 for",
    "'": "vb vbs bas",
    '"': "vim",
    "/* */": "css scss less",
    "<!-- -->": "html htm xml xhtml svg vue svelte md markdown",
    "..": "rst",
    "(* *)": "ml mli pas sml wl",
}
BY_ENDING = {ending: mark for mark, endings in MARKS.items() for ending in endings.split()}


def mark_of(name: str) -> str | None:
    """What a comment is written with in a file of that name: one mark, or two with a blank between; None where the
    language is not known.
    """
    return BY_ENDING.get(PurePath(name).suffix.lower().lstrip("."))


def path_comment(label: str) -> str:
    """A line with the path `label` in a comment of the file's own language; ``#`` where the language is not known."""
    opening, _, closing = (mark_of(label) or "#").partition(" ")
    return f"{opening} {' '.join(label.split())}{' ' + closing if closing else ''}\n"
