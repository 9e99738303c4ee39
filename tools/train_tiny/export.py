"""RUN_DIR/latest.pt → a checkpoint folder in the published file format.

    python export.py CORPUS_DIR RUN_DIR OUT_DIR

Sharded BF16 safetensors with an index, one tensor an expert, config.json, tokenizer.json, tokenizer_config.json.
"""

import argparse
import json
from pathlib import Path

import torch
from model import TINY
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokens import BOS, EOS, SPECIAL, VOCABULARY
from torch import Tensor

SHARD_BYTES = 8 << 20
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def published_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes as published: a tensor an expert, ``model.`` in front of all but the head."""
    out = {}
    for name, tensor in state.items():
        tensor = tensor.bfloat16().contiguous()
        if name.endswith("mlp.gate_up"):
            for i, (gate, up) in enumerate(expert.chunk(2) for expert in tensor):
                base = f"model.{name.removesuffix('gate_up')}experts.{i}"
                out[f"{base}.gate_proj.weight"], out[f"{base}.up_proj.weight"] = gate.contiguous(), up.contiguous()
        elif name.endswith("mlp.down"):
            for i, expert in enumerate(tensor):
                out[f"model.{name.removesuffix('down')}experts.{i}.down_proj.weight"] = expert.contiguous()
        else:
            out[name if name.startswith("lm_head") else f"model.{name}"] = tensor
    return out


def shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    out: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if out[-1] and size + tensor.nbytes > SHARD_BYTES:
            out.append({})
            size = 0
        out[-1][name] = tensor
        size += tensor.nbytes
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for stale in args.out.glob("*.safetensors"):
        stale.unlink()
    state = torch.load(args.run / "latest.pt", weights_only=True)
    parts = shards(published_tensors(state["model"]))
    index: dict[str, str] = {}
    for i, part in enumerate(parts, 1):
        file = f"model-{i:05d}-of-{len(parts):06d}.safetensors"
        save_file(part, args.out / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(t.nbytes for part in parts for t in part.values())
    (args.out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}, indent=1) + "\n"
    )
    tok = Tokenizer.from_file(str(args.corpus / "tokenizer.json"))
    assert tok.get_vocab_size() <= VOCABULARY
    (args.out / "config.json").write_text(json.dumps(TINY, indent=2) + "\n")
    tok.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "add_bos_token": True,
                "add_eos_token": False,
                "bos_token": SPECIAL[0],
                "eos_token": SPECIAL[1],
                "pad_token": SPECIAL[1],
                "model_max_length": TINY["max_position_embeddings"],
                "tokenizer_class": "LlamaTokenizerFast",
                "chat_template": CHAT_TEMPLATE,
            },
            ensure_ascii=False,
            indent=2,
        )
        + "\n"
    )
    assert (TINY["bos_token_id"], TINY["eos_token_id"]) == (BOS, EOS)
    print(state["step"], "steps,", state["tokens"], "tokens,", len(parts), "shards,", size, "bytes")


if __name__ == "__main__":
    main()
