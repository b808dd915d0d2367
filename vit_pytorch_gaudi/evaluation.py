"""Exact evaluation: every sample of the validation split once, over any number of processes."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import ImageDataset
from dataset.loaders import loader
from device import Device
from options import TrainOptions
from run import distributed
from run.launcher import local_size
from run.sampling import EvaluationStream
from run.signals import StopOnSignal

PADDING = -1  # label of a repeated sample that only fills a batch


class Score(NamedTuple):
    """Result of an evaluation: shares of samples from 0 to 1, mean cross-entropy, number of samples."""

    top1: float
    top5: float
    loss: float
    samples: int


def count(logits: Tensor, labels: Tensor) -> Tensor:
    """[samples, top-1 hits, top-5 hits, summed cross-entropy] of a batch, float32, where the logits are.

    Nothing depends on how many labels are padding, so that a compiled program serves every batch.

    Args:
        logits: (B, C).
        labels: (B,), int64.
    """
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]
    loss = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=PADDING)
    return torch.stack([(labels != PADDING).float().sum(), best[:, 0].float().sum(), best.float().sum(), loss])


class Evaluator:
    """Evaluates a model as it is now, also between two steps of its training.

    Args:
        options: of the run.
        model: uint8 images → logits; it comes back as it was.
        forward: the model as the device runs it.
        data: validation split.
        device: where the model is.
        stop: when it is requested, an evaluation is given up.
    """

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        forward: Any,
        data: ImageDataset,
        device: Device,
        stop: Optional[StopOnSignal] = None,
    ) -> None:
        self.options, self.model, self.forward, self.data = options, model, forward, data
        self.device, self.stop = device, stop
        shard = distributed.rank(), distributed.world_size()
        stream = EvaluationStream(data, multiple=options.eval_batch_size, shard=shard)
        pinned = device.torch_device.type == "cuda"
        self.batches = loader(options, stream, options.eval_batch_size, pinned=pinned, processes=local_size())

    def __call__(self) -> Optional[Score]:
        """Score over the samples of all processes; None if any of them was asked to stop meanwhile.

        Raises:
            UserError: more images than tolerated can't be decoded.
        """
        training = self.model.training
        self.model.eval()
        counted = []
        with torch.no_grad():
            for images, labels in self.batches:
                if self._stopping():
                    break
                counted.append(self._count(images, labels))
        self.model.train(training)
        # Counts of a batch are exact in float32, those of all batches in float64 on the host.
        totals = torch.stack(counted).cpu().double().sum(0).tolist() if counted else [0.0] * 4
        samples, top1, top5, loss, stopped = distributed.all_reduce_sum([*totals, float(self._stopping())])
        if stopped:
            return None
        self.data.check_bad_images()
        return Score(top1 / samples, top5 / samples, loss / samples, int(samples))

    def _count(self, images: Tensor, labels: Tensor) -> Tensor:
        place = self.device.torch_device
        images, labels = images.to(place, non_blocking=True), labels.to(place, non_blocking=True)
        with self.device.autocast(self.options.autocast):
            logits = self.forward(images)
        counted = count(logits, labels)
        self.device.mark_step()
        return counted

    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.requested
