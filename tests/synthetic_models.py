"""The synthetic models of tools/bench, small."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).parent.parent / "tools" / "bench" / "synthetic.py"


def load_tool() -> ModuleType:
    """tools/bench/synthetic.py as a module; tools are scripts and no package."""
    if "synthetic" not in sys.modules:
        spec = importlib.util.spec_from_file_location("synthetic", SOURCE)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["synthetic"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["synthetic"]


tool = load_tool()
SIZES = {
    "n_layers": 5, "hidden_size": 256, "dense_ffn_size": 512, "expert_ffn_size": 256, "n_heads": 4, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 16, "n_experts_per_token": 4,
    "vocab_size": 400, "bos_token_id": 390, "eos_token_id": 391,
}  # fmt: skip
LITE = replace(tool.LITE, **SIZES)
GROUPED = replace(tool.FULL, **SIZES | {"q_lora_rank": 64, "n_groups": 4, "n_groups_used": 2})


def small_model(path: Path, config=LITE, *, holes: bool = False) -> Path:
    """Write a small synthetic model."""
    tool.write_model(path, config, "q4_k_m", None, holes=holes)
    return path
