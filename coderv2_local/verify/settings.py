"""The constants in a GGUF's metadata against those of its source, and what the file says about itself."""

import dataclasses
import math

from converters.config import ModelConfig
from converters.expert_groups import grouping, grouping_of
from converters.gguf_header import GgufHeader
from quant.errors import InputError

_NOT_COMPARED = {"yarn", "topk_method", "n_groups", "n_groups_used"}
_WORDS = {
    "n_layers": "the number of layers",
    "hidden_size": "the width",
    "n_heads": "the number of heads",
    "n_routed_experts": "the number of experts",
    "n_experts_per_token": "the number of experts a token uses",
    "n_shared_experts": "the number of shared experts",
    "n_dense_layers": "the number of dense layers",
    "routed_scaling_factor": "the router's scale",
    "norm_topk_prob": "whether the router's weights are normalised",
    "rope_theta": "the rotary base",
    "rms_norm_eps": "the norms' epsilon",
    "mscale_all_dim": "YaRN's multiplier",
    "original_context": "YaRN's original context",
    "factor": "YaRN's factor",
    "max_context": "the longest context",
    "bos_token_id": "the id of BOS",
    "eos_token_id": "the id of EOS",
}


def check_vocabulary(
    ours: ModelConfig, theirs: ModelConfig, our_tokens: list[str | None], their_tokens: list[str | None]
) -> None:
    """Refuse to compare models of different vocabularies: their logits have nothing to do with each other.

    Raises:
        InputError: they differ.
    """
    hint = "compare the file with the checkpoint that it was made from"
    if ours.vocab_size != theirs.vocab_size:
        raise InputError(
            f"the file has a vocabulary of {ours.vocab_size} tokens, what it is compared with one of "
            f"{theirs.vocab_size}",
            hint=hint,
        )
    pairs = enumerate(zip(our_tokens, their_tokens, strict=False))
    other = [(i, a, b) for i, (a, b) in pairs if a is not None and b is not None and a != b]
    if other:
        i, a, b = other[0]
        raise InputError(
            f"{len(other)} tokens differ between the two: {i} is {a!r:.60} here, {b!r:.60} there", hint=hint
        )


def settings_against(ours: ModelConfig, theirs: ModelConfig, header: GgufHeader) -> list[str]:
    """Every constant of the architecture that the file has differently from its source, in words.

    Missing group keys are no fault where the file tells all the same what model it is: exact routing supplies them
    (see `remarks`). Where it does not, nothing that runs the file alone can know.
    """
    found = _differences(ours, theirs, _NOT_COMPARED)
    here, there = grouping(header.metadata), grouping_of(theirs)
    if here.origin == "nothing" and there.groups > 1:
        found.append(
            f"the router's group keys are missing ({there.rule}), and nothing else in the file tells them: "
            "this check takes them from the source, but a conversation could not"
        )
    elif (here.groups, here.used) != (there.groups, there.used):
        found.append(f"the router's groups are {here.rule} in the file, {there.rule} in its source")
    if (ours.yarn is None) != (theirs.yarn is None):
        found.append(f"YaRN is {'missing' if ours.yarn is None else 'there'} in the file, unlike in its source")
    elif ours.yarn is not None and theirs.yarn is not None:
        # only the product of attention scale and rotary gain can be stored, for equal mscales
        found += _differences(ours.yarn, theirs.yarn, {"mscale"})
    return found


def _differences(ours: object, theirs: object, skip: set[str]) -> list[str]:
    found = []
    for field in dataclasses.fields(ours):  # type: ignore[arg-type]
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name in skip or a == b:
            continue
        if isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-9):
            continue
        found.append(f"{_WORDS.get(field.name, field.name)} is {_show(a)} in the file, {_show(b)} in its source")
    return found


def _show(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def remarks(header: GgufHeader) -> list[str]:
    """What a user should know about the file, though it does not make it wrong."""
    found = []
    if any(name.endswith("attn_kv_b.weight") for name in header.tensors):
        found.append(
            "the file is from before the MLA split: it works, with a KV cache many times larger; "
            "`coder convert` can split it"
        )
    known = grouping(header.metadata)
    if known.origin == "nothing":
        found.append(
            "the file lacks the group keys of its router, and nothing else in it tells them: the experts are taken to "
            "be in no groups, which is right for Lite and wrong for the 236B"
        )
    elif known.groups > 1 and known.origin != "keys":
        found.append(
            f"the file lacks the group keys of its router; by its {known.origin} it is a model that uses {known.rule}: "
            "exact routing supplies that"
        )
    return found
