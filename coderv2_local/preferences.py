"""The settings file, ``config.toml`` under :mod:`coderv2_local.home`: read strictly, written key by key.

A file that cannot be understood is named with its line and left alone: it is never overwritten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError

from coderv2_local.atomic_file import write_atomically
from coderv2_local.home import home, home_folder
from coderv2_local.toml_line import line_of
from quant.errors import CoderError, InputError

FILE_NAME = "config.toml"
MAX_BYTES = 1_000_000
TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        kind: the type its value must have; a float takes an integer too.
        meaning: one line, for `coder config` and the documents.
        may_be_empty: is "" a text that means something?
    """

    kind: type
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False


KEYS: Mapping[str, Key] = {
    "chat.model": Key(str, "the model of `coder chat` without -m"),
    "chat.system": Key(str, "the system prompt of new conversations", may_be_empty=True),
    "chat.temperature": Key(float, "0 takes the most probable token each time", 0, 10),
    "chat.top_p": Key(float, "tokens that together have this probability stay in the draw", 0, 1),
    "chat.top_k": Key(int, "so many of the most probable tokens stay in the draw; 0 for all", 0, 1_000_000),
    "chat.min_p": Key(float, "tokens less probable than this share of the best one leave the draw", 0, 1),
    "chat.repeat_penalty": Key(float, "divides the logits of recent tokens; 1 turns it off", 0.1, 10),
    "chat.max_tokens": Key(int, "the longest answer, in tokens", 1, 10_000_000),
    "chat.context": Key(int, "context in tokens; 0 lets the program choose", 0, 10_000_000),
    "fim.model": Key(str, "the model of `coder fim` without -m"),
    "fim.max_tokens": Key(int, "the longest middle, in tokens", 1, 10_000_000),
    "fim.context": Key(int, "context in tokens; 0 lets the program choose", 0, 10_000_000),
    "serve.model": Key(str, "the model of `coder serve` without -m"),
    "serve.port": Key(int, "the port of `coder serve` without --port", 1, 65535),
    "load.gpu_layers": Key(int, "layers whose weights go to a GPU; the output counts as one", 0, 1_000),
    "load.cpu_expert_layers": Key(int, "of the first so many layers, the experts stay in main memory", 0, 1_000),
    "load.threads": Key(int, "processor threads, where no --threads says otherwise", 1, 10_000),
    "load.batch": Key(
        int, "tokens of a prompt that are handed over at once; progress is shown in these steps", 1, 100_000
    ),
    "load.ubatch": Key(int, "of these, how many are computed at once", 1, 100_000),
    "load.flash_attention": Key(bool, "false: short prompts sooner, answers slower, larger buffers (on the CPU)"),
    "load.kv_type": Key(str, "numbers of the KV cache: f16, or f32 in twice the memory", choices=("f16", "f32")),
    "load.repack": Key(bool, "copy the weights into private memory, in an order that suits the processor"),
    "load.stream_experts": Key(bool, "read the chosen experts from disk ahead of use, and keep them in own memory"),
    "load.expert_memory": Key(
        float, "GB of own memory for experts from disk; 0 leaves them to the file cache", 0, 100_000
    ),
}
"""Every single setting; ``[servers.NAME]`` and ``[models.NAME]`` come beside them."""

TABLES: Mapping[str, Mapping[str, Key]] = {
    "servers": {
        "url": Key(str, "http(s) address of an OpenAI-compatible server"),
        "model": Key(str, "the model to ask for there"),
        "key_variable": Key(str, "the environment variable that holds the server's key"),
    },
    "models": {
        "path": Key(str, "a .gguf file on this machine"),
        "repo": Key(str, "a repository on the Hub"),
        "file": Key(str, "the .gguf file in that repository"),
        "purpose": Key(str, "what it is for", may_be_empty=True),
        "fim": Key(bool, "whether it was trained to fill in the middle"),
    },
}
"""Tables that a user names: ``[servers.office]`` is used as ``-m office``."""


@dataclass(frozen=True)
class Preferences:
    """What the settings file says.

    Attributes:
        values: "chat.temperature" → value; only the keys that are set.
        servers, models: name → its table.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def get(self, key: str, default: Any) -> Any:
        """The value of `key`, or `default` where it is not set."""
        return self.values.get(key, default)


def path() -> Path:
    """Where the settings file is, or would be."""
    return home() / FILE_NAME


def read() -> Preferences:
    """The settings; empty ones where there is no file.

    Raises:
        InputError: the file is broken, or says something that no setting means. Its line is named.
    """
    text = _text()
    if not text:
        return Preferences()
    document = _parse(text)
    values: dict[str, Any] = {}
    named: dict[str, dict[str, Mapping[str, Any]]] = {table: {} for table in TABLES}
    for group, content in document.unwrap().items():
        if not isinstance(content, dict):
            raise _wrong(text, (group,), f"{group} stands outside a table", _nearest(group, KEYS))
        for name, value in content.items():
            if group in TABLES:
                named[group][name] = _checked_table(text, group, name, value)
            else:
                key = f"{group}.{name}"
                values[key] = _checked(text, (group, name), value, KEYS.get(key))
    return Preferences(values, named["servers"], named["models"])


def change(key: str, value: str | None) -> Any:
    """Set `key`, as typed, or remove it (None). Comments and order of the file stay. Returns the value it has now.

    Raises:
        InputError: no such key, a wrong value, or a file that is broken already.
        CoderError: the file cannot be written.
    """
    if key not in KEYS:
        raise InputError(f"there is no setting {key!r}", hint=_nearest(key, KEYS) or "`coder config` lists them")
    text = _text()
    document = _parse(text)
    read()  # what is there must be sound: this never writes over a file that it does not understand
    group, name = key.split(".")
    if value is None:
        if group in document:
            document[group].pop(name, None)
        typed = None
    else:
        typed = _checked("", (group, name), _typed(key, value), KEYS[key])
        if group not in document:
            document.add(group, tomlkit.table())
        document[group][name] = typed
    home_folder("")
    try:
        write_atomically(path(), tomlkit.dumps(document).encode())
    except OSError as error:
        raise CoderError(f"{path()}: {(error.strerror or str(error)).lower()}") from None
    return typed


def _text() -> str:
    try:
        data = path().read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{path()}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path()} is larger than a settings file can be", hint="move it away")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path()}, line {line}: not UTF-8 text", hint="mend or remove that line") from None


def _parse(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except ParseError as error:
        raise InputError(
            f"{path()}, line {error.line}: {str(error).split(' at line')[0]}", hint="mend or remove that line"
        ) from None
    except (TOMLKitError, RecursionError) as error:
        raise InputError(f"{path()}: {error}", hint="mend or remove the file") from None


def _typed(key: str, value: str) -> Any:
    kind = KEYS[key].kind
    if kind is str:
        return value
    try:
        return TRUTH[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise InputError(f"{key} is {value!r}: it must be {_kind_name(kind)}") from None


def _checked(text: str, names: tuple[str, ...], value: Any, known: Key | None) -> Any:
    key = ".".join(names)
    if known is None:
        raise _wrong(text, names, f"there is no setting {key!r}", _nearest(key, KEYS))
    right = isinstance(value, known.kind) and (known.kind is bool or not isinstance(value, bool))
    if known.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value, right = float(value), True
    if not right:
        raise _wrong(text, names, f"{key} is {value!r:.40}: it must be {_kind_name(known.kind)}", "")
    if value == "" and not known.may_be_empty:
        away = f"`coder config {key} --unset` takes the setting away" if not text else "name it, or remove that line"
        raise _wrong(text, names, f"{key} is empty", away)
    if known.choices and value not in known.choices:
        choices = " or ".join(known.choices)
        raise _wrong(text, names, f"{key} is {value!r:.40}: it must be {choices}", "")
    if known.low is not None and known.high is not None and not known.low <= value <= known.high:
        raise _wrong(text, names, f"{key} is {value}: it must be between {known.low:g} and {known.high:g}", "")
    return value


def _checked_table(text: str, group: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(text, (group, name), f"{group}.{name} must be a table: [{group}.{name}]", "")
    keys = TABLES[group]
    return {k: _checked(text, (group, name, k), v, keys.get(k)) for k, v in value.items()}


def _wrong(text: str, names: tuple[str, ...], message: str, hint: str) -> InputError:
    """An error that names the file and, where the key can be found in it, the line."""
    line = line_of(text, names)
    where = f"{path()}, line {line}: " if line else f"{path()}: " if text else ""
    return InputError(where + message, hint=hint or "`coder config` lists the settings")


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    names = [*known, *(k.split(".")[1] for k in known)]
    close = get_close_matches(word, names, 1)
    if not close:
        return ""
    return f"did you mean {next(k for k in known if k == close[0] or k.endswith('.' + close[0]))}?"


def _kind_name(kind: type) -> str:
    return {str: "text", float: "a number", int: "a whole number", bool: "true or false"}[kind]
