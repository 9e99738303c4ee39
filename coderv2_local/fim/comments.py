"""Line comments by language: how a path is written above a piece of another file."""

from pathlib import PurePath

MARKS = {
    "//": "c cc cpp cxx h hh hpp m mm java js jsx mjs cjs ts tsx mts cts go rs swift kt kts scala sc cs fs dart groovy "
    "gradle php proto zig v sv d jsonc json5 sol glsl hlsl wgsl cu cuh cl odin vala",
    "--": "sql lua hs lhs elm ada adb ads vhd vhdl applescript purs idr agda",
    ";": "lisp lsp cl el clj cljs cljc edn scm ss rkt asm s ini",
    "%": "tex sty cls bib erl hrl pl.in pro matlab",
    "!": "f f90 f95 f03 f08 for",
    "'": "vb vbs bas",
    '"': "vim",
    "/* */": "css scss less",
    "<!-- -->": "html htm xml xhtml svg vue svelte md markdown rst",
    "(* *)": "ml mli pas sml wl",
}
BY_ENDING = {ending: mark for mark, endings in MARKS.items() for ending in endings.split()}


def path_comment(label: str) -> str:
    """A line with the path `label` in a comment of the file's own language; ``#`` where the language is not known."""
    opening, _, closing = BY_ENDING.get(PurePath(label).suffix.lower().lstrip("."), "#").partition(" ")
    return f"{opening} {' '.join(label.split())}{' ' + closing if closing else ''}\n"
