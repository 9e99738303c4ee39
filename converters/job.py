"""A conversion from end to end: the source is opened, the plan made, and the plan carried out."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path

from converters.config import ModelConfig, read_config
from converters.metadata import ARCHITECTURE, Metadata, architecture_keys, text, tokenizer_keys, u32
from converters.plan import Plan, make_plan
from converters.safetensors_shards import Checkpoint, read_shard_header
from converters.store import CheckpointStore, Store
from converters.tensor_table import Wanted, check_checkpoint, tensor_table
from converters.tokenizer import read_tokenizer
from quant.block_types import block_type
from quant.recipes import Choice, ModelShape, Recipe, choose, recipe

QUANTIZATION_VERSION = 2
"""``general.quantization_version``: ggml's GGML_QNT_VERSION."""


@dataclass(frozen=True)
class Options:
    """What the user chose about the output."""

    recipe: str = "moe-4"
    experts: str | None = None
    """A type for the routed experts, over the recipe's."""
    imatrix: Path | None = None
    split_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """A plan and the place its tensors come from. Close it after use."""

    plan: Plan
    store: Store

    def close(self) -> None:
        """Close the source's files."""
        self.store.close()


def plan_folder(folder: Path, destination: Path, options: Options) -> Job:
    """Plan the conversion of a local checkpoint folder; no weights are read.

    Raises:
        InputError: the folder, its files or the options cannot be used; what and why is said.
    """
    config = read_config(folder)
    keys = architecture_keys(config)
    checkpoint = Checkpoint.open(folder)
    table = tensor_table(config)
    check_checkpoint(checkpoint, config, table)
    tokenizer = read_tokenizer(folder, config)
    chosen = recipe(options.recipe)
    metadata: Metadata = {
        "general.architecture": text(ARCHITECTURE),
        "general.type": text("model"),
        "general.name": text(folder.resolve().name),
        "general.file_type": u32(chosen.file_type),
        "general.quantization_version": u32(QUANTIZATION_VERSION),
        **keys,
        **tokenizer_keys(tokenizer),
        **provenance(chosen, options, fingerprint(checkpoint)),
    }
    store = CheckpointStore(checkpoint)
    plan = make_plan(
        destination,
        table,
        store,
        metadata,
        chooser(config, chosen, options),
        source=str(folder),
        recipe=chosen.name,
        split_bytes=options.split_bytes,
    )
    return Job(plan, store)


class chooser:
    """The type of each tensor for a recipe and its overrides."""

    def __init__(self, config: ModelConfig, chosen: Recipe, options: Options) -> None:
        self.recipe = chosen
        self.model = ModelShape(config.n_layers, config.n_routed_experts, config.tie_word_embeddings)
        self.experts = block_type(options.experts) if options.experts else None

    def __call__(self, wanted: Wanted) -> Choice:
        return choose(self.recipe, wanted.name, wanted.shape, self.model, experts=self.experts)


def provenance(chosen: Recipe, options: Options, source_digest: str, **more: str) -> Metadata:
    """Where the file comes from: never a time or a path, so that equal inputs give equal bytes."""
    try:
        version = installed.version("coderv2-local")
    except installed.PackageNotFoundError:
        version = "unknown"
    said = {"version": version, "recipe": chosen.name, "source_fingerprint": source_digest, **more}
    if options.experts:
        said["experts"] = options.experts.upper()
    return {f"coder.convert.{key}": text(value) for key, value in said.items()}


def fingerprint(checkpoint: Checkpoint) -> str:
    """A digest of the headers of all shards and of samples of their data.

    Sixteen samples a shard tell a retrained checkpoint from its predecessor without reading all of it.
    """
    h = hashlib.sha256()
    for shard in sorted({t.shard for t in checkpoint.tensors.values()}):
        path = checkpoint.folder / shard
        header = read_shard_header(path)
        size = path.stat().st_size
        h.update(f"{shard} {size} ".encode() + header)
        with open(path, "rb") as f:
            for i in range(16):
                f.seek(8 + len(header) + (size - 8 - len(header)) * i // 16)
                h.update(f.read(4096))
    return h.hexdigest()


@contextlib.contextmanager
def closing(job: Job) -> Iterator[Job]:
    """Close the job's files at the end of the block."""
    try:
        yield job
    finally:
        job.close()


def default_threads() -> int:
    """One thread for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
