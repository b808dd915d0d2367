"""Mixup's coefficients (Zhang et al. 2018, arXiv:1710.09412): one λ ~ Beta(α, α) for each micro-batch.

The paper draws one λ per batch. A batch of thousands of images in micro-batches of eight averages over many λ
instead, so that single updates are not all but unmixed while others are mixed half and half.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
import torch
from torch import Tensor


def mixup_coefficients(
    seed: int, first_update: int, updates: int, micro_batches: int, alpha: float, shard: Tuple[int, int] = (0, 1)
) -> Tensor:
    """λ of every micro-batch of one process in one call of the device, (updates · micro_batches / processes,) float32.

    They depend on (seed, update) alone; processes have contiguous shares of an update, as of its samples.

    Args:
        seed: of the run.
        first_update: number of the call's first update, from 0.
        updates: of the call.
        micro_batches: of one update over all processes.
        alpha: of the Beta distribution, above 0.
        shard: (this process, number of processes).
    """
    index, count = shard
    share = micro_batches // count
    assert share * count == micro_batches
    drawn = []
    for update in range(first_update, first_update + updates):
        # RandomState's streams, unlike Generator's, are the same with every version of NumPy.
        stream = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, update])))
        drawn.append(stream.beta(alpha, alpha, micro_batches)[index * share : (index + 1) * share])
    return torch.from_numpy(np.concatenate(drawn)).float()
