"""`coder convert` as users meet it: the table, the JSON, and what it says when there is nothing to do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from checkpoints import LITE, read_tensors, write_checkpoint
from typer.testing import CliRunner, Result

from cli.convert import convert as command
from converters.job import parse_size
from quant.errors import InputError
from quant.recipes import RECIPES

LITE_16B = LITE | {
    "num_hidden_layers": 27, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "num_experts_per_tok": 6,
    "vocab_size": 102400, "bos_token_id": 100000, "eos_token_id": 100001,
}  # fmt: skip
FULL_236B = LITE_16B | {
    "num_hidden_layers": 60, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "n_routed_experts": 160,
    "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0,
}  # fmt: skip


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("config", "weights", "experts"), [(LITE_16B, 15.71e9, 0.916), (FULL_236B, 235.74e9, 0.945)], ids=["lite", "236b"]
)
def test_the_plan_of_the_published_models(
    tmp_path: Path, config: dict[str, Any], weights: float, experts: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = json.loads(run(tmp_path / "config.json", tmp_path / "x.gguf", "--dry-run", "--json", "--threads", 2).stdout)
    assert found["weights"] == pytest.approx(weights, rel=1e-3)
    share = sum(r["weights"] for r in found["tensors"] if r["tensors"] == "routed experts") / found["weights"]
    assert share == pytest.approx(experts, abs=1e-3)
    assert 4.5 < found["bits_a_weight"] < 5.2
    assert found["bytes_needed"] == found["bytes"] == sum(f["bytes"] for f in found["files"])
    assert found["expected_seconds"] > 10
    narrow = [r for r in found["tensors"] if r["note"]]
    assert [r["note"] for r in narrow] == (
        ["rows of 1408 are not multiples of 256: Q4_K → Q5_0"] if config is LITE_16B else []
    )
    table = run(tmp_path, tmp_path / "x.gguf", "--dry-run").stdout
    assert "routed experts" in table
    assert "Expected time" in table
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


def test_converted_once_it_is_there(tmp_path: Path) -> None:
    folder, out = write_checkpoint(tmp_path / "in"), tmp_path / "x.gguf"
    first = run(folder, out, "-q", "q8_0", "--json")
    assert first.exit_code == 0
    assert json.loads(first.stdout) == {
        "files": [str(out)], "bytes": out.stat().st_size, "already_there": False, "notices": [],
    }  # fmt: skip
    assert "bits a weight" in first.stderr
    again = run(folder, out, "-q", "q8_0")
    assert again.exit_code == 0
    assert "already, complete" in again.stderr
    assert again.stdout == ""
    other = run(folder, out, "-q", "q4_0")
    assert isinstance(other.exception, InputError)
    assert run(folder, out, "-q", "q4_0", "--force").exit_code == 0
    assert read_tensors(out)["output.weight"][0] == "Q6_K"


def test_options_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in")
    for arguments, words in (
        (("-q", "q9"), "q9"),
        (("--experts", "Q9_Z"), "Q9_Z"),
        (("--experts", "Q2_K"), "not written"),
        (("--split-size", "12 apples"), "12 apples"),
        (("--imatrix", tmp_path / "none"), "none"),
    ):
        result = run(folder, tmp_path / "x.gguf", *arguments)
        assert isinstance(result.exception, InputError), result
        assert words in str(result.exception)
        assert result.exception.hint or words == "none"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_sizes() -> None:
    assert [parse_size(s) for s in ("4G", "1.5g", "500 MB", "2000000")] == [
        4 * 10**9,
        1500 * 10**6,
        500 * 10**6,
        2000000,
    ]
    for bad in ("", "4X", "-1G", "10", "1e9"):
        with pytest.raises(InputError):
            parse_size(bad)


def test_the_help_has_an_example_and_every_option_is_in_the_docs() -> None:
    text = run("--help").stdout
    assert "Example:" in text
    documented = (Path(__file__).parent.parent / "docs" / "convert.md").read_text(encoding="utf-8")
    options = {word for word in re.findall(r"--[a-z-]+", text) if word != "--help"}
    assert len(options) > 10
    missing = {o for o in options if o not in documented and o != "--recipe"}
    assert not missing - {"--install-completion", "--show-completion"}
    for recipe in RECIPES:
        assert f"`{recipe}`" in documented
