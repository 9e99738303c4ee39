"""Text of one character over and over reaches llama.cpp's tokenizer in parts: whole, it would end the process."""

import pytest

from coderv2_local.local_backend import LocalBackend
from coderv2_local.vocabulary import LONGEST_RUN


@pytest.mark.parametrize("unit", ["a", " ", "你", "!", "a1 ", "_9"])
def test_a_run_of_any_length_is_encoded_and_decodes_to_itself(tiny: LocalBackend, unit: str):
    text = f"before {unit * 200_000} after"
    assert tiny.vocabulary.decode(tiny.vocabulary.encode(text)) == text


def test_text_without_long_runs_is_encoded_as_one(tiny: LocalBackend):
    words = "for name, value in items:\n    total += value  # 你好\n" * 400
    assert len(words) > 4 * LONGEST_RUN
    assert tiny.vocabulary.encode(words) == tiny.vocabulary._encode_part(words, False)
