"""`coder verify --against` compares the tokenizer key by key; what means the same elsewhere is only a note."""

import json

import pytest
from checkpoints import LITE, convert, write_checkpoint

from coderv2_local.verify.judge import verify
from coderv2_local.verify.settings import settings_against
from coderv2_local.verify.sources import open_source
from coderv2_local.verify.tokenizer_settings import tokenizer_against
from converters.gguf_config import config_of
from converters.gguf_header import read_header
from converters.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED

T = "tokenizer.ggml."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("c") / "c", LITE)


@pytest.fixture(scope="module")
def file(tmp_path_factory, checkpoint):
    return convert(checkpoint, tmp_path_factory.mktemp("f") / "m.gguf", "bf16")


@pytest.fixture(params=["checkpoint", "GGUF"])
def compared(request, checkpoint, file):
    """(wrong, notes) of the file's metadata with changes; None removes a key."""
    theirs = open_source(checkpoint if request.param == "checkpoint" else file).tokenizer()
    ours = read_header(file).metadata

    def of(**changes):
        changed = {T + k if k != "template" else "tokenizer.chat_template": v for k, v in changes.items()}
        return tokenizer_against({k: v for k, v in (dict(ours) | changed).items() if v is not None}, theirs)

    of.ours = ours
    return of


def test_a_file_as_it_was_made_has_no_differences(compared):
    assert compared() == ([], [])


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("merges", lambda m: m[::-1], "the merges differ: number 0 is 'd e' in the file, 't h' in its source"),
        ("merges", lambda m: m[:1], "there are 1 merges in the file, 8 in its source"),
        ("merges", lambda m: None, "the merges are missing"),
        ("pre", lambda m: "default", "the pre-tokenizer is default in the file, deepseek-llm in its source"),
        ("model", lambda m: "llama", "the kind of tokenizer is llama"),
        ("token_type", lambda t: [NORMAL] * len(t), "tokens have another type than in the source: 264 has 1, not 3"),
        ("token_type", lambda t: [CONTROL, *t[1:]], "1 tokens have another type than in the source: 0 has 3, not 1"),
        ("fim_pre_token_id", lambda i: i + 1, "fim_pre_token_id is"),
        ("add_bos_token", lambda a: False, "whether a text begins with BOS is False in the file, True in its source"),
    ],
)
def test_what_differs_speaks_against_the_file(compared, key, change, words):
    wrong, _ = compared(**{key: change(compared.ours[T + key])})
    assert len(wrong) == 1
    assert words in wrong[0]


def test_what_means_the_same_is_a_note(compared):
    types = compared.ours[T + "token_type"]
    other = [NORMAL if t == UNUSED else USER_DEFINED if t == CONTROL else t for t in types]
    assert other != types
    for changes in (
        {"token_type": other},
        {"template": "hello"},
        {"template": None},
        {"add_bos_token": None},
        {"fim_pre_token_id": None},
    ):
        wrong, notes = compared(**changes)
        assert wrong == []
        assert notes


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tokenizer.ggml.eos_token_id", 5, "the id of EOS is 5 in the file, 265 in its source"),
        ("tokenizer.ggml.bos_token_id", 5, "the id of BOS is 5 in the file, 264 in its source"),
        ("deepseek2.context_length", 512, "the longest context is 512 in the file, 163840 in its source"),
    ],
)
def test_ids_and_the_context_are_constants(checkpoint, file, key, value, words):
    header = read_header(file)
    source = open_source(checkpoint).config
    assert settings_against(config_of(header), source, header) == []
    header.metadata[key] = value
    assert settings_against(config_of(header), source, header) == [words]


def test_the_verdict_and_a_tokenizer_that_cannot_be_read(tmp_path, file):
    folder = write_checkpoint(tmp_path / "c", LITE)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].reverse()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    verdict = verify(file, against=folder, max_tokens=2, threads=1)
    assert [r for r in verdict.reasons if "the merges differ" in r] == verdict.reasons != []
    del tokenizer["model"]["merges"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    verdict = verify(file, against=folder, max_tokens=2, threads=1)
    assert verdict.good, verdict.reasons
    assert any("the tokenizers are not compared" in r and "merges" in r for r in verdict.remarks)
