"""Python source files → filtered, deduplicated documents, one JSON object a line.

    python corpus.py WHEELS_DIR OUT_DIR

Reads the standard library of the running interpreter and every wheel in WHEELS_DIR whose metadata names a permissive
licence, and writes ``train.jsonl``, ``heldout.jsonl`` and ``sources.json`` (package, version, licence, bytes kept).
Files, not documents, are held out: every 50th by the hash of its path, so no function of a held-out file is trained on.

The source filters are those of DeepSeek-Coder (https://arxiv.org/abs/2401.14196, section 2.1).
"""

import argparse
import ast
import hashlib
import json
import re
import sysconfig
import textwrap
import warnings
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

MAX_FUNCTION_LINES = 36
MAX_SLICE_CHARS = 3000
MIN_CHARS = 60
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Public Domain|Unlicense|0BSD|HPND|ZPL)", re.I
)
RESTRICTED = re.compile(r"(GPL|General Public|Mozilla|MPL|CC-BY-SA|Proprietary|Commercial)", re.I)


def licence_of(metadata: str) -> str:
    """The licence a wheel's METADATA names, in one short line; "" when it names none."""
    fields = Parser().parsestr(metadata, headersonly=True)
    classified = [c.rsplit("::", 1)[-1].strip() for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
    stated = [
        fields.get("License-Expression", ""),
        *classified,
        (fields.get("License") or "").strip().split("\n")[0][:60],
    ]
    return next((s for s in stated if PERMISSIVE.search(s) or RESTRICTED.search(s)), "")


def passes_filters(text: str) -> bool:
    """The paper's rules: average line ≤ 100 characters, longest ≤ 1000, at least 25 % letters."""
    lines = text.splitlines()
    if not lines or max(map(len, lines)) > 1000 or sum(map(len, lines)) / len(lines) > 100:
        return False
    return sum(c.isalpha() for c in text) >= 0.25 * len(text)


def standard_library() -> Iterator[tuple[str, str]]:
    """(path, text) of every module of the running interpreter's library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not {"site-packages", "test", "tests", "idle_test", "lib2to3", "__phello__"} & set(inside.parts):
            yield f"stdlib/{inside}", path.read_text(encoding="utf-8", errors="replace")


def wheel_files(wheel: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of every Python file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            vendored = "_vendor" in name or "/vendor" in name or "locale" in name
            if name.endswith(".py") and not vendored and archive.getinfo(name).file_size < 500_000:
                yield name, archive.read(name).decode("utf-8", errors="replace")


def one_line_docstring(node: ast.AST) -> str | None:
    """The first sentence of a node's docstring, without markup; None when there is none fit to ask for."""
    doc = ast.get_docstring(node)
    if not doc:
        return None
    first = " ".join(doc.split("\n\n")[0].split())
    first = re.sub(r":\w+:`~?([^`]*)`", r"\1", first).replace("``", "`")
    first = re.split(r"(?<=[a-z)`])\. ", first)[0].rstrip(".")
    return first if 12 <= len(first) <= 140 and first.isascii() and first[0].isalpha() else None


def source_of(lines: list[str], node: ast.AST) -> str:
    """The dedented source text of a node, decorators included."""
    start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return textwrap.dedent("\n".join(lines[start - 1 : node.end_lineno])) + "\n"


def short_docstring(source: str, summary: str) -> str | None:
    """The function with its docstring cut down to ``summary``, so that an answer repeats what was asked."""
    tree = ast.parse(source)
    node = tree.body[0]
    doc = node.body[0]
    if len(node.body) < 2 or doc.lineno == node.lineno:
        return None
    lines = source.splitlines()
    indent = re.match(r"\s*", lines[doc.lineno - 1]).group()
    lines[doc.lineno - 1 : doc.end_lineno] = [f'{indent}"""{summary}."""']
    text = "\n".join(lines) + "\n"
    try:
        ast.parse(text)
    except SyntaxError:
        return None
    return text


def documents(text: str) -> Iterator[dict]:
    """The documents of one file: whole short functions and methods, small classes, slices, and chat pairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return
    lines = text.splitlines()
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for node in functions:
        if not 2 < node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES:
            continue
        try:
            source = source_of(lines, node)
            ast.parse(source)
        except SyntaxError:
            continue
        yield {"kind": "function", "text": source}
        summary = one_line_docstring(node)
        in_module = node in tree.body
        arguments = [a.arg for a in node.args.args]
        if summary and in_module and not node.name.startswith("_") and not node.decorator_list:
            short = short_docstring(source, summary)
            body = short and short.split('"""')[-1]
            used = short and all(re.search(rf"\b{a}\b", body) for a in arguments)
            if short and used and arguments and len(short) <= 900:
                yield {"kind": "pair", "name": node.name, "arguments": arguments, "summary": summary, "text": short}
    # slices of the file: neighbouring top-level statements, never cut inside one
    part: list[str] = []
    for node in tree.body:
        piece = source_of(lines, node)
        if part and sum(map(len, part)) + len(piece) > MAX_SLICE_CHARS:
            yield {"kind": "slice", "text": "\n".join(part)}
            part = []
        if len(piece) <= MAX_SLICE_CHARS:
            part.append(piece)
    if part:
        yield {"kind": "slice", "text": "\n".join(part)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    sources = []
    with open(args.out / "train.jsonl", "w") as train, open(args.out / "heldout.jsonl", "w") as heldout:

        def take(name: str, version: str, licence: str, files: Iterator[tuple[str, str]]) -> None:
            kept = 0
            for path, text in files:
                if not passes_filters(text):
                    continue
                is_held_out = int(hashlib.sha256(path.encode()).hexdigest(), 16) % 50 == 0
                for document in documents(text):
                    body = document["text"]
                    key = hashlib.sha256((document["kind"] + "".join(body.split())).encode()).digest()
                    if len(body) < MIN_CHARS or key in seen or not passes_filters(body):
                        continue
                    seen.add(key)
                    kept += len(body)
                    (heldout if is_held_out else train).write(json.dumps({**document, "path": path}) + "\n")
            sources.append({"package": name, "version": version, "licence": licence, "characters": kept})

        take("python-stdlib", sysconfig.get_python_version(), "PSF-2.0", standard_library())
        for wheel in sorted(args.wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
                licence = licence_of(archive.read(metadata).decode("utf-8", errors="replace"))
            if licence and not RESTRICTED.search(licence):
                take(*wheel.name.split("-")[:2], licence, wheel_files(wheel))
    (args.out / "sources.json").write_text(json.dumps(sources, indent=1) + "\n")
    print(sum(s["characters"] for s in sources), "characters from", len(sources), "sources")


if __name__ == "__main__":
    main()
