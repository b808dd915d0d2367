"""Optimizer, parameter groups and learning-rate schedules of Swin's recipes."""

from __future__ import annotations

import math
from typing import Any, Dict, List

import torch
from torch import nn

from option_groups import OptimizerOptions
from options import TrainOptions
from poptorch_host.backend import poptorch
from run.errors import UsageError

TYPES = {"fp16": torch.float16, "fp32": torch.float32}
REFERENCE_BATCH = 1024  # samples per update for which options give learning rates
LINEAR_END = 0.01  # of the peak, where the linear schedule ends


def parameter_groups(model: nn.Module, weight_decay: float) -> List[Dict[str, Any]]:
    """Two groups: matrices with weight decay; vectors, tables of relative positions and absolute positions without."""
    decayed: List[nn.Parameter] = []
    plain: List[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_position = name.endswith(("relative_position_bias_table", "absolute_pos_embed"))
        (plain if parameter.ndim <= 1 or is_position else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def create_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The PopTorch optimizer that the options describe; its learning rate is set before every step."""
    usual = "fp16" if options.precision == "16.16" else "fp32"
    first = TYPES[options.first_order_type or usual]
    common: Dict[str, Any] = {
        "lr": options.base_lr,
        "loss_scaling": options.loss_scaling,
        "accum_type": TYPES[options.accum_type or usual],
    }
    groups = parameter_groups(model, options.weight_decay)
    if options.optimizer == "sgd":
        return poptorch.optim.SGD(
            groups, momentum=options.momentum, use_combined_accum=False, velocity_accum_type=first, **common
        )
    if len(options.betas) != 2 or max(options.betas) >= 1:
        raise UsageError("--betas takes two numbers below 1, such as 0.9 0.999, not %s" % options.betas)
    first_decay, second_decay = options.betas
    if options.clip_grad:
        common["max_grad_norm"] = options.clip_grad
    return poptorch.optim.AdamW(
        groups,
        betas=(first_decay, second_decay),
        eps=options.eps,
        first_order_momentum_accum_type=first,
        second_order_momentum_accum_type=TYPES[options.second_order_type],
        **common,
    )


def learning_rate(options: OptimizerOptions, epochs: float, global_batch: int, epoch: float) -> float:
    """Learning rate after `epoch` of `epochs` epochs, a fraction in general.

    All rates grow with the global batch (linear scaling): the options' are for 1,024 samples. From warmup_lr linearly
    to base_lr; then half a cosine to min_lr at the end, a straight line to a hundredth of base_lr, or a step down every
    decay_epochs. With lr_legacy the cosine began at epoch 0, as in the document's code.
    """
    scale, warmup = global_batch / REFERENCE_BATCH, options.warmup_epochs
    peak = options.base_lr * scale
    if epoch < warmup:
        return options.warmup_lr * scale + (peak - options.warmup_lr * scale) * epoch / warmup
    if options.lr_scheduler == "step":
        return float(peak * options.decay_rate ** (epoch // options.decay_epochs))
    begun = 0.0 if options.lr_legacy and options.lr_scheduler == "cosine" else warmup
    progress = min(1.0, (epoch - begun) / max(epochs - begun, 1e-9))
    if options.lr_scheduler == "linear":
        return peak * (1.0 - (1.0 - LINEAR_END) * progress)
    end = options.min_lr * scale
    return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
