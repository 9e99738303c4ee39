"""How an answer names the file that a code block is: in the fence's info, on the line before, in a first comment.

A name that could just as well be a heading or a language is no file name. A dangerous one (`../x`, `/etc/x`) is, so
that it is refused where the user sees it.
"""

import re

LONGEST = 300  # characters of a line that can be a label
PATH_CHARACTERS = r"[^\s`*\"'<>|:;,!?&={}#]+"
PATH = re.compile(rf"(?:[A-Za-z]:[\\/])?{PATH_CHARACTERS}")
SPACED_NAME = re.compile(rf"{PATH_CHARACTERS}(?: {PATH_CHARACTERS})+\.[A-Za-z]\w{{0,8}}")
EXTENSION = re.compile(r"[^./\\]\.[A-Za-z][A-Za-z0-9_+-]{0,11}$|(?:^|[/\\])\.[A-Za-z][\w.-]*$")
ROOTED = re.compile(r"/|~|\.[.\w-]*[/\\]|[A-Za-z]:[\\/]|\\\\")
BARE_NAME = re.compile(
    r"(?:GNUm|[Mm])akefile|[Jj]ustfile|(?:Docker|Container|Gem|Rake|Proc|Vagrant|Jenkins|Brew)file|CODEOWNERS|LICENSE|README"
)
NOT_A_FILE = re.compile(
    r"(?:node|vue|next|nuxt|nest|react|express|three|d3|chart|discord|alpine|ember|backbone|moment)\.js"
    r"|(?:asp|vb|ado)\.net|socket\.io",
    re.IGNORECASE,
)
ATTRIBUTE = re.compile(
    r"""(?:^|[\s{,])(?:title|file|filename|file_name|path|filepath|name)\s*[=:]\s*(?:"([^"]+)"|'([^']+)'|([^\s"'},]+))""",
    re.IGNORECASE,
)
BULLET = re.compile(r"^(?:#{1,6}\s+|[-*+]\s+|\(?\d{1,3}[.)]\s+|>\s+|step\s+\d+[.:)]\s+)+", re.IGNORECASE)
SAID = re.compile(
    r"\**(?:(?:new|modified|updated|changed)\s+)?(?:file\s*name|file\s*path|file|path)\s*[:=]\**\s*", re.IGNORECASE
)
REMARK = re.compile(
    r"\s+[(\[](?:new|modified|updated|changed|created|full|complete|edited|existing)\b[^()\[\]]{0,40}[)\]]$", re.I
)
COMMENT = re.compile(
    r"\s*(?:#|//|--|;|%|/\*+|<!--|\(\*|\"\"\"|REM\s)\s*(.*?)\s*(?:\*+/|-->|\*\)|\"\"\")?\s*$", re.IGNORECASE
)
SHELL = re.compile(r"(?:ba|z|fi)?sh|shell|console|powershell|ps1|cmd|bat|batch|terminal|output")
SHELL_FILES = (".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat", ".cmd", "profile", "rc")


def name_in_info(info: str) -> str | None:
    """The file that a fence's info string names: `python src/a.py`, `python:src/a.py`, `title="a.py"`, `src/a.py`."""
    info = info.strip()[:LONGEST]
    if match := ATTRIBUTE.search(info):
        name = next(group for group in match.groups() if group)
        return name if "://" not in name else None
    words = info.split()
    if not words:
        return None
    _, colon, rest = words[0].partition(":")
    if colon and not ROOTED.match(words[0]):  # but a drive letter is one
        return rest if _is_path(rest) and (_looks_like_file(rest) or _has_folder(rest)) else None
    for i, word in enumerate(words):
        word = word.strip("`'\"()[]")
        if _is_path(word) and (_looks_like_file(word) or (i > 0 and _has_folder(word))):
            return word
    return None


def name_in_label(line: str) -> str | None:
    """The file that a line on its own names, such as `### src/a.py`, `**src/a.py**:` or `File: src/a.py`."""
    if len(line) > LONGEST:
        return None
    text, before = BULLET.sub("", line.strip(), count=1), ""
    said = ticked = False
    while text != before:
        before = text
        text = REMARK.sub("", _bare(text))
        if match := SAID.match(text):
            text, said = text[match.end() :], True
        elif len(text) > 2 and text[0] == text[-1] == "`" and "`" not in text[1:-1]:
            text, ticked = text[1:-1], True
    if not text or text.endswith("/"):
        return None
    if said and SPACED_NAME.fullmatch(text):
        return text
    return text if _is_path(text) and (_looks_like_file(text) or ((said or ticked) and _has_folder(text))) else None


def name_in_comment(line: str) -> str | None:
    """The file that a block's first line names when it is a comment with a path and nothing else."""
    if len(line) > LONGEST or not (match := COMMENT.match(line)):
        return None
    text = match[1]
    if said := SAID.match(text):
        text = text[said.end() :]
    text = text.strip("`'\"* ")
    return text if _is_path(text) and _looks_like_file(text) else None


def can_be(name: str, language: str) -> bool:
    """Can a block in `language` be the file? Shell commands under a heading with a file's name are to be typed."""
    last = re.split(r"[/\\]", name)[-1]
    if not SHELL.fullmatch(language.lower()):
        return True
    return last.endswith(SHELL_FILES) or ("." not in last and not BARE_NAME.fullmatch(last))


def _is_path(text: str) -> bool:
    return (
        bool(PATH.fullmatch(text))
        and "//" not in text[1:]
        and not NOT_A_FILE.fullmatch(text)
        and text.strip("./\\~") != ""
    )


def _has_folder(text: str) -> bool:
    return "/" in text or "\\" in text


def _looks_like_file(text: str) -> bool:
    return bool(EXTENSION.search(text) or ROOTED.match(text)) or bool(BARE_NAME.fullmatch(re.split(r"[/\\]", text)[-1]))


def _bare(text: str) -> str:
    """Without emphasis around it and a colon at its end."""
    before = None
    while before != text:
        before = text
        text = text.strip().removesuffix(":").rstrip()
        for mark in ("**", "__", "*", '"', "'"):
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
    return text
