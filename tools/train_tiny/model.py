"""The DeepSeek-V2 architecture in torch, for training `tiny` only: MLA in its plain form, MoE by sorting tokens by
expert.

The shapes are in `TINY`, spelled as the published ``config.json`` spells them. Attention follows section 2.1 of the
DeepSeek-V2 paper (https://arxiv.org/abs/2405.04434), the experts section 2.2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.01,
    "bos_token_id": 4087,
    "eos_token_id": 4088,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "kv_lora_rank": 128,
    "max_position_embeddings": 2048,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 256,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 5,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 512,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 64,
    "vocab_size": 4096,
}


def yarn_frequencies(c: dict) -> Tensor:
    """Rotary frequencies (rope/2,) after YaRN (https://arxiv.org/abs/2309.00071, section 3.2), computed in float64."""
    dim, theta, s = c["qk_rope_head_dim"], c["rope_theta"], c["rope_scaling"]
    plain = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    def dimension_of(rotations: float) -> float:
        return dim * math.log(s["original_max_position_embeddings"] / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(dimension_of(s["beta_fast"])), 0), min(math.ceil(dimension_of(s["beta_slow"])), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / s["factor"] * ramp + plain * (1 - ramp)


def softmax_scale(c: dict) -> float:
    """1/sqrt(d), times YaRN's mscale squared."""
    s = c["rope_scaling"]
    mscale = 0.1 * s["mscale_all_dim"] * math.log(s["factor"]) + 1
    return (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]) ** -0.5 * mscale * mscale


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Multi-head latent attention, without query compression. x: (batch, time, hidden) → same."""

    def __init__(self, c: dict) -> None:
        super().__init__()
        self.heads, self.nope, self.rope, self.v = (
            c["num_attention_heads"],
            c["qk_nope_head_dim"],
            c["qk_rope_head_dim"],
            c["v_head_dim"],
        )
        self.rank, self.scale = c["kv_lora_rank"], softmax_scale(c)
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, c["rms_norm_eps"])
        self.kv_b_proj = nn.Linear(self.rank, self.heads * (self.nope + self.v), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v, hidden, bias=False)

    @staticmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate interleaved pairs (0,1), (2,3), … of x (…, time, rope) by cos, sin (time, rope/2)."""
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, -1).transpose(1, 2)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.v], -1)
        q_nope, q_rope = q.split([self.nope, self.rope], -1)
        q_rope = self.rotate(q_rope, cos, sin).type_as(q)
        k_rope = self.rotate(k_rope, cos, sin).type_as(q).unsqueeze(1).expand(-1, self.heads, -1, -1)
        q, k = torch.cat([q_nope, q_rope], -1), torch.cat([k_nope, k_rope], -1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """Routed and shared experts. Sets `balance_loss` (the paper's expert-level balance loss) on every forward."""

    def __init__(self, c: dict) -> None:
        super().__init__()
        e, inner, hidden = c["n_routed_experts"], c["moe_intermediate_size"], c["hidden_size"]
        self.used, self.scaling = c["num_experts_per_tok"], c["routed_scaling_factor"]
        self.gate = nn.Linear(hidden, e, bias=False)
        self.gate_up = nn.Parameter(torch.empty(e, 2 * inner, hidden))
        self.down = nn.Parameter(torch.empty(e, hidden, inner))
        self.shared_experts = FeedForward(hidden, inner * c["n_shared_experts"])
        self.balance_loss = torch.zeros(())
        self.load = torch.zeros(e)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(flat.float(), self.gate.weight).softmax(-1)
        weight, chosen = scores.topk(self.used, -1, sorted=False)
        experts = scores.shape[-1]
        counts = torch.bincount(chosen.flatten(), minlength=experts)
        self.load = counts / counts.sum()
        self.balance_loss = experts * (self.load * scores.mean(0)).sum()
        order = chosen.flatten().argsort(stable=True)
        token = order // self.used
        pieces = flat.bfloat16()[token].split(counts.tolist())
        outputs = []
        for expert, piece in enumerate(pieces):
            gate, up = F.linear(piece, self.gate_up[expert]).chunk(2, -1)
            outputs.append(F.linear(F.silu(gate) * up, self.down[expert]))
        out = torch.cat(outputs).float() * (weight.flatten()[order] * self.scaling).unsqueeze(-1)
        mixed = torch.zeros_like(flat, dtype=torch.float32).index_add(0, token, out)
        return mixed.view_as(x) + self.shared_experts(x)


class Block(nn.Module):
    def __init__(self, c: dict, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        dense = layer < c["first_k_dense_replace"]
        self.mlp = FeedForward(c["hidden_size"], c["intermediate_size"]) if dense else Experts(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Tiny(nn.Module):
    """ids (batch, time) → logits (batch, time, vocabulary)."""

    def __init__(self, c: dict = TINY) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        angles = torch.outer(torch.arange(c["max_position_embeddings"], dtype=torch.float64), yarn_frequencies(c))
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            std = 0.5 * p.shape[-1] ** -0.5
            if "o_proj" in name or "down" in name:
                std *= (2 * c["num_hidden_layers"]) ** -0.5
            nn.init.normal_(p, std=1.0 if "embed" in name else std)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))

    def experts(self) -> list[Experts]:
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, Experts)]
