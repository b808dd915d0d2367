"""Optimizer, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Dict, List

import torch
from torch import nn

from device import Device, fused_optimizer
from options import OptimizerOptions

MOMENTUM = 0.9


def parameter_groups(model: nn.Module, options: OptimizerOptions) -> List[Dict[str, Any]]:
    """Two groups: matrices with weight decay; vectors, class token and position embeddings without."""
    decayed: List[nn.Parameter] = []
    plain: List[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_token = name.endswith(("class_token", "positions"))
        (plain if parameter.ndim <= 1 or is_token else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(model: nn.Module, options: OptimizerOptions, device: Device) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW, in the device's fused form where it has one.

    Habana's fused optimizers are made for lazy mode; in its other modes and for devices whose torch has no fused
    kernels, torch's own update all weights together (foreach).
    """
    groups = parameter_groups(model, options)
    settings: Dict[str, Any] = {"lr": options.learning_rate}
    if options.optimizer == "SGD":
        settings["momentum"] = MOMENTUM
    if device.is_hpu:
        if device.mode == "lazy":
            return fused_optimizer(options.optimizer)(groups, **settings)
    elif device.torch_device.type == "cuda" or _HAS_FUSED_ON_CPU:
        settings["fused"] = True
    return getattr(torch.optim, options.optimizer)(groups, **settings)


# torch 2.4 brought fused SGD and AdamW to the CPU; fused SGD for CUDA is one release older.
_HAS_FUSED_ON_CPU = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


def schedule(options: OptimizerOptions, position: int, steps: int) -> float:
    """Learning rate at `position` of a run of `steps` optimizer steps: 0 at 0, the peak at the end of the warm-up.

    From there a cosine or a line to 0 at `steps`, and 0 beyond.
    """
    warmup = options.warmup_steps
    if position < warmup:
        return options.learning_rate * position / warmup
    progress = min(1.0, (position - warmup) / max(1, steps - warmup))
    if options.decay_type == "linear":
        return options.learning_rate * (1.0 - progress)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def learning_rate(options: OptimizerOptions, step: int, steps: int) -> float:
    """Learning rate of optimizer step `step`, from 1.

    In the warm-up that of the schedule's position `step`, so that the first step trains; after it `step` - 1, so that
    the last one does.
    """
    return schedule(options, step if step <= options.warmup_steps else step - 1, steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the learning rate `value`."""
    for group in optimizer.param_groups:
        group["lr"] = value
