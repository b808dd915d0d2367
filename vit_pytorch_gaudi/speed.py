"""Speed of a run: images per second and percentiles of the step time, without the first steps."""

from __future__ import annotations

from typing import Dict, List

import numpy as np

PERCENTILES = (50, 90, 99)


class Speed:
    """Times of steps as they are reported, pauses for evaluations and checkpoints left out.

    A time is the mean between two reports, since nothing else is read from the device: with --log-every 1 the
    percentiles are those of single steps.

    Args:
        images: of one step over all processes.
        start: steps done before by a run that is resumed.
        warmup: steps of this process that don't count.
    """

    def __init__(self, images: int, start: int, warmup: int) -> None:
        self._images = images
        self._first = start + warmup
        self._reported = start
        self._times: List[float] = []
        self._steps: List[int] = []

    def add(self, step: int, throughput: float) -> None:
        """After `step`: images per second since the last report."""
        if self._reported >= self._first:
            self._times.append(self._images / throughput)
            self._steps.append(step - self._reported)
        self._reported = step

    def __str__(self) -> str:
        found = self.summary()
        if not found:
            return "too few steps to measure the speed"
        times = ", ".join(f"p{p} {found[f'step_time_p{p}']:.4f} s" for p in PERCENTILES)
        return f"{found['images_per_second']:.1f} images/s without warm-up, step time {times}"

    def summary(self) -> Dict[str, float]:
        """images_per_second over all counted steps, step_time_p50, _p90 and _p99 in seconds; empty before any."""
        if not self._times:
            return {}
        steps = np.array(self._steps)
        rate = self._images * steps.sum() / np.dot(self._times, steps)
        percentiles = np.percentile(np.repeat(self._times, steps), PERCENTILES)
        found = {"images_per_second": float(rate)}
        return {**found, **{f"step_time_p{p}": float(value) for p, value in zip(PERCENTILES, percentiles)}}
