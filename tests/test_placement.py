"""Placement: decision tables for machines that are not at hand, and what the user wants of it."""

import dataclasses
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from conftest import ROOT
from some_machines import GIB, TINY, machine, model

from coderv2_local import llama_library
from coderv2_local.engine import Engine
from coderv2_local.llama_library import llama
from coderv2_local.local_backend import LocalBackend
from coderv2_local.placement.layout import GPU_RESERVE, gpu_budget, lay_out
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.placement.memory_classes import ModelMemory, memory_of_file
from coderv2_local.placement.place import Placement, PlacementError, load_options_for, place
from coderv2_local.placement.tensor_overrides import expert_pattern
from coderv2_local.registry import known_model, known_models
from converters.gguf_header import read_header
from quant.errors import InputError

# --- decisions -----------------------------------------------------------------------------------------------------

# model, recipe, RAM, VRAM → all layers on the GPU?, expert layers on the CPU, from disk?, context
DECISIONS = [
    ("lite", "moe-4", 16, 0, False, 0, False, 16384),
    ("lite", "moe-4", 32, 0, False, 0, False, 32768),
    ("lite", "moe-4", 16, 8, True, 11, False, 16384),
    ("lite", "moe-4", 32, 16, True, 0, False, 32768),
    ("lite", "moe-4", 32, 24, True, 0, False, 32768),
    ("lite", "moe-8", 16, 0, False, 0, True, 16384),
    ("lite", "moe-8", 32, 0, False, 0, False, 16384),
    ("lite", "moe-8", 16, 24, True, 0, False, 16384),
    ("236b", "moe-4", 32, 0, False, 0, True, 16384),
    ("236b", "moe-4", 64, 24, True, 57, True, 16384),
    ("236b", "moe-4", 192, 0, False, 0, False, 16384),
    ("236b", "moe-4", 192, 24, True, 57, False, 16384),
    ("236b", "moe-8", 192, 24, False, 52, True, 16384),
]


@pytest.mark.parametrize("case", DECISIONS, ids=lambda c: "-".join(map(str, c[:4])))
def test_decisions(case):
    name, recipe_name, ram, vram, all_layers, cpu_experts, from_disk, context = case
    memory, m = model(name, recipe_name), machine(ram, vram)
    placed = place(memory, m)
    options, n = placed.options, memory.config.n_layers
    assert (options.n_gpu_layers == n + 1) is all_layers
    assert len(options.cpu_expert_layers) == pytest.approx(cpu_experts, abs=1)
    assert options.stream_experts is from_disk
    assert options.n_ctx == context
    assert options.n_threads == 8
    assert not options.repack
    assert_within(placed, memory, m)


def assert_within(placed: Placement, memory: ModelMemory, m: Machine) -> None:
    """What must hold of every placement: nothing is filled beyond its size, nothing is counted twice or not at all."""
    layout, options = placed.layout, placed.options
    assert layout.gpu <= gpu_budget(m.gpus)
    assert layout.private + layout.dense <= m.available
    assert (layout.uncached == 0) == (layout.dense + layout.experts <= layout.room)
    buffers = memory.compute_bytes(options.n_ctx, options.n_ubatch or options.n_batch)
    assert memory.total + memory.kv_bytes(options.n_ctx) <= layout.gpu + layout.private + layout.dense + layout.experts
    assert layout.gpu + layout.private + layout.dense + layout.experts <= (
        memory.total + memory.kv_bytes(options.n_ctx) + 3 * buffers + memory.runtime_bytes + GPU_RESERVE
    )
    assert len(placed.reasons) >= 6


@pytest.mark.parametrize("name", ["lite", "236b"])
@pytest.mark.parametrize("mla", [True, False])
@pytest.mark.parametrize("vram", [0, 4, 8, 12, 16, 24, 48, 192])
@pytest.mark.parametrize("ram", [8, 16, 32, 64, 192, 512])
def test_every_machine_gets_what_fits_it_or_a_refusal(name, mla, vram, ram):
    memory, m = model(name, mla=mla), machine(ram, vram)
    least = lay_out(memory, m, LoadOptions(n_ctx=2048))
    if not vram and not least.possible:
        with pytest.raises(PlacementError, match="can be had") as refused:
            place(memory, m)
        assert refused.value.hint
        return
    try:
        placed = place(memory, m)
    except PlacementError:
        assert not least.possible  # a GPU takes some of the dense part, perhaps not enough of it
    else:
        assert_within(placed, memory, m)


def test_more_memory_never_makes_it_worse():
    memory = model("lite")
    layers = [len(place(memory, machine(32, vram)).options.cpu_expert_layers) for vram in range(4, 25)]
    contexts = [place(memory, machine(ram)).options.n_ctx for ram in range(16, 65, 4)]
    uncached = [place(model("236b"), machine(ram)).layout.uncached for ram in range(24, 193, 8)]
    assert contexts == sorted(contexts)
    assert uncached == sorted(uncached, reverse=True)
    # the larger batches, taken when some experts are on the processor, cost a layer or two of them at most
    assert all(b <= a + 2 for a, b in pairwise(layers))


def test_experts_that_fit_are_those_of_the_last_layers():
    placed = place(model("lite"), machine(32, 8))
    chosen = placed.options.cpu_expert_layers
    assert chosen == tuple(range(1, 1 + len(chosen)))
    one_more = dataclasses.replace(placed.options, cpu_expert_layers=chosen[:-1])
    assert lay_out(model("lite"), machine(32, 8), one_more).gpu > gpu_budget(machine(32, 8).gpus)


def test_no_mla_takes_a_shorter_context_and_says_why():
    placed = place(model("236b", mla=False), machine(192))
    assert placed.options.n_ctx < place(model("236b"), machine(192)).options.n_ctx
    assert "MLA" in placed.reasons[0]


def test_memory_that_gpus_share_counts_once():
    m = machine(32)
    shared = dataclasses.replace(m, gpus=(Gpu("Metal", "chip", 20 * GIB, 24 * GIB, shared=True),))
    placed = place(model("lite"), shared)
    assert placed.options.n_gpu_layers == 28
    assert placed.layout.gpu + placed.layout.private + placed.layout.dense <= shared.available


# --- wishes --------------------------------------------------------------------------------------------------------


def test_flash_attention_is_off_only_for_infilling_where_it_is_slow():
    def placed(memory, features, vram=0, **wishes):
        on = dataclasses.replace(machine(16, vram), features=features)
        return place(memory, on, LoadWishes(**{"infill": True, **wishes}))

    tiny = memory_of_file(read_header(TINY))
    assert (tiny.key_width, model("lite").key_width, model("lite", mla=False).key_width) == (160, 576, 192)
    slow = placed(tiny, ("avx2", "avx512"))
    assert not slow.options.flash_attention
    assert any("off, with AVX-512 it is slow" in reason for reason in slow.reasons)
    assert placed(tiny, ("avx512",), infill=False).options.flash_attention
    assert placed(tiny, ("avx2",)).options.flash_attention
    assert placed(tiny, ("avx512",), vram=8).options.flash_attention
    assert placed(tiny, ("avx512",), flash_attention=True).options.flash_attention
    assert placed(model("lite"), ("avx512",)).options.flash_attention


def test_flash_attention_off_as_asked_for_is_among_the_reasons():
    placed = place(model("lite", "q4_k_m"), machine(64), LoadWishes(flash_attention=False))
    assert not placed.options.flash_attention
    assert any(reason.startswith("flash attention: off") for reason in placed.reasons)
    plain = place(model("lite", "q4_k_m"), machine(64))
    assert plain.layout.private < placed.layout.private


def test_wishes_are_taken_as_they_are():
    wishes = LoadWishes(n_ctx=100_000, n_threads=3, n_batch=256, n_ubatch=64, n_gpu_layers=10, stream_experts=True)
    placed = place(model("lite"), machine(64, 24), wishes)
    o = placed.options
    assert (o.n_ctx, o.n_threads, o.n_batch, o.n_ubatch, o.n_gpu_layers) == (100_000, 3, 256, 64, 10)
    assert o.stream_experts
    assert sum("as asked for" in reason for reason in placed.reasons) == 5
    kept = place(model("lite"), machine(64, 24), LoadWishes(cpu_expert_layers=(3, 4, 5))).options
    assert kept.cpu_expert_layers == (3, 4, 5)
    assert place(model("lite"), machine(64), LoadWishes(n_gpu_layers=99)).options.n_gpu_layers == 0


def test_repacking_only_where_the_copy_fits():
    assert place(model("lite"), machine(64), LoadWishes(repack=True)).options.repack
    for m, name in ((machine(12), "lite"), (machine(16), "lite"), (machine(64), "236b")):
        placed, without = place(model(name), m, LoadWishes(repack=True)), place(model(name), m)
        assert (placed.options, placed.layout) == (without.options, without.layout)
        refused = [reason for reason in placed.reasons if "repacking: refused" in reason]
        assert refused
        assert set(placed.reasons) - set(refused) <= set(without.reasons)


def gpu_reason(placed: Placement) -> str:
    return next(reason for reason in placed.reasons if reason.startswith("GPU: "))


def test_layers_wanted_on_the_gpu_bring_the_experts_that_fit():
    m, lite = machine(32, 8), model("lite")
    some = place(lite, m, LoadWishes(n_gpu_layers=10))
    assert (some.options.n_gpu_layers, some.options.cpu_expert_layers) == (10, ())
    assert "the last 9 of 27 layers, with the experts of 9 of 9 layers, as asked for" in gpu_reason(some)
    asked, chosen = place(lite, m, LoadWishes(n_gpu_layers=99)), place(lite, m)
    assert asked.options == chosen.options
    kept = 26 - len(chosen.options.cpu_expert_layers)
    assert 0 < kept < 26
    assert f"what every token passes, and the experts of {kept} of 26 layers, as asked for" in gpu_reason(asked)
    everything = place(lite, machine(32, 24), LoadWishes(n_gpu_layers=99))
    assert "takes everything, as asked for" in gpu_reason(everything)
    none = place(lite, machine(32, 24), LoadWishes(cpu_expert_layers=tuple(range(99))))
    assert none.options.cpu_expert_layers == tuple(range(1, 27))
    assert "what every token passes, and no experts, as asked for" in gpu_reason(none)
    off = place(lite, m, LoadWishes(n_gpu_layers=0))
    assert not off.options.n_gpu_layers
    assert gpu_reason(off) == "GPU: GPU0 is not used, as asked for"


def test_wishes_that_the_gpu_cannot_hold_are_refused_with_what_it_can():
    m = machine(32, 8)
    wishes = LoadWishes(n_gpu_layers=28, cpu_expert_layers=())
    with pytest.raises(
        PlacementError, match=r"the 28 layers .* with their experts, need 1\d\.\d GB there; 7.*"
    ) as refused:
        place(model("lite"), m, wishes)
    most = int(re.fullmatch(r"`coder config load.gpu_layers (\d+)` would just fit", refused.value.hint)[1])
    assert 1 < most < 28
    assert place(model("lite"), m, dataclasses.replace(wishes, n_gpu_layers=most)).layout.fits_gpu
    with pytest.raises(PlacementError):
        place(model("lite"), m, dataclasses.replace(wishes, n_gpu_layers=most + 1))
    # where only the experts are wanted, the layers are as many as fit with them
    placed = place(model("lite"), m, LoadWishes(cpu_expert_layers=()))
    assert placed.layout.fits_gpu
    assert 1 < placed.options.n_gpu_layers <= most + 1


def test_wishes_without_effect_are_told():
    placed = place(model("lite"), machine(64), LoadWishes(n_gpu_layers=5, expert_memory=GIB))
    assert gpu_reason(placed) == "GPU: this build of ggml finds none: what is wanted of it has no effect"
    assert any("the memory asked for them is not used" in reason for reason in placed.reasons)
    assert placed.options.expert_memory is None
    streaming = place(model("236b"), machine(64), LoadWishes(expert_memory=GIB))
    assert streaming.options.expert_memory == GIB
    assert not any("not used" in reason for reason in streaming.reasons)


def test_a_batch_is_at_least_what_is_computed_at_once():
    placed = place(model("lite"), machine(32), LoadWishes(n_ubatch=1024)).options
    assert (placed.n_batch, placed.n_ubatch) == (1024, 1024)
    placed = place(model("lite"), machine(32), LoadWishes(n_batch=256, n_ubatch=1024)).options
    assert (placed.n_batch, placed.n_ubatch) == (256, 256)


def test_contexts_that_cannot_be():
    with pytest.raises(InputError, match="longer than the model's, 163840") as caught:
        place(model("lite"), machine(64), LoadWishes(n_ctx=163_841))
    assert "--ctx 163840" in caught.value.hint
    with pytest.raises(PlacementError, match="context of 131072 tokens needs") as refused:
        place(model("236b", mla=False), machine(192), LoadWishes(n_ctx=131_072))
    assert re.fullmatch(r"--ctx \d+ fits", refused.value.hint)
    with pytest.raises(PlacementError, match=r"236b needs 14.* its experts not counted") as hopeless:
        place(model("236b"), machine(16), name="236b")
    assert "coder plan" in hopeless.value.hint


# --- in the engine -------------------------------------------------------------------------------------------------


def test_placement_of_a_file_on_this_machine():
    placed = load_options_for(TINY)
    assert placed.options.n_ctx == 2048
    assert placed.options.n_batch == 512
    assert not placed.options.stream_experts


def test_a_backend_takes_wishes():
    with LocalBackend(TINY, LoadWishes(n_ctx=256, n_threads=1)) as backend:
        assert (backend.n_ctx, backend.engine.n_threads) == (256, 1)
    with pytest.raises(InputError, match="longer than the model's"):
        LocalBackend(TINY, LoadWishes(n_ctx=100_000))


def test_overrides_reach_llama_and_change_no_number(monkeypatch):
    """The tensors named are those of the layers named; logits stay bit for bit the same; a batch goes in parts."""
    seen: list[str] = []
    create = Engine._make_context
    monkeypatch.setattr(  # the log is short: read it between loading and making the context
        Engine, "_make_context", lambda self: (seen.extend(t for _, t in llama_library._log), create(self))[1]
    )
    ids = list(range(10, 90))
    with Engine(TINY, LoadOptions(n_threads=1, n_batch=64, n_ubatch=16)) as plain:
        expected = plain.evaluate(ids)
    seen.clear()
    with Engine(TINY, LoadOptions(n_threads=1, cpu_expert_layers=(1, 3), n_batch=64, n_ubatch=16)) as engine:
        assert np.array_equal(engine.evaluate(ids), expected)
        context = engine._context.handle
        assert (llama.llama_n_batch(context), llama.llama_n_ubatch(context)) == (64, 16)
    moved = {m[1] for t in seen if (m := re.match(r"tensor (\S+) .*overridden to CPU", t))}
    parts = ("gate", "up", "down")
    assert moved == {f"blk.{i}.ffn_{p}_exps.weight" for i in (1, 3) for p in parts}


def test_the_pattern_names_whole_layer_numbers():
    pattern = re.compile(expert_pattern((1, 12)))
    for name, wanted in (
        ("blk.1.ffn_gate_exps.weight", True),
        ("blk.12.ffn_gate_up_exps.weight", True),
        ("blk.12.ffn_down_exps.weight", True),
        ("blk.11.ffn_gate_exps.weight", False),
        ("blk.2.ffn_up_exps.weight", False),
        ("blk.1.ffn_gate_shexp.weight", False),
        ("blk.1.ffn_gate_inp.weight", False),
    ):
        assert bool(pattern.search(name)) is wanted, name


# --- the table of published models ---------------------------------------------------------------------------------


def test_known_models_and_their_shapes():
    models = known_models()
    assert list(models) == ["lite", "lite-base", "236b-0724", "236b", "236b-base"]
    assert models["lite-base"].fim == "yes"
    assert [m.name for m in models.values() if m.repo.rsplit("/")[-1].startswith("DeepSeek-Coder-V2-Lite")] == [
        "lite",
        "lite-base",
    ]
    for m in models.values():
        assert m.repo.startswith("deepseek-ai/DeepSeek-Coder-V2-")
        assert m.shape().n_layers == (27 if m.config == "lite" else 60)


@pytest.mark.parametrize(("typed", "meant"), [("236", "236b"), ("Lite", "lite"), ("lite-bass", "lite-base")])
def test_near_names_are_suggested(typed, meant):
    with pytest.raises(InputError) as caught:
        known_model(typed)
    assert caught.value.hint == f"did you mean {meant}?"


def test_the_configs_carried_are_the_published_ones():
    published = ROOT.parent / "shared" / "data"
    if not published.is_dir():
        pytest.skip("the published configs are not beside the repository")
    for name, file in (("lite", "config-lite-16b.json"), ("236b", "config-236b.json")):
        ours = json.loads((ROOT / "coderv2_local" / "data" / "configs" / f"{name}.json").read_text())
        assert ours == json.loads((published / file).read_text())
