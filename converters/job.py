"""A conversion from end to end: the source is opened and the plan made; `writer.carry_out` does the rest."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from converters.config import ModelConfig, read_config
from converters.gguf_config import config_of
from converters.gguf_header import read_header
from converters.gguf_model import open_gguf
from converters.hub import HubModel, HubStore, drop_unused, open_model
from converters.hub_begun import Begun, begun
from converters.hub_errors import HubError
from converters.imatrix import Imatrix
from converters.json_file import read_json_object
from converters.metadata import ARCHITECTURE, Metadata, architecture_keys, text, tokenizer_keys, u32
from converters.own_source import refuse_own_source
from converters.plan import Plan, make_plan
from converters.provenance import fingerprint_files, provenance
from converters.safetensors_shards import Checkpoint, read_shard_header
from converters.source_files import SourceFiles
from converters.store import CheckpointStore, GgufStore, ShapeStore, Store
from converters.tensor_table import check_checkpoint, check_count, tensor_table
from converters.tokenizer import read_tokenizer
from converters.type_choice import TypeChoice
from converters.upgrade import source_table, upgraded_keys, upgraded_type
from converters.writer import journal_path
from quant.block_types import WRITABLE, block_type
from quant.errors import InputError
from quant.recipes import recipe

QUANTIZATION_VERSION = 2
"""``general.quantization_version``: ggml's GGML_QNT_VERSION."""
DEFAULT_RECIPE = "moe-4"
REQUANTIZABLE = ("F32", "F16", "BF16", "Q8_0")


@dataclass(frozen=True)
class Options:
    """What the user chose about the output."""

    recipe: str | None = None
    """None: `DEFAULT_RECIPE` for a checkpoint; for a GGUF, upgrade it and keep its types."""
    experts: str | None = None
    """A type for the routed experts, over the recipe's."""
    imatrix: Path | None = None
    split_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """A plan and the place its tensors come from. Close it after use."""

    plan: Plan
    store: Store
    begun: Begun | None = None
    """Of the Hub: at what an interrupted run began, where this one goes on at it. It is among the plan's notices."""
    sources: SourceFiles | None = None
    """Of a local source: its files."""


def check_options(options: Options) -> None:
    """Refuse what no source could be converted with, before one is opened.

    Raises:
        InputError: an unknown recipe, or a type that is not written.
    """
    recipe(options.recipe or DEFAULT_RECIPE)
    if options.experts is not None and block_type(options.experts).name not in WRITABLE:
        raise InputError(f"{options.experts} is not written by this converter", hint=f"known are {' '.join(WRITABLE)}")


def plan_source(source: Path, destination: Path, options: Options, *, only_look: bool = False) -> Job:
    """Plan the conversion of a checkpoint folder or a GGUF file; no weights are read.

    With `only_look`, a config.json or a folder with nothing else will do; see `plan_shapes`.

    Raises:
        InputError: the source or the options cannot be used; what and why is said.
    """
    check_options(options)
    if not os.path.exists(source):  # it says so of a name that is too long, too
        raise InputError(f"{source} does not exist", hint="give a checkpoint folder, a GGUF file or a Hub repo id")
    if only_look and source.suffix == ".json":
        return plan_shapes(source, destination, options)
    if source.is_dir():
        if only_look and (source / "config.json").exists() and not any(source.glob("*.safetensors*")):
            return plan_shapes(source / "config.json", destination, options)
        return plan_folder(source, destination, options)
    if source.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise InputError(
            f"{source} is a pickle file, which can run code and is never loaded", hint="use the safetensors files"
        )
    if source.suffix == ".safetensors":
        raise InputError(f"{source} is one shard", hint="give its folder")
    if os.path.exists(destination) and destination.samefile(source):
        raise InputError(f"{destination} is the source itself", hint="choose another name")
    return plan_gguf(source, destination, options)


def plan_folder(folder: Path, destination: Path, options: Options) -> Job:
    """Plan the conversion of a local checkpoint folder; errors as in `plan_source`."""
    architecture_keys(read_config(folder))  # say first what is wrong with the config
    checkpoint = Checkpoint.open(folder)
    shards = sorted({t.shard for t in checkpoint.tensors.values()})
    sources = SourceFiles(folder, shards)
    paths = [(folder / s, 8 + len(read_shard_header(folder / s))) for s in shards]
    store, name = CheckpointStore(checkpoint, sources), _utf8(folder.resolve().name)
    job = _plan_checkpoint(checkpoint, store, fingerprint_files(paths), name, destination, options)
    # what an earlier conversion wrote there may be replaced
    refuse_own_source(job.plan, (path for path in folder.iterdir() if path.suffix != ".gguf"))
    return _watched(job, sources)


def plan_hub(
    repo: str,
    revision: str | None,
    destination: Path,
    options: Options,
    *,
    only_look: bool = False,
    fresh: bool = False,
) -> Job:
    """Plan the conversion of a model on the Hub; its small files go into a folder beside `destination`.

    With `only_look` into another one, which the caller discards: the first may hold an interrupted run's shards. Unless
    `fresh`, the plan is for the revision at which that run began, where `revision` does not name another.

    Raises:
        InputError: no such model, no connection, or what `plan_source` refuses.
    """
    check_options(options)
    if not destination.parent.is_dir():
        raise InputError(f"{destination.parent} is not a folder", hint="make it first")
    download = destination.with_name(destination.name + ".download")
    folder = destination.with_name(destination.name + ".look") if only_look else download
    new = only_look or not os.path.exists(folder)
    earlier = None if fresh else begun(download, repo, revision)
    try:
        model = _open(earlier, folder) if earlier else open_model(repo, revision, folder)
        noted = earlier or Begun(repo, revision or "", model.revision)
        store, name = HubStore(model, new=new, begun=noted), repo.split("/")[1]
        said = {"repository": repo, "revision": model.revision}
        job = _plan_checkpoint(model.checkpoint, store, model.fingerprint, name, destination, options, **said)
        notices = ((earlier.notice,) if earlier else ()) + job.plan.notices
        return replace(job, plan=replace(job.plan, notices=notices), begun=earlier)
    except BaseException:
        if new:  # else an interrupted run's, which may go on once the Hub or the options are right
            drop_unused(folder)
        raise


def _open(earlier: Begun, folder: Path) -> HubModel:
    """The model at the revision at which an interrupted run began; errors as in `open_model`."""
    try:
        return open_model(earlier.repo, earlier.revision, folder)
    except HubError as error:
        raise earlier.gone(error) from error.__cause__


def _utf8(name: str) -> str:
    """A file's name, which will be written into the output. Raises InputError where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name {name!r:.300} is not UTF-8, so that no file can hold it", hint="rename it"
        ) from None
    return name


def _plan_checkpoint(
    checkpoint: Checkpoint,
    store: Store,
    source_digest: str,
    name: str,
    destination: Path,
    options: Options,
    **said: str,
) -> Job:
    folder = checkpoint.folder
    config = read_config(folder)
    check_count(checkpoint, config)
    table = tensor_table(config)
    check_checkpoint(checkpoint, config, table)
    chosen = recipe(options.recipe or DEFAULT_RECIPE)
    imatrix = Imatrix.read(options.imatrix) if options.imatrix else None
    types = TypeChoice(config, chosen, block_type(options.experts) if options.experts else None, imatrix, table)
    metadata: Metadata = {
        "general.architecture": text(ARCHITECTURE),
        "general.type": text("model"),
        "general.name": text(name),
        "general.file_type": u32(chosen.file_type),
        "general.quantization_version": u32(QUANTIZATION_VERSION),
        **architecture_keys(config),
        **tokenizer_keys(read_tokenizer(folder, config)),
        **provenance(
            chosen.name,
            source_digest,
            source=said.get("repository", name),
            experts=(options.experts or "").upper(),
            imatrix=imatrix.digest if imatrix else "",
            **said,
        ),
    }
    plan = make_plan(
        destination,
        table,
        store,
        metadata,
        types.choice,
        source=said.get("repository", str(folder)),
        recipe=chosen.name,
        importance=types.importance,
        split_bytes=options.split_bytes,
        notices=types.notices,
    )
    return Job(plan, store)


def plan_shapes(config_path: Path, destination: Path, options: Options) -> Job:
    """Plan from a config.json alone, for a look at sizes before anything is downloaded; it cannot be carried out.

    Raises:
        InputError: a bad value in the config, or options that cannot be used.
    """
    config = ModelConfig.from_dict(read_json_object(config_path), str(config_path))
    table = tensor_table(config)
    chosen = recipe(options.recipe or DEFAULT_RECIPE)
    imatrix = Imatrix.read(options.imatrix) if options.imatrix else None
    types = TypeChoice(config, chosen, block_type(options.experts) if options.experts else None, imatrix, table)
    store = ShapeStore()
    plan = make_plan(
        destination,
        table,
        store,
        {"general.architecture": text(ARCHITECTURE), **architecture_keys(config)},
        types.choice,
        source=str(config_path),
        recipe=chosen.name,
        importance=types.importance,
        split_bytes=options.split_bytes,
        notices=["planned from config.json alone; the tokenizer adds about 4 MB", *types.notices],
    )
    return Job(plan, store)


def plan_gguf(path: Path, destination: Path, options: Options) -> Job:
    """Plan the upgrade of a GGUF file, and with a recipe its requantization; errors as in `plan_source`."""
    model = open_gguf(path)
    config = config_of(model.whole)
    table = source_table(model, config)
    metadata, changes, remarks = upgraded_keys(model, config)
    unsplit = [w for w in table if w.name.endswith(".attn_k_b.weight") and w.parts[0].transposed]
    if unsplit:
        changes.insert(0, f"attn_kv_b of {len(unsplit)} layers split into attn_k_b and attn_v_b for MLA")
    names = sorted({file for file, _ in model.tensors.values()})
    sources = SourceFiles(path.parent, names)
    paths = [(path.with_name(n), read_header(path.with_name(n)).data_offset) for n in names]
    experts = block_type(options.experts) if options.experts else None
    imatrix = Imatrix.read(options.imatrix) if options.imatrix else None
    if options.recipe is None:
        if experts or imatrix:
            raise InputError("--experts and --imatrix need a recipe", hint="add -q moe-4, or leave them out to upgrade")
        if not changes and options.split_bytes is None:
            raise InputError(f"{path} needs no upgrade", hint="give a recipe (-q) to change its types")
        label = "upgrade"
    else:
        low = sorted({i.type.name for _, i in model.tensors.values()} - set(REQUANTIZABLE))
        if low:
            raise InputError(
                f"{path} has {', '.join(low)} tensors: quantizing those again would lose more than the size suggests",
                hint="start from the published weights or an F32, F16, BF16 or Q8_0 file; without -q it is upgraded",
            )
        label = recipe(options.recipe).name
        metadata["general.file_type"] = u32(recipe(options.recipe).file_type)
    metadata["general.quantization_version"] = u32(QUANTIZATION_VERSION)
    types = TypeChoice(config, recipe(options.recipe or DEFAULT_RECIPE), experts, imatrix, table)
    metadata = {k: v for k, v in metadata.items() if k not in ("coder.convert.experts", "coder.convert.imatrix")}
    metadata |= provenance(
        label,
        fingerprint_files(paths),
        source=_utf8(path.name),
        experts=(options.experts or "").upper(),
        imatrix=imatrix.digest if imatrix else "",
    )
    store = GgufStore(path.parent, model.tensors, sources)
    plan = make_plan(
        destination,
        table,
        store,
        metadata,
        types.choice if options.recipe else lambda wanted: upgraded_type(model, wanted),
        source=str(path),
        recipe=label,
        importance=types.importance,
        split_bytes=options.split_bytes,
        notices=[*changes, *remarks, *types.notices],
    )
    refuse_own_source(plan, (sources.folder / name for name in sources.states))
    return _watched(Job(plan, store), sources)


def _watched(job: Job, sources: SourceFiles) -> Job:
    plan = job.plan
    stored = (plan.tensors[p.tensor].wanted.parts[p.part].stored for p in plan.pieces)
    sources.remember(journal_path(plan), (job.store.location(s)[0] for s in stored))
    return replace(job, sources=sources)


@contextlib.contextmanager
def closing(job: Job) -> Iterator[Job]:
    """Close the job's files at the end of the block."""
    try:
        yield job
    finally:
        job.store.close()


MOST_BYTES = 10**18
"""More than any file system holds."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def parse_size(size: str) -> int:
    """Bytes of "4G", "500M", "1.5G" (powers of 1000, as llama.cpp's splitter counts).

    Raises:
        InputError: not a size, or less than a megabyte.
    """
    found = _SIZE.fullmatch(size.strip())
    value = float(found.group(1)) * 1000 ** " KMGT".index(found.group(2).upper() or " ") if found else 0.0
    if not 1e6 <= value < MOST_BYTES:
        raise InputError(f"{size!r:.80} is not a size from 1M to {MOST_BYTES // 10**12}T", hint="for example 4G")
    return int(value)
