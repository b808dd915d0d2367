"""Learning rates: functions of the micro-step and epoch at which an update begins."""

from __future__ import annotations

import math
from typing import Callable, Dict

from options import TrainOptions

Schedule = Callable[[int, int], float]


def make_schedule(options: TrainOptions, steps_per_epoch: int) -> Schedule:
    """The schedule of the options: (micro-step of the run, epoch, both from 0) → learning rate.

    linear, exp, steps and constant go by the epoch, WarmupCosine by the micro-step.
    """
    first, last, epochs = options.initial_lr, options.final_lr, options.epochs
    warmup, total = options.warmup_steps, options.epochs * steps_per_epoch

    def linear(_: int, epoch: int) -> float:
        return last + (first - last) * max((epochs - epoch - 1) / (epochs - 1), 0.0)

    def exp(_: int, epoch: int) -> float:
        return first * (last / first) ** (epoch / (epochs - 1))

    def steps(_: int, epoch: int) -> float:
        return first * 0.1 ** ((epoch if epoch < 80 else epoch + 10) // 30)

    def constant(_step: int, _epoch: int) -> float:
        return first

    def warmup_cosine(step: int, _: int) -> float:
        if step < warmup:
            return first * step / warmup
        return first * max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))

    by_epoch: Dict[str, Schedule] = {"linear": linear, "exp": exp, "steps": steps, "constant": constant}
    if options.lr_sched == "WarmupCosine":
        return warmup_cosine
    if epochs == 1 or (options.lr_sched == "exp" and first == 0):  # nothing to divide by
        return constant
    return by_epoch[options.lr_sched]
