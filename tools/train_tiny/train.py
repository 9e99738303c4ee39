"""Train `tiny`: resumable, on CPU.

    python train.py CORPUS_DIR RUN_DIR --minutes 90        starts, or goes on from RUN_DIR/latest.pt

The recipe is the paper's in miniature (section 3.2 of DeepSeek-Coder-V2, https://arxiv.org/abs/2406.11931): AdamW
(0.9, 0.95, weight decay 0.1), warm-up then cosine to 10 %, FIM at document level at rate 0.5. One thing differs: the
hidden matrices take Muon steps (https://kellerjordan.github.io/posts/muon/), which on the small budget of a CPU
learns markedly more a token. The schedule runs over training time, not steps, so that a slower machine ends with a
finished, if less trained, model.
"""

import argparse
import json
import math
import os
import queue
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from model import TINY, Tiny
from tokens import EOS, Documents
from torch import Tensor

BALANCE = 0.01


def orthogonalize(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices of g (batch, rows, columns), by Newton-Schulz iteration in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized; 3-D parameters are stacks of matrices (experts)."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"])
                update = orthogonalize(g if g.dim() == 3 else g.unsqueeze(0)).view_as(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                # the same root-mean-square as AdamW's steps, whatever the matrix's shape
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)


def build_optimizers(model: Tiny) -> list[torch.optim.Optimizer]:
    matrices, vectors, tables, routers = [], [], [], []
    for name, p in model.named_parameters():
        kind = (
            tables
            if "embed" in name or "lm_head" in name
            else routers
            if name.endswith("gate.weight")
            else matrices
            if p.dim() > 1
            else vectors
        )
        kind.append(p)
    adam = torch.optim.AdamW(
        [
            {"params": tables, "lr": 4e-3},
            {"params": routers, "lr": 2e-3},
            {"params": vectors, "lr": 4e-3, "weight_decay": 0},
        ],
        betas=(0.9, 0.95),
        weight_decay=0.1,
        eps=1e-10,
    )
    optimizers = [adam, Muon(matrices, lr=6e-3)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def batches(documents: Documents, seed: int, first: int, rows: int, window: int) -> queue.Queue:
    """Batches from step `first` on, made ahead by a thread."""
    ahead: queue.Queue = queue.Queue(4)

    def produce() -> None:
        step = first
        while True:
            ahead.put(torch.from_numpy(documents.batch(seed, step, rows, window)))
            step += 1

    threading.Thread(target=produce, daemon=True).start()
    return ahead


def loss_of(model: Tiny, batch: Tensor) -> Tensor:
    """Mean cross-entropy over the real tokens of a batch (rows, window + 1), -1 marking the fill."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch[:, :-1].clamp(min=0) + (batch[:, :-1] < 0) * EOS)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten(), ignore_index=-1)


@torch.no_grad()
def heldout_loss(model: Tiny, documents: Documents, window: int) -> float:
    model.eval()
    loss = sum(loss_of(model, torch.from_numpy(documents.batch(1, i, 16, window))).item() for i in range(4)) / 4
    model.train()
    return loss


def save(path: Path, state: dict) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=90, help="training time over which the schedule runs (in all)")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restart-schedule", action="store_true", help="keep the weights, start a new schedule")
    parser.add_argument("--warm-up", type=int, default=60, help="steps, also after an interruption")
    parser.add_argument("--peak", type=float, default=1.0, help="factor on every peak learning rate")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(os.cpu_count() or 1)
    documents, held = Documents(args.corpus), Documents(args.corpus, "heldout")
    model = Tiny(TINY)
    optimizers = build_optimizers(model)
    step, seconds, tokens = 0, 0.0, 0
    latest = args.run / "latest.pt"
    if latest.exists():
        state = torch.load(latest, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, seconds, tokens = state["step"], state["seconds"], state["tokens"]
        if args.restart_schedule:
            seconds = 0.0
    first = step
    print(sum(p.numel() for p in model.parameters()), "parameters; from step", step, flush=True)
    ahead = batches(documents, args.seed, step, args.rows, args.window)
    saved_at = seconds
    while seconds < args.minutes * 60:
        began = time.perf_counter()
        progress = seconds / (args.minutes * 60)
        factor = (
            min(1, (step - first + 1) / args.warm_up) * (0.1 + 0.45 * (1 + math.cos(math.pi * progress))) * args.peak
        )
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        batch = ahead.get()
        loss = loss_of(model, batch)
        (loss + BALANCE * sum(e.balance_loss for e in model.experts())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + int((batch[:, 1:] >= 0).sum())
        seconds += time.perf_counter() - began
        if step % 20 == 0:
            row = {
                "step": step,
                "tokens": tokens,
                "minutes": round(seconds / 60, 2),
                "loss": round(loss.item(), 4),
                "lr": round(factor, 4),
                "load": [round(float(e.load.max()), 3) for e in model.experts()],
            }
            if step % 200 == 0:
                row["heldout"] = round(heldout_loss(model, held, args.window), 4)
            print(json.dumps(row), flush=True)
            with open(args.run / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
        if seconds - saved_at > 300 or seconds >= args.minutes * 60:
            saved_at = seconds
            save(
                latest,
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step,
                    "seconds": seconds,
                    "tokens": tokens,
                    "config": TINY,
                },
            )


if __name__ == "__main__":
    main()
