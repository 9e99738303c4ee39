"""What a GGUF file is and how it stands, from its header alone: sizes, types by tensor class, checks in words."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from coderv2_local.loadable import impossible
from coderv2_local.prompt.layout import ChatFormat, chat_format
from coderv2_local.verify.structure import problems
from converters.config import ModelConfig
from converters.expert_groups import grouping
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import open_gguf
from converters.metadata import ALIGNMENT, ARCHITECTURE
from converters.tokenizer import CONTROL, FIM_TOKENS
from converters.upgrade import yarn_multiplier

KNOWN_PRE = "deepseek-llm"
SLACK = 65536
"""Bytes that a file may have besides its tensors and the first header."""
_CLASSES = (
    ("routed experts", r"blk\.\d+\.ffn_\w+_exps\."),
    ("shared experts", r"blk\.\d+\.ffn_\w+_shexp\."),
    ("router", r"blk\.\d+\.ffn_gate_inp\."),
    ("norms", r".*norm\."),
    ("attention", r"blk\.\d+\.attn_"),
    ("dense layers", r"blk\.\d+\.ffn_(gate|up|down)\."),
    ("embedding", r"token_embd\."),
    ("output", r"output\."),
    ("other", r""),
)

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Check:
    """One health check: what was found, in words."""

    state: State
    """`note`: it works, but there is something to know. `bad`: it does not work, or works wrongly."""
    text: str
    matters: bool = False
    """A note that whoever runs the file should see, too."""


@dataclass(frozen=True)
class TensorClass:
    """All tensors of one kind."""

    name: str
    tensors: int
    parameters: int
    nbytes: int
    types: dict[str, int]
    """Type → how many tensors have it."""


@dataclass(frozen=True)
class Inspection:
    """What a file is."""

    path: str
    name: str
    file_size: int
    parameters: int
    config: ModelConfig
    classes: list[TensorClass]
    checks: list[Check]
    metadata: dict[str, Any]
    """Every key; lists longer than 16 as their length, in words."""

    @property
    def bits(self) -> float:
        """Bits a weight, over the whole file."""
        return 8 * sum(c.nbytes for c in self.classes) / max(self.parameters, 1)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self) | {"bits_a_weight": self.bits}


def inspect(path: Path) -> Inspection:
    """Look at a file's header, and at those of its other parts when it is the first of a split file.

    Raises:
        InputError: no GGUF, damaged, or of another architecture.
    """
    header = open_gguf(path).whole
    config = config_of(header)
    classes = tensor_classes(header)
    name = header.metadata.get("general.name", path.stem)
    return Inspection(
        path=str(path),
        name=name if isinstance(name, str) else path.stem,
        file_size=header.file_size,
        parameters=sum(c.parameters for c in classes),
        config=config,
        classes=classes,
        checks=list(checks(header, config)),
        metadata={k: _shortened(v) for k, v in header.metadata.items()},
    )


def tensor_classes(header: GgufHeader) -> list[TensorClass]:
    """Tensors by what they are for, the order being that of their share in a large model."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in header.tensors:
        found[next(c for c, pattern in _CLASSES if re.match(pattern, name))].append(name)
    out = []
    for kind, _ in _CLASSES:
        infos = [header.tensors[n] for n in found[kind]]
        types: dict[str, int] = defaultdict(int)
        for info in infos:
            types[info.type.name] += 1
        if infos:
            parameters = sum(i.n_rows * i.shape[-1] for i in infos)
            out.append(TensorClass(kind, len(infos), parameters, sum(i.nbytes for i in infos), dict(types)))
    return out


def checks(header: GgufHeader, config: ModelConfig) -> Iterator[Check]:
    """Every health check, the gravest kind of trouble first."""
    yield _length(header)
    wrong = [*problems(header, config), *impossible(header, config)]
    more = f", and {len(wrong) - 1} more like this" if len(wrong) > 1 else ""
    yield Check("bad", wrong[0] + more) if wrong else Check("ok", "every tensor is there, in its shape")
    yield _mla(header)
    yield _routing(header, config)
    yield _yarn(header, config)
    yield _pre_tokenizer(header)
    yield _template(header)
    yield from _fim(header)


def load_notices(header: GgufHeader, config: ModelConfig) -> list[str]:
    """What whoever runs a file must know: what makes it slow, or computes something else than the model. Cheap."""
    found = [_mla(header), _routing(header, config), _yarn(header, config), _pre_tokenizer(header)]
    return [check.text for check in found if check.state == "bad" or check.matters]


def _length(header: GgufHeader) -> Check:
    count = header.metadata.get("split.count", 1)
    parts = count if type(count) is int else 1
    spare = header.file_size - header.data_offset - sum(t.nbytes for t in header.tensors.values())
    if spare > parts * SLACK + ALIGNMENT * len(header.tensors):
        return Check("note", f"about {spare} bytes of the file belong to no tensor")
    if parts > 1:
        return Check("ok", f"all {parts} parts are there in their full length, {header.file_size} bytes together")
    return Check("ok", f"the file has its full length, {header.file_size} bytes")


def _mla(header: GgufHeader) -> Check:
    if any(name.endswith(".attn_kv_b.weight") for name in header.tensors):
        return Check("note", "made before the MLA split: it works, with a KV cache many times larger", True)
    return Check("ok", "the key and value expansions are split (MLA): the KV cache is small")


def _routing(header: GgufHeader, config: ModelConfig) -> Check:
    known, k = grouping(header.metadata), config.n_experts_per_token
    if known.origin == "nothing":
        what = "the group keys are missing, and nothing else in the file tells them: the experts are taken to be in no"
        return Check("note", f"{what} groups, which is right for Lite and wrong for the 236B", True)
    if known.groups <= 1:
        return Check("ok", f"no groups of experts: the {k} best of all are used, as llama.cpp does")
    if known.origin != "keys":
        what = f"the group keys are missing; by its {known.origin} this is a model that uses {known.rule}"
        return Check("note", f"{what}: exact routing supplies that, llama.cpp alone would choose other experts")
    return Check("ok", f"the group keys are there: {known.rule}; exact routing follows that, llama.cpp alone does not")


def _yarn(header: GgufHeader, config: ModelConfig) -> Check:
    if config.yarn is None:
        return Check("note", "no YaRN: made for the model's original context only")
    key = f"{ARCHITECTURE}.rope.scaling.yarn_log_multiplier"
    if key not in header.metadata:
        return Check("bad", "the key of YaRN's multiplier is missing: attention is scaled wrongly")
    value = header.metadata[key]
    if type(value) not in (int, float):
        return Check("bad", f"the key of YaRN's multiplier is {value!r:.40}, no number: attention is scaled wrongly")
    text = f"YaRN's multiplier is {value:.4g} (mscale {config.yarn.mscale_all_dim:.4g}), factor {config.yarn.factor:g}"
    if value > 0 and yarn_multiplier(value) != value:
        meant = f"{yarn_multiplier(value):.4g} is meant, attention is scaled wrongly"
        return Check("bad", f"{text}: {meant}; `coder convert` writes a file that has it right")
    return Check("ok" if value > 0 else "bad", text)


def _pre_tokenizer(header: GgufHeader) -> Check:
    pre = header.metadata.get("tokenizer.ggml.pre")
    if pre == KNOWN_PRE:
        return Check("ok", f"the pre-tokenizer is {KNOWN_PRE}")
    what = f"the pre-tokenizer is {pre!r:.40}" if pre else "no pre-tokenizer is named"
    return Check("bad", f"{what}, not {KNOWN_PRE!r}: text is split in other places than the model was trained on")


def _template(header: GgufHeader) -> Check:
    template = header.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template:
        return Check("note", "no chat template: a base model, or one was left out")
    if chat_format(template) is ChatFormat.TEMPLATE:
        return Check("note", "the chat template is none of this family's: it is rendered as it stands")
    return Check("ok", "the chat template is known")


def _fim(header: GgufHeader) -> Iterator[Check]:
    keys = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in FIM_TOKENS}
    missing = [f"{name}_token_id" for name, value in keys.items() if value is None]
    if missing:
        yield Check("note", f"no infill: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        return
    lists = (header.metadata.get(f"tokenizer.ggml.{k}") for k in ("tokens", "token_type"))
    tokens, types = (found if isinstance(found, list) else [] for found in lists)
    for name, token in keys.items():
        if type(token) is not int or not 0 <= token < len(tokens):
            yield Check("bad", f"{name}_token_id is {token!r:.40}, outside the vocabulary")
        elif tokens[token] != FIM_TOKENS[name]:
            yield Check("bad", f"{name}_token_id is {token}, which is {tokens[token]!r:.60}, not {FIM_TOKENS[name]!r}")
        elif token >= len(types) or types[token] != CONTROL:
            yield Check("bad", f"token {token}, {FIM_TOKENS[name]!r}, is not a control token: text could spell it")
        else:
            yield Check("ok", f"{name}_token_id is {token}, {FIM_TOKENS[name]!r}, a control token")


def _shortened(value: Any) -> Any:
    return f"{len(value)} values" if isinstance(value, list) and len(value) > 16 else value
