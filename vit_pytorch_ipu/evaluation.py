"""Exact evaluation: every sample of the validation split once, over any number of processes."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import ImageDataset
from dataset.loaders import evaluation_loader
from ipu_options import inference_options, replicas_of_inference
from options import FinetuneOptions, ValidationOptions
from poptorch_host.backend import poptorch
from run import distributed
from run.sampling import EvaluationStream
from run.signals import StopOnSignal


class Score(NamedTuple):
    """Result of an evaluation: shares of samples from 0 to 1, mean cross-entropy, number of samples."""

    top1: float
    top5: float
    loss: float
    samples: int


def count(logits: Tensor, labels: Tensor) -> List[float]:
    """[samples, top-1 hits, top-5 hits, summed cross-entropy] of a batch; samples labelled -1 are padding.

    Args:
        logits: (B, C).
        labels: (B,), integers.
    """
    kept = labels >= 0
    logits, labels = logits[kept].float(), labels[kept].long()
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return [float(len(labels)), float(best[:, :1].sum()), float(best.sum()), float(loss)]


class Evaluator:
    """Evaluates a model as it is now, also between two steps of its training.

    Args:
        options: of the script.
        model: images → logits; in training or not, it comes back as it was.
        data: validation split.
        stop: when it is requested, an evaluation is given up.
    """

    def __init__(
        self,
        options: Union[FinetuneOptions, ValidationOptions],
        model: nn.Module,
        data: ImageDataset,
        stop: Optional[StopOnSignal] = None,
    ) -> None:
        self.options, self.model, self.data, self.stop = options, model, data, stop
        iterations = options.device_iterations if isinstance(options, ValidationOptions) else 1
        self.processes = distributed.world_size()
        self.ipu_options = inference_options(options, device_iterations=iterations, processes=self.processes)
        self.executor: Any = poptorch.inferenceModel(model, self.ipu_options)
        batch = self.ipu_options.device_iterations * options.micro_batch_size * replicas_of_inference()
        self.stream = EvaluationStream(data, multiple=batch, shard=(distributed.rank(), self.processes))

    def __call__(self) -> Optional[Score]:
        """Score over the samples of all processes; None if any of them was asked to stop meanwhile.

        Raises:
            UserError: more images than tolerated can't be decoded.
        """
        training = self.model.training
        totals = torch.zeros(4, dtype=torch.float64)
        # A loader draws a seed: training's random numbers must not depend on when evaluations happen.
        with torch.random.fork_rng(devices=[]):
            self.model.eval()
            for images, labels in evaluation_loader(self.options, self.ipu_options, self.stream, self.processes):
                if self._stopping():
                    break
                totals += torch.tensor(count(self.executor(images), labels), dtype=torch.float64)
            self.model.train(training)
        samples, top1, top5, loss, stopped = distributed.all_reduce_sum([*totals.tolist(), float(self._stopping())])
        if stopped:
            return None
        self.data.check_bad_images()
        return Score(top1 / samples, top5 / samples, loss / samples, int(samples))

    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.requested
