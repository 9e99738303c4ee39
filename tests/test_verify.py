"""`coder verify`: good files pass, every known defect is caught and named, bad input is refused."""

import dataclasses
import json
from functools import partial
from io import StringIO

import numpy as np
import pytest
import typer
from rich.console import Console
from small_models import FULL, LITE, golden, random_checkpoint, write_gguf
from typer.testing import CliRunner

from cli import verify_report
from cli.main import app
from cli.verify import verify as command
from cli.verify_report import chart
from coderv2_local.inspection import inspect
from coderv2_local.loadable import check_loadable, impossible
from coderv2_local.reference.checkpoint_weights import CheckpointWeights
from coderv2_local.reference.model import forward
from coderv2_local.verify import judge
from coderv2_local.verify.engine_side import exact_engine
from coderv2_local.verify.judge import raw_logits, verify
from coderv2_local.verify.measures import agreement, divergence, perplexity
from converters.gguf_config import config_of
from converters.gguf_header import dequantize, read_header
from quant.errors import CoderError, InputError, VerdictError

TOKENS = 48


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("lite"), LITE)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("full"), FULL)


def check(path, checkpoint=None, **options):
    return verify(path, against=checkpoint, max_tokens=TOKENS, threads=1, **options)


def tensor(path, name):
    return dequantize(path, read_header(path).tensors[name])


def all_reasons(verdict) -> str:
    return "\n".join(verdict.reasons)


# measures


def test_divergence_by_hand():
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert divergence(p, q) == pytest.approx([0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)])
    assert divergence(p, p + 7) == pytest.approx([0], abs=1e-12)


def test_logits_that_are_no_numbers_are_infinitely_far_apart():
    assert divergence(np.zeros((1, 3)), np.array([[0, np.nan, 0]])).tolist() == [np.inf]


def test_perplexity_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1, 1, 1]])
    assert perplexity(logits, np.array([0, 1, 0])) == pytest.approx(1 / np.sqrt(0.25 * 0.1))


def test_agreement_counts_the_most_probable_token():
    a = agreement(np.eye(3), np.eye(3)[[0, 1, 0]], np.array([0, 1, 2]))
    assert a.top1 == pytest.approx(2 / 3)
    assert a.max_kl == a.p99_kl > a.mean_kl > 0


# good files


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", ["lite", "full"])
def test_a_good_file_is_good(tmp_path, request, name, kind):
    checkpoint = request.getfixturevalue(name)
    path = write_gguf(checkpoint, tmp_path / "m.gguf", matrices=kind)
    against, alone = check(path, checkpoint), check(path)
    assert against.good, against.reasons
    assert alone.good, alone.reasons
    assert against.tensors.identical == against.tensors.parts > 50
    if kind == "F32":
        assert against.agreement.max_kl < 1e-9
        assert against.agreement.top1 == 1
        assert max(d.difference for d in against.stages) < 1e-4
        assert {d.stage for d in against.stages} == {"embedding", "attention", "router", "experts", "norm"}


def test_a_file_against_a_finer_file(tmp_path, lite):
    fine = write_gguf(lite, tmp_path / "fine.gguf")
    coarse = write_gguf(lite, tmp_path / "coarse.gguf", matrices="Q8_0")
    verdict = check(coarse, fine)
    assert verdict.good, verdict.reasons
    assert verdict.tensors.identical == verdict.tensors.parts


def test_other_scales_for_a_block_are_no_defect(tmp_path, lite):
    path, name = write_gguf(lite, tmp_path / "m.gguf", matrices="Q4_0"), "blk.1.ffn_up_exps.weight"
    info = read_header(path).tensors[name]
    data = np.memmap(path, np.uint8, "r+")
    blocks = data[info.offset : info.offset + info.nbytes].reshape(-1, info.type.block_bytes)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16) * np.float16(1.03)
    blocks[:, :2] = scales.view(np.uint8)
    data.flush()
    verdict = check(path, lite)
    assert verdict.good, verdict.reasons
    assert verdict.tensors.identical < verdict.tensors.parts


def test_golden_files_are_good(tmp_path):
    folder = golden("full")
    verdict = verify(write_gguf(folder, tmp_path / "m.gguf"), against=folder, max_tokens=64, threads=2)
    assert verdict.good
    assert verdict.agreement.mean_kl <= 1e-9


# bad input


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("deepseek2.rope.scaling.type", "what", "rope.scaling.type is 'what'"),
        ("deepseek2.attention.head_count_kv", 2, "head_count_kv is 2, not 1"),
        ("deepseek2.attention.key_length", 48, "key_length is 48, not 40"),
        ("deepseek2.attention.value_length", 48, "value_length is 48, not 32"),
        ("tokenizer.ggml.tokens", ["a"] * 300, "299 tokens are in the vocabulary twice"),
        ("tokenizer.ggml.tokens", ["a"], "1 tokens for 300 rows"),
        ("tokenizer.ggml.tokens", None, "the list of tokens is missing"),
        ("tokenizer.ggml.token_type", [1], "not as many token types"),
        (
            "tokenizer.ggml.tokens",
            [f"{n}" for n in range(298)] + ["297\0", "\0"],
            "a NUL character is in 2 of the tokens",
        ),
        ("tokenizer.ggml.merges", ["a b", "a\0b c"], "a NUL character is in 1 of the merges"),
    ],
)
def test_metadata_that_would_end_the_process_are_refused_before(tmp_path, full, key, value, words):
    header = read_header(write_gguf(full, tmp_path / "m.gguf"))
    assert impossible(header, config_of(header)) == []
    changed = dataclasses.replace(header, metadata=dict(header.metadata) | {key: value})
    assert words in impossible(changed, config_of(header))[0]
    with pytest.raises(InputError, match=r"m\.gguf"):
        check_loadable(changed, header.path)


def test_vocabularies_that_differ(tmp_path, lite):
    other = random_checkpoint(tmp_path / "c", LITE | {"vocab_size": 310})
    with pytest.raises(InputError, match="has a vocabulary of 300 tokens"):
        check(write_gguf(lite, tmp_path / "m.gguf"), other)


def test_token_lists_that_differ(tmp_path, lite):
    a, b = write_gguf(lite, tmp_path / "a.gguf"), write_gguf(lite, tmp_path / "b.gguf")
    data = bytearray(b.read_bytes())
    at = data.index(b"<extra_270>")
    data[at : at + 11] = b"<other_270>"
    b.write_bytes(data)
    with pytest.raises(InputError, match=r"1 tokens differ.*270 is"):
        check(a, b)


def test_tokens_that_differ_from_the_checkpoints(tmp_path):
    folder = random_checkpoint(tmp_path / "c", LITE)
    path = write_gguf(folder, tmp_path / "m.gguf")
    tokens = read_header(path).metadata["tokenizer.ggml.tokens"]
    vocabulary = {t: i for i, t in enumerate(tokens[:290])}  # the rest pads the embedding
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": 298, "content": tokens[298]}]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check(path, folder).good
    tokenizer["added_tokens"][0]["content"] = "<begin>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="298 is '<extra_298>' here, '<begin>' there"):
        check(path, folder)


def test_a_model_of_another_shape_is_told_apart_and_the_hint_says_what_may_be_wrong(tmp_path, lite, run):
    changes = {"n_routed_experts": 15, "n_group": 5, "topk_group": 2, "num_hidden_layers": 4}
    other = random_checkpoint(tmp_path / "c", FULL | changes)
    result = run(write_gguf(lite, tmp_path / "m.gguf"), "--against", other, "--tokens", TOKENS)
    assert "the number of layers is 3 in the file, 4 in its source" in result.stdout
    assert "the number of experts is 8 in the file, 15 in its source" in result.stdout
    assert "the router's groups are" in result.stdout or "group keys are missing" in result.stdout
    assert isinstance(result.exception, VerdictError)
    assert "another checkpoint" in result.exception.hint


def test_another_architecture_is_refused(tmp_path, lite):
    path = write_gguf(lite, tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"deepseek2", b"deepseek9"))
    with pytest.raises(InputError, match="deepseek9"):
        check(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(InputError):
        check(tmp_path / "m.gguf")


def test_thousands_of_damaged_headers_are_refused_or_read(tmp_path, full):
    resource = pytest.importorskip("resource")
    path, damaged = write_gguf(full, tmp_path / "m.gguf"), tmp_path / "d.gguf"
    whole, header = path.read_bytes(), read_header(path)
    rng = np.random.default_rng(11)
    refused, peak = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    damaged.write_bytes(whole)
    with open(damaged, "r+b") as f:
        for _ in range(2000):
            head = bytearray(whole[: header.data_offset])
            for at in rng.integers(0, len(head), rng.integers(1, 5)):
                head[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, head[at] ^ (1 << rng.integers(8))])
            f.seek(0)
            f.write(head)
            f.flush()
            try:
                found = inspect(damaged)  # all that is read from the header
                assert found.checks
                check_loadable(read_header(damaged), damaged)
            except CoderError:
                refused += 1
    assert 200 < refused < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300 * 1024  # kB


# the command


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(command)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in (*arguments, "--threads", 1)])

    return invoke


def test_the_report_and_its_exit(tmp_path, full, run):
    path = write_gguf(full, tmp_path / "m.gguf")
    good = run(path, "--against", full, "--tokens", TOKENS)
    assert good.exit_code == 0
    for words in ("mean", "99 %", "max", "perplexity", "choice of experts", "verdict: good", "identical to the source"):
        assert words in good.stdout
    stock = run(path, "--tokens", TOKENS, "--stock-routing")
    assert isinstance(stock.exception, VerdictError)
    assert stock.exception.exit_code == 1
    assert "verdict: against the file" in stock.stdout


def test_a_short_text_needs_little_room_however_many_tokens_are_allowed(tmp_path, lite, monkeypatch):
    rooms = []
    monkeypatch.setattr(
        judge, "exact_engine", lambda path, room, *rest: rooms.append(room) or exact_engine(path, room, *rest)
    )
    assert verify(write_gguf(lite, tmp_path / "m.gguf"), text="é = 1", max_tokens=1 << 20, threads=1).tokens == 7
    assert rooms == [7]


def test_json_is_all_of_it(tmp_path, lite, run):
    text = tmp_path / "t.py"
    text.write_text("def f(x):\n    return x\n")
    result = run(write_gguf(lite, tmp_path / "m.gguf"), "--json", "--text", text)
    found = json.loads(result.stdout)
    assert found["good"] is True
    assert found["tokens"] == len(found["agreement"]["kl"]) == 1 + len(text.read_text())


def test_raw_logits_of_both_sides(tmp_path, full, run):
    path, ids = write_gguf(full, tmp_path / "m.gguf"), np.array([298, 5, 6, 7], np.int32)
    np.save(tmp_path / "ids.npy", ids)
    out = {}
    for side in ("engine", "reference"):
        result = run(path, "--ids", tmp_path / "ids.npy", "--dump", tmp_path / f"{side}.npy", "--side", side)
        assert result.exit_code == 0, result.exception
        out[side] = np.load(tmp_path / f"{side}.npy")
        assert (out[side].dtype, out[side].shape) == (np.float32, (4, 300))
    assert out["engine"] == pytest.approx(out["reference"], abs=1e-3)
    assert out["reference"] == pytest.approx(forward(CheckpointWeights.open(full), ids), abs=1e-4)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_its_lines_break_at_words_on_a_terminal_and_nowhere_else(tmp_path, lite, monkeypatch, is_terminal):
    verdict = check(write_gguf(lite, tmp_path / "m.gguf"))
    out = StringIO()
    console = partial(Console, file=out, force_terminal=is_terminal, color_system=None, width=80)
    monkeypatch.setattr(verify_report, "Console", console)
    verify_report.show(dataclasses.replace(verdict, remarks=["word " * 30]))
    rows = [row for row in out.getvalue().splitlines() if "word word" in row]
    assert len(rows) == (2 if is_terminal else 1)
    assert all(set(row.split()) <= {"note:", "word"} for row in rows)


def test_a_side_without_a_dump_is_refused():
    with pytest.raises(InputError, match="--side is for --dump"):
        CliRunner().invoke(app, ["verify", "tiny", "--side", "reference"], catch_exceptions=False)


@pytest.mark.parametrize("ids", [[1, 300], [-1], [[1, 2]], [0.5], []])
@pytest.mark.parametrize("side", ["engine", "reference"])
def test_ids_out_of_range_are_refused(tmp_path, lite, ids, side):
    with pytest.raises(InputError):
        raw_logits(write_gguf(lite, tmp_path / "m.gguf"), np.array(ids), side)


def test_files_that_are_not_there_are_refused(tmp_path, lite, run):
    path = write_gguf(lite, tmp_path / "m.gguf")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for arguments in (
        ("missing.gguf",),
        (path, "--against", tmp_path / "missing"),
        (path, "--text", tmp_path / "missing"),
        (path, "--ids", tmp_path / "missing.npy", "--dump", tmp_path / "o.npy"),
        (path, "--ids", tmp_path / "bad.npy", "--dump", tmp_path / "o.npy"),
        (path, "--dump", tmp_path / "o.npy"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, InputError), arguments
    assert not (tmp_path / "o.npy").exists()


def test_the_chart():
    assert chart([1e-3, 1e-2, 1e-1]) == "▁▅█"
    assert chart([0.0, float("inf")]) == "▁█"
    assert len(chart([0.1] * 1000)) <= 64
