"""`coder verify` on files of every form that llama.cpp loads: in parts, fused, before the MLA split, without keys."""

import numpy as np
import pytest
from checkpoints import FULL, convert, write_checkpoint
from conftest import assert_refused
from small_models import FULL as SMALL
from small_models import random_checkpoint, write_gguf

from coderv2_local.inspection import inspect
from coderv2_local.reference.gguf_weights import GgufWeights
from coderv2_local.reference.model import forward
from coderv2_local.verify.judge import raw_logits, verify
from converters.gguf_header import read_header
from converters.gguf_model import open_gguf
from quant.errors import InputError

TOKENS = 48
FORMS = ["plain", "in parts", "fused", "before the MLA split"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("c") / "c", FULL)


@pytest.fixture(scope="module")
def forms(tmp_path_factory, checkpoint):
    """The same model in every form, F32 and Q8_0: form → type → file."""
    folder = tmp_path_factory.mktemp("forms")
    return {
        kind: {
            "plain": convert(checkpoint, folder / f"plain-{kind}.gguf", kind.lower()),
            "in parts": convert(checkpoint, folder / f"parts-{kind}.gguf", kind.lower(), split_bytes=400_000),
            "fused": write_gguf(checkpoint, folder / f"fused-{kind}.gguf", matrices=kind, fused_experts=True),
            "before the MLA split": write_gguf(checkpoint, folder / f"old-{kind}.gguf", matrices=kind, split_mla=False),
        }
        for kind in ("F32", "Q8_0")
    }


def check(path, against=None, **options):
    return verify(path, against=against, max_tokens=TOKENS, threads=1, **options)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_good_alone_and_against_its_checkpoint(checkpoint, forms, form, kind):
    path = forms[kind][form]
    alone, against = check(path), check(path, checkpoint)
    assert alone.good, alone.reasons
    assert against.good, against.reasons
    assert against.tensors.identical == against.tensors.parts > 50
    assert [r for r in against.remarks if "MLA" in r] != [] or form != "before the MLA split"
    if kind == "F32":
        assert against.agreement.max_kl < 1e-9


@pytest.mark.parametrize("theirs", FORMS)
@pytest.mark.parametrize("ours", FORMS)
def test_every_form_against_every_other(forms, ours, theirs):
    verdict = check(forms["Q8_0"][ours], forms["F32"][theirs])
    assert verdict.good, verdict.reasons
    assert verdict.tensors.identical == verdict.tensors.parts


@pytest.mark.parametrize("form", FORMS)
def test_every_form_as_a_source_finds_the_bad_block(forms, tmp_path, form):
    """Also where source and file are both quantized, along different rows."""
    path, name = tmp_path / "m.gguf", "blk.2.attn_v_b.weight"
    path.write_bytes(forms["Q8_0"]["plain"].read_bytes())
    info = read_header(path).tensors[name]
    with open(path, "r+b") as f:
        f.seek(info.offset + info.nbytes // 2)  # the first block of the second head
        f.write(b"\x75\x55" + bytes(range(32)))
    for kind in ("F32", "Q8_0"):
        found = check(path, forms[kind][form]).tensors.bad
        assert [(b.tensor, b.part, b.blocks) for b in found] == [(name, 1, 1)]


def test_a_bad_block_of_a_fused_or_split_file_is_placed(checkpoint, forms, tmp_path):
    fused = tmp_path / "fused.gguf"
    fused.write_bytes(forms["Q8_0"]["fused"].read_bytes())
    name = "blk.1.ffn_gate_up_exps.weight"
    info = read_header(fused).tensors[name]
    with open(fused, "r+b") as f:
        f.seek(info.offset + 11 * info.nbytes // 16)  # expert 5, where its up matrix begins
        f.write(b"\x75\x55" + bytes(range(32)))
    assert [(b.tensor, b.part, b.blocks) for b in check(fused, checkpoint).tensors.bad] == [(name, 5, 1)]

    parts = sorted(forms["Q8_0"]["in parts"].parent.glob("parts-Q8_0-*.gguf"))
    for part in parts:
        (tmp_path / part.name).write_bytes(part.read_bytes())
    model = open_gguf(tmp_path / parts[0].name)
    file, info = model.find("blk.2.ffn_down_exps.weight")
    assert file.name != parts[0].name
    with open(file, "r+b") as f:
        f.seek(info.offset + info.nbytes - info.type.block_bytes)
        f.write(b"\x75\x55" + bytes(range(32)))
    bad = check(tmp_path / parts[0].name, checkpoint).tensors.bad
    assert [(b.tensor, b.part, b.blocks) for b in bad] == [("blk.2.ffn_down_exps.weight", 7, 1)]


def test_a_split_file_that_is_not_whole_is_refused(coder, forms, tmp_path):
    parts = sorted(forms["Q8_0"]["in parts"].parent.glob("parts-Q8_0-*.gguf"))
    copies = [tmp_path / p.name for p in parts]
    for part, copy in zip(parts, copies, strict=True):
        copy.write_bytes(part.read_bytes())
    assert coder("inspect", copies[0]).stdout.count(f"all {len(parts)} parts are there") == 1
    assert_refused(coder("verify", copies[1]), "is a part of a split model", f"00001-of-{len(parts):05d}")
    copies[1].write_bytes(parts[2].read_bytes())
    assert_refused(coder("verify", copies[0]), "calls itself part 2")
    copies[1].write_bytes(parts[1].read_bytes()[:-100])
    assert_refused(coder("verify", copies[0]), "is truncated", copies[1].name)
    copies[1].unlink()
    assert_refused(coder("inspect", copies[0]), copies[1].name)


def test_the_forms_are_what_they_are_called(forms):
    of = {form: set(open_gguf(path).tensors) for form, path in forms["F32"].items()}
    assert of["plain"] == of["in parts"]
    assert {n for n in of["fused"] if "_up_exps" in n} == {f"blk.{i}.ffn_gate_up_exps.weight" for i in (1, 2)}
    assert not {n for n in of["fused"] if "gate_exps" in n}
    assert "blk.0.attn_kv_b.weight" in of["before the MLA split"] - of["plain"]
    logits = [forward(GgufWeights.open(path), [1, 2, 3]) for path in forms["F32"].values()]
    for other in logits[1:]:
        np.testing.assert_allclose(logits[0], other, atol=1e-5)
    sizes = {form: inspect(path) for form, path in forms["F32"].items()}
    assert len({i.parameters for i in sizes.values()}) == 1
    assert all(c.state != "bad" for c in sizes["fused"].checks if "tensor" in c.text)


# group keys that are missing


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    """A grouped checkpoint, and its file without group keys."""
    folder = random_checkpoint(tmp_path_factory.mktemp("k") / "c", SMALL)
    return folder, write_gguf(folder, folder / "m.gguf", group_keys=False), write_gguf(folder, folder / "keys.gguf")


def test_missing_group_keys_come_from_the_source_and_speak_against_the_file(keyless):
    folder, path, _ = keyless
    verdict = check(path, folder)
    assert [r for r in verdict.reasons if "group keys are missing (3 of 8 groups" in r] == verdict.reasons
    assert verdict.agreement.max_kl < 1e-9  # routed by the source's rule all the same
    stock = check(path, folder, stock_routing=True)
    assert "chosen by another rule" in "\n".join(stock.reasons)
    assert stock.agreement.mean_kl > 1e-3


def test_missing_group_keys_are_named_where_nothing_tells_them(keyless):
    _, path, _ = keyless
    alone = check(path)
    assert alone.good  # as far as the file goes
    assert "nothing else in it tells them" in "\n".join(alone.remarks)


def test_a_source_without_group_keys_is_read_by_the_files(keyless):
    _, path, with_keys = keyless
    verdict = check(with_keys, path)
    assert verdict.good, verdict.reasons
    assert verdict.agreement.max_kl < 1e-9


def test_raw_logits_take_the_rule_from_the_source_too(keyless):
    folder, path, with_keys = keyless
    ids = np.arange(20)
    right, told = raw_logits(with_keys, ids, "engine"), raw_logits(path, ids, "engine", against=folder)
    np.testing.assert_array_equal(right, told)
    assert np.abs(raw_logits(path, ids, "engine") - right).max() > 1e-2


def test_a_source_that_lacks_tensors_is_refused(forms, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(forms["F32"]["plain"].read_bytes().replace(b"blk.1.ffn_up_exps", b"blk.1.ffn_xx_exps"))
    with pytest.raises(InputError, match=r"x\.gguf: tensor blk\.1\.ffn_up_exps\.weight is missing"):
        check(forms["Q8_0"]["plain"], path)
