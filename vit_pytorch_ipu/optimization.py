"""Optimizer, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Dict, List

import torch
from torch import nn

from options import OptimizerOptions
from poptorch_host.backend import poptorch

ACCUMULATION_TYPES = {"fp16": torch.float16, "fp32": torch.float32}


def parameter_groups(model: nn.Module, options: OptimizerOptions) -> List[Dict[str, Any]]:
    """Two groups: matrices with weight decay; vectors, class token and position embeddings without.

    The document's code decays the class token and the positions as well; no recipe of the paper does.
    """
    decayed: List[nn.Parameter] = []
    plain: List[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_token = name.endswith(("class_token", "positions"))
        (plain if parameter.ndim <= 1 or is_token else decayed).append(parameter)
    groups: List[Dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if options.optimizer == "LAMB":
        groups[0]["max_weight_norm"] = options.max_norm
        groups[1]["max_weight_norm"] = options.max_norm_bias
    return [group for group in groups if group["params"]]


def create_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The PopTorch optimizer that the options describe, with its learning rate at the peak."""
    groups = parameter_groups(model, options)
    common: Dict[str, Any] = {
        "lr": options.learning_rate,
        "loss_scaling": options.loss_scaling,
        "accum_type": ACCUMULATION_TYPES[options.accum_type],
    }
    if options.optimizer == "SGD":
        return poptorch.optim.SGD(
            groups,
            momentum=options.momentum,
            use_combined_accum=options.use_combined_accum,
            velocity_accum_type=None if options.use_combined_accum else ACCUMULATION_TYPES[options.first_order_type],
            **common,
        )
    common["betas"] = tuple(options.adam_betas)
    common["eps"] = options.adam_eps
    common["first_order_momentum_accum_type"] = ACCUMULATION_TYPES[options.first_order_type]
    common["second_order_momentum_accum_type"] = ACCUMULATION_TYPES[options.second_order_type]
    if options.optimizer == "LAMB":
        return poptorch.optim.LAMB(groups, bias_correction=options.bias_correction, **common)
    return getattr(poptorch.optim, options.optimizer)(groups, **common)


def learning_rate(options: OptimizerOptions, step: int, steps: int) -> float:
    """Learning rate of host step `step` (from 0) of `steps`.

    Warm-up rises to the peak over `warmup_steps`, its first step above zero (the document's starts at zero, so its
    first call of the device trains nothing); then cosine or linear to zero at `steps`, or constant.
    """
    warmup = options.warmup_steps
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if options.lr_schedule == "constant":
        return options.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    if options.lr_schedule == "linear":
        return options.learning_rate * (1.0 - progress)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
