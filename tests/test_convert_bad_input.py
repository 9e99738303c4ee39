"""Everything that can be wrong with a checkpoint is named, and nothing is left behind."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    LITE,
    convert,
    random_tensors,
    shard_bytes,
    shard_up,
    tokenizer_json,
    write_checkpoint,
    write_shards,
)

from converters.config import ConfigError, ModelConfig
from converters.gguf_header import read_header
from quant.errors import InputError

EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
Damage = Callable[[Path], None]


def edit_config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        d = {k: v for k, v in (LITE | changes).items() if v != "absent"}
        (folder / "config.json").write_text(json.dumps(d))

    return damage


def edit_shards(edit: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        tensors: dict[str, Any] = random_tensors(LITE)
        edit(tensors)
        write_shards(folder, shard_up(tensors))

    return damage


def edit_header(edit: Callable[[dict[str, Any]], None]) -> Damage:
    """Change the JSON header of the first shard, and nothing else."""

    def damage(folder: Path) -> None:
        path = first_shard(folder)
        raw = path.read_bytes()
        (n,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + n])
        edit(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + n :])

    return damage


def edit_index(edit: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        edit(index["weight_map"])
        path.write_text(json.dumps(index))

    return damage


def edit_tokenizer(edit: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        d = tokenizer_json()
        edit(d)
        (folder / "tokenizer.json").write_text(json.dumps(d), encoding="utf-8")

    return damage


def first_shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def edit_settings(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def cut(folder: Path) -> None:
    raw = first_shard(folder).read_bytes()
    first_shard(folder).write_bytes(raw[:-100])


def double(folder: Path) -> None:
    shards = shard_up(random_tensors(LITE))
    (first, a), (_, b) = list(shards.items())[:2]
    name = next(iter(b))
    (folder / first).write_bytes(shard_bytes(a | {name: b[name]}))


def poison(value: float) -> Damage:
    return edit_shards(lambda t: t[EXPERT].__setitem__((5, 7), value))


def only_pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header["model.embed_tokens.weight"]
    return entry


def no_weight_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def rename_expert(weight_map: dict[str, str]) -> None:
    weight_map["model.layers.1.mlp.experts.99.up_proj.weight"] = weight_map.pop(EXPERT)


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data) and None


CASES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "config not JSON": (write("config.json", b"{"), ("config.json", "JSON")),
    "config not UTF-8": (write("config.json", b'{"a": "\xff"}'), ("config.json", "UTF-8")),
    "config a list": (write("config.json", b"[1]"), ("config.json", "list")),
    "config nested": (write("config.json", b'{"a":' * 100000), ("config.json",)),
    "config huge": (write("config.json", b" " * (1 << 21)), ("config.json", "too large")),
    "config doubled key": (write("config.json", b'{"a": 1, "a": 2}'), ("twice",)),
    "architecture": (edit_config(architectures=["LlamaForCausalLM"]), ("LlamaForCausalLM",)),
    "missing": (edit_config(hidden_size="absent"), ("hidden_size", "missing")),
    "negative": (edit_config(num_hidden_layers=-3), ("num_hidden_layers", "-3")),
    "absurd": (edit_config(n_routed_experts=10**30), ("n_routed_experts",)),
    "text": (edit_config(kv_lora_rank="64"), ("kv_lora_rank", "'64'")),
    "fraction": (edit_config(kv_lora_rank=64.0), ("kv_lora_rank", "64.0")),
    "bool": (edit_config(num_attention_heads=True), ("num_attention_heads", "True")),
    "nan": (edit_config(rms_norm_eps=float("nan")), ("rms_norm_eps",)),
    "mscale 0": (
        edit_config(rope_scaling=LITE["rope_scaling"] | {"mscale": 0.0, "mscale_all_dim": 0.0}),
        ("mscale of 0",),
    ),
    "mscale": (edit_config(rope_scaling=LITE["rope_scaling"] | {"mscale": 1.0}), ("mscale", "0.707")),
    "rope type": (edit_config(rope_scaling={"type": "linear", "factor": 2}), ("linear",)),
    "groups": (edit_config(n_group=4), ("n_group", "6")),
    "too few experts": (edit_config(num_experts_per_tok=7), ("num_experts_per_tok", "6")),
    "scores": (edit_config(scoring_func="sigmoid"), ("sigmoid",)),
    "eos outside": (edit_config(eos_token_id=288), ("eos_token_id", "288")),
    "other shape": (edit_config(kv_lora_rank=128), ("shape", "config.json")),
    "fewer layers": (edit_config(num_hidden_layers=2), ("model.layers.2", "left over")),
    "more layers": (edit_config(num_hidden_layers=4), ("model.layers.3", "missing")),
    "truncated": (cut, ("model-00001-of-000003.safetensors", "truncated")),
    "nearly empty": (write("model-00002-of-000003.safetensors", b"\x01\x02"), ("model-00002", "2 bytes")),
    "header past end": (
        write("model-00001-of-000003.safetensors", struct.pack("<Q", 5000) + b"{}"),
        ("model-00001", "past the end"),
    ),
    "header huge": (
        write("model-00001-of-000003.safetensors", struct.pack("<Q", 2**63) + b"{}"),
        ("model-00001", "bound"),
    ),
    "header not UTF-8": (
        write("model-00001-of-000003.safetensors", struct.pack("<Q", 4) + b'{"\xff}'),
        ("model-00001", "UTF-8"),
    ),
    "overlap": (
        edit_header(lambda h: first(h).update(data_offsets=[o + 2 for o in first(h)["data_offsets"]])),
        ("model.embed_tokens.weight",),
    ),
    "shape and size": (edit_header(lambda h: first(h).update(shape=[288, 255])), ("model.embed_tokens", "needs")),
    "negative shape": (edit_header(lambda h: first(h).update(shape=[-288, -256])), ("model.embed_tokens", "shape")),
    "backwards": (edit_header(lambda h: first(h).update(data_offsets=[8, 0])), ("model.embed_tokens", "offsets")),
    "dtype": (edit_header(lambda h: first(h).update(dtype="F8_E4M3")), ("model.embed_tokens", "F8_E4M3")),
    "entry": (edit_header(lambda h: h.update({"model.embed_tokens.weight": 3})), ("model.embed_tokens",)),
    "missing tensor": (edit_shards(lambda t: t.pop("model.norm.weight")), ("model.norm.weight", "missing")),
    "missing expert": (edit_shards(lambda t: t.pop(EXPERT)), (EXPERT, "missing")),
    "left over": (
        edit_shards(lambda t: t.update({"extra.weight": np.zeros((2, 2), dtype=np.float32)})),
        ("extra.weight", "left over"),
    ),
    "doubled": (double, ("model-00001", "index")),
    "not in index": (edit_index(lambda m: m.pop(EXPERT)), (EXPERT, "index")),
    "only in index": (edit_index(rename_expert), (EXPERT,)),
    "no such shard": (edit_index(lambda m: m.update({EXPERT: "model-9.safetensors"})), ("model-9", "not in")),
    "parent path": (edit_index(lambda m: m.update({EXPERT: "../x.safetensors"})), (EXPERT, "../x")),
    "absolute path": (edit_index(lambda m: m.update({EXPERT: "/etc/x.safetensors"})), (EXPERT, "plain")),
    "backslash": (edit_index(lambda m: m.update({EXPERT: "..\\x.safetensors"})), (EXPERT, "plain")),
    "pickle in index": (edit_index(lambda m: m.update({EXPERT: "x.bin"})), (EXPERT, "x.bin")),
    "shard a number": (edit_index(lambda m: m.update({EXPERT: 3})), (EXPERT,)),  # type: ignore[dict-item]
    "no weight map": (no_weight_map, ("weight_map",)),
    "pickle only": (only_pickle, ("pickle", "never loaded")),
    "nan weight": (poison(float("nan")), (EXPERT, "NaN")),
    "infinite weight": (poison(float("-inf")), (EXPERT, "infinite")),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("tokenizer.json",)),
    "other pre-tokenizer": (
        edit_tokenizer(lambda d: d.update(pre_tokenizer={"type": "Metaspace"})),
        ("Metaspace", "deepseek-llm"),
    ),
    "one rule of it other": (
        edit_tokenizer(lambda d: d["pre_tokenizer"]["pretokenizers"][5].update(individual_digits=False)),
        ("pre-tokenizer",),
    ),
    "normalizer": (edit_tokenizer(lambda d: d.update(normalizer={"type": "NFC"})), ("normalizes",)),
    "token outside": (edit_tokenizer(lambda d: d["model"]["vocab"].update(zzz=9999)), ("zzz", "9999")),
    "ids doubled": (edit_tokenizer(lambda d: d["model"]["vocab"].update(zzz=3)), ("zzz", "taken")),
    "merges": (edit_tokenizer(lambda d: d["model"].update(merges=[["a"]])), ("merge",)),
    "half a character in a token": (
        edit_tokenizer(lambda d: d["added_tokens"][-1].update(content="a\ud800")),
        ("tokenizer.json", "a token", "surrogate", "ud800"),
    ),
    "half a character in a merge": (
        edit_tokenizer(lambda d: d["model"].update(merges=["a b", "a \udfff"])),
        ("tokenizer.json", "a merge", "surrogate", "udfff"),
    ),
    "half a character in the template": (
        edit_settings(chat_template="\udc80"),
        ("tokenizer_config.json", "chat_template", "surrogate"),
    ),
    "template not text": (edit_settings(chat_template=[{"name": "default", "template": 5}]), ("chat_template is not",)),
    "bos elsewhere": (edit_config(bos_token_id=0), ("bos_token",)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, case: str) -> None:
    damage, words = CASES[case]
    folder, out = write_checkpoint(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    damage(folder)
    with pytest.raises(InputError) as caught:
        convert(folder, out / "x.gguf", "q8_0")
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message, caught.value.message
    assert list(out.iterdir()) == []


def test_a_config_that_promises_far_more_than_is_stored_takes_no_memory(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    edit_config(num_hidden_layers=512, n_routed_experts=1024)(folder)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too few for the 512 layers and 1024 experts"):
            convert(folder, tmp_path / "x.gguf", "q8_0")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_templates_with_odd_names_are_passed_over(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    named = [{"name": [], "template": "x"}, {"name": "default", "template": "y"}, {"name": {}, "template": "z"}]
    edit_settings(chat_template=named)(folder)
    metadata = read_header(convert(folder, tmp_path / "x.gguf", "q8_0")).metadata
    assert metadata["tokenizer.chat_template"] == "y"


def test_nonfinite_weights_are_converted_when_asked(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    poison(float("inf"))(folder)
    path = convert(folder, tmp_path / "x.gguf", "bf16", allow_nonfinite=True)
    assert "blk.1.ffn_up_exps.weight" in read_header(path).tensors


def test_a_weight_too_large_for_f16_is_refused_there_only(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    poison(1e6)(folder)
    convert(folder, tmp_path / "b.gguf", "bf16")
    with pytest.raises(InputError, match=r"ffn_up_exps.*F16"):
        convert(folder, tmp_path / "h.gguf", "f16")
    assert [p.name for p in tmp_path.glob("h.gguf*")] == []


@pytest.mark.parametrize(("recipe", "kind"), [("q8_0", "Q8_0"), ("moe-4", "Q4_K")])
def test_a_weight_too_large_for_blocks_is_refused_there_only(tmp_path: Path, recipe: str, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "in")
    poison(1e9)(folder)
    with pytest.raises(InputError, match=rf"ffn_up_exps\.weight has weights that are too large for {kind}"):
        convert(folder, tmp_path / "h.gguf", recipe)
    assert [p.name for p in tmp_path.glob("h.gguf*")] == []
    convert(folder, tmp_path / "h.gguf", recipe, allow_nonfinite=True)


@pytest.mark.parametrize("key", [k for k, v in LITE.items() if isinstance(v, (int, float)) and not isinstance(v, bool)])
@pytest.mark.parametrize("value", ["x", [], {}, -1, 1e400, float("nan"), 1 << 60, True])
def test_no_number_of_the_config_is_taken_on_trust(key: str, value: Any) -> None:
    try:
        ModelConfig.from_dict(LITE | {key: value})
    except ConfigError as e:
        assert key in str(e) or "moe_layer_freq" in str(e)  # noqa: PT017 - a few values are fine for a few keys
    else:
        assert (key, value) in {("moe_layer_freq", True)}


def test_sources_that_are_no_checkpoint(tmp_path: Path) -> None:
    for name, words in (
        ("model.bin", "pickle"),
        ("a.safetensors", "shard"),
        ("b.gguf", "not a GGUF"),
        ("gone", "exist"),
    ):
        if name != "gone":
            (tmp_path / name).write_bytes(b"\x80\x04nonsense")
        with pytest.raises(InputError, match=words):
            convert(tmp_path / name, tmp_path / "out.gguf")
    with pytest.raises(InputError, match="source itself"):
        convert(tmp_path / "b.gguf", tmp_path / "b.gguf")


def test_a_folder_that_is_not_there_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters import writer
    from converters.job import Options, plan_source

    folder = write_checkpoint(tmp_path / "in")
    job = plan_source(folder, tmp_path / "no" / "x.gguf", Options("q8_0"))
    with pytest.raises(InputError, match="not a folder"):
        writer.check_room(job.plan)
    job = plan_source(folder, tmp_path / "x.gguf", Options("q8_0"))
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000}))
    with pytest.raises(InputError, match="GB free"):
        writer.check_room(job.plan)


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    from converters.job import Options, plan_source
    from converters.writer import existing_output

    folder = write_checkpoint(tmp_path / "in")
    path = convert(folder, tmp_path / "x.gguf", "q8_0")
    assert existing_output(plan_source(folder, path, Options("q8_0")).plan)
    with pytest.raises(InputError, match="exists"):
        existing_output(plan_source(folder, path, Options("q4_0")).plan)
    write_checkpoint(folder, seed=2)  # retrained: the same shapes, other weights
    with pytest.raises(InputError, match="exists"):
        existing_output(plan_source(folder, path, Options("q8_0")).plan)
