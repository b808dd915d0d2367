"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899) of a batch: what is drawn.

A sample's partner is another sample of its micro-batch, the one as far from its end as the sample from its start; the
device mixes them, see models/supervised.py. Of a micro-batch with an odd number of samples, one would be its own
partner: there samples 2k and 2k + 1 of the loader's batch are partners, and the host sends each with its partner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

COLUMNS = 6  # of a drawn row


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed; with both alphas 0 not at all.

    A draw says for one sample, a pair of partners or a whole micro-batch (`mode` "elem", "pair" or "batch") whether
    it is mixed (`probability`) and how: by CutMix with `switch_probability`, where both are on.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    cutmix_minmax: Optional[Tuple[float, float]] = None  # sides of CutMix's box, as shares; replaces cutmix_alpha
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: str = "batch"

    @property
    def is_on(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup_alpha > 0 or self._cuts)

    @property
    def _cuts(self) -> bool:
        return self.cutmix_alpha > 0 or self.cutmix_minmax is not None

    def draw(self, random: np.random.RandomState, size: Tuple[int, int]) -> List[float]:
        """[share of the sample in its pixels, in its label, top, bottom, left, right of the partner's box].

        Args:
            random: where it is drawn from.
            size: height and width of the images.
        """
        if random.rand() >= self.probability:
            return [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        cut = self._cuts and (not self.mixup_alpha or random.rand() < self.switch_probability)
        if not cut:
            share = random.beta(self.mixup_alpha, self.mixup_alpha)
            return [share, share, 0.0, 0.0, 0.0, 0.0]
        top, bottom, left, right = self._box(random, *size)
        label = 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])
        return [1.0, label, float(top), float(bottom), float(left), float(right)]

    def _box(self, random: np.random.RandomState, height: int, width: int) -> Tuple[int, int, int, int]:
        if self.cutmix_minmax:
            low, high = self.cutmix_minmax
            rows, columns = (int(side * random.uniform(low, high)) for side in (height, width))
            top, left = random.randint(0, height - rows + 1), random.randint(0, width - columns + 1)
            return top, top + rows, left, left + columns
        side = np.sqrt(1.0 - random.beta(self.cutmix_alpha, self.cutmix_alpha))
        rows, columns = int(height * side), int(width * side)
        y, x = random.randint(0, height), random.randint(0, width)
        top, left = y - rows // 2, x - columns // 2
        return max(0, top), min(height, top + rows), max(0, left), min(width, left + columns)


def draw_rows(
    mixing: Mixing,
    seed: int,
    update: int,
    micro_batches: int,
    micro_batch_size: int,
    size: Tuple[int, int],
    shard: Tuple[int, int] = (0, 1),
) -> Tensor:
    """Draws for every sample of one process's share of an update, (rows, COLUMNS) float32.

    They depend on (seed, update) alone; processes have contiguous shares, as of the samples.

    Args:
        mixing: how.
        seed: of the run.
        update: from 0.
        micro_batches: of the update over all processes.
        micro_batch_size: samples of each.
        size: height and width of the images.
        shard: (this process, number of processes).
    """
    # RandomState's streams, unlike Generator's, are the same with every version of NumPy.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, update])))
    total = micro_batches * micro_batch_size
    draws = {"batch": micro_batches, "pair": total // 2, "elem": total}[mixing.mode]
    drawn = [mixing.draw(random, size) for _ in range(draws)]
    if mixing.mode == "batch":
        drawn = [row for row in drawn for _ in range(micro_batch_size)]
    elif mixing.mode == "pair" and needs_partners(micro_batch_size):
        drawn = [row for row in drawn for _ in range(2)]
    elif mixing.mode == "pair":
        halves = [drawn[i : i + micro_batch_size // 2] for i in range(0, total // 2, micro_batch_size // 2)]
        drawn = [row for half in halves for row in half + half[::-1]]
    index, count = shard
    share = total // count
    return torch.tensor(drawn[index * share : (index + 1) * share])


def needs_partners(micro_batch_size: int) -> bool:
    """Whether a micro-batch is too odd for its samples to be each other's partners."""
    return micro_batch_size % 2 == 1


def partners(rows: Tensor) -> Tensor:
    """Rows (2n, …) with 2k and 2k + 1 exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
