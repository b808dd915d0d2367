"""How much time does the executor add to a training step? Executor against a hand-written loop, interleaved.

    python -m benchmarks.executor_overhead               # ViT-Ti/16, three precisions, about two minutes on two cores
    python -m benchmarks.executor_overhead --precision fp32 --width 768 --heads 12 --micro-batch 8

Both sides train the same timm Vision Transformer on the same data with the same fused AdamW, gradient accumulation and
attention kernel. `bf16` is bfloat16 weights with float32 masters and accumulators on both sides; `autocast` compares
that executor with the loop most people write, float32 weights under bfloat16 autocast.
Times are process CPU time and wall time per update; the ratio (executor / loop) is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import poptorch_host as poptorch
from benchmarks.machine import machine, versions

Step = Callable[[Tensor, Tensor], Any]
PRECISIONS = ("fp32", "bf16", "autocast")


class WithLoss(nn.Module):
    """Logits and mean cross-entropy of a classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and logits of images (B, 3, H, W) and labels (B,)."""
        logits = self.model(images)
        return F.cross_entropy(logits, labels), logits


def make_model(args: argparse.Namespace) -> WithLoss:
    """Build the model, the same weights every time."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=args.image_size,
        patch_size=args.patch_size,
        embed_dim=args.width,
        depth=args.depth,
        num_heads=args.heads,
        num_classes=args.classes,
    )
    return WithLoss(vit.to(args.device) if args.device != "cpu" else vit)


def executor_step(args: argparse.Namespace, precision: str) -> Step:
    """Return one call of a training executor: one update."""
    model = make_model(args)
    if precision != "fp32":
        model.half()
    options = poptorch.Options()
    options.Training.gradientAccumulation(args.accumulation)
    options.outputMode(poptorch.OutputMode.All)
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    executor = poptorch.trainingModel(model.cpu(), options, optimizer)
    return executor


def loop_step(args: argparse.Namespace, precision: str) -> Step:
    """Return the hand-written loop for one update."""
    model = make_model(args)
    masters = [p.detach().clone() for p in model.parameters()]
    if precision == "bf16":
        model.bfloat16()
        optimizer = torch.optim.AdamW(masters, lr=1e-4, weight_decay=0.05, fused=True)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=precision == "autocast")
    weights: list[Tensor] = list(model.parameters())
    for master in masters:
        master.grad = torch.zeros_like(master)

    def accumulate(count: int) -> None:
        for master, weight in zip(masters, weights):
            assert master.grad is not None
            assert weight.grad is not None
            if count == 0:
                master.grad.copy_(weight.grad)
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def step(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        outputs = []
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for count, (x, y) in enumerate(zip(images.chunk(args.accumulation), labels.chunk(args.accumulation))):
            with autocast:
                loss, logits = model(x.to(args.device, dtype), y.to(args.device))
            (loss / args.accumulation).backward()
            outputs.append((loss.detach(), logits.detach()))
            if precision == "bf16":
                accumulate(count)
        optimizer.step()
        if precision == "bf16":
            with torch.no_grad():
                torch._foreach_copy_(weights, masters)
        else:
            optimizer.zero_grad(set_to_none=True)
        return [(loss.cpu(), logits.cpu()) for loss, logits in outputs]

    return step


def measure(steps: dict[str, Step], data: tuple[Tensor, Tensor], args: argparse.Namespace) -> dict[str, Any]:
    """Time the sides in turn, A B B A, and return medians and pairwise ratios."""
    times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in steps}
    for step in steps.values():
        for _ in range(args.warm_up):
            step(*data)
    names = list(steps)
    for repeat in range(args.repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(args.steps):
                steps[name](*data)
            if args.device == "cuda":
                torch.cuda.synchronize()
            times[name]["cpu"].append((time.process_time() - cpu) / args.steps)
            times[name]["wall"].append((time.perf_counter() - wall) / args.steps)
    result: dict[str, Any] = {}
    for clock in ("cpu", "wall"):
        ratios = [a / b for a, b in zip(times[names[0]][clock], times[names[1]][clock])]
        quartiles = statistics.quantiles(ratios, n=4)
        result[clock] = {
            **{f"{name}_ms": 1e3 * statistics.median(times[name][clock]) for name in names},
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [quartiles[0], quartiles[2]],
        }
    return result


def report(precision: str, result: dict[str, Any], rows: int) -> None:
    """Print medians and ratios of one precision."""
    for clock, row in result.items():
        low, high = row["ratio_quartiles"]
        print(
            f"{precision:>8}, {clock:>4} time: executor {row['executor_ms']:.2f} ms, loop {row['loop_ms']:.2f} ms per "
            f"update of {rows} images, ratio {row['ratio']:.3f} (quartiles {low:.3f}-{high:.3f})",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS), help="default all")
    for name, default in (
        ("depth", 12),
        ("width", 192),
        ("heads", 3),
        ("image-size", 224),
        ("patch-size", 16),
        ("classes", 1000),
        ("micro-batch", 4),
        ("accumulation", 2),
        ("threads", 1),
        ("steps", 1),
        ("warm-up", 2),
        ("repeats", 12),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write settings, versions and results here")
    return parser.parse_args()


def main() -> None:
    """Run the comparisons and print them."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    os.environ["POPTORCH_HOST_DEVICE"] = args.device
    set_fused_attn(args.device == "cuda")  # the kernel that the executor would choose, on both sides
    rows = args.micro_batch * args.accumulation
    images = torch.randn(rows, 3, args.image_size, args.image_size)
    labels = torch.randint(args.classes, (rows,))
    results: dict[str, Any] = {}
    for precision in args.precision:
        data = (images if precision == "fp32" else images.half(), labels)
        steps = {"executor": executor_step(args, precision), "loop": loop_step(args, precision)}
        results[precision] = measure(steps, data, args)
        report(precision, results[precision], rows)
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    print(", ".join(f"{name} {value}" for name, value in {**settings, **versions()}.items()))
    if args.json:
        about = {"kind": "overhead", "settings": settings, "machine": machine(), "versions": versions()}
        content = {**about, "results": results}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
