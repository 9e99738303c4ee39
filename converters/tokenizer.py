"""tokenizer.json and tokenizer_config.json → the tokenizer keys of a GGUF.

The pre-tokenizer is recognised by what tokenizer.json says, not by a model's name: a wrong one splits text in other
places than the model was trained on, and nothing reports it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.config import ModelConfig
from converters.json_file import read_bounded, read_json_object
from quant.errors import InputError

TOKENIZER_LIMIT = 64 << 20

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""``tokenizer.ggml.token_type``: llama.cpp's token attributes."""

_KNOWN_PRE = {"4f7c15c6a710386a667538d3dd69ec44bf818664535832fa6709bf550d9df07c": "deepseek-llm"}
"""Digest of the steps that `pre_tokenizer_steps` gives → llama.cpp's name."""

FIM_TOKENS = {
    "fim_pre": "<｜fim▁begin｜>",
    "fim_suf": "<｜fim▁hole｜>",
    "fim_mid": "<｜fim▁end｜>",
}
"""Prefix first, then the hole, the suffix and the end: where llama.cpp's keys point. The bars are U+FF5C."""


class TokenizerError(InputError):
    """The tokenizer files are missing, damaged, or of a kind that is not known."""


@dataclass(frozen=True)
class TokenizerData:
    """What a GGUF says about its tokenizer. Lists have one entry an embedding row."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos: int
    eos: int
    pad: int | None
    add_bos: bool
    add_eos: bool
    fim: dict[str, int]
    """"fim_pre", "fim_suf", "fim_mid" → id; empty for a model without these tokens."""
    chat_template: str | None


def read_tokenizer(folder: Path, config: ModelConfig) -> TokenizerData:
    """Read the tokenizer of a checkpoint folder.

    Raises:
        TokenizerError: files missing or damaged, an unknown pre-tokenizer, or ids that contradict config.json.
    """
    path = folder / "tokenizer.json"
    d = read_json_object(path, TOKENIZER_LIMIT)
    settings_path = folder / "tokenizer_config.json"
    settings = read_json_object(settings_path) if settings_path.exists() else {}
    pre = recognise_pre_tokenizer(d, str(path))
    vocabulary, merges = _byte_pairs(d, path)
    added = _added_tokens(d, path)
    tokens, types = _token_list(vocabulary, added, config.vocab_size, path)
    _check_encodable(tokens, f"{path}: a token")
    _check_encodable(merges, f"{path}: a merge")
    by_text = {a["content"]: a["id"] for a in added}
    for key, expected in (("bos_token", config.bos_token_id), ("eos_token", config.eos_token_id)):
        text = _token_text(settings.get(key))
        if text is not None and by_text.get(text, vocabulary.get(text)) != expected:
            raise TokenizerError(
                f"{settings_path}: {key} is {text!r:.60}, which is not the id {expected} of config.json"
            )
    pad = by_text.get(_token_text(settings.get("pad_token")) or "")
    return TokenizerData(
        tokens=tokens,
        types=types,
        merges=merges,
        pre=pre,
        bos=config.bos_token_id,
        eos=config.eos_token_id,
        pad=pad,
        add_bos=settings.get("add_bos_token") is not False,
        add_eos=settings.get("add_eos_token") is True,
        fim={key: by_text[text] for key, text in FIM_TOKENS.items() if text in by_text},
        chat_template=_chat_template(folder, settings),
    )


def pre_tokenizer_steps(d: Any) -> list[list[Any]]:
    """The steps of a ``pre_tokenizer`` object, reduced to what changes the splits; defaults are filled in."""
    if not isinstance(d, dict):
        return []
    kind = d.get("type")
    if kind == "Sequence":
        inner = d.get("pretokenizers")
        return [step for p in inner for step in pre_tokenizer_steps(p)] if isinstance(inner, list) else []
    if kind == "Split":
        pattern = d.get("pattern")
        return [["Split", pattern, d.get("behavior"), d.get("invert", False)]]
    if kind == "Digits":
        return [["Digits", d.get("individual_digits", False)]]
    if kind == "ByteLevel":
        return [["ByteLevel", d.get("add_prefix_space", True), d.get("use_regex", True)]]
    return [[str(kind)]]


def recognise_pre_tokenizer(d: dict[str, Any], source: str) -> str:
    """llama.cpp's name for the pre-tokenizer of a parsed tokenizer.json.

    Raises:
        TokenizerError: it is not one that is known for this family.
    """
    normalizer = d.get("normalizer")
    if normalizer is not None and normalizer != {"type": "Sequence", "normalizers": []}:
        raise TokenizerError(f"{source}: it normalizes text first, which no known tokenizer of this family does")
    steps = pre_tokenizer_steps(d.get("pre_tokenizer"))
    digest = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
    try:
        return _KNOWN_PRE[digest]
    except KeyError:
        shown = ", ".join(str(step[0]) for step in steps) or "none at all"
        raise TokenizerError(
            f"{source}: the pre-tokenizer ({shown}; {digest[:12]}) is not the one of deepseek-llm",
            hint="a file with a wrong pre-tokenizer answers badly and says nothing; it is not written",
        ) from None


def _byte_pairs(d: dict[str, Any], path: Path) -> tuple[dict[str, int], list[str]]:
    model = d.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"{path}: the model is not byte-pair encoding")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not vocabulary or not all(type(i) is int for i in vocabulary.values()):
        raise TokenizerError(f"{path}: the vocabulary is missing or is not text → id")
    if not isinstance(merges, list):
        raise TokenizerError(f"{path}: the merges are missing")
    joined = []
    for merge in merges:  # spelled "a b" in older files and ["a", "b"] in newer ones
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) and p for p in pair):
            raise TokenizerError(f"{path}: {merge!r:.60} is not a merge of two tokens")
        joined.append(f"{pair[0]} {pair[1]}")
    return vocabulary, joined


def _added_tokens(d: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    added = d.get("added_tokens", [])
    fine = isinstance(added, list) and all(
        isinstance(a, dict) and type(a.get("id")) is int and isinstance(a.get("content"), str) for a in added
    )
    if not fine:
        raise TokenizerError(f"{path}: added_tokens is not a list of {{id, content}}")
    return list(added)


def _token_list(
    vocabulary: dict[str, int], added: list[dict[str, Any]], size: int, path: Path
) -> tuple[list[str], list[int]]:
    # Embedding rows beyond the last token are padding; llama.cpp wants a name for each.
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for text, i in vocabulary.items():
        if not 0 <= i < size or types[i] != UNUSED:
            raise TokenizerError(f"{path}: token {text!r:.60} has the id {i}, taken already or outside the {size} rows")
        tokens[i], types[i] = text, NORMAL
    for a in added:
        i, text = a["id"], a["content"]
        if not 0 <= i < size or (types[i] != UNUSED and tokens[i] != text):
            raise TokenizerError(f"{path}: token {text!r:.60} has the id {i}, taken already or outside the {size} rows")
        special = a.get("special") is True or looks_special(text)
        tokens[i], types[i] = text, CONTROL if special else USER_DEFINED
    return tokens, types


def looks_special(text: str) -> bool:
    """Is it one of the family's control tokens, by its spelling?"""
    # The published tokenizer.json marks the FIM and role tokens as ordinary; they never are text.
    return any(text.startswith(a) and text.endswith(b) for a, b in (("<|", "|>"), ("<｜", "｜>")))


def _check_encodable(texts: list[str], what: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        wrong = next(t for t in texts if any("\ud800" <= c <= "\udfff" for c in t))
        raise TokenizerError(f"{what} has half of a character only, a lone surrogate: {wrong!r:.60}") from None


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = [t.get("template") for t in value if isinstance(t, dict) and t.get("name") == "default"]
        value = named[-1] if named else None
    path = folder / "chat_template.jinja"
    if value is None and path.exists():
        try:
            value = read_bounded(path, 1 << 20).decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError(f"{path} is not UTF-8") from None
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{folder / 'tokenizer_config.json'}: chat_template is not text")
    if value is not None:
        _check_encodable([value], f"{folder / 'tokenizer_config.json'}: chat_template")
    return value
