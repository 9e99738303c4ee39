"""Which models are used for infill: decided by what they are, whatever the spelling."""

import pytest

from coderv2_local.fim.trained import fim_training


@pytest.mark.parametrize(
    "name",
    ["DeepSeek-Coder-V2-Lite-Base", "deepseek coder v2 lite base", "DeepSeek-Coder-V2-Lite-Base-Q4_K_M.gguf", "tiny"],
)
def test_models_that_were_trained_for_it_are_used_without_a_word(name):
    assert fim_training(name) == fim_training("x", {"general.name": name})
    assert not fim_training(name).refusal
    assert not fim_training(name).notice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DeepSeek-Coder-V2-Lite-Instruct", "Instruct"),
        ("DeepSeek-Coder-V2-Lite-Instruct-Q8_0.gguf", "Instruct"),
        ("DeepSeek-Coder-V2-Instruct-0724", "reported"),
        ("DeepSeek-V2.5", "reported"),
        ("DeepSeek-Coder-V2-Lite", "does not say"),
        ("deepseek-coder-v2:16b", "Lite"),
        ("deepseek-coder-v2:16b-lite-instruct-q4_K_M", "Instruct"),
        ("deepseek-coder-v2:latest", "names no size"),
        ("deepseek-coder-v2", "names no size"),
        ("DeepSeek-Coder-V2.Q4_K_M.gguf", "names no size"),
        ("my-model", "nothing is known"),
    ],
)
def test_others_are_used_with_a_notice(name, words):
    training = fim_training(name)
    assert not training.refusal
    assert words in training.notice


@pytest.mark.parametrize(
    "name",
    [
        "DeepSeek-Coder-V2-Base",
        "DeepSeek-Coder-V2-Instruct",
        "deepseek-ai/DeepSeek-Coder-V2-Instruct",
        "deepseek_coder_v2_instruct.IQ4_XS.gguf",
        "236b-base",
        "deepseek-coder-v2:236b",
        "deepseek-coder-v2:236b-instruct-q4_0",
        "deepseek-coder-v2 (236B)",
    ],
)
def test_the_236b_is_refused(name):
    assert "not trained" in fim_training(name).refusal


def test_the_metadata_is_asked_before_the_name_of_the_file():
    said = {"general.name": "DeepSeek Coder V2 Instruct", "general.version": "0724"}
    assert "reported" in fim_training("lite-base.gguf", said).notice
    source = {"general.name": "model", "coder.convert.source": "deepseek-ai/DeepSeek-Coder-V2-Base"}
    assert fim_training("model.gguf", source).refusal
    assert "nothing" in fim_training("model.gguf", {"general.name": "model", "deepseek2.block_count": 60}).notice
    assert fim_training("DeepSeek-Coder-V2-Base.gguf", {"general.name": "snapshot"}).refusal


def test_a_name_without_a_size_leaves_the_word_to_the_others():
    no_size = {"general.name": "DeepSeek Coder V2"}
    assert "names no size" in fim_training("model.gguf", no_size).notice
    assert fim_training(
        "model.gguf", no_size | {"general.source.url": "https://hf.co/a/DeepSeek-Coder-V2-Base"}
    ).refusal
    assert fim_training("deepseek-coder-v2-236b.gguf", no_size).refusal
    lite = fim_training("lite-base.gguf", no_size)
    assert (lite.refusal, lite.notice) == ("", "")


def test_the_16b_is_used_without_a_word_where_it_is_base():
    training = fim_training("deepseek-coder-v2:16b-lite-base-q4_0")
    assert (training.refusal, training.notice) == ("", "")
