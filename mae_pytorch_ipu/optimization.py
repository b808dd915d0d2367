"""Optimizers, parameter groups and the learning-rate schedule of MAE's recipes."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Tuple, Union

import torch
from torch import nn

from models import VisionTransformer
from option_groups import TrainingOptions
from options import FinetuneOptions, PretrainOptions
from poptorch_host.backend import poptorch

PRETRAINING_BETAS = (0.9, 0.95)
FINETUNING_BETAS = (0.9, 0.999)


def peak_learning_rate(options: TrainingOptions, global_batch: int) -> float:
    """`lr` if it is given, else `blr` for every 256 samples of the global batch (linear scaling)."""
    return options.blr * global_batch / 256 if options.lr is None else options.lr


def learning_rate(options: TrainingOptions, peak: float, epoch: float) -> float:
    """Learning rate after `epoch` epochs, a fraction in general (He et al. 2021, arXiv:2111.06377, appendix A).

    From 0 linearly to `peak` over the warm-up, then half a cosine to min_lr at the end.
    """
    if epoch < options.warmup_epochs:
        return peak * epoch / options.warmup_epochs
    progress = (epoch - options.warmup_epochs) / max(options.epochs - options.warmup_epochs, 1e-9)
    return options.min_lr + (peak - options.min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def pretraining_groups(model: nn.Module, weight_decay: float) -> List[Dict[str, Any]]:
    """Two groups: what has more than one dimension with weight decay, tokens too; vectors and biases without."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def layer_of(name: str, depth: int) -> int:
    """Number of the layer that a parameter belongs to: 0 embeddings, 1 … depth blocks, depth + 1 what comes after."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(("cls_token", "pos_embed", "patch_embed")) else depth + 1


def layer_wise_groups(model: VisionTransformer, weight_decay: float, layer_decay: float) -> List[Dict[str, Any]]:
    """A group for each layer with weight decay and one without (vectors, class token, positions).

    A group's `lr_scale` is layer_decay to the power of the layers above it (Clark et al. 2020, arXiv:2003.10555).
    """
    depth = len(model.blocks)
    groups: Dict[Tuple[int, bool], Dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        layer, decays = layer_of(name, depth), weight.ndim > 1 and name not in ("cls_token", "pos_embed")
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(weight)
    return list(groups.values())


def pretraining_optimizer(model: nn.Module, options: PretrainOptions) -> torch.optim.Optimizer:
    """AdamW whose gradients, on an IPU, are accumulated in the weights' type."""
    accumulator = torch.float16 if options.half else torch.float32
    return _adamw(pretraining_groups(model, options.weight_decay), options, PRETRAINING_BETAS, accumulator)


def finetuning_optimizer(model: VisionTransformer, options: FinetuneOptions) -> torch.optim.Optimizer:
    """AdamW with a learning rate for each layer, whose gradients are accumulated in float32; --clip_grad 0: as is."""
    groups = layer_wise_groups(model, options.weight_decay, options.layer_decay)
    clipping = {"max_grad_norm": options.clip_grad} if options.clip_grad else {}
    return _adamw(groups, options, FINETUNING_BETAS, torch.float32, **clipping)


def _adamw(
    groups: List[Dict[str, Any]],
    options: Union[PretrainOptions, FinetuneOptions],
    betas: Tuple[float, float],
    accumulator: torch.dtype,
    **clipping: Any,
) -> torch.optim.Optimizer:
    return poptorch.optim.AdamW(
        groups,
        lr=options.lr or options.blr,  # every step gets its own before it runs
        betas=betas,
        eps=1e-8,
        loss_scaling=options.loss_scale,
        accum_type=accumulator,
        first_order_momentum_accum_type=torch.float32,
        second_order_momentum_accum_type=torch.float32,
        **clipping,
    )
